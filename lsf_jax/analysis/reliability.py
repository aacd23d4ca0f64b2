"""Which system is better, and how sure that is: statistics over many seeds, in one environment and over several.

Scores are one number for each seed of each system on each task. Intervals are percentile bootstraps that draw seeds
with replacement within their task, so that no task is ever missing from a sample; every task counts the same, whatever
its number of seeds.

Reference: Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice. Differs from
their library: the IQM cuts its quarters with fractional weights (equal to theirs where seeds × tasks is a multiple of
four); benchmarks/rliable_check.py holds both against each other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lsf_jax.analysis.efficiency import area_under_curve
from lsf_jax.analysis.naming import systems_of, tasks_of
from lsf_jax.analysis.records import RunRecord
from lsf_jax.analysis.statistics import CONFIDENCE, RESAMPLES, final_values, iqm_of_counts, resample_counts
from lsf_jax.settings import ConfigError

KINDS = ("final", "area")
"""What a seed's score is: its last value, or the mean of its curve over the budget."""


class Scores(NamedTuple):
    """One number per seed, by system and task."""

    tasks: tuple[str, ...]
    values: dict[str, tuple[np.ndarray, ...]]  # system -> for each task `[seeds]`
    unit: str = "return"  # what the numbers are

    def systems(self) -> tuple[str, ...]:
        """The names of the systems."""
        return tuple(self.values)


class Aggregate(NamedTuple):
    """What one system reaches over all tasks."""

    seeds: int  # over all tasks
    median: float  # over the pooled scores
    low: float  # smallest score
    high: float  # largest
    iqm: float
    iqm_low: float  # bootstrap interval at `CONFIDENCE`
    iqm_high: float
    mean: float
    mean_low: float
    mean_high: float


class Profile(NamedTuple):
    """Share of runs whose score exceeds a threshold, over thresholds."""

    at: Float[np.ndarray, " thresholds"]
    share: Float[np.ndarray, " thresholds"]
    low: Float[np.ndarray, " thresholds"]  # bootstrap interval at `CONFIDENCE`, for each threshold by itself
    high: Float[np.ndarray, " thresholds"]


class Improvement(NamedTuple):
    """How probably a seed of one system beats a seed of another."""

    probability: float
    low: float  # bootstrap interval at `CONFIDENCE`
    high: float


def scores_of(runs: Sequence[RunRecord], metric: str = "return", of: str = "final") -> Scores:
    """The scores of runs: systems by algorithm (and grid point), tasks by environment and its settings.

    Args:
      runs: finished runs, each system on each task once.
      metric: with one number per row, as for `lsf_jax.analysis.records.metric_of`.
      of: "final", each seed's last value; "area", the mean of its learning curve over the budget.

    Returns:
      The scores; seeds whose score is not finite keep it, and are refused by what follows.

    Raises:
      ConfigError: an unknown kind, no runs, or a system that lacks a task or has it twice.
      ValueError: no such metric.
    """
    if of not in KINDS:
        raise ConfigError(f"of is {of!r}; expected one of {', '.join(KINDS)}")
    if not runs:
        raise ConfigError("runs is empty; expected at least one run")
    task_of = dict(zip((id(run) for run in runs), tasks_of(runs), strict=True))
    tasks = tuple(dict.fromkeys(task_of.values()))
    found: dict[str, dict[str, np.ndarray]] = {}
    for run, grid, label in systems_of(runs):
        by_task, task = found.setdefault(label, {}), task_of[id(run)]
        if task in by_task:
            raise ConfigError(f"{label} is there twice on {task}; expected each system on each task once")
        by_task[task] = final_values(run, metric, grid)[1] if of == "final" else area_under_curve(run, metric, grid)[1]
    for label, by_task in found.items():
        for task in tasks:
            if task not in by_task or not by_task[task].size:
                raise ConfigError(f"{label} has no scores on {task}; expected each system on each task once")
    values = {label: tuple(by_task[task].astype(np.float64) for task in tasks) for label, by_task in found.items()}
    return Scores(tasks, values, metric.split("/")[-1])


def normalized(scores: Scores, random: Mapping[str, float], best: Mapping[str, float] | None = None) -> Scores:
    """Scores on a scale on which random play is 0 and the best there is 1.

        (score - random) / (best - random), for each task by itself

    Args:
      scores: what to normalise.
      random: task -> what uniformly random agents reach; `bounds_of` measures it.
      best: task -> the best that is known, the largest payoff for example; None takes the best seed of all systems,
        which makes the scale depend on who is compared.

    Raises:
      ConfigError: a task without a bound, or whose best is not above random.
    """
    largest = {
        task: max(float(of_task[place].max()) for of_task in scores.values.values())
        for place, task in enumerate(scores.tasks)
    }
    upper = largest if best is None else best
    for task in scores.tasks:
        if task not in random or task not in upper:
            raise ConfigError(f"normalisation has no bounds for {task}; expected random and best of each task")
        if not upper[task] > random[task]:
            raise ConfigError(f"best of {task} is {upper[task]:g}; expected more than random play's {random[task]:g}")
    scaled = {
        system: tuple(
            (values - random[task]) / (upper[task] - random[task])
            for task, values in zip(scores.tasks, of_task, strict=True)
        )
        for system, of_task in scores.values.items()
    }
    return Scores(scores.tasks, scaled, f"normalised {scores.unit}")


def aggregate(scores: Scores, resamples: int = RESAMPLES) -> dict[str, Aggregate]:
    """Median, range, IQM and mean of each system over all its seeds and tasks, with stratified bootstrap intervals.

    Args:
      scores: of one task, or of several on one scale (`normalized`).
      resamples: bootstrap samples.

    Returns:
      System -> its aggregate.

    Raises:
      ConfigError: a score that is not finite.
    """
    return {system: _aggregate(_pooled(scores, system), resamples) for system in scores.values}


def performance_profile(
    scores: Scores, at: Float[np.ndarray, " thresholds"] | None = None, resamples: int = RESAMPLES
) -> dict[str, Profile]:
    """The share of runs whose score exceeds each threshold: the whole distribution in one line for each system.

    Args:
      scores: of one task, or of several on one scale.
      at: thresholds; None: 101 of them over the range of all scores.
      resamples: bootstrap samples.

    Returns:
      System -> its profile.

    Raises:
      ConfigError: a score that is not finite.
    """
    pooled = {system: _pooled(scores, system) for system in scores.values}
    every = np.concatenate([each.values for each in pooled.values()])
    thresholds = np.linspace(every.min(), every.max(), 101) if at is None else at
    return {system: _profile(each, thresholds, resamples) for system, each in pooled.items()}


def probability_of_improvement(scores: Scores, first: str, second: str, resamples: int = RESAMPLES) -> Improvement:
    """The probability that a random seed of the first system beats one of the second on a random task.

        mean over tasks of P(X > Y) + ½ P(X = Y)

    Args:
      scores: of any number of tasks, on any scale.
      first: the system that is asked about.
      second: the system that it is held against.
      resamples: bootstrap samples; both systems' seeds are drawn.

    Returns:
      The probability; 0.5 where neither is better.

    Raises:
      ConfigError: an unknown system, or a score that is not finite.
    """
    for name in (first, second):
        if name not in scores.values:
            raise ConfigError(f"system is {name!r}; expected one of {', '.join(scores.values)}")
        _pooled(scores, name)
    samples, exact = np.zeros(resamples), 0.0
    for task, (ours, theirs) in enumerate(zip(scores.values[first], scores.values[second], strict=True)):
        wins = (ours[:, None] > theirs[None]) + 0.5 * (ours[:, None] == theirs[None])
        drawn = [
            resample_counts(np.zeros(values.size, np.int64), resamples, stream=2 * task + place + 1)
            for place, values in enumerate((ours, theirs))
        ]
        exact += wins.mean()
        samples += np.sum(drawn[0] * (wins @ drawn[1]), axis=0) / wins.size
    n_tasks = len(scores.tasks)
    return Improvement(float(exact / n_tasks), *_interval(samples / n_tasks))


def improvement_matrix(scores: Scores, resamples: int = RESAMPLES) -> Float[np.ndarray, "systems systems 3"]:
    """`probability_of_improvement` of each system (rows) over each other (columns): the value, low and high.

    Args:
      scores: of any number of tasks.
      resamples: bootstrap samples.

    Returns:
      NaN on the diagonal.
    """
    names = scores.systems()
    matrix = np.full((len(names), len(names), 3), np.nan)
    for row, first in enumerate(names):
        for column, second in enumerate(names[:row]):
            value, low, high = probability_of_improvement(scores, first, second, resamples)
            matrix[row, column] = (value, low, high)
            matrix[column, row] = (1 - value, 1 - high, 1 - low)
    return matrix


class _Pooled(NamedTuple):
    """All scores of a system, ascending."""

    values: np.ndarray  # [seeds over all tasks]
    task: np.ndarray  # which task each is of
    weight: np.ndarray  # of each seed, so that tasks count the same


def _pooled(scores: Scores, system: str) -> _Pooled:
    of_task = scores.values[system]
    values = np.concatenate(of_task)
    if not np.isfinite(values).all():
        raise ConfigError(
            f"{system} has {int((~np.isfinite(values)).sum())} score(s) that are not finite; expected none"
        )
    task = np.repeat(np.arange(len(of_task)), [each.size for each in of_task])
    weight = np.concatenate([np.full(each.size, 1 / each.size) for each in of_task])
    order = np.argsort(values, kind="stable")
    return _Pooled(values[order], task[order], weight[order])


def _aggregate(pooled: _Pooled, resamples: int) -> Aggregate:
    values, weight = pooled.values, pooled.weight
    drawn = resample_counts(pooled.task, resamples) * weight[:, None]
    iqm_low, iqm_high = _interval(iqm_of_counts(drawn, values))
    mean_low, mean_high = _interval(values @ drawn / weight.sum())
    return Aggregate(
        seeds=values.size,
        median=float(np.median(values)),
        low=float(values[0]),
        high=float(values[-1]),
        iqm=float(iqm_of_counts(weight[:, None], values)[0]),
        iqm_low=iqm_low,
        iqm_high=iqm_high,
        mean=float(values @ weight / weight.sum()),
        mean_low=mean_low,
        mean_high=mean_high,
    )


def _profile(pooled: _Pooled, at: np.ndarray, resamples: int) -> Profile:
    drawn = resample_counts(pooled.task, resamples) * pooled.weight[:, None]
    above = (pooled.values[None] > np.asarray(at)[:, None]).astype(np.float64)  # [thresholds, seeds]
    total = pooled.weight.sum()
    low, high = np.quantile(above @ drawn / total, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return Profile(np.asarray(at), above @ pooled.weight / total, low, high)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
