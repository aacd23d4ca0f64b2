"""Grids and points from Python values and from files."""

import numpy as np
import pytest

from lsf_jax.config.composition import compose, differences, from_yaml, grid_points
from lsf_jax.config.documents import to_yaml
from lsf_jax.config.sweeps import swept_over
from lsf_jax.settings import ConfigError

POINTS = {"algo.lr": [1e-3, 2e-3, 1e-3], "algo.epsilon_anneal": [100.0, 200.0, 300.0]}


def qmix(*overrides):
    return compose(algo="qmix", env="matrix_game", overrides=overrides)


def test_a_grid_from_python_is_that_of_comma_lists():
    swept = swept_over(qmix(), {"algo.lr": np.array([1e-3, 2e-3]), "algo.epsilon_anneal": (100, 200)})
    assert swept == qmix("algo.lr=1e-3,2e-3", "algo.epsilon_anneal=100,200")
    assert swept_over(qmix("algo.lr=1e-3,2e-3"), {"algo.trace": [0, 0.5]}) == qmix(
        "algo.lr=1e-3,2e-3", "algo.trace=0,0.5"
    )
    assert swept_over(qmix(), {"algo.lr": [5e-3]}) == qmix("algo.lr=5e-3")


def test_points_are_values_at_one_place_and_may_repeat_a_value():
    swept = swept_over(qmix(), POINTS, paired=True)
    assert grid_points(swept) == (
        {"lr": 1e-3, "epsilon_anneal": 100},
        {"lr": 2e-3, "epsilon_anneal": 200},
        {"lr": 1e-3, "epsilon_anneal": 300},
    )
    assert (swept.algo.lr, swept.algo.epsilon_anneal) == (1e-3, 100)
    assert "3 grid points" in swept.size


def test_points_survive_their_file_and_are_no_grid():
    points, grid = (
        swept_over(qmix(), POINTS | {"algo.lr": [1e-3, 2e-3, 3e-3]}, paired=paired) for paired in (True, False)
    )
    assert from_yaml(to_yaml(points)) == points
    assert from_yaml(to_yaml(grid)) == grid
    assert [line.partition(":")[0] for line in differences(points, grid)] == [
        *("points algo.epsilon_anneal", "points algo.lr", "grid algo.epsilon_anneal", "grid algo.lr"),
    ]


def test_a_file_may_hold_points(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("algo: {name: qmix}\npoints:\n  algo.lr: [1e-3, 2e-3]\n  algo.trace: [0, 0]\n", encoding="utf-8")
    assert grid_points(compose(env="matrix_game", files=[file])) == (
        {"lr": 1e-3, "trace": 0.0},
        {"lr": 2e-3, "trace": 0.0},
    )
    with pytest.raises(ConfigError, match=r"^algo\.epsilon_anneal has several values beside the points; expected one"):
        compose(env="matrix_game", files=[file], overrides=["algo.epsilon_anneal=1,2"])
    file.write_text("algo: {name: qmix}\npoints:\n  algo.lr: [1e-3, 2e-3]\n  algo.trace: [0, 1, 0]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^points hold 2 of algo\.lr, 3 of algo\.trace; expected as many of each"):
        compose(env="matrix_game", files=[file])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"algo.hidden": [8, 16]},
            "algo.hidden cannot be swept, as it shapes the program; keys that can be swept: algo.lr",
        ),
        ({"algo.lrr": [1, 2]}, "algo.lrr cannot be swept; did you mean algo.lr?"),
        ({"lr": [1e-3]}, "lr cannot be swept; did you mean algo.lr?"),
        ({"train.seeds": [1, 2]}, "train.seeds cannot be swept, as it shapes the program"),
        ({"algo.lr": []}, "algo.lr is []; expected a list of numbers"),
        ({"algo.lr": "1e-3,2e-3"}, "algo.lr is 1e-3,2e-3; expected a list of numbers"),
        ({"algo.lr": [1e-3, "fast"]}, "algo.lr is fast; expected a number"),
        ({"algo.lr": [1e-3, float("nan")]}, "algo.lr is "),
        ({"algo.trace": [0.5, 2.0]}, "algo.trace is 2.0; expected a number >= 0 and <= 1"),
        ({"algo.lr": [1e-3, 1e-3]}, "algo.lr has values [0.001, 0.001]; expected different ones"),
    ],
)
def test_what_cannot_be_swept_is_one_line(values, line):
    with pytest.raises(ConfigError) as error:
        swept_over(qmix(), values)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_points_beside_a_grid_are_refused():
    with pytest.raises(ConfigError, match=r"^algo\.lr is swept by the configuration already; expected one without"):
        swept_over(qmix("algo.lr=1e-3,2e-3"), {"algo.trace": [0, 0.5]}, paired=True)
