"""The tables of runs with names on every axis: xarray datasets and pandas frames. Both packages are imported here only.

Moments. Each seed is evaluated at its own numbers of environment steps, so the axis `step` counts: the seed's first
evaluation, its second, ..., and its final one at the end of the axis, whichever number it is. `env_steps` says exactly
where each stood; the coordinate `step` is the median over the seeds that have the most evaluations.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lsf_jax.analysis.records import Columns, RunRecord, grid_of, metric_names, settings_of
from lsf_jax.config.grids import swept_in
from lsf_jax.runs.part_schema import KEY_COLUMNS, is_setting
from lsf_jax.settings import ConfigError, clip

if TYPE_CHECKING:
    import pandas
    import xarray

TABLES = ("eval", "train")
DIMS = ("point", "seed", "step")
_NAMES = ("algo.name", "env.name")


class _Cells(NamedTuple):
    """Where the rows of a run's table stand in arrays `[point, seed, step]`."""

    seeds: np.ndarray  # the seeds' numbers
    point: np.ndarray  # [rows]
    seed: np.ndarray  # [rows] index into `seeds`
    step: np.ndarray  # [rows] how many rows of this seed came before
    final: np.ndarray  # [rows]
    at: np.ndarray  # [steps] what the axis is labelled with: env steps


def dataset(runs: Sequence[RunRecord], table: str = "eval") -> "xarray.Dataset":
    """A table of one or several runs as one dataset of dimensions point, seed and step.

    Args:
      runs: loaded runs; the grid points of all of them follow each other along `point`.
      table: "eval", the evaluations, or "train", the rows of training.

    Returns:
      Metrics as variables; those with several numbers have a further dimension `<name>_index`. Coordinates: the run's
      folder name and every setting along `point`; `env_steps`, `iteration`, ... along all three. Attributes: whatever
      the runs' cards agree on. Where a seed has no row, numbers are NaN (and whole numbers and truth values become
      floating-point).

    Raises:
      ConfigError: an unknown table, or xarray is not installed.
    """
    xarray = require("xarray")
    tables = [_table(run, table) for run in runs]
    cells = [_cells(run, columns) for run, columns in zip(runs, tables, strict=True)]
    seeds = np.unique(np.concatenate([each.seeds for each in cells]))
    at = max((each.at for each in cells), key=len)
    points = [len(next(iter(settings_of(run).values()))) for run in runs]
    shape = (sum(points), len(seeds), len(at))
    first = np.cumsum([0, *points])[:-1]
    places = [
        (
            each.point + start,
            np.searchsorted(seeds, each.seeds)[each.seed],
            np.where(each.final, shape[-1] - 1, each.step),
        )
        for each, start in zip(cells, first, strict=True)
    ]
    names = {name: None for columns in tables for name in columns if name not in ("row", "grid", "seed")}
    arrays = {name: _filled([columns.get(name) for columns in tables], places, shape) for name in names}
    variables = {name: (DIMS if array.ndim == 3 else (*DIMS, f"{name}_index"), array) for name, array in arrays.items()}
    keys = {name: variables.pop(name) for name in list(variables) if name in KEY_COLUMNS}
    settings = {name: ("point", values) for name, values in _settings(runs, points).items()}
    coordinates = {"point": np.arange(shape[0]), "seed": seeds, "step": at, **settings, **keys}
    return xarray.Dataset(variables, coordinates, _attributes([run.card for run in runs]))


def frame(runs: Sequence[RunRecord], table: str = "eval") -> "pandas.DataFrame":
    """A table of one or several runs as one tidy frame: a row for each seed and moment.

    Args:
      runs: loaded runs.
      table: "eval", the evaluations, or "train", the rows of training.

    Returns:
      Columns: `run` (the folder's name), algorithm, environment and swept settings, which row and moment it is,
      metrics (of several numbers `name[0]`, `name[1]`, ...), then all other settings.

    Raises:
      ConfigError: an unknown table, or pandas is not installed.
    """
    pandas = require("pandas")
    parts = []
    for run in runs:
        columns, settings = _table(run, table), settings_of(run)
        point = grid_of(run, columns) if columns else np.zeros(0, np.int64)
        head = [*_NAMES, *swept_in(run.config).values]
        parts.append(
            pandas.DataFrame(
                {"run": np.full(len(point), run.path.name)}
                | {name: settings[name][point] for name in head}
                | {"point": point, **_flat({name: columns[name] for name in columns if name != "grid"})}
                | {name: values[point] for name, values in settings.items() if name not in head}
            )
        )
    joined = pandas.concat(parts, ignore_index=True)
    swept = {name: None for run in runs for name in swept_in(run.config).values}
    first = ["run", *_NAMES, *swept]
    rest = sorted((name for name in joined if name not in first), key=is_setting)
    return joined[[*first, *rest]]


def _flat(columns: Columns) -> dict[str, np.ndarray]:
    """Columns of one number each, keys first."""
    keys = {name: columns[name] for name in KEY_COLUMNS if name in columns}
    metrics: dict[str, np.ndarray] = {}
    for name in metric_names(columns):
        values = columns[name]
        metrics |= {name: values} if values.ndim == 1 else {f"{name}[{i}]": part for i, part in enumerate(values.T)}
    return keys | metrics


def _table(run: RunRecord, table: str) -> Columns:
    if table not in TABLES:
        raise ConfigError(f"table is {table!r}; expected one of {', '.join(TABLES)}")
    return run.evaluation if table == "eval" else run.train


def _cells(run: RunRecord, columns: Columns) -> _Cells:
    if not columns:
        nothing = np.zeros(0, np.int64)
        return _Cells(nothing, nothing, nothing, nothing, nothing.astype(bool), nothing)
    row, env_steps = columns["row"], columns["env_steps"]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    step = np.arange(len(row)) - np.repeat(starts, np.diff(starts, append=len(row)))
    n_steps = int(step.max(initial=-1)) + 1
    longest = np.isin(row, row[step == n_steps - 1])
    at = np.array([int(np.median(env_steps[longest & (step == each)])) for each in range(n_steps)], np.int64)
    seeds, seed = np.unique(columns["seed"], return_inverse=True)
    final = columns.get("final", np.zeros(len(row), bool))
    return _Cells(seeds, grid_of(run, columns), seed, step, final, at)


def _filled(
    columns: Sequence[np.ndarray | None], places: Sequence[tuple[np.ndarray, ...]], shape: tuple[int, ...]
) -> np.ndarray:
    """One array of all runs' values, NaN where there are none."""
    found = [(values, place) for values, place in zip(columns, places, strict=True) if values is not None]
    sizes = [values.shape[1] for values, _ in found if values.ndim == 2]
    whole = (*shape, *([max(sizes)] if sizes else []))
    kind = np.result_type(*(values.dtype for values, _ in found))
    covered = np.zeros(shape, bool)
    for _, place in found:
        covered[place] = True
    if not covered.all() or len({*sizes}) > 1:
        kind = np.result_type(kind, np.float32 if kind.kind == "b" else np.float64) if kind.kind != "f" else kind
    array = np.full(whole, np.nan if kind.kind == "f" else 0, kind)
    for values, place in found:
        if sizes:
            array[(*place, slice(0, values.shape[1]))] = values
        else:
            array[place] = values
    return array


def _settings(runs: Sequence[RunRecord], points: Sequence[int]) -> dict[str, np.ndarray]:
    """Every setting along the points of all runs; where a run has none, NaN or empty text."""
    by_run = [settings_of(run) for run in runs]
    names = {name: None for settings in by_run for name in settings}
    joined = {"run": np.repeat([run.path.name for run in runs], points)}
    for name in names:
        parts = [settings.get(name) for settings in by_run]
        is_text = any(part is not None and part.dtype.kind == "U" for part in parts)
        gap: Any = "" if is_text else np.nan
        filled = [np.full(count, gap) if part is None else part for part, count in zip(parts, points, strict=True)]
        joined[name] = np.concatenate([part.astype(str) for part in filled] if is_text else filled)
    return joined


def _attributes(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all cards say alike, one level deep, as numbers and text: any file format takes these."""
    first, *others = [_flattened(card) for card in cards]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _flattened(card: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in card.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        for name, part in inner.items():
            plain = isinstance(part, str | int | float) and not isinstance(part, bool)
            flat[f"{key}.{name}".rstrip(".")] = part if plain else json.dumps(part)
    return flat


def require(name: str, extra: str = "analysis") -> ModuleType:
    """A package that is not needed by everybody, imported.

    Args:
      name: of the package.
      extra: of ours that has it.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed ({clip(str(error))}); expected it here: pip install 'lsf-jax[{extra}]'"
        ) from None
