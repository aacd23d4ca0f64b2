"""The configuration card: the protocol of a run as one flat table, and how the tables of several runs differ.

In this field differences of tuning pass for differences of method. So every run folder holds what was done in the
words that papers use (`card.md`, and "setup" in `card.json`), and `lsf-jax compare` marks what is not equal.
"""

import json
import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config, describe, flat_settings, from_yaml, updates_per_iteration
from lsf_jax.programs.parts import Program, bind
from lsf_jax.runs import folder
from lsf_jax.runs.session import CARD
from lsf_jax.settings import ConfigError
from lsf_jax.types import Clock, EnvSpec

CONFIG, TEXT = "config.yaml", "card.md"
Setup = dict[str, str]

SIZES = (
    "hidden", "mixer_embed", "hyper_hidden", "encoder_hidden", "decoder_hidden", "message_dim", "central_hidden",
    "critic_hidden", "joint_hidden", "heads", "adv_layers", "recurrent",
)  # fmt: skip
"""Settings that are sizes of networks, where an algorithm has them."""
TOLD = (
    "batch_size", "updates", "lr", "actor_lr", "alpha_lr", "critic_lr", "discount", "trace", "reward_scale",
    "epsilon_start", "epsilon_finish", "epsilon_anneal", "optimizer", "grad_clip", "actor_clip", "target_interval",
    "behaviour", *SIZES,
)  # fmt: skip
"""Settings of algorithms that the table words; all others are listed by name."""
TOLD_OF_TRAIN = (
    "seeds", "seed", "env_steps", "n_envs", "buffer_capacity", "updates_per_iteration", "evaluate_every",
    "eval_episodes", "eval_stochastic", "matmul_precision",
)  # fmt: skip
"""Settings of the train section that the table words."""
IRRELEVANT = (
    "train.name",
    "train.run_dir",
    "train.cache_dir",
    "train.sinks",
    "train.memory_gib",
    "train.devices",
    "train.cpu_devices",
    "train.replay",
)
"""Settings that say where and not what: never a difference between runs."""
OF_THE_DAY = ("environment", "sizes")
"""Items that the code of the day decides and no configuration holds: a comparison takes them from the folder."""
NARROWEST = 16
"""Characters that a run's column keeps in the narrowest terminal."""
FIRST_VERSION = "1"
"""Version of the environments of runs from before the card: it began with the version."""

Row = tuple[str, tuple[str, ...]]
"""An item and its value in each run."""


class Comparison(NamedTuple):
    """The tables of several runs side by side."""

    names: tuple[str, ...]  # of the runs; their paths where names alone would not tell them apart
    rows: tuple[Row, ...]  # all items of the cards
    settings: tuple[Row, ...]  # keys that differ and that no row of the card words
    machines: tuple[Row, ...]  # versions, commit, hardware, and the cut into blocks, which decides the last bits
    warnings: tuple[str, ...]  # why results must not be compared


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
    updates, limit = updates_per_iteration(config), program.env.spec.episode_limit
    rate = _number(1000 * updates / (train.n_envs * limit))
    how = "greedy and sampled" if train.eval_stochastic else "greedy"
    target = f"{_value(config, 'target_interval')} {_doc(algo, 'target_interval')}"
    card = {
        "algorithm": config.algo_name,
        "environment": f"{config.env_name} version {program.env.version}",
        **{f"env.{key}": _text(value) for key, value in vars(config.env).items()},
        "sizes": _sizes_text(program.env.spec),
        "seeds": f"{train.seeds:,}, root {train.seed}",
        "budget": f"{train.env_steps:,} env steps a seed",
        "environments": f"{train.n_envs} a seed, one episode each between updates",
        "replay": _episodes_text(stored),
        "batch": _episodes_text(batch),
        "updates": f"{updates} after {train.n_envs} episodes, {rate} per 1,000 env steps of full episodes",
        "replay ratio": f"{_number(updates * sum(batch.values()) / train.n_envs)} episodes replayed for each collected",
        "optimiser": getattr(algo, "optimizer", "adam"),
        "learning rates": _values(config, [key for key in vars(algo) if key.endswith("lr")]),
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
    return card | {f"algo.{key}": _value(config, key) for key in vars(algo) if key not in TOLD}


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


def _text(value: Any) -> str:
    """A value as YAML on one line, whole: cut texts would make different tables equal."""
    return " ".join(yaml12.dump({"value": value}).split()).removeprefix("value: ")


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _value(config: Config, key: str) -> str:
    """A setting of the algorithm as text, all its values if it is swept, "-" if there is no such setting."""
    values = dict(config.grid).get(key, (getattr(config.algo, key, None),))
    return " | ".join("-" if value is None else _text(value) for value in values)


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
    setup = setup_card(config, program)
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    folder.write_json_atomic(path / CARD, card | {"setup": setup})
    folder.write_text_atomic(path / TEXT, card_text(setup))


def read_run(path: Path) -> tuple[Config, dict[str, Any]]:
    """Configuration and card of a run folder.

    Raises:
      ConfigError: it is not a run folder, or one of the two files is damaged.
    """
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} is not a run folder ({CONFIG} or {CARD}: {error.strerror}); give the path of a run"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: {CONFIG} or {CARD} is damaged (no UTF-8 text); restore it from a copy") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path / CARD} is damaged ({error.msg}); restore it from a copy") from None
    if not isinstance(card, dict) or not isinstance(card.get("setup", {}), dict):
        raise ConfigError(f"{path / CARD} is damaged (not the card of a run); restore it from a copy")
    return from_yaml(text, str(path / CONFIG)), card


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Hold the protocols of several runs against each other.

    Cards are made anew from the configurations, so that another wording is no difference; only what the code of the
    day decides, such as the environment's version, is taken from the folder.

    Args:
      paths: two or more run folders, finished or not.

    Raises:
      ConfigError: fewer than two, or one is not a run folder.
    """
    runs = [read_run(Path(path)) for path in paths]
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run folder given; expected two or more to compare")
    rows = _side_by_side([_setup_then(config, card) for config, card in runs])
    settings = _side_by_side([{k: _text(v) for k, v in flat_settings(config).items()} for config, _ in runs])
    told = {key for config, _ in runs for key in _told(config)}
    machines = _side_by_side([_machine(card) for _, card in runs])
    return Comparison(
        names=_names([Path(path) for path in paths]),
        rows=tuple(rows),
        settings=tuple((key, values) for key, values in settings if key not in told and differs(values)),
        machines=tuple(machines),
        warnings=_warnings(rows),
    )


def differs(values: Sequence[str]) -> bool:
    """Whether the runs do not all agree."""
    return len(set(values)) > 1


def _warnings(rows: Sequence[Row]) -> tuple[str, ...]:
    changed = [item for item, values in rows if (item in OF_THE_DAY or item.startswith("env.")) and differs(values)]
    return (f"environments differ ({', '.join(changed)}): results must not be compared",) if changed else ()


def _setup_then(config: Config, card: dict[str, Any]) -> Setup:
    """The card of a run with the environment as it was then."""
    written = card.get("setup") or {"environment": f"{config.env_name} version {FIRST_VERSION}"}
    return setup_card(config, bind(config)) | {item: str(written[item]) for item in OF_THE_DAY if item in written}


def _told(config: Config) -> set[str]:
    """Keys that rows of a run's card tell, or that nobody needs to be told."""
    unused = ("epsilon_start", "epsilon_finish", "epsilon_anneal")
    sampled = getattr(config.algo, "behaviour", None) == "sample"
    keys = {f"algo.{key}" for key in vars(config.algo) if not (sampled and key in unused)}
    keys |= {f"grid algo.{key}" for key, _ in config.grid} | {f"env.{key}" for key in vars(config.env)}
    return keys | {"algo.name", "env.name", *IRRELEVANT, *(f"train.{key}" for key in TOLD_OF_TRAIN)}


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    names = tuple(path.resolve().name for path in paths)
    return names if len(set(names)) == len(names) else tuple(str(path) for path in paths)


def _side_by_side(tables: Sequence[Setup]) -> list[Row]:
    """All items of all tables in order of appearance, "-" where a table lacks one."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [(key, tuple(str(table.get(key, "-")) for table in tables)) for key in keys]


def _machine(card: dict[str, Any]) -> Setup:
    """Versions, commit, hardware and layout of a card as one flat table."""
    parts = {section: card.get(section) for section in ("versions", "git", "devices", "cpu", "layout")}
    return {
        f"{section} {key}": str(value)
        for section, part in parts.items()
        if isinstance(part, dict)
        for key, value in part.items()
    }


def comparison_text(
    comparison: Comparison, *, everything: bool = False, markdown: bool = False, width: int | None = None
) -> str:
    """A comparison as tables, one row for each item; rows that differ begin with `*`.

    Args:
      comparison: what to show.
      everything: show equal items too.
      markdown: Markdown tables instead of aligned text.
      width: columns of the terminal, into which aligned text is broken; None breaks nothing.
    """
    table = _markdown if markdown else partial(_aligned, width=width)
    machines = [row for row in comparison.machines if everything or differs(row[1])]
    shown = [row for row in comparison.rows if everything or differs(row[1])]
    equal = sum(not differs(values) for _, values in comparison.rows)
    sections = (
        ("", shown),
        ("other settings:\n\n", comparison.settings),
        ("versions and machines:\n\n", machines),
    )
    blocks = ["\n".join(f"WARNING: {text}" for text in comparison.warnings)]
    blocks += [title + table(comparison.names, rows) for title, rows in sections if rows]
    blocks.insert(2 if shown else 1, f"{equal} settings are equal" + ("" if everything else "; --all shows them"))
    return "\n\n".join(block for block in blocks if block)


def _cells(names: Sequence[str], rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [("", "what", *names), *(("*" if differs(values) else "", item, *values) for item, values in rows)]


def _markdown(names: Sequence[str], rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "or") for cell in cells) + " |" for cells in _cells(names, rows)]
    return "\n".join([lines[0], "|---" * (len(names) + 2) + "|", *lines[1:]])


def _aligned(names: Sequence[str], rows: Sequence[Row], width: int | None = None) -> str:
    cells = _cells(names, rows)
    widths = [max(1, *(len(cell) for cell in column)) for column in zip(*cells)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        share = (width - widths[0] - widths[1] - 2 * (len(widths) - 1)) // len(names)
        widths[2:] = [min(column, max(share, NARROWEST)) for column in widths[2:]]
    lines = [line for row in cells for line in _broken(row, widths)]
    return "\n".join("  ".join(cell.ljust(column) for cell, column in zip(line, widths)).rstrip() for line in lines)


def _broken(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """A row as lines whose cells fit their columns."""
    return list(zip_longest(*(textwrap.wrap(cell, column) or [""] for cell, column in zip(row, widths)), fillvalue=""))
