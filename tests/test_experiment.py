"""Runs from a configuration to a folder: budgets, evaluations, blocks, trouble, and resuming to the same bits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from engine_cases import assert_same_bits, assert_same_tables, policy_bytes, program_of, quiet, small, tables

from lsf_jax import checkpoint, experiment, metrics, session
from lsf_jax.analysis.runs import load_run
from lsf_jax.config import Config
from lsf_jax.fields import ConfigError
from lsf_jax.manifest import CheckpointError

BUDGET = 60  # 8 to 20 iterations: episodes of m_step end after 1 to 4 steps
SMALLEST = ("algo.recurrent=false", "algo.hyper_hidden=0", "train.evaluate_every=24", "train.checkpoint_minutes=1e-9")


def config_of(folder: Path, *overrides: str, env: str = "m_step") -> Config:
    """Evaluation every third iteration, a checkpoint before every chunk."""
    return small(*SMALLEST, f"train.env_steps={BUDGET}", f"train.run_dir={folder}", *overrides, env=env)


def run(config: Config) -> experiment.Result:
    return experiment.train(config, progress=quiet(config))


def go_on(path: Path, config: Config) -> experiment.Result:
    return experiment.resume(path, config=config, progress=quiet(config))


def final_state(path: Path, block: int = 0) -> Any:
    """Arrays and meta of a block's checkpoint, with the replay's unused part left out."""
    folder = path / "checkpoints" / f"block-{block:04d}"
    body = checkpoint.verify(checkpoint.latest(folder))
    records = [checkpoint._record(entry) for entry in body["leaves"]]
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


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> experiment.Result:
    return run(config_of(tmp_path_factory.mktemp("runs"), "train.name=straight", "train.eval_stochastic=true"))


@pytest.fixture
def stop_after(monkeypatch):
    """`stop_after(n)`: the next run is asked to stop when it has looked n times."""

    def arrange(n: int) -> None:
        looks = iter(range(10**6))
        asked = session.run_block

        def counted(current: Any, index: int, stopping: Any) -> bool:
            return asked(current, index, lambda: stopping() or next(looks) >= n)

        monkeypatch.setattr(experiment, "run_block", counted)

    return arrange


# Budgets and evaluations.


def test_seeds_cross_the_budget_at_different_iterations_and_results_stop_there(straight):
    counted = load_run(straight.path).train
    last = [counted["iteration"][counted["row"] == row].max() for row in range(4)]
    assert len(set(last)) > 1
    everything = metrics.to_arrays(tables(straight.path)["train"])
    assert len(everything["row"]) > len(counted["row"])
    for row in range(4):
        steps = counted["env_steps"][counted["row"] == row]
        assert steps[-1] >= BUDGET > steps[-2]
        assert straight.final["env_steps"][row] == steps[-1]  # judged by the parameters of that boundary


def test_evaluations_stand_on_a_common_grid_with_true_env_steps(straight):
    evaluated = metrics.to_arrays(tables(straight.path)["eval"])
    train = metrics.to_arrays(tables(straight.path)["train"])
    regular = ~evaluated["final"]
    assert set(evaluated["iteration"][regular]) == set(range(0, evaluated["iteration"].max(), 3))
    steps = {(r, i): s for r, i, s in zip(train["row"], train["iteration"], train["env_steps"], strict=True)}
    for row, iteration, seen in zip(
        evaluated["row"][regular], evaluated["iteration"][regular], evaluated["env_steps"][regular], strict=True
    ):
        assert seen == steps.get((row, iteration), 0)


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
    assert experiment.read_run(straight.path)[0] == straight.config


def test_a_matrix_game_records_its_q_table_beside_the_payoff(tmp_path):
    result = run(config_of(tmp_path, "seeds=2", "train.env_steps=6", env="matrix_game"))
    payoff = np.array([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]])
    columns = metrics.to_arrays(tables(result.path)["eval"])
    assert columns["q_total"].shape[1] == 9
    assert columns["q_utility"].shape[1] == 6
    chosen = payoff.reshape(-1)[columns["greedy_joint"]]
    np.testing.assert_array_equal(columns["greedy_payoff"], chosen)
    np.testing.assert_array_equal(columns["optimal"], chosen == 8)
    np.testing.assert_array_equal(columns["return"], chosen)  # one step: the greedy payoff is the return
    error = np.abs(columns["q_total"] - payoff.reshape(-1)).mean(axis=1)
    np.testing.assert_allclose(columns["q_error"], error, rtol=1e-6)


def test_log_every_thins_the_table_and_changes_nothing_else(tmp_path, straight):
    thin = run(config_of(tmp_path, "train.log_every=4", "train.eval_stochastic=true"))
    ours, theirs = (metrics.to_arrays(tables(path)["train"]) for path in (thin.path, straight.path))
    keep = theirs["iteration"] % 4 == 0
    assert_same_bits(ours, {name: values[keep] for name, values in theirs.items()})
    assert_same_bits(thin.final, straight.final)


# Resuming.


def test_a_stopped_run_resumes_to_the_bits_of_an_uninterrupted_one(tmp_path, straight, stop_after):
    config = replace(straight.config, train=replace(straight.config.train, run_dir=str(tmp_path)))
    stop_after(4)
    stopped = run(config)
    assert not stopped.finished
    assert not (stopped.path / "policies").exists()
    for looks in (3, 10**6):
        stop_after(looks)
        result = go_on(stopped.path, config)
    assert result.finished
    assert_same_run(result.path, straight.path)
    assert_same_bits(result.final, straight.final)


def test_rows_past_the_checkpoint_are_written_again_and_only_once(tmp_path, straight, stop_after):
    config = replace(straight.config, train=replace(straight.config.train, run_dir=str(tmp_path)))
    stop_after(4)
    path = run(config).path
    for name in ("train", "eval"):  # as a run that was killed after writing tables and before its checkpoint
        table = metrics.to_arrays(tables(path)[name])
        last = table["iteration"] == table["iteration"].max()
        later = {key: values[last] + (1000 if key == "iteration" else 0) for key, values in table.items() if key != "final"}
        later |= {"final": table["final"][last]} if "final" in table else {}
        metrics.write_part(path, name, 0, int(later["iteration"].min()), later)
    stop_after(10**6)
    assert_same_run(go_on(path, config).path, straight.path)


def test_training_n_and_extending_to_2n_equals_2n(tmp_path, straight):
    config = replace(straight.config, train=replace(straight.config.train, run_dir=str(tmp_path)))
    longer = replace(config, train=replace(config.train, env_steps=2 * BUDGET, name="extended"))
    whole = run(longer)
    half = run(config)
    extended = go_on(half.path, replace(longer, train=replace(longer.train, name=config.train.name)))
    assert_same_run(extended.path, whole.path)


def test_a_budget_whose_parameters_are_gone_is_refused(straight):
    furthest = max(checkpoint.read_meta(straight.path / "checkpoints" / "block-0000")[1]["env_steps"])
    assert furthest > BUDGET + 1
    before = (straight.path / "config.yaml").read_bytes()
    for steps in (BUDGET + 1, BUDGET - 1):
        config = replace(straight.config, train=replace(straight.config.train, env_steps=steps))
        with pytest.raises(ConfigError, match=f"train.env_steps is {steps}; expected {BUDGET}, or more than {furthest}"):
            go_on(straight.path, config)
    assert (straight.path / "config.yaml").read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(straight):
    before = {path: path.read_bytes() for path in straight.path.rglob("*") if path.suffix in (".parquet", ".safetensors")}
    again = go_on(straight.path, straight.config)
    assert_same_bits(again.final, straight.final)
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_checkpoint_is_named_and_nothing_is_changed(tmp_path, stop_after):
    config = config_of(tmp_path, "seeds=2")
    stop_after(3)
    path = run(config).path
    damaged = max((path / "checkpoints").rglob("arrays/**/*"), key=lambda file: file.stat().st_size * file.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"}
    longer = replace(config, train=replace(config.train, env_steps=10 * BUDGET))
    with pytest.raises(CheckpointError, match="is damaged"):
        go_on(path, longer)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"} == before


# Blocks, devices, grids.


def seed_rows(path: Path, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """What counts of one seed, without what says where it stood in the run."""
    loaded = load_run(path)
    found = {}
    for name, table in (("train", loaded.train), ("eval", loaded.evaluation)):
        keep = table["seed"] == seed
        found[name] = {key: values[keep] for key, values in table.items() if key != "row"}
        if name == "eval":  # the final one is noted at the iteration at which the block was done
            last = found[name].pop("final")
            for key in ("iteration", "episodes", "updates"):
                found[name][key] = np.where(last, 0, found[name][key])
    return found


def test_a_seed_does_not_depend_on_how_the_sweep_is_cut_nor_on_how_many_there_are(tmp_path):
    def of(n: int) -> Path:
        result = run(config_of(tmp_path, f"seeds={n}", "train.block=2", f"train.name=of{n}"))
        layout = json.loads((result.path / "card.json").read_text())["layout"]
        assert (layout["width"], layout["n_blocks"]) == (2, -(-n // 2))
        return result.path

    three, two, one = of(3), of(2), of(1)
    for seed, others in ((0, (two, one)), (1, (two,))):
        for other in others:
            assert_same_bits(seed_rows(three, seed), seed_rows(other, seed))
    assert load_run(three).evaluation["row"].max() == 2  # the padding of the second block leaves no trace
    assert len(policy_bytes(three)) == 2


def test_eight_devices_give_the_run_of_one_with_blocks_of_their_width(tmp_path, stop_after):
    common = ("seeds=8", "train.env_steps=24")
    sharded = config_of(tmp_path, *common, "train.devices=8", "train.name=sharded")
    stop_after(3)
    stopped = run(sharded)
    stop_after(10**6)
    left = go_on(stopped.path, sharded).path
    right = run(config_of(tmp_path, *common, "train.block=1", "train.name=blocks")).path
    for seed in range(8):
        assert_same_bits(seed_rows(left, seed), seed_rows(right, seed))


def test_a_grid_row_equals_a_run_with_that_number_and_a_row_that_blows_up_hurts_nobody(tmp_path):
    swept = run(config_of(tmp_path, "seeds=2", "algo.lr=1e-3,1e38", "algo.actor_lr=1e-3,1e38", "train.name=swept"))
    assert [entry["row"] for entry in swept.trouble] == [5, 7] or {entry["row"] for entry in swept.trouble} <= {1, 2, 3, 4, 5, 6, 7}
    assert swept.final["grid"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    alone = run(config_of(tmp_path, "seeds=2", "algo.lr=1e38", "algo.actor_lr=1e38", "train.block=8", "train.name=alone"))
    assert {entry["seed"] for entry in alone.trouble} == {0, 1}
    del jax
