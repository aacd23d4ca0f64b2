"""Starting a run from the parameters of another: matched by name and shape, kept in the new run's own folder.

What was taken lies in `initial.safetensors`, its digest in `card.json`: a run that is killed before its first
checkpoint starts again from the same numbers, and no run needs the folder that it once started from.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from lsf_jax.config.composition import Config, grid_points
from lsf_jax.runs import folder
from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.runs.params_file import load_params, save_params
from lsf_jax.runs.policy_files import finished_policies, read_policies
from lsf_jax.runs.safe_files import file_inside
from lsf_jax.settings import ConfigError, user_path
from lsf_jax.types import Algorithm, TrainState

FILE = "initial.safetensors"
ENTRY = "init_from"
"""Key of `card.json`: where the parameters came from, which were taken, and the digest of their numbers."""

Flat = dict[str, np.ndarray]
"""Parameters by name, "critic/mixer/kernel_1/...", a row of the run on the first axis."""


class WarmStart(NamedTuple):
    """What a new run takes from another."""

    params: dict[str, Any]  # nested, leaves [R, ...] or [1, ...]: one row for all
    record: dict[str, Any]  # for the card, JSON-ready


class Source(NamedTuple):
    """A run to start from."""

    path: Path
    config: Config
    params: dict[str, Any]  # nested, leaves [R, ...]
    rows: int


def read_source(config: Config) -> Source | None:
    """The run that `train.init_from` names, None if none is named; no backend is initialised.

    Args:
      config: of the new run.

    Raises:
      ConfigError: the folder is no finished run.
      CheckpointError: a file there is damaged.
    """
    return _read_source(config.train.init_from) if config.train.init_from else None


def prepare(config: Config, algorithm: Algorithm, source: Source | None = None) -> WarmStart | None:
    """What `train.init_from` gives a new run; nothing is written.

    Args:
      config: of the new run.
      algorithm: bound for it.
      source: from `read_source`, where the folder that is named lies on another machine; None reads it.

    Returns:
      The parameters whose names and shapes match; None if no run is named.

    Raises:
      ConfigError: the folder is no finished run, its rows do not fit, or no parameter matches.
      CheckpointError: a file there is damaged.
    """
    source = source or read_source(config)
    if source is None:
        return None
    _check_rows(source, config.train.seeds * len(grid_points(config)))
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper).params
    wanted = {name: (leaf.shape, leaf.dtype) for name, leaf in _flat(shapes).items()}
    found = {name: (leaf.shape[1:], leaf.dtype) for name, leaf in _flat(source.params).items()}
    taken = [name for name in wanted if wanted[name] == found.get(name)]
    if not taken:
        raise ConfigError(
            f"{_named(source)}, none of whose {len(found)} parameters has name and shape of one of the {len(wanted)} "
            f"of {config.algo_name} on {config.where}; expected a run with at least one in common"
        )
    params = _only(source.params, set(taken))
    record = {
        "run": str(source.path),
        "algorithm": source.config.algo_name,
        "environment": source.config.where,
        "rows": source.rows,
        "sha256": _digest(params),
        "taken": taken,
        "fresh": {name: _why(name, wanted, found) for name in wanted if name not in taken},
        "unused": [name for name in found if name not in wanted],
    }
    return WarmStart(params=params, record=record)


def lines_of(start: WarmStart) -> list[str]:
    """What a new run takes and what not, for people."""
    record = start.record
    taken, fresh, unused = record["taken"], record["fresh"], record["unused"]
    rows = "one row for all" if record["rows"] == 1 else f"{record['rows']} rows, each from its own"
    lines = [
        f"starting from {record['run']} ({record['algorithm']} on {record['environment']}; {rows}): {len(taken)} of "
        f"{len(taken) + len(fresh)} parameters taken, targets copied from them, optimiser and clock fresh"
    ]
    if fresh:
        lines.append(f"not taken: {', '.join(f'{name} ({why})' for name, why in fresh.items())}")
    if unused:
        lines.append(f"there but not here: {', '.join(unused)}")
    return lines


def keep(path: Path, start: WarmStart) -> None:
    """Write what was taken into the new run's folder.

    Raises:
      CheckpointError: it cannot be written.
    """
    kept = ("run", "algorithm", "environment")
    save_params(file_inside(path, FILE), start.params, {name: str(start.record[name]) for name in kept})


def read(path: Path, config: Config) -> dict[str, Any] | None:
    """The parameters that a run folder was started from, as they were taken.

    Args:
      path: the run folder.
      config: of the run.

    Returns:
      Nested, leaves `[R, ...]` or `[1, ...]`; None if the run starts afresh.

    Raises:
      ConfigError: configuration and card disagree on whether it does.
      CheckpointError: the file is missing, damaged or another.
    """
    record = folder.read_documents(path).card.get(ENTRY)
    expected = record.get("sha256") if isinstance(record, dict) else None
    if bool(config.train.init_from) != isinstance(expected, str):
        told = "has no digest of its" if expected is None else "tells of"
        raise ConfigError(
            f"train.init_from is {config.train.init_from or 'empty'} in {path / folder.CONFIG}, but {folder.CARD} "
            f"beside it {told} initial parameters; restore both files from a copy"
        )
    if expected is None:
        return None
    params, _ = load_params(file_inside(path, FILE))
    if _digest(params) != expected:
        raise CheckpointError(
            f"parameters {path / FILE} are not those that this run was started from: their digest differs from "
            f"{folder.CARD}'s; restore the file from a copy"
        )
    return params


def begin(path: Path, config: Config, state: TrainState, first_row: int) -> TrainState:
    """A block's fresh state with the parameters that its run starts from, if from any; targets are copies of them.

    Args:
      path: the run folder.
      config: of the run.
      state: as initialised, `[K, ...]`.
      first_row: of the block; rows that fill up a last block start from the last row.

    Raises:
      ConfigError, CheckpointError: as `read`.
    """
    params = read(path, config)
    if params is None:
        return state
    flat = _flat(params)
    n_rows, width = len(next(iter(flat.values()))), len(jax.tree.leaves(state.agent.params)[0])
    rows = np.minimum(first_row + np.arange(width), n_rows - 1)
    over = partial(_laid_over, {name: leaf[rows] for name, leaf in flat.items()})
    agent = state.agent._replace(params=over(state.agent.params), targets=over(state.agent.targets))
    return state._replace(agent=agent, kept=state.kept._replace(params=over(state.kept.params)))


def _read_source(given: str) -> Source:
    try:
        path = user_path("train.init_from", given)
        config, card = folder.read_run(path)
        layout = folder.read_layout(path, card)
        files = finished_policies(path, config, layout.width * layout.n_devices)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith("train.init_from") else f"train.init_from: {text}") from None
    n_rows, found = config.train.seeds * len(grid_points(config)), sum(map(len, files.values()))
    if found != n_rows:
        raise ConfigError(
            f"train.init_from is {path}, which has final policies of {found} of its {n_rows} rows; expected a "
            f"finished run; finish it with `lsf-jax resume {path}`"
        )
    return Source(path=path, config=config, params=read_policies(files), rows=n_rows)


def _check_rows(source: Source, n_rows: int) -> None:
    if source.rows not in (1, n_rows):
        raise ConfigError(
            f"{_named(source)}, which has {source.rows} rows (seeds × grid points); expected {n_rows}, as this run "
            f"has, or one for all; set train.seeds accordingly"
        )


def _named(source: Source) -> str:
    return f"train.init_from is {source.path} ({source.config.algo_name} on {source.config.where})"


def _why(name: str, wanted: Mapping[str, tuple], found: Mapping[str, tuple]) -> str:
    if name not in found:
        return "absent there"
    there, here = (f"{list(shape)}" for shape in (found[name][0], wanted[name][0]))
    return f"{there} there, {here} here" if there != here else f"{found[name][1]} there, {wanted[name][1]} here"


def _flat(tree: PyTree) -> dict[str, Any]:
    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in named}


def _only(tree: Mapping[str, Any], names: set[str], prefix: str = "") -> dict[str, Any]:
    """The part of a tree whose leaves bear these names."""
    part: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            below = _only(value, names, f"{prefix}{key}/")
            part |= {key: below} if below else {}
        elif f"{prefix}{key}" in names:
            part[key] = value
    return part


def _laid_over(given: Flat, tree: PyTree) -> PyTree:
    """A tree with the arrays that are given by name in place of its own, where those lie; each an array of its own."""

    def of(path: Any, leaf: jax.Array) -> jax.Array:
        array = given.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        if array is None:
            return leaf
        # Twice: the first may share NumPy's memory, which cannot be donated to the training step.
        return jax.device_put(jax.device_put(array, leaf.sharding), leaf.sharding, may_alias=False)

    return jax.tree_util.tree_map_with_path(of, tree)


def _digest(params: PyTree) -> str:
    """SHA-256 of names, kinds and numbers, however a file holds them."""
    digest = hashlib.sha256()
    for name, leaf in sorted(_flat(params).items()):
        digest.update(f"{name} {leaf.dtype} {list(leaf.shape)}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
