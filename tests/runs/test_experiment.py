"""Runs from a configuration to a folder: budgets, evaluations, blocks, trouble, and resuming to the same bits."""

import contextlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.analysis.frames import load_run
from lsf_jax.analysis.playback import load_policies
from lsf_jax.config.composition import Config, compose
from lsf_jax.envs import ENVS
from lsf_jax.programs import shared
from lsf_jax.registry import Entry
from lsf_jax.runs import checkpoint, experiment, tables
from lsf_jax.runs.folder import read_run
from lsf_jax.runs.leaves import record_of
from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.runs.params_file import load_params
from lsf_jax.runs.progress import Progress
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import (
    QUICK,
    assert_same_bits,
    assert_same_tables,
    policy_bytes,
    quiet,
    shared_programs,
    tables_of,
)

BUDGET = 60  # 8 to 20 iterations: episodes of m_step end after 1 to 4 steps
GRID = ("train.evaluate_every=24",)  # every third iteration


def config_of(folder: Path, *overrides: str, env: str = "m_step") -> Config:
    """A small run with an evaluation every third iteration."""
    quick = QUICK if env == "m_step" else [word for word in QUICK if not word.startswith("env.")]
    own = (f"train.env_steps={BUDGET}", f"train.run_dir={folder}", "train.name=straight")
    return compose(env=env, overrides=[*quick, *GRID, *own, *overrides])


def run(config: Config) -> experiment.Result:
    return experiment.train(config, progress=quiet(config))


def go_on(path: Path, config: Config) -> experiment.Result:
    return experiment.resume(path, config=config, progress=quiet(config))


@pytest.mark.slow
def test_no_rate_is_told_of_the_chunk_that_ran_inside_its_compilation(tmp_path):
    shown = io.StringIO()
    experiment.train(config_of(tmp_path), progress=Progress(BUDGET, "test", stream=shown, plain=True, interval=0.0))
    first = next(line for line in shown.getvalue().splitlines() if re.match("env steps [1-9]", line))
    assert "ETA - · env steps/s - ·" in first


def final_state(path: Path, block: int = 0) -> Any:
    """Arrays and meta of a block's checkpoint, with the replay's unused part left out."""
    folder = path / "checkpoints" / f"block-{block:04d}"
    body = checkpoint.verify(checkpoint.latest(folder))
    records = [record_of(entry) for entry in body["leaves"]]
    return checkpoint._in_thread(lambda: checkpoint._read_arrays(checkpoint.latest(folder) / "arrays", records))


def assert_same_run(left: Path, right: Path) -> None:
    assert_same_tables(left, right)
    assert_same_bits(final_state(left), final_state(right))
    ours, theirs = policy_bytes(left), policy_bytes(right)
    assert ours.keys() == theirs.keys()
    for name in ours:  # the header repeats the configuration, which names the folder
        assert weights(left / "policies" / name) == weights(right / "policies" / name)


def weights(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> experiment.Result:
    return run(config_of(tmp_path_factory.mktemp("runs")))


@contextlib.contextmanager
def stopping_after(n_looks: int) -> Iterator[None]:
    """Runs in this context are asked to stop when they have looked `n_looks` times."""
    looks, run_block = itertools.count(), experiment.run_block

    def counted(current: Any, index: int, stopping: Any) -> bool:
        return run_block(current, index, lambda: stopping() or next(looks) >= n_looks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "run_block", counted)
        yield


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with stopping_after(4):
        result = run(config_of(folder))
    assert not result.finished
    return result.path


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """A run that was stopped after a few chunks; a copy for each test."""
    return Path(shutil.copytree(stopped_once, tmp_path / "straight"))


# Budgets and evaluations.


def test_seeds_cross_the_budget_at_different_iterations_and_results_stop_there(straight):
    counted = load_run(straight.path).train
    last = [counted["iteration"][counted["row"] == row].max() for row in range(4)]
    assert len(set(last)) > 1
    everything = tables.to_arrays(tables_of(straight.path)["train"])
    assert len(everything["row"]) > len(counted["row"])
    for row in range(4):
        steps = counted["env_steps"][counted["row"] == row]
        assert steps[-1] >= BUDGET > steps[-2]
        assert straight.final["env_steps"][row] == steps[-1]  # evaluated with the parameters of that boundary


def test_evaluations_stand_on_a_common_grid_with_true_env_steps(straight):
    evaluated = tables.to_arrays(tables_of(straight.path)["eval"])
    train = tables.to_arrays(tables_of(straight.path)["train"])
    regular = ~evaluated["final"]
    assert set(evaluated["iteration"][regular]) == set(range(0, evaluated["iteration"].max(), 3))
    steps = {(r, i): s for r, i, s in zip(train["row"], train["iteration"], train["env_steps"], strict=True)}
    for row, iteration, seen in zip(
        evaluated["row"][regular], evaluated["iteration"][regular], evaluated["env_steps"][regular], strict=True
    ):
        assert seen == steps.get((row, iteration), 0)


@contextlib.contextmanager
def ending_early() -> Iterator[None]:
    """Runs in this context are told that most episodes end long before the limit."""
    make_programs = shared.make_programs

    def told(config: Config, plan: Any, program: Any) -> Any:
        programs = make_programs(config, plan, program)
        parts = programs.parts
        return programs._replace(parts=parts._replace(env=parts.env._replace(ends_early=True)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "make_programs", told)
        yield


@pytest.mark.slow
def test_where_episodes_end_early_evaluations_wait_for_the_steps_that_were_asked_for(straight, tmp_path):
    with ending_early():
        whole = run(config_of(tmp_path / "whole"))
        with stopping_after(3):
            path = run(config_of(tmp_path / "cut")).path
        for _ in range(6):  # a look at a time: also between an evaluation and the chunk after it
            with stopping_after(1):
                go_on(path, straight.config)
        assert go_on(path, straight.config).finished
    assert_same_run(path, whole.path)
    train = tables.to_arrays(tables_of(straight.path)["train"])
    expected, passed = [0], 0
    for iteration in range(3, train["iteration"].max(), 3):
        steps = np.median(train["env_steps"][train["iteration"] == iteration])
        if steps // 24 > passed:
            expected.append(iteration)
            passed = steps // 24
    evaluated = tables.to_arrays(tables_of(whole.path)["eval"])
    found = sorted(set(evaluated["iteration"][~evaluated["final"]].tolist()))
    assert found == expected
    everything = tables.to_arrays(tables_of(straight.path)["eval"])
    assert len(found) < len(set(everything["iteration"][~everything["final"]]))
    keep = np.isin(everything["iteration"], found) & ~everything["final"]
    assert_same_bits(
        {name: values[keep] for name, values in everything.items()},
        {name: values[~evaluated["final"]] for name, values in evaluated.items()},
    )


def test_each_row_has_one_final_evaluation_in_the_result(straight):
    assert straight.finished
    assert straight.final["row"].tolist() == [0, 1, 2, 3]
    assert straight.final["final"].all()


def test_the_sampled_policy_is_evaluated_beside_the_greedy_one_on_request(straight):
    names = set(straight.final)
    assert {"return", "sampled_return", "length", "sampled_length", "success", "sampled_success"} <= names
    assert (straight.final["return"] != straight.final["sampled_return"]).any()


def test_the_folder_tells_what_ran(straight):
    card = json.loads((straight.path / "card.json").read_text())
    assert card["layout"] == {"width": 4, "n_devices": 1, "n_blocks": 1, "micro_batch": 4}
    assert card["timing"]["updates"] > 0
    assert read_run(straight.path)[0] == straight.config


def test_parts_are_bound_once_to_train_once_to_resume_and_once_to_load(tmp_path, monkeypatch):
    bound: list[str] = []

    def counted(entry: Entry, what: str) -> Entry:
        return entry._replace(factory=lambda *arguments: bound.append(what) or entry.factory(*arguments))

    monkeypatch.setitem(ENVS, "m_step", counted(ENVS["m_step"], "env"))
    monkeypatch.setitem(ALGORITHMS, "lsf_sac", counted(ALGORITHMS["lsf_sac"], "algorithm"))
    with stopping_after(2):
        stopped = run(config_of(tmp_path))
    assert sorted(bound) == ["algorithm", "env"]
    finished = go_on(stopped.path, stopped.config)
    assert (stopped.finished, finished.finished) == (False, True)
    assert sorted(bound) == sorted(["algorithm", "env"] * 2)
    load_policies(finished.path)
    assert sorted(bound) == sorted(["algorithm", "env"] * 3)


@pytest.mark.slow
def test_a_matrix_game_records_its_q_table_and_every_fourth_iteration(tmp_path):
    settings = ("seeds=2", "train.env_steps=18", "train.log_every=4", "train.eval_stochastic=false")
    result = run(config_of(tmp_path, *settings, env="matrix_game"))
    assert set(tables.to_arrays(tables_of(result.path)["train"])["iteration"]) == {4, 8}
    payoff = np.array([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]])
    columns = tables.to_arrays(tables_of(result.path)["eval"])
    assert columns["q_total"].shape[1] == 9
    assert columns["q_utility"].shape[1] == 6
    chosen = payoff.reshape(-1)[columns["greedy_joint"]]
    np.testing.assert_array_equal(columns["greedy_payoff"], chosen)
    np.testing.assert_array_equal(columns["optimal"], chosen == 8)
    np.testing.assert_array_equal(columns["return"], chosen)  # one step: the greedy payoff is the return
    error = np.abs(columns["q_total"] - payoff.reshape(-1)).mean(axis=1)
    np.testing.assert_allclose(columns["q_error"], error, rtol=1e-6)
    assert "sampled_return" not in columns


# Resuming.


def test_a_stopped_run_resumes_to_the_bits_of_an_uninterrupted_one(stopped, straight):
    assert not (stopped / "policies").exists()
    with stopping_after(3):
        assert not go_on(stopped, straight.config).finished
    result = go_on(stopped, straight.config)
    assert result.finished
    assert_same_run(result.path, straight.path)
    assert_same_bits(result.final, straight.final)


def as_first_version(path: Path) -> None:
    """Take from a part what the first version of the tables did not have."""
    content = pq.read_table(path)
    content = content.select([name for name in content.column_names if "." not in name])
    metadata = content.schema.metadata | {b"lsf_jax.schema_version": b"1"}
    pq.write_table(content.replace_schema_metadata(metadata), path)


def test_a_run_whose_tables_are_of_the_first_version_is_resumed_to_the_same_bits(stopped, straight):
    parts = [part for table in ("train", "eval") for part in tables.part_paths(stopped, table)]
    for part in parts:
        as_first_version(part)
    assert parts
    go_on(stopped, read_run(stopped)[0])
    assert_same_run(stopped, straight.path)


def test_what_on_evaluation_raises_ends_the_run_after_saving_and_nothing_is_lost(tmp_path, straight):
    seen = []

    def watch(evaluation):
        seen.append(evaluation)
        if len(seen) == 2:
            raise ZeroDivisionError

    config = config_of(tmp_path)
    with pytest.raises(ZeroDivisionError):
        experiment.train(config, progress=quiet(config), on_evaluation=watch)
    path = tmp_path / "straight"
    experiment.resume(path, config=config, progress=quiet(config), on_evaluation=seen.append)
    assert_same_run(path, straight.path)
    ours = load_run(path).evaluation
    assert [each.iteration for each in seen] == sorted(each.iteration for each in seen)
    assert seen[1].iteration == seen[2].iteration  # the one that was not taken note of is made again
    assert [each.final for each in seen] == [False] * (len(seen) - 1) + [True]
    np.testing.assert_array_equal(seen[-1].columns["return"], ours["return"][ours["final"]])


def test_rows_past_the_checkpoint_are_dropped(stopped, straight):
    for name in ("train", "eval"):  # as a run leaves it that was killed after writing tables, before its checkpoint
        table = tables.to_arrays(tables_of(stopped)[name])
        last = table["iteration"] == table["iteration"].max()
        later = {key: values[last] for key, values in table.items()}
        later["iteration"] = later["iteration"] + 1000
        tables.write_part(stopped, name, 0, int(later["iteration"].min()), later)
    assert_same_run(go_on(stopped, straight.config).path, straight.path)


def test_training_n_and_extending_to_2n_equals_2n(tmp_path, straight):
    longer = replace(straight.config, train=replace(straight.config.train, env_steps=2 * BUDGET, run_dir=str(tmp_path)))
    whole = run(longer)
    half = Path(shutil.copytree(straight.path, tmp_path / "half"))
    assert_same_run(go_on(half, longer).path, whole.path)


def test_a_budget_whose_parameters_are_gone_is_refused(straight):
    furthest = max(checkpoint.read_meta(straight.path / "checkpoints" / "block-0000")[1]["env_steps"])
    assert furthest > BUDGET + 1
    before = (straight.path / "config.yaml").read_bytes()
    for steps in (BUDGET + 1, BUDGET - 1):
        config = replace(straight.config, train=replace(straight.config.train, env_steps=steps))
        with pytest.raises(
            ConfigError, match=f"train.env_steps is {steps}; expected {BUDGET}, or more than {furthest}"
        ):
            go_on(straight.path, config)
    assert (straight.path / "config.yaml").read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(straight):
    before = file_bytes(straight.path, ".parquet", ".safetensors")
    again = go_on(straight.path, straight.config)
    assert_same_bits(again.final, straight.final)
    assert file_bytes(straight.path, ".parquet", ".safetensors") == before


def file_bytes(path: Path, *suffixes: str) -> dict[Path, bytes]:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != ".lock"]
    return {file: file.read_bytes() for file in files if not suffixes or file.suffix in suffixes}


def test_a_damaged_checkpoint_is_named_and_nothing_is_changed(stopped, straight):
    arrays = [file for file in (stopped / "checkpoints").rglob("arrays/**/*") if file.is_file()]
    damaged = max(arrays, key=lambda file: file.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = file_bytes(stopped)
    longer = replace(straight.config, train=replace(straight.config.train, env_steps=10 * BUDGET))
    with pytest.raises(CheckpointError, match="is damaged"):
        go_on(stopped, longer)
    assert file_bytes(stopped) == before


def test_a_changed_setting_is_named_and_nothing_is_changed(stopped, straight):
    before = file_bytes(stopped)
    other = replace(straight.config, algo=replace(straight.config.algo, beta=0.5))
    with pytest.raises(ConfigError, match=r"cannot be resumed with algo\.beta: 0\.001 -> 0\.5"):
        go_on(stopped, other)
    assert file_bytes(stopped) == before


# Blocks, devices, grids.


def seed_rows(path: Path, seed: int, grid: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """What counts of one seed, without what says where it stood in the run."""
    loaded = load_run(path)
    found = {}
    for name, table in (("train", loaded.train), ("eval", loaded.evaluation)):
        keep = (table["seed"] == seed) & (table["grid"] == grid)
        assert keep.any()
        found[name] = {key: values[keep] for key, values in table.items() if key != "row"}
        if name == "eval":  # the final one is noted at the iteration at which the block was done
            last = found[name].pop("final")
            for key in ("iteration", "episodes", "updates"):
                found[name][key] = np.where(last, 0, found[name][key])
    return found


def layout(path: Path) -> tuple[int, int, int]:
    found = json.loads((path / "card.json").read_text())["layout"]
    return found["n_devices"], found["n_blocks"], found["width"]


def test_a_seed_does_not_depend_on_how_many_there_are_nor_on_how_they_are_cut_into_blocks(tmp_path, straight):
    five = run(config_of(tmp_path, "seeds=5", "train.block=4", "train.name=five")).path
    one = run(config_of(tmp_path, "seeds=1", "train.block=4", "train.name=one")).path
    assert (layout(five), layout(one)) == ((1, 2, 4), (1, 1, 4))
    assert_same_bits(seed_rows(one, 0), seed_rows(straight.path, 0))
    for seed in range(4):
        assert_same_bits(seed_rows(five, seed), seed_rows(straight.path, seed))
    assert load_run(five).evaluation["row"].max() == 4  # what fills the second block up leaves no trace
    assert next(weights(file) for file in sorted((five / "policies").iterdir())) == weights(
        straight.path / "policies" / "block-0000.safetensors"
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_devices_give_the_bits_of_one_with_blocks_of_their_width_also_when_resumed(tmp_path, n):
    config = config_of(tmp_path, f"seeds={4 * n}", f"train.devices={n}")
    with stopping_after(3):
        stopped = run(config)
    assert not stopped.finished
    resumed = go_on(stopped.path, config).path
    whole = run(config_of(tmp_path, f"seeds={4 * n}", f"train.devices={n}", "train.name=whole")).path
    blocks = run(config_of(tmp_path, f"seeds={4 * n}", "train.block=4", "train.name=blocks")).path
    assert (layout(resumed), layout(whole), layout(blocks)) == ((n, 1, 4), (n, 1, 4), (1, n, 4))
    assert_same_run(resumed, whole)
    for seed in range(4 * n):
        assert_same_bits(seed_rows(whole, seed), seed_rows(blocks, seed))
    one, several = (
        [load_params(file)[0] for file in sorted((path / "policies").iterdir())] for path in (blocks, whole)
    )
    assert_same_bits(several, [jax.tree.map(lambda *parts: np.concatenate(parts), *one)])


def test_a_grid_row_equals_its_own_run_and_a_row_that_blows_up_is_named_and_hurts_nobody(tmp_path, straight):
    config = config_of(tmp_path, "seeds=2", "algo.lr=1e-3,1e38")
    shown = io.StringIO()
    swept = experiment.train(config, progress=Progress(BUDGET, "test", stream=shown, plain=True))
    for seed in (0, 1):
        assert_same_bits(seed_rows(swept.path, seed), seed_rows(straight.path, seed))
    assert [(entry["row"], entry["seed"]) for entry in swept.trouble] == [(2, 0), (3, 1)]
    for entry in swept.trouble:
        line = f"seed {entry['seed']} (row {entry['row']}): loss not finite at iteration {entry['iteration']}"
        assert shown.getvalue().count(line) == 1
    assert json.loads((swept.path / "card.json").read_text())["nonfinite"] == swept.trouble
    assert experiment.resume(swept.path, progress=quiet(config)).trouble == swept.trouble
