"""What a run folder holds, read back: configuration, card, and those rows of its tables that count.

Seeds of a block go on together until the last of them has used up its budget, so a seed that finished before its
neighbours leaves rows behind that belong to nobody's result. They are dropped here, by `counted_rows` and
`counted_evaluations`, and nowhere else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from lsf_jax.config import yaml12
from lsf_jax.config.grids import swept_in
from lsf_jax.runs import folder, part_schema, schemas, tables
from lsf_jax.runs.safe_files import RunFolderError
from lsf_jax.runs.setting_values import settings_by_point
from lsf_jax.settings import clip, env_label, printable

Columns: TypeAlias = dict[str, np.ndarray]
"""A table in memory: column name -> `[rows]` or `[rows, size]`, sorted by row, then iteration."""


class RunRecord(NamedTuple):
    """What a run folder holds, for reading. A table of which nothing has been written yet has no columns.

    `lsf_jax.load_run` gives one that can also turn itself into frames.
    """

    path: Path
    config: dict[str, Any]  # config.yaml: sections "algo", "env", "train" and, for a sweep, "grid" or "points"
    card: dict[str, Any]  # card.json: versions, hardware, commit, block width, timing
    train: Columns  # one row per seed and logged iteration
    evaluation: Columns  # one row per seed and evaluation

    def __repr__(self) -> str:
        (algo, env, train) = (self.config.get(section) or {} for section in ("algo", "env", "train"))
        where = env_label(str(env.get("name")), env)
        rows, final = len(self.train.get("row", ())), self.evaluation.get("final", np.zeros(0, bool))
        end = "finished" if final.sum() == int(train.get("seeds", 0)) * len(grid_labels(self)) else "unfinished"
        return (
            f"Run({self.path}: {algo.get('name')} on {where}, {train.get('seeds')} seeds, {budget(self):,} env steps "
            f"each; {len(final):,} evaluations, {rows:,} rows of training, {end})"
        )


class Metric(NamedTuple):
    """One metric of one grid point: a curve of points per seed."""

    row: Int[np.ndarray, " points"]  # which seed's point; ascending
    env_steps: Int[np.ndarray, " points"]  # ascending within a row
    value: np.ndarray  # [points] or [points, size]


def read_record(path: str | Path) -> RunRecord:
    """Reads a run folder; the run may be unfinished, and its settings need not be those of today's code.

    Args:
      path: the folder that training printed at its end.

    Returns:
      The run, with only the rows that count.

    Raises:
      ConfigError: no run folder, or one of its two documents is damaged; the file is named.
      ValueError: likewise for the tables.
    """
    path = Path(path)
    documents = folder.read_documents(path)
    config = yaml12.parse(documents.config, str(path / folder.CONFIG))
    run = RunRecord(path=path, config=config, card=documents.card, train={}, evaluation={})
    limit = budget(run)
    schemas.check_sections(config, path / folder.CONFIG)
    return run._replace(
        train=_read_counted(run, "train", limit),
        evaluation=_read_counted(run, "eval", limit),
    )


def budget(run: RunRecord) -> int:
    """The environment steps that each seed of a run is given, `train.env_steps`.

    Args:
      run: only its `config` and `path` are looked at.

    Returns:
      Valid environment steps per seed.

    Raises:
      ValueError: the configuration does not say.
    """
    train = run.config.get("train")
    steps = train.get("env_steps") if isinstance(train, Mapping) else None
    if not isinstance(steps, int | float) or isinstance(steps, bool) or not 1 <= steps < 2**63:
        raise RunFolderError(f"{run.path / folder.CONFIG} holds train.env_steps {steps!r}; expected a positive number.")
    return int(steps)


def _n_rows(run: RunRecord) -> int | None:
    """Rows of a run, seeds × grid points; None where the configuration does not say."""
    seeds = run.config.get("train", {}).get("seeds")
    if seeds is None:
        return None
    if not isinstance(seeds, int) or isinstance(seeds, bool) or not 1 <= seeds < 2**31:
        raise RunFolderError(
            f"{run.path / folder.CONFIG} holds train.seeds {seeds!r}; expected a positive whole number."
        )
    return seeds * _n_points(run)


def _n_points(run: RunRecord) -> int:
    return swept_in(run.config).size


def counted_rows(
    row: Int[np.ndarray, " rows"], env_steps: Int[np.ndarray, " rows"], budget: int
) -> Bool[np.ndarray, " rows"]:
    """Which rows belong to a seed's result: those up to its first row at or past the budget, that one included.

    Args:
      row: the seed's row in (grid points × seeds); equal values stand together.
      env_steps: the seed's steps so far, not decreasing within a row.
      budget: environment steps per seed.

    Returns:
      True for the rows that count.
    """
    past = env_steps >= budget
    earlier_past = np.zeros_like(past)  # some earlier row of this seed is already past the budget
    earlier_past[1:] = past[:-1] & (row[1:] == row[:-1])  # steps do not decrease, so the previous row tells
    return ~earlier_past


def counted_evaluations(
    row: Int[np.ndarray, " rows"],
    env_steps: Int[np.ndarray, " rows"],
    final: Bool[np.ndarray, " rows"],
    budget: int,
) -> Bool[np.ndarray, " rows"]:
    """Which evaluations belong to a seed's result.

    The final evaluation, of the parameters taken at the budget, always counts. An evaluation on the common grid of
    iterations counts while the seed was within its budget or is its first at or past it; but once there is a final
    evaluation, only if it saw fewer steps than that one: whether others took place depends on the seed's neighbours.

    Args:
      row: the seed's row in (grid points × seeds); equal values stand together.
      env_steps: the seed's steps when it was evaluated, not decreasing within a row's grid evaluations.
      final: True for final evaluations.
      budget: environment steps per seed.

    Returns:
      True for the rows that count.
    """
    counts = final.copy()
    counts[~final] = counted_rows(row[~final], env_steps[~final], budget)
    last = np.full(row.max(initial=-1) + 1, np.iinfo(np.int64).max)
    last[row[final]] = env_steps[final]
    return counts & (final | (env_steps < last[row]))


def grid_labels(run: RunRecord) -> list[str]:
    """What distinguishes the points of a run's hyper-parameter grid.

    Args:
      run: a loaded run.

    Returns:
      One text per grid point in the order of the column `grid` (last key fastest), for example "lr=0.001, beta=0.1";
      one empty text where there is no grid.
    """
    return [
        printable(", ".join(f"{key.removeprefix('algo.')}={value:g}" for key, value in point.items()))
        for point in swept_in(run.config).points
    ]


def settings_of(run: RunRecord) -> dict[str, np.ndarray]:
    """The settings of a run at each of its grid points, as the Parquet parts have them.

    Args:
      run: a loaded run.

    Returns:
      Dotted name, such as "algo.lr" -> `[points]`; swept ones first.
    """
    sections = {section: run.config.get(section) or {} for section in ("algo", "env", "train")}
    return settings_by_point(sections, swept_in(run.config))


def table_of(run: RunRecord, metric: str) -> Columns:
    """The table that a metric stands in: the evaluations before the training table, unless the name says which.

    Args:
      run: a loaded run.
      metric: a column's name, or "eval/<name>" or "train/<name>".

    Returns:
      One of the run's two tables.

    Raises:
      ValueError: no such metric; the message lists those that there are.
    """
    by_name = {"eval": run.evaluation, "train": run.train}
    group, _, name = metric.rpartition("/")
    for choice in [group] if group else by_name:
        if name in metric_names(by_name.get(choice, {})):
            return by_name[choice]
    known = [f"{choice}/{column}" for choice, table in by_name.items() for column in metric_names(table)]
    raise ValueError(f"metric {clip(metric)!r} is not in {run.path}; there are: {', '.join(known) or 'none yet'}.")


def metric_of(run: RunRecord, metric: str, grid: int = 0) -> Metric:
    """The points of one metric at one grid point, where they are numbers.

    Args:
      run: a loaded run.
      metric: a column of the evaluations or, failing that, of the training table. "eval/<name>" and "train/<name>" say
        which.
      grid: index of the grid point.

    Returns:
      Points of all seeds of the grid point; NaN points are left out, infinite ones stay.

    Raises:
      ValueError: no such metric; the message lists those that there are.
    """
    table = table_of(run, metric)
    name = metric.split("/")[-1]
    keep = grid_of(run, table) == grid
    values = table[name]
    present = ~np.isnan(values.astype(np.float64))
    keep &= present if present.ndim == 1 else present.all(axis=1)
    return Metric(row=table["row"][keep], env_steps=table["env_steps"][keep], value=values[keep])


def grid_of(run: RunRecord, table: Columns) -> Int[np.ndarray, " rows"]:
    """The grid point of each row of a table, from its column `grid` or from where the row stands.

    Args:
      run: a loaded run.
      table: one of its tables.

    Returns:
      Index of the grid point of each row.
    """
    if "grid" in table:
        return table["grid"]
    seeds = run.config.get("train", {}).get("seeds")
    return table["row"] // int(seeds) if len(grid_labels(run)) > 1 and seeds else np.zeros_like(table["row"])


def metric_names(table: Columns) -> list[str]:
    """The columns of a table that are metrics.

    Args:
      table: one table of a run.

    Returns:
      Names in alphabetical order.
    """
    return sorted(name for name in table if name not in part_schema.KEY_COLUMNS)


def _read_counted(run: RunRecord, table: str, limit: int) -> Columns:
    if not tables.part_paths(run.path, table):
        return {}
    columns = tables.to_arrays(tables.read_table(run.path, table))
    n_rows = _n_rows(run)
    if n_rows is not None and (
        columns["row"].max(initial=-1) >= n_rows or grid_of(run, columns).max(initial=0) >= _n_points(run)
    ):
        raise RunFolderError(
            f"{tables.table_folder(run.path, table)} is of another run: {folder.CONFIG} has {n_rows} rows, it has more."
        )
    final = columns.get("final")
    if final is None:
        counts = counted_rows(columns["row"], columns["env_steps"], limit)
    else:
        counts = counted_evaluations(columns["row"], columns["env_steps"], final, limit)
    return {name: values[counts] for name, values in columns.items()}
