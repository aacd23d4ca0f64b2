import numpy as np
import pytest

from lsf_jax.analysis.efficiency import area_under_curve, sample_efficiency

RETURNS = [[0.0, 5.0, 4.0, 8.0], [0.0, 1.0, 2.0, 3.0], [6.0, 0.0, 0.0, 9.0]]


def test_a_seed_is_there_at_its_first_evaluation_at_or_above_the_threshold(make_run):
    run = make_run(RETURNS, timing={"env_steps_per_second": 50.0})
    found = sample_efficiency(run, 5.0)
    assert found.env_steps.tolist() == [200.0, np.inf, 100.0]
    assert found.seconds.tolist() == [4.0, np.inf, 2.0]
    assert (found.median_env_steps, found.median_seconds) == (200.0, 4.0)
    assert found.reached == pytest.approx(2 / 3)
    assert 0.0 < found.reached_low < 2 / 3 < found.reached_high < 1.0


def test_where_fewer_than_half_get_there_the_median_is_infinite(make_run):
    assert sample_efficiency(make_run(RETURNS), 8.5).median_env_steps == np.inf


def test_without_timing_there_are_no_seconds(make_run):
    assert np.isnan(sample_efficiency(make_run(RETURNS), 5.0).seconds[0])


def test_the_area_is_that_of_straight_lines_over_the_budget(make_run):
    """Against a sum over every single step of the curve."""
    env_steps = np.array([[0, 90, 200, 310], [10, 120, 180, 305]])
    returns = np.array([[0.0, 3.0, 9.0, 4.0], [1.0, 1.0, 5.0, 5.0]])
    run = make_run(returns, env_steps=env_steps, budget=300)
    rows, found = area_under_curve(run)
    assert rows.tolist() == [0, 1]
    for row in rows:
        fine = np.linspace(0, 300, 300_001)
        heights = np.interp(fine, env_steps[row], returns[row])
        assert found[row] == pytest.approx((heights[1:] + heights[:-1]).sum() / 2 / 300_000, rel=1e-6)


def test_an_unfinished_run_counts_to_where_all_seeds_have_got(make_run):
    env_steps = np.array([[0, 100, 200], [0, 100, 400]])
    run = make_run([[0.0, 2.0, 8.0], [0.0, 4.0, 0.0]], env_steps=env_steps, budget=1000)
    assert area_under_curve(run)[1].tolist() == pytest.approx([(1.0 + 5.0) / 2, (2.0 + (4.0 + 4 * 2 / 3) / 2) / 2])


def test_a_metric_of_several_numbers_is_refused(make_run):
    run = make_run(RETURNS)
    run.evaluation["q_total"] = np.ones((12, 9))
    with pytest.raises(ValueError, match="has 9 numbers per row"):
        area_under_curve(run, "q_total")
