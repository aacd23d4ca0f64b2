"""How often would four seeds have lied: the paper's Table I, by subsampling our 1,024 seeds of each system.

    python -m benchmarks.few_seeds benchmarks/results/matrix_table/table-matrix_game.json > few_seeds.md
    python -m benchmarks.few_seeds runs/qmix runs/vdn          # two runs with 32 seeds or more on one environment

A table holds shares of outcomes, from which each seed's payoff is known again. Each pair of systems is ranked by the
mean payoff over all seeds, because medians of nine possible payoffs tie, and by the median.
"""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np

from lsf_jax.analysis.few_seeds import FEWEST, Ranking, few_seeds_risk, few_seeds_text
from lsf_jax.analysis.frames import load_run
from lsf_jax.analysis.matrix_table import LETTERS, Outcome, read_outcomes
from lsf_jax.analysis.naming import systems_of
from lsf_jax.analysis.statistics import final_values
from lsf_jax.envs.matrix_game import PAPER

DRAWS = 20_000  # the standard error of a probability is then at most 0.0036


def payoffs_of(outcome: Outcome) -> np.ndarray:
    """The payoff of each seed's greedy joint action in the paper's game."""
    earned = []
    for label, share in outcome.shares.items():
        row, column = (LETTERS.index(letter) for letter in label)
        earned += [PAPER[row][column]] * round(share * outcome.seeds)
    if len(earned) != outcome.seeds:
        raise SystemExit(f"the shares of {outcome.algorithm} do not add up to {outcome.seeds} seeds")
    return np.array(earned)


def of_table(file: Path, exploration: str) -> dict[str, np.ndarray]:
    chosen = [outcome for outcome in read_outcomes(file) if outcome.exploration == exploration]
    return {outcome.algorithm: payoffs_of(outcome) for outcome in chosen}


def of_runs(paths: list[str]) -> dict[str, np.ndarray]:
    scores = {
        system.label: final_values(system.run, "return", system.grid)[1].astype(np.float64)
        for system in systems_of([load_run(path) for path in paths])
    }
    for name, values in scores.items():
        if values.size < FEWEST:
            raise SystemExit(
                f"{name} has {values.size} seeds; expected {FEWEST} or more: all of them are the truth here"
            )
    return scores


def rankings(scores: dict[str, np.ndarray], truth: str) -> dict[tuple[str, str], Ranking]:
    return {
        (first, second): few_seeds_risk(scores[first], scores[second], truth=truth, draws=DRAWS, resamples=400)
        for first, second in combinations(scores, 2)
    }


def report(scores: dict[str, np.ndarray], title: str, rows: int = 15) -> None:
    print(f"## {title}\n")
    for truth in ("mean", "median"):
        found = rankings(scores, truth)
        sure = {pair: each for pair, each in found.items() if each.is_sure}
        print(f"Ranked by the {truth} over all seeds: {len(sure)} of {len(found)} pairs are told apart.")
        if not sure:
            print()
            continue
        for place, size in enumerate(few.size for few in next(iter(sure.values())).few):
            wrong = np.array([each.few[place].wrong for each in sure.values()])
            right = np.array([each.few[place].right for each in sure.values()])
            print(
                f"Of these, medians of {size} seeds rank the two wrongly with probability {wrong.mean():.1%} on "
                f"average (worst pair {wrong.max():.1%}), rightly with {right.mean():.1%}; else they are equal."
            )
        worst = sorted(sure, key=lambda pair: -sure[pair].few[1].wrong)[:rows]
        table = few_seeds_text({pair: sure[pair] for pair in worst})
        print(f"\nThe pairs that four seeds get wrong most often:\n\n{table}\n")


if __name__ == "__main__":
    given = sys.argv[1:]
    if len(given) == 1 and given[0].endswith(".json"):
        print("# How often would a few seeds have lied: Table I\n")
        print(f"`python -m benchmarks.few_seeds {given[0]}`; `(tied)`: the two medians are equal.\n")
        for kind in ("own", "uniform"):
            report(of_table(Path(given[0]), kind), f"{kind} exploration")
    else:
        report(of_runs(given), " against ".join(given))
