"""Statistics over seeds: median and range, interquartile mean (IQM) with a bootstrap interval, and learning curves.

Reference: Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice, for the IQM and
its stratified percentile bootstrap. Differs from their library: the quarters are cut with fractional weights, so that
the IQM is defined and continuous for any number of seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lsf_jax.analysis.records import Metric, RunRecord, budget, grid_of, metric_of, table_of

CONFIDENCE = 0.95
RESAMPLES = 1000
MAX_CURVE_POINTS = 200
_SEED = 20_210_830  # of the bootstrap's random numbers, so that a plot is the same each time


class Summary(NamedTuple):
    """One number per seed, summarised."""

    n: int
    median: float
    low: float  # smallest
    high: float  # largest
    iqm: float
    iqm_low: float  # bootstrap interval of the IQM at `CONFIDENCE`
    iqm_high: float


class Curve(NamedTuple):
    """A metric over environment steps, summarised over the seeds at each point."""

    env_steps: Float[np.ndarray, " points"]  # per seed
    median: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    iqm: Float[np.ndarray, " points"]
    iqm_low: Float[np.ndarray, " points"]
    iqm_high: Float[np.ndarray, " points"]
    n: Int[np.ndarray, " points"]  # seeds that have a value there


def iqm(values: Float[np.ndarray, " seeds"]) -> float:
    """Mean of the middle half: a quarter of the weight is cut from each end, a value in part where need be.

    Args:
      values: one finite number per seed, at least one.

    Returns:
      The interquartile mean. Of one or two values the mean.
    """
    ordered = np.sort(values.astype(np.float64))
    return float(iqm_of_counts(np.ones((ordered.size, 1)), ordered)[0])


def iqm_interval(
    values: Float[np.ndarray, " seeds"],
    strata: Int[np.ndarray, " seeds"] | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the IQM; seeds are drawn with replacement within their stratum.

    Args:
      values: one finite number per seed, at least one.
      strata: which task or setting each value belongs to; None for one stratum.
      confidence: probability that the interval is meant to cover.
      resamples: bootstrap samples; the random numbers are always the same.

    Returns:
      (low, high); of one value, that value twice.
    """
    labels = np.zeros(values.shape, np.int64) if strata is None else strata
    counts = resample_counts(labels, resamples)
    order = np.argsort(values, kind="stable")
    samples = iqm_of_counts(counts[order], values[order].astype(np.float64))
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def difference_interval(
    first: Float[np.ndarray, " first"], second: Float[np.ndarray, " second"], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile bootstrap interval of the difference of two IQMs, whose seeds are drawn independently.

    Args:
      first: one finite number per seed, at least one.
      second: likewise, not necessarily as many.
      confidence: probability that the interval is meant to cover.

    Returns:
      (low, high) of IQM(first) - IQM(second).
    """
    counts = resample_counts(np.repeat([0, 1], [first.size, second.size]))
    parts = ((first, counts[: first.size]), (second, counts[first.size :]))
    orders = [np.argsort(values, kind="stable") for values, _ in parts]
    means = [
        iqm_of_counts(drawn[order], values[order].astype(np.float64))
        for (values, drawn), order in zip(parts, orders, strict=True)
    ]
    low, high = np.quantile(means[0] - means[1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share of n.

    Args:
      share: what share of them, 0..1.
      n: how many there are, at least 1.

    Returns:
      (low, high).
    """
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def resample_counts(
    strata: Int[np.ndarray, " seeds"], resamples: int = RESAMPLES, stream: int = 0
) -> Float[np.ndarray, "seeds resamples"]:
    """How often each seed is drawn in each bootstrap sample.

    Args:
      strata: within which group each seed is drawn.
      resamples: number of samples.
      stream: which random numbers; two systems that are held against each other need two.

    Returns:
      Counts; within each stratum they sum to its size.
    """
    random = np.random.default_rng([_SEED, stream] if stream else _SEED)
    counts = np.zeros((strata.size, resamples))  # seeds first: reordering them is then a copy of whole lines
    for label in np.unique(strata):
        (members,) = np.nonzero(strata == label)
        counts[members] = random.multinomial(members.size, np.full(members.size, 1 / members.size), resamples).T
    return counts


def summarize(values: Float[np.ndarray, " seeds"]) -> Summary:
    """Summarises one number per seed; those that are not finite are left out.

    Args:
      values: one number per seed.

    Returns:
      The summary; of no finite number NaN, with n = 0.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return Summary(0, *[float("nan")] * 6)
    iqm_low, iqm_high = iqm_interval(finite)
    return Summary(
        n=finite.size,
        median=float(np.median(finite)),
        low=float(finite.min()),
        high=float(finite.max()),
        iqm=iqm(finite),
        iqm_low=iqm_low,
        iqm_high=iqm_high,
    )


def final_values(run: RunRecord, metric: str, grid: int | None = 0) -> tuple[Int[np.ndarray, " seeds"], np.ndarray]:
    """The last value of a metric of each seed: its result.

    A last evaluation that is no number is the result all the same: no earlier one stands in for it. Rows of training
    lack what was not measured in them; there the last number counts.

    Args:
      run: a loaded run.
      metric: name, as for `metric_of`.
      grid: index of the grid point; None takes all.

    Returns:
      (row of each seed, `[seeds]` or `[seeds, size]` values).

    Raises:
      ValueError: no such metric.
    """
    table = table_of(run, metric)
    row, value = table["row"], table[metric.split("/")[-1]]
    keep = np.full(row.shape, True) if grid is None else grid_of(run, table) == grid
    if table is run.train:
        keep &= ~np.isnan(value.astype(np.float64)).reshape(row.size, -1).any(axis=1)
    row, value = row[keep], value[keep]
    last = np.append(row[1:] != row[:-1], True)[: row.size]
    return row[last], value[last]


def curve(run: RunRecord, metric: str, grid: int = 0) -> Curve:
    """A metric over environment steps, with median, range and IQM over the seeds of one grid point.

    Seeds are evaluated at slightly different numbers of their own steps, so each seed's points are joined by straight
    lines and read off on a common grid of steps; where all seeds share their steps, those are the grid. A seed that
    has used up its budget keeps its last value, one that is unfinished counts as far as it got.

    Args:
      run: a loaded run.
      metric: name of a metric with one number per row, as for `metric_of`.
      grid: index of the grid point.

    Returns:
      The curve; it has no points where nothing has been recorded yet.

    Raises:
      ValueError: no such metric, or one with several numbers per row.
    """
    points = metric_of(run, metric, grid)
    if points.value.ndim != 1:
        raise ValueError(f"metric {metric!r} has {points.value.shape[1]} numbers per row; a curve needs one.")
    return curve_of_seeds(_split(points), budget(run))


def curve_of_seeds(seeds: Sequence[tuple[np.ndarray, np.ndarray]], limit: int) -> Curve:
    """As `curve`, from the points of each seed.

    Args:
      seeds: (env steps, values) of each, steps ascending; finite, at least one point each.
      limit: the budget; a seed that has got there keeps its last value.
    """
    env_steps = _common_steps(list(seeds), limit)
    values = np.stack([_read_off(steps, value, env_steps, limit) for steps, value in seeds] or [env_steps])
    return _summarize_columns(env_steps, values)


def _split(points: Metric) -> list[tuple[np.ndarray, np.ndarray]]:
    cuts = np.nonzero(np.diff(points.row))[0] + 1
    seeds = []
    for steps, value in zip(np.split(points.env_steps, cuts), np.split(points.value, cuts), strict=True):
        finite = np.isfinite(value)
        steps, value = steps[finite].astype(np.float64), value[finite].astype(np.float64)
        last = np.append(np.diff(steps) > 0, True)[: steps.size]  # of two points at one step the later, the final one
        if steps.size:
            seeds.append((steps[last], value[last]))
    return seeds


def _common_steps(seeds: list[tuple[np.ndarray, np.ndarray]], limit: int) -> np.ndarray:
    if not seeds:
        return np.zeros(0)
    first_steps = seeds[0][0]
    if first_steps.size <= MAX_CURVE_POINTS and all(np.array_equal(steps, first_steps) for steps, _ in seeds):
        return first_steps
    ends = [steps[-1] for steps, _ in seeds]
    n_points = min(MAX_CURVE_POINTS, max(steps.size for steps, _ in seeds))
    if n_points == 1:
        return np.array([max(ends)])
    # While no seed has finished, the curve ends where all seeds have got to: its last point is not that of the fastest.
    end = max(ends) if max(ends) >= limit else min(ends)
    return np.linspace(min(end, max(steps[0] for steps, _ in seeds)), end, n_points)


def _read_off(steps: np.ndarray, value: np.ndarray, at: np.ndarray, limit: int) -> np.ndarray:
    is_held = steps[-1] >= limit or steps.size == 1  # a single point has no line to read from
    return np.interp(at, steps, value, left=np.nan, right=value[-1] if is_held else np.nan)


def _summarize_columns(env_steps: np.ndarray, values: np.ndarray) -> Curve:
    columns = [values[np.isfinite(values[:, point]), point] for point in range(env_steps.size)]
    statistics = np.full((6, env_steps.size), np.nan)
    sizes = {column.size for column in columns if column.size}
    counts = {size: resample_counts(np.zeros(size, np.int64), _curve_resamples(size)) for size in sizes}
    for point, column in enumerate(columns):
        if not column.size:
            continue
        order = np.argsort(column, kind="stable")
        samples = iqm_of_counts(counts[column.size][order], column[order])
        low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        statistics[:, point] = (np.median(column), column.min(), column.max(), iqm(column), low, high)
    n = np.array([column.size for column in columns], np.int64)
    return Curve(env_steps, *statistics, n=n)


def _curve_resamples(n_seeds: int) -> int:
    """Fewer resamples for many seeds: a thousand at each of 200 points would take 1,000 seeds 8 seconds."""
    return int(np.clip(256_000 // n_seeds, 200, RESAMPLES))


def iqm_of_counts(
    counts: Float[np.ndarray, "values samples"], ordered: Float[np.ndarray, " values"]
) -> Float[np.ndarray, " samples"]:
    """IQM of each sample `s` that holds `ordered[i]` `counts[i, s]` times: what of each lies in the middle half.

    Args:
      counts: how often, or with what weight, each value is there.
      ordered: the values, ascending.

    Returns:
      One IQM for each sample.
    """
    weight = np.cumsum(counts, axis=0)
    total = weight[-1].copy()
    np.clip(weight, total / 4, total * 3 / 4, out=weight)
    return (ordered @ np.diff(weight, axis=0, prepend=total[None] / 4)) / (total / 2)
