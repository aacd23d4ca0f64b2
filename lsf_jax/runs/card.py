"""The configuration card: the protocol of a run as one flat table.

In this field differences of tuning pass for differences of method. So every run folder holds what was done in the
words that papers use: `card.md`, and "setup" in `card.json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config
from lsf_jax.config.documents import describe
from lsf_jax.engine.learner import rate_names
from lsf_jax.programs.parts import Program
from lsf_jax.runs import folder
from lsf_jax.runs.safe_files import file_inside
from lsf_jax.types import Clock, EnvSpec

Setup = dict[str, str]

SIZES = (
    "hidden", "mixer_embed", "hyper_hidden", "encoder_hidden", "decoder_hidden", "message_dim", "central_hidden",
    "critic_hidden", "joint_hidden", "heads", "adv_layers", "recurrent",
)  # fmt: skip
"""Settings that are sizes of networks, where an algorithm has them."""
TOLD = (
    "batch_size", "updates", "lr", "actor_lr", "alpha_lr", "critic_lr", "lr_anneal", "discount", "trace",
    "reward_scale", "epsilon_start", "epsilon_finish", "epsilon_anneal", "optimizer", "grad_clip", "actor_clip",
    "target_interval", "behaviour", *SIZES,
)  # fmt: skip
"""Settings of algorithms that the table words; all others are listed by name."""
TOLD_OF_TRAIN = (
    "seeds", "seed", "env_steps", "n_envs", "buffer_capacity", "evaluate_every",
    "eval_episodes", "eval_stochastic", "matmul_precision", "init_from",
)  # fmt: skip
"""Settings of the train section that the table words."""


def setup_card(config: Config, program: Program) -> Setup:
    """The protocol of a run, item by item, in the order in which a paper would tell it.

    Args:
      config: a checked configuration.
      program: its parts.

    Returns:
      Texts with units; swept numbers show all their values.
    """
    train, algo = config.train, config.algo
    stored, batch = _replay_sizes(program)
    updates, limit = config.algo.updates, program.env.spec.episode_limit
    rate = _number(1000 * updates / (train.n_envs * limit))
    how = "greedy and sampled" if train.eval_stochastic else "greedy"
    target = f"{_value(config, 'target_interval')} {_doc(algo, 'target_interval')}"
    card = {
        "algorithm": config.algo_name,
        "environment": f"{config.env_name} version {program.env.version}",
        **{f"env.{key}": value_text(value) for key, value in vars(config.env).items()},
        **{f"env {what}": how for what, how in program.env.notes},
        "sizes": _sizes_text(program.env.spec),
        "seeds": f"{train.seeds:,}, root {train.seed}",
        "budget": f"{train.env_steps:,} env steps a seed",
        "environments": f"{train.n_envs} a seed, one episode each between updates",
        "replay": _episodes_text(stored),
        "batch": _episodes_text(batch),
        "updates": f"{updates} after {train.n_envs} episodes, {rate} per 1,000 env steps of full episodes",
        "replay ratio": f"{_number(updates * sum(batch.values()) / train.n_envs)} episodes replayed for each collected",
        "optimiser": getattr(algo, "optimizer", "adam"),
        "learning rates": _learning_rates(config),
        "gradient clipping": _values(config, [key for key in vars(algo) if key.endswith("_clip")]),
        "discount": _value(config, "discount"),
        "TD(λ)": _value(config, "trace"),
        "reward scale": _value(config, "reward_scale"),
        "target copy": target if hasattr(algo, "target_interval") else "-",
        "exploration": _exploration(config),
        "networks": _values(config, SIZES),
        "evaluation": f"{how}, {train.eval_episodes} episodes every {train.evaluate_every:,} env steps",
        "precision": train.matmul_precision,
    }
    if train.init_from:
        card["initial parameters"] = f"those of {train.init_from}, where names and shapes match"
    return card | {f"algo.{key}": _value(config, key) for key in vars(algo) if key not in TOLD}


def _learning_rates(config: Config) -> str:
    rates = _values(config, rate_names(vars(config.algo)))
    fall = getattr(config.algo, "lr_anneal", 0.0)
    return f"{rates}, falling to 0 over {fall:,.0f} env steps" if fall else rates


def _replay_sizes(program: Program) -> tuple[dict[str, int], dict[str, int]]:
    """Episodes that are stored and that an update sees, by name of the buffer; asked of the buffer, not the settings.

    What an algorithm replays is its own affair: the newest batch only, everything, or several of these.
    """
    clock = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))
    stored = jax.eval_shape(program.buffer.init)
    batch = jax.eval_shape(program.buffer.sample, stored, clock, jax.random.key(0))
    named = [part if isinstance(part, dict) else {"": part} for part in (stored, batch)]
    first, second = ({name: each.reward.shape[0] for name, each in part.items()} for part in named)
    return first, second


def _episodes_text(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size:,}".strip() for name, size in sizes.items()) + " episodes"


def _sizes_text(spec: EnvSpec) -> str:
    return (
        f"{spec.n_agents} agents, {spec.n_actions} actions, observation {spec.obs_dim}, state {spec.state_dim},"
        f" at most {spec.episode_limit} steps"
    )


def value_text(value: Any) -> str:
    """A value as YAML on one line, whole: cut texts would make different tables equal."""
    return " ".join(yaml12.dump({"value": value}).split()).removeprefix("value: ")


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _value(config: Config, key: str) -> str:
    """A setting of the algorithm as text, all its values if it is swept, "-" if there is no such setting."""
    values = dict(config.grid).get(key, (getattr(config.algo, key, None),))
    return " | ".join("-" if value is None else value_text(value) for value in values)


def _values(config: Config, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {_value(config, key)}" for key in keys if hasattr(config.algo, key)) or "-"


def _doc(algo: Any, key: str) -> str:
    """What a setting's declaration says of it, the source left out: it holds the unit, which differs by algorithm."""
    return next(
        (entry.doc.partition(";")[0] for entry in describe("algo", type(algo)) if entry.key == f"algo.{key}"), ""
    )


def _exploration(config: Config) -> str:
    behaviour = getattr(config.algo, "behaviour", None)
    if behaviour == "sample":
        return "a ~ π"
    if not hasattr(config.algo, "epsilon_start"):
        return behaviour or "-"
    start, finish, anneal = (_value(config, f"epsilon_{part}") for part in ("start", "finish", "anneal"))
    return f"{behaviour + ', ' if behaviour else ''}ε {start} to {finish} over {anneal} env steps"


def card_text(setup: Setup) -> str:
    """The card as a Markdown table."""
    lines = [f"| {key} | {value.replace('|', 'or')} |" for key, value in setup.items()]
    return "\n".join(["| what | value |", "|---|---|", *lines, ""])


def write_card(path: Path, config: Config, program: Program) -> None:
    """Write `card.md` into a run folder, and the same table into its `card.json`."""
    write_setup(path, setup_card(config, program))


def write_setup(path: Path, setup: Setup) -> None:
    """`write_card` with a table that was made elsewhere."""
    folder.write_json_atomic(file_inside(path, folder.CARD), folder.read_documents(path).card | {"setup": setup})
    folder.write_text_atomic(file_inside(path, folder.CARD_TEXT), card_text(setup))
