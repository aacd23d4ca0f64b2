"""Hold our statistics against rliable, which wants an older pandas than we do and so an environment of its own.

    python -m benchmarks.rliable_check ours numbers.json
    python -m venv /tmp/rliable && /tmp/rliable/bin/pip install rliable "pandas<3"
    /tmp/rliable/bin/python benchmarks/rliable_check.py theirs numbers.json

Where its pinned `arch` has no wheel: pip install arch scipy seaborn absl-py "pandas<3", then --no-deps rliable.
The first command makes scores of two systems on four tasks and our statistics of them, the second rliable's of the same
scores, and prints both beside each other. Values must agree to rounding; bootstrap intervals, whose random numbers
differ, to a few hundredths of their width.
"""

import json
import sys
from pathlib import Path

import numpy as np

SHAPES = {"16 seeds, 4 tasks": (16, 4), "5 seeds, 3 tasks": (5, 3), "64 seeds, 1 task": (64, 1)}
RESAMPLES = 5000
AT = np.linspace(0.0, 1.2, 7)


def made_scores(seeds: int, tasks: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(17)
    level = np.linspace(0.3, 0.8, tasks)
    good = random.normal(level + 0.08, 0.2, (seeds, tasks))
    bad = np.where(random.random((seeds, tasks)) < 0.2, 0.0, random.normal(level, 0.2, (seeds, tasks)))
    return {"good": good, "bad": bad.round(2)}


def ours(file: Path) -> None:
    from lsf_jax.analysis import reliability

    content = {}
    for name, shape in SHAPES.items():
        made = made_scores(*shape)
        scores = reliability.Scores(
            tuple(map(str, range(shape[1]))), {system: tuple(values.T) for system, values in made.items()}
        )
        found = reliability.aggregate(scores, RESAMPLES)
        profiles = reliability.performance_profile(scores, AT, RESAMPLES)
        better = reliability.probability_of_improvement(scores, "good", "bad", RESAMPLES)
        content[name] = {
            "scores": {system: values.tolist() for system, values in made.items()},
            "IQM": {s: [each.iqm, each.iqm_low, each.iqm_high] for s, each in found.items()},
            "mean": {s: [each.mean, each.mean_low, each.mean_high] for s, each in found.items()},
            "profile": {s: [p.share.tolist(), p.low.tolist(), p.high.tolist()] for s, p in profiles.items()},
            "P(good > bad)": [better.probability, better.low, better.high],
        }
    file.write_text(json.dumps(content), encoding="utf-8")


def _rename_seed() -> None:
    """Newer versions of `arch` call `seed` what rliable gives as `random_state`, and never sets."""
    from arch import bootstrap

    original = bootstrap.IIDBootstrap.__init__

    def made(self, *args, random_state=None, **kwargs):
        del random_state
        original(self, *args, **kwargs)

    bootstrap.IIDBootstrap.__init__ = made


def theirs(file: Path) -> None:
    from rliable import library, metrics

    _rename_seed()
    np.random.seed(0)  # noqa: NPY002 - what rliable draws from
    for name, part in json.loads(file.read_text(encoding="utf-8")).items():
        scores = {system: np.array(values) for system, values in part["scores"].items()}
        print(f"\n{name}\n{'':<18}{'ours':>26}{'rliable':>26}")
        for what, aggregate in (("IQM", metrics.aggregate_iqm), ("mean", metrics.aggregate_mean)):
            points, intervals = library.get_interval_estimates(
                scores, lambda x, aggregate=aggregate: np.array([aggregate(x)]), reps=RESAMPLES
            )
            for system in scores:
                line(f"{what} of {system}", part[what][system], [points[system][0], *intervals[system][:, 0]])
        pair = {"good,bad": (scores["good"], scores["bad"])}
        points, intervals = library.get_interval_estimates(pair, metrics.probability_of_improvement, reps=1000)
        value = np.ravel(points["good,bad"])[0]
        line("P(good > bad)", part["P(good > bad)"], [value, *np.ravel(intervals["good,bad"])])
        shares, bands = library.create_performance_profile(scores, AT, reps=RESAMPLES)
        for system in scores:
            share, low, high = (np.array(values) for values in part["profile"][system])
            off = np.abs(share - shares[system]).max()
            band = max(np.abs(low - bands[system][0]).max(), np.abs(high - bands[system][1]).max())
            print(f"{'profile of ' + system:<18} largest difference: value {off:.1e}, band {band:.3f}")


def line(what: str, ours: list[float], theirs: list[float]) -> None:
    cells = [f"{value:.4f} [{low:.4f}, {high:.4f}]" for value, low, high in (ours, theirs)]
    print(f"{what:<18}{cells[0]:>26}{cells[1]:>26}")


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))
