"""Claims held against results: reproduced, not reproduced, or not tested, and why."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lsf_jax.analysis.paper.definition import Claim, Definition
from lsf_jax.analysis.paper.evidence import Gathered
from lsf_jax.analysis.paper.kept import KeptSeed
from lsf_jax.analysis.statistics import curve_of_seeds, difference_interval, iqm, summarize, wilson

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"
LATE = 0.1
"""Share of the budget, at its end, over whose evaluations the measure "late" is a mean."""

Points = tuple[np.ndarray, np.ndarray]
"""Env steps and values of a seed."""


class Verdict(NamedTuple):
    """What results say of a claim in one panel."""

    claim: Claim
    panel: str
    verdict: str
    reason: str  # the numbers, or what is missing
    seeds: int  # of the system that the claim speaks of


def points_of(seed: KeptSeed, metric: str, budget: int | None = None) -> Points:
    """The finite points of a seed's curve, up to its first evaluation at or past a budget."""
    steps = np.array(seed.env_steps, np.float64)
    values = np.array([np.nan if value is None else value for value in seed.values.get(metric, ())], np.float64)
    if values.size != steps.size:
        return np.zeros(0), np.zeros(0)
    end = steps.size if budget is None else int(np.searchsorted(steps, budget)) + 1
    finite = np.isfinite(values[:end])
    return steps[:end][finite], values[:end][finite]


def _final(points: Points, budget: int) -> float:
    del budget
    return float(points[1][-1])


def _late(points: Points, budget: int) -> float:
    steps, values = points
    return float(values[steps > (1 - LATE) * budget].mean())


def _along(points: Points, budget: int) -> float:
    """Mean height of the curve over env steps, from its first evaluation on."""
    steps, values = points
    del budget
    if steps.size < 2:
        return float(values[-1])
    return float(np.sum(np.diff(steps) * (values[1:] + values[:-1]) / 2) / (steps[-1] - steps[0]))


MEASURES: dict[str, tuple[Callable[[Points, int], float], str]] = {
    "final": (_final, "at the budget"),
    "late": (_late, f"mean over the last {LATE:.0%} of the env steps"),
    "curve": (_along, "mean over the whole curve"),
}
"""What stands for a seed: by name, how it is computed and what it is called."""


def values_at(seeds: Sequence[KeptSeed], metric: str, budget: int, measure: str = "final") -> np.ndarray:
    """One number for each seed that has got to a budget.

    Args:
      seeds: of one system.
      metric: name of the metric.
      budget: env steps.
      measure: a key of `MEASURES`.
    """
    reached = [points_of(seed, metric, budget) for seed in seeds if seed.env_steps[-1] >= budget]
    compute = MEASURES[measure][0]
    return np.array([compute(points, budget) for points in reached if points[0].size and points[0][-1] >= budget])


def judge(definition: Definition, gathered: Gathered, *, counts: bool = True) -> list[Verdict]:
    """A verdict for each claim of a figure in each of its panels.

    Args:
      definition: of the figure.
      gathered: its results.
      counts: False for a rehearsal: nothing is tested then.
    """
    return [
        _judged(definition, claim, panel, gathered, counts) for claim in definition.claims for panel in claim.panels
    ]


def _judged(definition: Definition, claim: Claim, panel: str, gathered: Gathered, counts: bool) -> Verdict:
    def verdict(word: str, reason: str) -> Verdict:
        return Verdict(claim, panel, word, reason, seeds=len(found[claim.system]))

    budget = claim.env_steps or gathered.cells[panel, claim.system].budget
    found = {
        label: values_at(gathered.evidence[panel, label].seeds, definition.metric, budget, claim.measure)
        for label in claim.systems
    }
    missing = {
        label: _missing(gathered.evidence[panel, label].seeds, values.size, claim.seeds, budget)
        for label, values in found.items()
        if values.size < claim.seeds
    }
    lacking = "; ".join(f"{label}: {text}" for label, text in missing.items())
    if not counts:
        return verdict(NOT_TESTED, "a rehearsal with a tiny budget is no evidence")
    if claim.system in missing:
        return verdict(NOT_TESTED, lacking)
    if claim.comparison in ("at_least", "at_most"):
        return verdict(*_against_number(claim, found[claim.system], definition.share))
    compare = _steadier if claim.comparison == "steadier_than" else _against_rival
    outcomes = [
        compare(definition, claim, gathered, panel, rival, found) for rival in claim.systems[1:] if rival not in missing
    ]
    reasons = "; ".join([text for _, text in outcomes] + ([lacking] if lacking else []))
    if not all(holds for holds, _ in outcomes):
        return verdict(NOT_REPRODUCED, reasons)
    return verdict(NOT_TESTED if missing else REPRODUCED, reasons)


def _missing(seeds: Sequence[KeptSeed], have: int, needed: int, budget: int) -> str:
    furthest = sorted((seed.env_steps[-1] for seed in seeds if seed.env_steps[-1] < budget), reverse=True)
    more = f", {len(furthest)} more at {furthest[0]:,} or less" if furthest else ""
    return f"{have} of {needed} seeds at {budget:,} env steps{more}"


def _against_number(claim: Claim, values: np.ndarray, is_share: bool) -> tuple[str, str]:
    if is_share:
        middle = float(values.mean())
        low, high = wilson(middle, values.size)
        text = f"{middle:.1%} of {values.size:,} seeds (95 %: {low:.1%} to {high:.1%})"
    else:
        summary = summarize(values)
        middle = summary.median
        text = f"median {middle:.4g} ({summary.low:.4g} to {summary.high:.4g}) of {summary.n} seeds"
    holds = middle >= claim.at_least if claim.at_least is not None else middle <= (claim.at_most or 0.0)
    return REPRODUCED if holds else NOT_REPRODUCED, text


def _against_rival(
    definition: Definition,
    claim: Claim,
    gathered: Gathered,
    panel: str,
    rival: str,
    found: dict[str, np.ndarray],
) -> tuple[bool, str]:
    del definition, gathered, panel
    ours, theirs = found[claim.system], found[rival]
    low, high = difference_interval(ours, theirs)
    text = f"IQM {iqm(ours) - iqm(theirs):+.3g} against {rival} (95 %: {low:+.3g} to {high:+.3g})"
    return (low > 0 if claim.above else low >= -claim.margin), text


def _steadier(
    definition: Definition,
    claim: Claim,
    gathered: Gathered,
    panel: str,
    rival: str,
    found: dict[str, np.ndarray],
) -> tuple[bool, str]:
    del found
    budget = claim.env_steps or gathered.cells[panel, claim.system].budget
    ours, theirs = (
        _spread(gathered.evidence[panel, label].seeds, definition.metric, budget) for label in (claim.system, rival)
    )
    return ours < theirs, f"range {ours:.3g}, of {rival} {theirs:.3g}"


def _spread(seeds: Sequence[KeptSeed], metric: str, budget: int) -> float:
    """Largest minus smallest over the seeds, mean along the curve."""
    points = [points_of(seed, metric, budget) for seed in seeds if seed.env_steps[-1] >= budget]
    curve = curve_of_seeds([each for each in points if each[0].size], budget)
    return float((curve.high - curve.low).mean())
