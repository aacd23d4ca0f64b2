"""Aggregates, profiles and probabilities against loops that resample seed by seed."""

import numpy as np
import pytest

from lsf_jax.analysis import reliability
from lsf_jax.analysis.reliability import Scores
from lsf_jax.analysis.statistics import resample_counts

RANDOM = np.random.default_rng(3)
SCORES = Scores(
    ("easy", "hard"),
    {
        "good": (RANDOM.normal(1.0, 0.3, 6), RANDOM.normal(0.5, 0.3, 6)),
        "bad": (RANDOM.normal(0.8, 0.3, 6), RANDOM.normal(0.6, 0.3, 6).round(1)),
    },
)


def middle_half(values):
    """The IQM of a number of values that four divides."""
    ordered = sorted(values)
    assert len(ordered) % 4 == 0
    return float(np.mean(ordered[len(ordered) // 4 : 3 * len(ordered) // 4]))


def samples_of(of_task, statistic, resamples=200):
    """The statistic of each bootstrap sample, seeds repeated as often as they were drawn."""
    values = np.concatenate(of_task)
    strata = np.repeat(np.arange(len(of_task)), [len(each) for each in of_task])
    order = np.argsort(values, kind="stable")
    counts = resample_counts(strata[order], resamples)
    found = []
    for sample in range(resamples):
        drawn = [values[order][seed] for seed in range(len(values)) for _ in range(int(counts[seed, sample]))]
        found.append(statistic(drawn))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("system", ["good", "bad"])
def test_aggregates_equal_their_definitions_and_intervals_a_bootstrap_by_loop(system):
    found = reliability.aggregate(SCORES, resamples=200)[system]
    values = np.concatenate(SCORES.values[system])
    assert found.seeds == 12
    assert (found.median, found.low, found.high) == (np.median(values), values.min(), values.max())
    assert found.iqm == pytest.approx(middle_half(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.iqm_low, found.iqm_high) == pytest.approx(samples_of(SCORES.values[system], middle_half))
    assert (found.mean_low, found.mean_high) == pytest.approx(samples_of(SCORES.values[system], np.mean))


def test_every_task_counts_the_same_whatever_its_number_of_seeds():
    few, many = np.array([0.0, 1.0]), np.full(50, 10.0)
    found = reliability.aggregate(Scores(("a", "b"), {"x": (few, many)}))["x"]
    assert found.mean == pytest.approx((0.5 + 10.0) / 2)
    profile = reliability.performance_profile(Scores(("a", "b"), {"x": (few, many)}), np.array([0.5, 5.0]))["x"]
    assert profile.share.tolist() == pytest.approx([0.75, 0.5])


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    at = np.linspace(-0.2, 1.6, 7)
    found = reliability.performance_profile(SCORES, at, resamples=200)["bad"]
    values = np.concatenate(SCORES.values["bad"])
    for place, threshold in enumerate(at):
        above = lambda drawn, threshold=threshold: sum(value > threshold for value in drawn) / len(drawn)
        assert found.share[place] == pytest.approx(above(values))
        assert (found.low[place], found.high[place]) == pytest.approx(samples_of(SCORES.values["bad"], above))


def test_thresholds_span_all_scores_unless_given():
    found = reliability.performance_profile(SCORES)
    values = np.concatenate([each for of_task in SCORES.values.values() for each in of_task])
    assert found["good"].at[0] == values.min()
    assert found["good"].at[-1] == found["bad"].at[-1] == values.max()
    assert found["good"].share[-1] == 0.0


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    scores = Scores(("t",), {"x": (np.array([1.0, 2.0, 3.0]),), "y": (np.array([2.0, 0.0]),)})
    found = reliability.probability_of_improvement(scores, "x", "y")
    assert found.probability == (0 + 1 + 0.5 + 1 + 1 + 1) / 6
    assert found.low <= found.probability <= found.high


def test_its_interval_equals_a_bootstrap_by_loop_in_which_both_systems_are_drawn():
    found = reliability.probability_of_improvement(SCORES, "good", "bad", resamples=60)
    samples = []
    for sample in range(60):
        by_task = []
        for task in range(2):
            drawn = []
            for place, system in enumerate(("good", "bad")):
                counts = resample_counts(np.zeros(6, int), 60, stream=2 * task + place + 1)[:, sample].astype(int)
                drawn.append(np.repeat(SCORES.values[system][task], counts))
            pairs = [(x > y) + 0.5 * (x == y) for x in drawn[0] for y in drawn[1]]
            by_task.append(np.mean(pairs))
        samples.append(np.mean(by_task))
    assert (found.low, found.high) == pytest.approx(np.quantile(samples, [0.025, 0.975]))


def test_the_matrix_is_antisymmetric_about_one_half():
    matrix = reliability.improvement_matrix(SCORES, resamples=50)
    assert np.isnan(matrix[0, 0]).all()
    assert matrix[0, 1, 0] == pytest.approx(1 - matrix[1, 0, 0])
    assert matrix[0, 1, 1] == pytest.approx(1 - matrix[1, 0, 2])
    assert matrix[1, 0, 0] == pytest.approx(reliability.probability_of_improvement(SCORES, "bad", "good").probability)


def test_random_play_is_zero_and_the_best_is_one():
    found = reliability.normalized(SCORES, {"easy": 0.5, "hard": -1.0}, {"easy": 2.5, "hard": 3.0})
    np.testing.assert_allclose(found.values["good"][0], (SCORES.values["good"][0] - 0.5) / 2.0)
    np.testing.assert_allclose(found.values["bad"][1], (SCORES.values["bad"][1] + 1.0) / 4.0)
    by_seed = reliability.normalized(SCORES, {"easy": 0.0, "hard": 0.0})
    assert max(float(of_task[0].max()) for of_task in by_seed.values.values()) == 1.0


def test_bounds_that_make_no_scale_are_refused():
    with pytest.raises(ValueError, match="no bounds for hard; expected random and best of each task"):
        reliability.normalized(SCORES, {"easy": 0.0})
    with pytest.raises(ValueError, match="best of easy is 0; expected more than random play's 1"):
        reliability.normalized(SCORES, {"easy": 1.0, "hard": 0.0}, {"easy": 0.0, "hard": 1.0})


def test_scores_that_are_not_finite_and_unknown_systems_are_named():
    broken = Scores(("t",), {"x": (np.array([1.0, np.nan]),), "y": (np.ones(2),)})
    with pytest.raises(ValueError, match=r"x has 1 score\(s\) that are not finite"):
        reliability.aggregate(broken)
    with pytest.raises(ValueError, match="system is 'z'; expected one of good, bad"):
        reliability.probability_of_improvement(SCORES, "good", "z")


def test_scores_of_runs_are_by_algorithm_and_by_environment_with_its_settings(make_run):
    runs = []
    for algo in ("qmix", "vdn"):
        for punishment in (0, -2):
            run = make_run([[0.0, len(runs)], [2.0, len(runs) + 10.0]], name=f"{algo}{punishment}", budget=200)
            run.config["algo"]["name"], run.config["env"]["punishment"] = algo, punishment
            runs.append(run)
    found = reliability.scores_of(runs)
    assert found.tasks == ("predator_prey, punishment=0", "predator_prey, punishment=-2")
    assert found.values["vdn"][1].tolist() == [3.0, 13.0]
    area = reliability.scores_of(runs, of="area")
    assert area.values["qmix"][1].tolist() == [0.0 * 0.5 + 0.5 * 0.5, 2.0 * 0.5 + 0.5 * 6.5]
    with pytest.raises(ValueError, match="vdn has no scores on predator_prey, punishment=-2"):
        reliability.scores_of(runs[:3])
    with pytest.raises(ValueError, match="of is 'last'; expected one of final, area"):
        reliability.scores_of(runs, of="last")
