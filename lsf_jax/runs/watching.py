"""What those who watch a run are given while it goes on: sinks quantiles over seeds, callbacks whole evaluations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from lsf_jax.runs.columns import Columns

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
"""What sinks are sent of each metric beside its mean: name -> which quantile over the seeds."""


class Evaluation(NamedTuple):
    """One evaluation of a block of seeds, as `train(..., on_evaluation=f)` hands it to `f`."""

    path: Path  # the run folder
    iteration: int
    final: bool  # of the parameters taken at the budget
    columns: Columns  # "row", "grid", "seed", "env_steps", "return", ...: [rows] or [rows, size]


OnEvaluation: TypeAlias = Callable[[Evaluation], object]
"""Called after each evaluation of each block; what it returns is ignored."""


def scalars(
    columns: Mapping[str, np.ndarray], grid: np.ndarray, labels: Sequence[str], prefix: str = ""
) -> dict[str, float]:
    """Mean and quantiles over seeds of each metric, for sinks.

    Args:
      columns: name -> `[rows]`; what is no float32 is no metric, and what has several numbers a row is left out.
      grid: `[rows]` index of each row's grid point.
      labels: what the grid points are called; of a run without a grid one empty text.
      prefix: put before each name.

    Returns:
      `return` (the mean over seeds), `return/median`, `return/q25`, ... of the seeds that are finite; of a grid, for
      each point, as in `lr=0.001/return/median`. One seed has no quantiles.
    """
    found: dict[str, float] = {}
    for point in np.unique(grid):
        group = f"{prefix}{labels[point]}/" if labels[point] else prefix
        for name, values in columns.items():
            if values.dtype != np.float32 or values.ndim != 1:
                continue
            finite = values[(grid == point) & np.isfinite(values)].astype(np.float64)
            if finite.size:
                found[group + name] = float(finite.mean())
            if finite.size > 1:
                at = np.quantile(finite, list(QUANTILES.values()))
                found |= {f"{group}{name}/{part}": float(value) for part, value in zip(QUANTILES, at, strict=True)}
    return found
