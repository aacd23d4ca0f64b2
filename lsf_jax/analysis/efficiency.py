"""How soon and how well over the whole budget: steps and seconds to a threshold, area under the learning curve."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lsf_jax.analysis.records import RunRecord, budget, metric_of
from lsf_jax.analysis.statistics import wilson


class SampleEfficiency(NamedTuple):
    """When the seeds of one grid point reached a threshold. What never did is infinite."""

    threshold: float
    row: Int[np.ndarray, " seeds"]
    env_steps: Float[np.ndarray, " seeds"]  # of the first evaluation at or above the threshold
    seconds: Float[np.ndarray, " seeds"]  # training seconds of one seed's share of the machine; NaN without timing
    reached: float  # share of seeds
    reached_low: float  # 95 % Wilson interval
    reached_high: float

    @property
    def median_env_steps(self) -> float:
        """Over seeds; infinite where fewer than half got there."""
        return float(np.median(self.env_steps)) if self.env_steps.size else float("nan")

    @property
    def median_seconds(self) -> float:
        """Over seeds; infinite where fewer than half got there."""
        return float(np.median(self.seconds)) if self.seconds.size else float("nan")


def sample_efficiency(run: RunRecord, threshold: float, metric: str = "return", grid: int = 0) -> SampleEfficiency:
    """Environment steps and seconds until each seed's metric first stands at or above a threshold.

    Seeds are trained side by side, so none has a clock of its own. A seed's seconds are its share: its steps over the
    rate of the whole run (`env_steps_per_second` of the card, all seeds together; compilation and evaluations are not
    in it). They hold for the machine that the card names, and compare between runs of one machine.

    Args:
      run: a loaded run.
      threshold: of the metric.
      metric: with one number per row, as for `lsf_jax.analysis.records.metric_of`.
      grid: index of the grid point.

    Returns:
      One entry per seed that has a value.

    Raises:
      ValueError: no such metric, or one with several numbers per row.
    """
    row, env_steps, value = _curves(run, metric, grid)
    rows = np.unique(row)
    first = np.array([min(env_steps[(row == each) & (value >= threshold)], default=np.inf) for each in rows], float)
    rate = (run.card.get("timing") or {}).get("env_steps_per_second") or np.nan
    got_there = np.isfinite(first)
    low, high = wilson(float(got_there.mean()), rows.size) if rows.size else (np.nan, np.nan)
    return SampleEfficiency(
        threshold=float(threshold),
        row=rows,
        env_steps=first,
        seconds=first / rate,
        reached=float(got_there.mean()) if rows.size else float("nan"),
        reached_low=low,
        reached_high=high,
    )


def area_under_curve(
    run: RunRecord, metric: str = "return", grid: int = 0
) -> tuple[Int[np.ndarray, " seeds"], Float[np.ndarray, " seeds"]]:
    """The mean of each seed's learning curve over its budget: its area over the steps that it spans.

    Points are joined by straight lines; before the first and after the last point the curve is flat. It ends at the
    budget, or for an unfinished run at the step that all seeds have got to.

    Args:
      run: a loaded run.
      metric: with one number per row, as for `lsf_jax.analysis.records.metric_of`.
      grid: index of the grid point.

    Returns:
      (row of each seed, its mean).

    Raises:
      ValueError: no such metric, or one with several numbers per row.
    """
    row, env_steps, value = _curves(run, metric, grid)
    rows = np.unique(row)
    if not rows.size:
        return rows, np.zeros(0)
    end = float(min(budget(run), *(env_steps[row == each].max() for each in rows)))
    return rows, np.array([_mean_until(env_steps[row == each], value[row == each], end) for each in rows])


def _mean_until(env_steps: np.ndarray, value: np.ndarray, end: float) -> float:
    inside = np.unique(np.concatenate([[0.0, end], env_steps[env_steps <= end]]))
    heights = np.interp(inside, env_steps, value)
    return float(np.trapezoid(heights, inside) / end) if end else float(heights[-1])


def _curves(run: RunRecord, metric: str, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = metric_of(run, metric, grid)
    if points.value.ndim != 1:
        raise ValueError(f"metric {metric!r} has {points.value.shape[1]} numbers per row; expected one")
    return points.row, points.env_steps.astype(np.float64), points.value.astype(np.float64)
