import numpy as np
import pytest

from lsf_jax.runs.watching import scalars


def test_sinks_get_the_mean_and_quantiles_over_the_seeds_that_are_finite():
    loss = np.array([4.0, np.nan, 1.0, np.inf, 2.0, 3.0], np.float32)
    found = scalars({"loss": loss, "updates": np.arange(6)}, np.zeros(6, int), [""], "train/")
    expected = {"min": 1.0, "q05": 1.15, "q25": 1.75, "median": 2.5, "q75": 3.25, "q95": 3.85, "max": 4.0}
    assert found == pytest.approx({"train/loss": 2.5} | {f"train/loss/{part}": at for part, at in expected.items()})


def test_one_seed_has_no_quantiles_and_none_that_is_finite_nothing():
    columns = {"loss": np.array([1.5], np.float32), "kl": np.array([np.nan], np.float32)}
    assert scalars(columns, np.zeros(1, int), [""]) == {"loss": 1.5}


def test_the_points_of_a_grid_are_kept_apart_and_tables_are_left_out():
    columns = {"loss": np.array([1.0, 3.0, 5.0], np.float32), "q_total": np.ones((3, 2), np.float32)}
    found = scalars(columns, np.array([0, 0, 1]), ["lr=0.1", "lr=0.2"])
    assert (found["lr=0.1/loss"], found["lr=0.1/loss/max"]) == (2.0, 3.0)
    assert found["lr=0.2/loss"] == 5.0
    assert not any("q_total" in name for name in found)
