import numpy as np
import pytest

from lsf_jax.analysis import statistics


def brute_force_iqm(values):
    """Each value four times over, then the middle half: no fractions needed."""
    four = sorted(value for value in values for _ in range(4))
    middle = four[len(values) : 3 * len(values)]
    return sum(middle) / len(middle)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 33, 100])
def test_iqm_is_the_mean_of_the_middle_half(n):
    values = np.random.default_rng(n).normal(size=n)
    assert statistics.iqm(values) == pytest.approx(brute_force_iqm(values), abs=1e-12)


def test_iqm_of_small_samples_by_hand():
    assert statistics.iqm(np.array([5.0])) == 5.0
    assert statistics.iqm(np.array([1.0, 3.0])) == 2.0
    assert statistics.iqm(np.array([0.0, 10.0, 1.0, 3.0])) == 2.0
    assert statistics.iqm(np.array([0.0, 1.0, 8.0])) == pytest.approx((0.25 * 0 + 1 + 0.25 * 8) / 1.5)


@pytest.mark.parametrize("strata", [None, np.array([0, 0, 0, 1, 1, 1, 1, 0, 2])])
def test_the_interval_is_that_of_samples_drawn_one_by_one(strata):
    values = np.random.default_rng(3).normal(size=9)
    counts = statistics.resample_counts(np.zeros(9, np.int64) if strata is None else strata, 50)
    samples = [brute_force_iqm(np.repeat(values, counts[:, sample].astype(int))) for sample in range(50)]
    expected = np.quantile(samples, [0.05, 0.95])
    actual = statistics.iqm_interval(values, strata, confidence=0.9, resamples=50)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_seeds_are_drawn_within_their_stratum():
    strata = np.array([0, 1, 0, 1, 1, 2])
    counts = statistics.resample_counts(strata, 200)
    for label in range(3):
        assert (counts[strata == label].sum(axis=0) == (strata == label).sum()).all()
    assert (counts[5] == 1).all()
    assert counts[0].std() > 0


def test_the_interval_of_many_normal_values_has_the_known_width():
    values = np.random.default_rng(0).normal(size=2000)
    low, high = statistics.iqm_interval(values)
    # Asymptotic variance of the 25% trimmed mean of a normal sample is 1.195 / n.
    assert (high - low) == pytest.approx(2 * 1.96 * np.sqrt(1.195 / 2000), rel=0.12)


def test_the_bootstrap_repeats_itself():
    values = np.random.default_rng(1).normal(size=20)
    assert statistics.iqm_interval(values) == statistics.iqm_interval(values)


def test_a_summary_leaves_out_what_is_not_finite():
    summary = statistics.summarize(np.array([1.0, np.nan, 3.0, np.inf, 8.0]))
    assert (summary.n, summary.median, summary.low, summary.high) == (3, 3.0, 1.0, 8.0)
    assert summary.iqm_low <= summary.iqm <= summary.iqm_high


def test_a_summary_of_nothing_is_nan():
    summary = statistics.summarize(np.array([np.nan]))
    assert summary.n == 0
    assert np.isnan(summary[1:]).all()


def test_a_curve_of_seeds_with_equal_steps_is_the_numpy_statistic_at_each(make_run):
    returns = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    curve = statistics.curve(make_run(returns), "return")
    np.testing.assert_array_equal(curve.env_steps, [100, 200, 300, 400, 500])
    np.testing.assert_allclose(curve.median, np.median(returns, axis=0), rtol=1e-6)
    np.testing.assert_allclose(curve.low, returns.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(curve.high, returns.max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(curve.iqm, [brute_force_iqm(column) for column in returns.T], rtol=1e-5)
    assert curve.n.tolist() == [7] * 5
    intervals = [statistics.iqm_interval(column) for column in returns.T]
    np.testing.assert_allclose(np.stack([curve.iqm_low, curve.iqm_high], axis=1), intervals, rtol=1e-6)


def test_seeds_with_steps_of_their_own_are_read_off_between_their_points(make_run):
    env_steps = np.array([[100, 200, 300], [140, 260, 340]])
    run = make_run([[0.0, 10.0, 30.0], [0.0, 12.0, 20.0]], env_steps=env_steps, budget=300)
    curve = statistics.curve(run, "return")
    np.testing.assert_allclose(curve.env_steps, [140, 240, 340])
    first = [4.0, 18.0, 30.0]  # finished at 300: holds its last value
    second = [0.0, 10.0, 20.0]
    np.testing.assert_allclose(curve.low, np.minimum(first, second))
    np.testing.assert_allclose(curve.high, np.maximum(first, second))


def test_an_unfinished_seed_counts_as_far_as_it_got(make_run):
    env_steps = np.array([[100, 200, 300], [110, 120, 130]])
    run = make_run(np.ones((2, 3)), env_steps=env_steps, budget=300)
    curve = statistics.curve(run, "return")
    np.testing.assert_allclose(curve.env_steps, [110, 205, 300])
    assert curve.n.tolist() == [2, 1, 1]


def test_while_no_seed_has_finished_the_curve_ends_where_all_have_been(make_run):
    env_steps = np.array([[100, 200, 300], [110, 210, 280]])
    curve = statistics.curve(make_run(np.ones((2, 3)), env_steps=env_steps, budget=1000), "return")
    assert curve.env_steps[-1] == 280
    assert curve.n.tolist() == [2, 2, 2]


def test_one_evaluation_makes_one_point_of_all_seeds(make_run):
    run = make_run([[1.0], [2.0], [6.0]], env_steps=np.array([[100], [104], [108]]), budget=100)
    curve = statistics.curve(run, "return")
    assert curve.env_steps.tolist() == [108]
    assert (curve.median[0], curve.n[0]) == (2.0, 3)


def test_missing_values_do_not_enter_a_curve(make_run):
    returns = np.array([[np.nan, 2.0, 3.0], [np.nan, 4.0, 5.0]])
    curve = statistics.curve(make_run(returns), "return")
    assert curve.env_steps.tolist() == [200, 300]
    assert curve.median.tolist() == [3.0, 4.0]


def test_a_metric_without_any_value_has_no_points(make_run):
    curve = statistics.curve(make_run(np.full((2, 3), np.nan)), "return")
    assert curve.env_steps.size == curve.median.size == curve.n.size == 0


def test_a_long_curve_is_cut_to_a_readable_number_of_points(make_run):
    returns = np.tile(np.arange(1000.0), (2, 1))
    curve = statistics.curve(make_run(returns), "loss")
    assert curve.env_steps.size == statistics.MAX_CURVE_POINTS
    np.testing.assert_allclose(curve.median, -(curve.env_steps / 100 - 1), rtol=1e-5, atol=1e-4)


def test_the_last_value_of_each_seed_is_its_result(make_run):
    run = make_run([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0], [7.0, 8.0]], grid="1e-3,1e-4")
    rows, values = statistics.final_values(run, "return", grid=0)
    assert rows.tolist() == [0, 1]
    np.testing.assert_array_equal(values, [2.0, np.nan])  # no earlier evaluation stands in for a last one
    rows, values = statistics.final_values(run, "return", grid=1)
    assert (rows.tolist(), values.tolist()) == ([2, 3], [6.0, 8.0])
    assert statistics.final_values(run, "return", grid=None)[0].tolist() == [0, 1, 2, 3]


def test_of_the_training_table_the_last_number_counts(make_run):
    run = make_run([[1.0, 2.0], [3.0, np.nan]])
    rows, values = statistics.final_values(run, "loss")
    assert (rows.tolist(), values.tolist()) == ([0, 1], [-2.0, -3.0])


def test_a_curve_of_a_table_is_refused(make_run):
    run = make_run(np.ones((2, 2)))
    run.evaluation["q_total"] = np.ones((4, 9))
    with pytest.raises(ValueError, match="'q_total' has 9 numbers per row"):
        statistics.curve(run, "q_total")
