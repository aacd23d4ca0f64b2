"""How often would a few seeds have lied: the chance that the median of 3, 4 or 5 seeds ranks two systems the wrong way.

Papers of this field report medians of a handful of seeds. Where two systems have been trained with many, handfuls can
be drawn from them, as if each were a paper, and their verdicts held against that of all seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lsf_jax.analysis.statistics import CONFIDENCE, RESAMPLES
from lsf_jax.settings import ConfigError

SIZES = (3, 4, 5)
DRAWS = 100_000
FEWEST = 32
"""Seeds of each system below which a ranking over all of them is no truth to speak of."""
_SEED = 2022


class FewSeeds(NamedTuple):
    """What a median of `size` seeds would have said of two systems."""

    size: int
    wrong: float  # probability that the medians stand the other way round than the truth
    tied: float  # that they are equal
    right: float


class Ranking(NamedTuple):
    """Two systems ranked over all their seeds, and by handfuls of them."""

    difference: float  # first - second, of the median over all seeds (or the mean, if asked for)
    low: float  # bootstrap interval of the difference at `CONFIDENCE`
    high: float
    seeds: tuple[int, int]
    few: tuple[FewSeeds, ...]

    @property
    def is_sure(self) -> bool:
        """Whether all seeds together tell which is better: the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def few_seeds_risk(
    first: Float[np.ndarray, " seeds"],
    second: Float[np.ndarray, " others"],
    sizes: Sequence[int] = SIZES,
    *,
    truth: str = "median",
    draws: int = DRAWS,
    resamples: int = RESAMPLES,
) -> Ranking:
    """The probability that a median over a few seeds ranks two systems the wrong way, by subsampling.

    Handfuls are drawn without replacement from each system by itself, `draws` times, always with the same random
    numbers: the standard error of a probability is at most 0.0016. Where all seeds together are tied, whatever ranks
    the two strictly is wrong.

    Args:
      first: a score for each seed of one system.
      second: likewise of the other.
      sizes: how many seeds a handful has.
      truth: "median" or "mean": by what all seeds are ranked. A median of few outcomes (a matrix game has nine) may be
        tied where the means are not.
      draws: handfuls of each size.
      resamples: bootstrap samples for the interval of the truth.

    Returns:
      The true ranking, and the probabilities for each size.

    Raises:
      ConfigError: an unknown truth, scores that are not finite, or fewer seeds than a handful.
    """
    statistics = {"median": np.median, "mean": np.mean}
    if truth not in statistics:
        raise ConfigError(f"truth is {truth!r}; expected median or mean")
    for scores in (first, second):
        if not np.isfinite(scores).all() or scores.size < max(sizes):
            raise ConfigError(
                f"a system has {int(np.isfinite(scores).sum())} finite scores; expected {max(sizes)} or more"
            )
    random = np.random.default_rng(_SEED)
    of_all = statistics[truth]
    drawn = [of_all(random.choice(each, (resamples, each.size)), axis=1) for each in (first, second)]
    low, high = np.quantile(drawn[0] - drawn[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    difference = float(of_all(first) - of_all(second))
    few = tuple(_few(first, second, size, np.sign(difference), draws, random) for size in sizes)
    return Ranking(difference, float(low), float(high), (first.size, second.size), few)


def _few(
    first: np.ndarray, second: np.ndarray, size: int, truth: float, draws: int, random: np.random.Generator
) -> FewSeeds:
    medians = [_medians(each[_handfuls(each.size, size, draws, random)]) for each in (first, second)]
    said = np.sign(medians[0] - medians[1])
    tied, right = float(np.mean(said == 0)), float(np.mean((said == truth) & (said != 0)))
    return FewSeeds(size=size, wrong=float(np.mean((said != truth) & (said != 0))), tied=tied, right=right)


def _medians(handfuls: np.ndarray) -> np.ndarray:
    """Of each row; several times as fast as `np.median` for rows this short."""
    ordered, middle = np.sort(handfuls, axis=1), handfuls.shape[1] - 1
    return (ordered[:, middle // 2] + ordered[:, (middle + 1) // 2]) / 2


def _handfuls(n: int, size: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """`draws` sets of `size` different numbers below n: those that repeat a number are drawn again."""
    chosen = random.integers(0, n, (draws, size))
    while True:
        ordered = np.sort(chosen, axis=1)
        (again,) = np.nonzero((np.diff(ordered, axis=1) == 0).any(axis=1))
        if not again.size:
            return chosen
        chosen[again] = random.integers(0, n, (again.size, size))


def few_seeds_text(rankings: dict[tuple[str, str], Ranking]) -> str:
    """Rankings as a Markdown table, a line for each pair.

    Args:
      rankings: (first system, second system) -> their ranking, all with the same sizes.
    """
    sizes = [few.size for few in next(iter(rankings.values())).few]
    heads = ["pair", "seeds", "difference over all seeds", f"{CONFIDENCE:.0%} interval"]
    heads += [f"wrong with {size} (tied)" for size in sizes]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (first, second), ranking in rankings.items():
        seeds = " and ".join(f"{count:,}" for count in dict.fromkeys(ranking.seeds))
        cells = [f"{first} against {second}", seeds, f"{ranking.difference:+.3g}"]
        cells += [f"{ranking.low:+.3g} … {ranking.high:+.3g}" + ("" if ranking.is_sure else " (unsure)")]
        cells += [f"{few.wrong:.1%} ({few.tied:.1%})" for few in ranking.few]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
