"""One row of a run as a folder that stands alone: parameters, what they are for, a model card, and code that acts.

What acts from it is `numpy_policy`, copied: Linear, ReLU, GRU or Linear, Linear, the network that all our algorithms
share, and the encoder of messages of agents that talk while they act. Whether an algorithm's agents really act so is
not believed but tried, on random observations, before anything is written.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.algorithms.lsf_sac.networks import LOGIT_RANGE
from lsf_jax.analysis import numpy_policy
from lsf_jax.analysis.frames import load_run
from lsf_jax.analysis.playback import Policies
from lsf_jax.analysis.policy import Policy
from lsf_jax.analysis.records import metric_names
from lsf_jax.analysis.statistics import summarize
from lsf_jax.config import yaml12
from lsf_jax.runs.safe_files import write_output
from lsf_jax.settings import ConfigError
from lsf_jax.types import AgentState

CODE, CARD = "policy.py", "README.md"
TALKS = (
    "These agents talk while they act: every call of `act` is one round of messages between all of them, noise "
    "included, so an action depends on what all see and not on an agent's own observations alone."
)
FORMAT = 1
"""Of `numpy_policy.SPEC`; another one whenever that file means something else."""
TRIED, CLOSE = 4, 1e-4
"""Steps in which the copy is held against the original, and how far they may be apart, of the largest output: float32
on any device; a wrong network is off by orders more."""


def extract_policy(policies: Policies, row: int, folder: str | Path) -> Path:
    """Write one row of a run as a folder that needs neither the run nor this package nor JAX.

    It holds every parameter of the row, bit for bit (safetensors), what the acting network is (JSON), a model card, and
    `policy.py`, which acts from them with NumPy alone.

    Args:
      policies: from `load_policies`.
      row: of the run: grid points × seeds, seeds fastest.
      folder: where; made as needed, files of these names in it are replaced.

    Returns:
      The folder.

    Raises:
      ConfigError: there is no such row, the folder cannot be written, or the agents of this algorithm act by more than
        the network that all algorithms share and messages, for example by messages of which some are cut.
    """
    policy, folder = policies.row(row), Path(folder)
    spec = _spec(policies, policy)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _flat(policy.params).items()}
    data = safetensors.numpy.save(arrays, metadata={"algorithm": spec["algorithm"], "environment": spec["environment"]})
    code = Path(numpy_policy.__file__).read_bytes()
    contents = {
        numpy_policy.PARAMETERS: data,
        numpy_policy.SPEC: (json.dumps(spec, indent=2, ensure_ascii=False, default=str) + "\n").encode(),
        CODE: code,
        CARD: _card(policies, policy, spec).encode(),
    }
    _try(policy, spec, arrays)
    for name, content in contents.items():
        write_output(folder / name, content)
    return folder


def _spec(policies: Policies, policy: Policy) -> dict[str, Any]:
    """What the acting network is and what it reads, as JSON can hold it."""
    config, sizes = policy.config, policy.program.env.spec
    names, encoder = _acting_names(policy)
    hidden = _flat(policy.params)[names["output_layer/kernel"]].shape[0]
    return {
        "format": FORMAT,
        "algorithm": config.algo_name,
        "environment": config.where,
        "environment_version": policy.program.env.version,
        "environment_settings": vars(config.env),
        "acts": ALGORITHMS[config.algo_name].acts,
        **sizes._asdict(),
        "inputs": ["observation", "last action, one-hot, zeros before the first step", "agent, one-hot"],
        "network": {
            "hidden": hidden,
            "recurrent": "gru_input_kernel" in names,
            "output_range": list(LOGIT_RANGE) if getattr(config.algo, "logit_clamp", False) else None,
            "parameters": names,
            "messages": _messages(policy, encoder) if encoder else None,
        },
        "run": policies.path.resolve().name,
        "row": policy.row,
        "seed": policy.seed,
        "hyper_parameters": {name: float(value) for name, value in policy.hyper._asdict().items()},
        "made_by": f"lsf_jax {importlib.metadata.version('lsf-jax')}",
    }


def _acting_names(policy: Policy) -> tuple[dict[str, str], dict[str, str]]:
    """Name in the acting network -> name among all parameters, found by asking the algorithm what of them acts.

    Returns:
      Those of the agent network, and those of the encoder of messages: none where agents do not talk.

    Raises:
      ConfigError: that is not the network that all algorithms share, with or without messages.
    """
    named = _name_leaves(policy.params)
    algorithm = policy.program.algorithm
    acting = algorithm.policy_params(AgentState(params=named, targets={}, opt_state={}))
    found = _flat(acting) if isinstance(acting, dict) else {}
    encoder = _below(found, "encoder")
    if set(encoder) == {f"{layer}/{part}" for layer in numpy_policy.LAYERS for part in ("kernel", "bias")}:
        found = next((inner for group in acting if (inner := _below(found, group)) and group != "encoder"), {})
    layers = [f"{layer}_layer/{part}" for layer in ("input", "output") for part in ("kernel", "bias")]
    memory = [f"gru_{source}_{part}" for source in ("input", "hidden") for part in ("kernel", "bias")]
    second = ["hidden_layer/kernel", "hidden_layer/bias"]
    if algorithm.scores is None or set(found) not in ({*layers, *memory}, {*layers, *second}):
        more = sorted({name.partition("/")[0] for name in found} - {"input_layer", "output_layer"})
        raise _refusal(policy, f"it acts by {', '.join(more) or 'parameters of its own'}")
    return found, encoder


def _below(names: dict[str, str], group: str) -> dict[str, str]:
    """Of names those of one group, without it."""
    return {name.removeprefix(f"{group}/"): full for name, full in names.items() if name.startswith(f"{group}/")}


def _messages(policy: Policy, encoder: dict[str, str]) -> dict[str, Any]:
    """How agents talk while they act, as JSON can hold it.

    Raises:
      ConfigError: some of what they say does not arrive.
    """
    channel, cut = policy.program.algorithm.channel, getattr(policy.config.algo, "cut", "none")
    if channel is None or channel.drawn is None or cut != "none":
        raise _refusal(policy, f"its messages are cut (algo.cut={cut})" if cut != "none" else "it acts by encoder")
    sent = _flat(policy.params)[encoder[f"{numpy_policy.LAYERS[-1]}/bias"]].shape[0]
    to = "all" if sent == channel.dim else "each"
    return {"dim": channel.dim, "noise": channel.noise, "to": to, "parameters": encoder}


def _refusal(policy: Policy, why: str) -> ConfigError:
    return ConfigError(
        f"a policy of {policy.config.algo_name} on {policy.config.where} cannot be extracted: {why}, and not by the "
        "agent network that algorithms share alone; use lsf_jax.load_policies(RUN).row(I)"
    )


def _try(policy: Policy, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Nothing, where the copy gives what the original gives, along a few steps of random observations."""
    copy = numpy_policy.Policy.of(spec, arrays)
    shape = (spec["n_agents"], spec["obs_dim"])
    carry, carry_copy, channel = policy.start(), copy.start(), policy.program.algorithm.channel
    drawn = None if channel is None else channel.drawn
    for step, obs in enumerate(np.random.default_rng(0).normal(size=(TRIED, *shape)).astype(np.float32)):
        key = jax.random.key(step)
        noise = None if drawn is None else np.asarray(drawn(key))
        seen = policy._seen(obs, None, key)
        with jax.default_matmul_precision("highest"):
            expected = np.asarray(policy.jitted.scores(policy.params, carry, seen, key), np.float64)
            carry, action = policy.act(obs, None, carry, key)
        found = copy.scores(obs, carry_copy, noise)
        if found.shape != expected.shape or np.abs(found - expected).max() > CLOSE * max(1.0, np.abs(expected).max()):
            raise _refusal(policy, "it makes something else of its network's outputs")
        carry_copy = copy.act(obs, None, carry_copy, noise=noise)[0]._replace(last_action=np.asarray(action))


def _name_leaves(tree: Any, prefix: str = "") -> Any:
    """The tree with its leaves' own names in their places."""
    if not isinstance(tree, dict):
        return prefix
    return {key: _name_leaves(value, f"{prefix}/{key}" if prefix else key) for key, value in tree.items()}


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Leaves by their names, levels joined by "/"."""
    names, leaves = jax.tree.leaves(_name_leaves(tree)), jax.tree.leaves(tree)
    return dict(zip(names, leaves, strict=True))


def _card(policies: Policies, policy: Policy, spec: dict[str, Any]) -> str:
    """The model card: what this is, how well it does, how it was trained, how to use it; Markdown."""
    run = load_run(policies.path)
    front = {
        "library_name": "lsf_jax",
        "tags": ["reinforcement-learning", "multi-agent", spec["algorithm"], spec["environment"]],
    }
    title = f"{spec['algorithm']} on {spec['environment']}, seed {policy.seed}"
    doc = ALGORITHMS[policy.config.algo_name].doc
    setup = {str(key): str(value) for key, value in (run.card.get("setup") or {}).items()}
    return "\n".join(
        [
            "---",
            yaml12.dump(front).rstrip("\n"),
            "---",
            "",
            f"# {title}",
            "",
            f"Row {policy.row} of the run `{spec['run']}`. {doc}.",
            "",
            "## Use",
            "",
            "Needs Python and NumPy. `policy.py` reads the two files beside it and runs no code from them.",
            *([TALKS] if spec["network"]["messages"] else []),
            "",
            "```python",
            "from policy import Policy",
            "",
            "policy = Policy()",
            "carry = policy.start()  # at the start of every episode",
            f"carry, action = policy.act(obs, avail, carry)  # obs [{spec['n_agents']}, {spec['obs_dim']}], "
            f"avail [{spec['n_agents']}, {spec['n_actions']}] or None",
            "```",
            "",
            "## Result",
            "",
            *_result_lines(run.evaluation, policies.grid, policy.row),
            "",
            "## Protocol",
            "",
            *(_table(("what", "value"), setup.items()) if setup else ["The run's card does not tell it."]),
            "",
            "## Files",
            "",
            *_table(
                ("file", "what"),
                (
                    (numpy_policy.PARAMETERS, "every parameter of this row, as trained (float32)"),
                    (numpy_policy.SPEC, "sizes, which parameters act and how, hyper-parameters"),
                    (CODE, "acts from these, NumPy alone"),
                ),
            ),
            "",
        ]
    )


def _result_lines(evaluation: dict[str, np.ndarray], grid: np.ndarray, row: int) -> list[str]:
    """What the final evaluation says of this row, beside all seeds that were trained alike: a picked seed flatters."""
    if "final" not in evaluation or not (evaluation["final"] & (evaluation["row"] == row)).any():
        return ["The run's folder holds no final evaluation of it."]
    final = {name: values[evaluation["final"]] for name, values in evaluation.items()}
    alike = np.flatnonzero(grid == grid[row])
    peers, own = np.isin(final["row"], alike), final["row"] == row
    lines = []
    for name in metric_names(final):
        if final[name].ndim == 1 and np.isfinite(final[name].astype(np.float64)).all():
            values = final[name].astype(np.float64)
            over = summarize(values[peers])
            cells = (over.median, over.low, over.high)
            lines.append((name.replace("_", " "), f"{values[own][0]:.4g}", *(f"{cell:.4g}" for cell in cells)))
    steps = int(final["env_steps"][own][0])
    note = f"After {steps:,} env steps; beside it the {len(alike):,} seed(s) trained alike, of which this is one."
    return [note, "", *_table(("final evaluation", "this seed", "median", "min", "max"), lines)]


def _table(heads: tuple[str, ...], rows: Any) -> list[str]:
    """A Markdown table."""
    escaped = [[" ".join(cell.replace("|", "or").split()) for cell in row] for row in rows]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in escaped)]
