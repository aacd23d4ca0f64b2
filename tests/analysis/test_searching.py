"""Optuna itself asks and is told; what it is told comes from runs written by hand, in one test from real ones."""

from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import lsf_jax
from lsf_jax.analysis import searching, sweeping
from lsf_jax.config.composition import compose, grid_points, replace
from lsf_jax.runs import experiment
from lsf_jax.settings import ConfigError
from tests.support.search_cases import Trainer, write_run

SPACE = {"algo.lr": (1e-4, 1e-1, "log"), "algo.epsilon_anneal": (50, 400), "algo.trace": [0.0, 0.4, 0.8]}


def config_of(tmp_path, *overrides):
    return compose(
        algo="qmix",
        env="matrix_game",
        overrides=["seeds=2", f"train.run_dir={tmp_path}", "train.name=search", *overrides],
    )


@pytest.fixture
def trainer(monkeypatch):
    return Trainer(monkeypatch)


def told(result):
    return [(trial.params, trial.values, trial.state) for trial in result.study.trials]


def test_batches_are_asked_for_trained_as_one_run_and_told(tmp_path, trainer):
    result = lsf_jax.optimize(config_of(tmp_path), SPACE, trials=7, batch=3)
    assert result.finished
    assert [len(grid_points(config)) for config in trainer.configs] == [3, 3, 1]
    assert [config.train.name for config in trainer.configs] == ["batch-0000", "batch-0001", "batch-0002"]
    for trial, point in zip(result.study.trials, grid_points(trainer.configs[0]), strict=False):
        assert {f"algo.{key}": value for key, value in point.items()} == trial.params
        assert trial.value == pytest.approx(-abs(np.log10(point["lr"]) + 2), abs=1e-5)
    assert result.best[0] == f"algo.lr={result.study.best_params['algo.lr']!r}"
    best = compose(algo="qmix", env="matrix_game", overrides=result.best).algo
    assert best.lr == result.study.best_params["algo.lr"]
    assert "7 complete" in repr(result)
    assert len(lsf_jax.load_runs(result.path)) == 3
    with pytest.raises(ConfigError, match=r"exists and is left as it is"):
        lsf_jax.optimize(
            config_of(tmp_path, "train.name=search", f"train.run_dir={tmp_path / 'search'}", "train.name=batch-0000"),
            SPACE,
        )


def test_the_same_call_goes_on_where_it_stopped_and_proposes_what_it_would_have(tmp_path, trainer):
    straight = lsf_jax.optimize(config_of(tmp_path / "straight"), SPACE, trials=9, batch=3)
    trainer.configs.clear()
    trainer.stop_before = 2
    call = lambda: lsf_jax.optimize(config_of(tmp_path / "cut"), SPACE, trials=9, batch=3)
    first = call()
    assert not first.finished
    assert [state for *_, state in told(first)] == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING] * 3
    assert "stopped" in repr(first)
    second = call()
    assert second.finished
    assert trainer.configs[1] == trainer.configs[2]
    assert told(second) == told(straight)
    more = lsf_jax.optimize(config_of(tmp_path / "cut"), SPACE, trials=10, batch=3)
    assert len(more.study.trials) == 10
    trainer.configs.clear()
    assert call().finished
    assert trainer.configs == []


def test_a_later_batch_is_as_wide_as_the_first(tmp_path, trainer):
    lsf_jax.optimize(config_of(tmp_path), SPACE, trials=3, batch=3)
    lsf_jax.optimize(config_of(tmp_path), SPACE, trials=4, batch=3)
    assert trainer.configs[-1].train.block == 6


def test_points_that_diverge_are_pruned_and_those_without_a_number_fail(tmp_path, trainer):
    trainer.nonfinite, trainer.nan_at = {"batch-0000": [3]}, {1, 2}  # row 3 is a seed of point 1
    result = lsf_jax.optimize(config_of(tmp_path), SPACE, trials=4, batch=4)
    states = [trial.state for trial in result.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]


def test_a_search_without_a_single_good_point_has_no_best(tmp_path, trainer):
    trainer.nan_at = {0, 1}
    result = lsf_jax.optimize(config_of(tmp_path), SPACE, trials=2, batch=2)
    assert result.best == []
    assert "2 fail" in repr(result)


def test_an_ask_that_was_killed_fails_and_does_not_stand_in_the_way(tmp_path, trainer, monkeypatch):
    trainer.stop_before = 1
    asked = lsf_jax.optimize(config_of(tmp_path), SPACE, trials=4, batch=2)
    asked.study.ask()  # of a process that ended here
    trainer.stop_before = None
    result = lsf_jax.optimize(config_of(tmp_path), SPACE, trials=4, batch=2)
    states = [trial.state for trial in result.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


def test_a_batch_that_was_told_in_part_is_told_to_its_end(tmp_path, trainer, monkeypatch):
    tell, told_once = optuna.Study.tell, []

    def dies(study, number, *given, **more):
        if told_once:
            raise KeyboardInterrupt
        told_once.append(number)
        return tell(study, number, *given, **more)

    monkeypatch.setattr(optuna.Study, "tell", dies)
    with pytest.raises(KeyboardInterrupt):
        lsf_jax.optimize(config_of(tmp_path), SPACE, trials=3, batch=3)
    monkeypatch.setattr(optuna.Study, "tell", tell)
    result = lsf_jax.optimize(config_of(tmp_path), SPACE, trials=3, batch=3)
    assert [trial.state for trial in result.study.trials] == [TrialState.COMPLETE] * 3
    first, second = trainer.configs
    assert second == replace(first, "train.block", second.train.block)


def test_an_objective_may_be_a_function_of_a_points_evaluations(tmp_path, trainer):
    seen = []

    def worst(point):
        seen.append(dict(point.sizes))
        return point["return"].isel(step=-1).min()

    result = lsf_jax.optimize(config_of(tmp_path), SPACE, worst, trials=2, batch=2, direction="minimize")
    assert seen == [{"seed": 2, "step": 2}] * 2
    for trial in result.study.trials:
        assert trial.value == pytest.approx(-abs(np.log10(trial.params["algo.lr"]) + 2) - 1, abs=1e-5)
    with pytest.raises(ConfigError, match=r"objective returned .*expected one number for a point"):
        lsf_jax.optimize(config_of(tmp_path), SPACE, lambda point: point["return"], trials=4, direction="minimize")


def test_distributions_follow_the_type_of_the_setting(tmp_path):
    found = searching.distributions_of(config_of(tmp_path), SPACE | {"algo.discount": FloatDistribution(0.9, 0.99)})
    assert found == {
        "algo.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "algo.epsilon_anneal": FloatDistribution(50, 400),
        "algo.trace": CategoricalDistribution([0.0, 0.4, 0.8]),
        "algo.discount": FloatDistribution(0.9, 0.99),
    }
    assert searching._ranged("algo.mine", (1, 9, "log"), int) == IntDistribution(1, 9, log=True)
    assert searching._ranged("algo.mine", (1, 9.5), int) == FloatDistribution(1, 9.5)  # which the setting then refuses


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({}, "space is {}; expected (low, high)"),
        ({"algo.hidden": (8, 64)}, "algo.hidden cannot be swept, as it shapes the program; keys that can be swept: "),
        ({"algo.lrr": (1e-4, 1e-2)}, "algo.lrr cannot be swept; did you mean algo.lr?"),
        ({"algo.lr": (1e-2, 1e-4)}, "space of algo.lr is (0.01, 0.0001); expected low < high"),
        ({"algo.lr": (0.0, 1e-2, "log")}, "space of algo.lr is (0.0, 0.01, 'log'); expected low < high above 0"),
        ({"algo.lr": (1e-4, "much")}, "space of algo.lr is (0.0001, 'much'); expected (low, high)"),
        ({"algo.lr": (1e-4, 1e-2, "linear")}, "space of algo.lr is (0.0001, 0.01, 'linear'); expected (low, high)"),
        ({"algo.lr": 1e-3}, "space of algo.lr is 0.001; expected (low, high)"),
        ({"algo.lr": []}, "space of algo.lr is []; expected (low, high)"),
        ({"algo.trace": (0.0, 2.0)}, "algo.trace is 2.0; expected a number >= 0 and <= 1"),
        ({"algo.trace": [0.0, "half"]}, "algo.trace is half; expected a number"),
    ],
)
def test_a_bad_space_is_one_line_before_a_folder_is_made(space, line, tmp_path):
    with pytest.raises(ConfigError) as error:
        lsf_jax.optimize(config_of(tmp_path), space)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"trials": 0}, "trials is 0; expected a whole number >= 1"),
        ({"batch": True}, "batch is True; expected a whole number >= 1"),
        ({"direction": "up"}, "direction is 'up'; expected one of maximize, minimize"),
        ({"objective": 3}, "objective is 3; expected the name of a metric, or a function"),
    ],
)
def test_other_bad_arguments_are_one_line(more, line, tmp_path):
    with pytest.raises(ConfigError) as error:
        lsf_jax.optimize(config_of(tmp_path), SPACE, **more)
    assert str(error.value).startswith(line)


def test_a_folder_of_another_search_is_refused(tmp_path, trainer):
    lsf_jax.optimize(config_of(tmp_path), SPACE, trials=1, batch=1)
    with pytest.raises(ConfigError, match=r"cannot go on with algo\.batch_size: 8 -> 16; leave that alone, or choose"):
        lsf_jax.optimize(config_of(tmp_path, "algo.batch_size=16"), SPACE, trials=2)
    with pytest.raises(ConfigError, match=r"space of algo\.trace is another kind than this search began with"):
        lsf_jax.optimize(config_of(tmp_path), {"algo.trace": [0.5, 0.6]}, trials=2)
    with pytest.raises(ConfigError, match="direction is minimize; expected maximize, as "):
        lsf_jax.optimize(config_of(tmp_path), SPACE, trials=2, direction="minimize")
    with pytest.raises(ConfigError, match=r"algo\.lr is swept by the configuration already"):
        lsf_jax.optimize(config_of(tmp_path, "algo.lr=1e-3,2e-3"), {"algo.trace": (0.0, 1.0)})


def test_without_optuna_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"optuna is not installed .*pip install 'lsf-jax\[optuna\]'"):
        lsf_jax.optimize(config_of(tmp_path), SPACE)


def test_a_sweep_returns_what_loading_its_run_gives(tmp_path, monkeypatch):
    def train(config, *, progress, on_evaluation):
        assert (progress, on_evaluation) == (None, print)
        path = write_run(config, np.arange(8.0).reshape(4, 2))
        return SimpleNamespace(path=path)

    monkeypatch.setattr(experiment, "train", train)
    grid = {"algo.lr": [1e-3, 2e-3], "algo.trace": [0.0, 0.5]}
    data = sweeping.sweep(config_of(tmp_path), grid, on_evaluation=print)
    assert data.identical(lsf_jax.load_run(tmp_path / "search").to_xarray())
    assert dict(data.sizes) == {"point": 4, "seed": 2, "step": 2}
    assert data["algo.lr"].values.tolist() == [1e-3, 1e-3, 2e-3, 2e-3]
    with pytest.raises(ConfigError, match="grid is empty; expected keys with several values"):
        lsf_jax.sweep(config_of(tmp_path))


@pytest.mark.slow
def test_real_batches_compile_once_and_their_points_give_what_they_give_alone(tmp_path):
    small = (
        "algo.hidden=4",
        "algo.mixer_embed=2",
        "algo.hyper_hidden=0",
        "algo.batch_size=4",
        "train.buffer_capacity=16",
    )
    quick = (
        "train.n_envs=4",
        "train.env_steps=40",
        "train.evaluate_every=40",
        "train.eval_episodes=2",
        "train.devices=1",
    )
    config = config_of(tmp_path, *small, *quick, "algo.recurrent=false", "seeds=1")
    result = lsf_jax.optimize(config, {"algo.lr": [1e-3, 1e38]}, trials=4, batch=2)
    for trial in result.study.trials:
        assert trial.state == (TrialState.PRUNED if trial.params["algo.lr"] == 1e38 else TrialState.COMPLETE)
    first, second = lsf_jax.load_runs(result.path)
    assert first.card["timing"]["compile_seconds"] > 0
    assert second.card["timing"]["compile_seconds"] == 0
    for run in (first, second):
        final = run.evaluation["final"]
        assert final.sum() == 2
        assert run.to_xarray().sizes["point"] == 2
