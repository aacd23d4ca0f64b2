"""Runs that start from another's parameters: what is taken, what is refused, and that nothing of it is ever lost."""

import json
import shutil

import jax
import numpy as np
import pytest

from lsf_jax.analysis.compare import compare_runs
from lsf_jax.analysis.frames import load_run
from lsf_jax.analysis.playback import evaluate_policies, load_policies
from lsf_jax.cli import app
from lsf_jax.config.composition import compose, replace
from lsf_jax.config.documents import to_yaml
from lsf_jax.programs.compiled import jit_init
from lsf_jax.programs.parts import bind, make_rows, take_rows
from lsf_jax.runs import experiment, session, tables, warm_start
from lsf_jax.runs.folder import read_run
from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.runs.params_file import load_params, save_params
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import assert_same_bits, assert_same_tables, quiet, shared_programs, small, tables_of
from tests.support.run_cases import algorithm_of, finished_run, tiny


def prepared(source, *overrides, algo="qmix", env="m_step"):
    config = compose(algo=algo, env=env, overrides=[*tiny(algo, env), f"train.init_from={source}", *overrides])
    return warm_start.prepare(config, algorithm_of(config))


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """QMIX on a game with other observations and actions than `m_step`: three rows in two files."""
    path = tmp_path_factory.mktemp("runs") / "source"
    return path, finished_run(path, "qmix", "matrix_game", "train.seeds=3")


# What is taken.


def test_what_bears_the_same_name_and_shape_is_taken_and_the_rest_is_named(source):
    path, params = source
    start = prepared(path, "seeds=3")
    taken, fresh = start.record["taken"], start.record["fresh"]
    theirs = flat(params)
    assert "q/agent/gru_hidden_kernel" in taken
    assert "q/agent/input_layer/kernel" in fresh  # reads observations
    for name, leaf in flat(start.params).items():
        np.testing.assert_array_equal(leaf, theirs[name])
    assert set(flat(start.params)) == set(taken)
    there = list(theirs["q/agent/input_layer/kernel"].shape[1:])
    assert fresh["q/agent/input_layer/kernel"].startswith(f"{there} there, [")
    lines = warm_start.lines_of(start)
    assert f"{len(taken)} of {len(taken) + len(fresh)} parameters taken" in lines[0]
    assert all(name in lines[1] for name in fresh)


def test_another_algorithm_shares_what_it_calls_the_same(source):
    start = prepared(source[0], "seeds=3", algo="vdn", env="matrix_game")
    assert all(name.startswith("q/agent/") for name in start.record["taken"])
    assert start.record["fresh"] == {}
    assert all(name.startswith("q/mixer/") for name in start.record["unused"])
    assert warm_start.lines_of(start)[1].startswith("there but not here: q/mixer/")


# What is refused.


def test_another_number_of_rows_is_refused_unless_it_is_one(source, tmp_path):
    expected = r"train.init_from is .*source \(qmix on matrix_game\), which has 3 rows .*; expected 4"
    with pytest.raises(ConfigError, match=expected):
        prepared(source[0], "seeds=4")
    with pytest.raises(ConfigError, match="expected 6"):
        prepared(source[0], "seeds=3", "algo.lr=1e-3,1e-4")
    finished_run(tmp_path / "one", "qmix", "matrix_game", "train.seeds=1")
    assert prepared(tmp_path / "one", "seeds=4").record["rows"] == 1


def test_nothing_in_common_is_refused(source):
    with pytest.raises(ConfigError, match=r"none of whose .* parameters has name and shape .* of vdac_sum"):
        prepared(source[0], "seeds=3", algo="vdac_sum")


def test_an_unfinished_run_and_what_is_no_run_are_refused(source, tmp_path):
    gap = shutil.copytree(source[0], tmp_path / "gap")
    (gap / "policies" / "block-0000.safetensors").unlink()  # else row 2 would pass for the only one
    with pytest.raises(CheckpointError, match=r"block-0000\.safetensors is missing"):
        prepared(gap, "seeds=1")
    half = shutil.copytree(source[0], tmp_path / "half")
    (half / "policies" / "block-0001.safetensors").unlink()
    with pytest.raises(ConfigError, match="final policies of 2 of its 3 rows; expected a finished run"):
        prepared(half, "seeds=2")
    with pytest.raises(ConfigError, match=r"^train.init_from: .*nowhere is not a run folder"):
        prepared(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no such user"):
        prepared("~nosuchuser/run")


def test_damaged_or_foreign_policies_are_refused(source, tmp_path):
    files = ("block-0000.safetensors", "block-0001.safetensors")
    foreign = tmp_path / "foreign"
    finished_run(foreign, "iql", "matrix_game", "train.seeds=3")
    mixed = shutil.copytree(source[0], tmp_path / "mixed")
    shutil.copy(foreign / "policies" / files[1], mixed / "policies" / files[1])
    with pytest.raises(CheckpointError, match="belong to another algorithm or other sizes: q/mixer/"):
        prepared(mixed, "seeds=3")
    params, metadata = load_params(source[0] / "policies" / files[1])
    save_params(mixed / "policies" / files[1], params, metadata | {"config": to_yaml(compose(algo="iql"))})
    with pytest.raises(ConfigError, match=r"train\.init_from: .* is not what .*block-0001.* trained with: algo\.name"):
        prepared(mixed, "seeds=3")
    cut = shutil.copytree(source[0], tmp_path / "cut")
    (cut / "policies" / files[0]).write_bytes((cut / "policies" / files[0]).read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        prepared(cut, "seeds=3")


# What a run makes of it.

GAME = ("env.n_steps=4", "algo.recurrent=false", "train.seeds=5")


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """IQL of five rows, of which a block of four and one of a single row will learn on."""
    path = tmp_path_factory.mktemp("runs") / "teacher"
    return path, finished_run(path, "iql", "m_step", *GAME)


def config_of(folder, name):
    own = ("train.block=4", "train.env_steps=24", "train.evaluate_every=24", f"train.run_dir={folder}")
    return small(*GAME, *own, f"train.name={name}", algo="iql")


class Killed(BaseException):
    """As sudden as a signal: nothing is saved."""


def die(*arguments):
    raise Killed


@pytest.fixture(scope="module")
def killed_once(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    config = config_of(folder, "pupil")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "advance", die)
        with pytest.raises(Killed):
            experiment.train(config, init_from=teacher[0], progress=quiet(config))
    assert not list((folder / "pupil").glob("checkpoints/*/step-*"))
    return folder / "pupil"


@pytest.fixture
def killed(killed_once, tmp_path):
    return shutil.copytree(killed_once, tmp_path / "pupil")


def go_on(path):
    return experiment.resume(path, progress=quiet(read_run(path)[0]))


@pytest.fixture(scope="module")
def pupil(teacher, tmp_path_factory):
    config = config_of(tmp_path_factory.mktemp("straight"), "pupil")
    return experiment.train(config, init_from=teacher[0], progress=quiet(config))


def test_rows_start_from_their_rows_targets_are_copies_and_optimiser_and_clock_are_fresh(teacher, killed):
    config, _ = read_run(killed)
    program = bind(config)
    rows = take_rows(make_rows(config, program.algorithm), 4, 4)  # the last block: one row, and three to fill it up
    fresh = jit_init(program, 0)(rows)
    state = warm_start.begin(killed, config, fresh, 4)
    last = jax.tree.map(lambda leaf: leaf[[4, 4, 4, 4]], teacher[1])
    for found in (state.agent.params, state.kept.params):
        assert_same_bits(found, last)
    assert_same_bits(state.agent.targets, {"q": last["q"]})
    assert_same_bits(state.agent.opt_state, fresh.agent.opt_state)
    assert_same_bits((state.clock, state.hyper, state.key), (fresh.clock, fresh.hyper, fresh.key))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.agent, state.kept))]
    assert len(set(buffers)) == len(buffers)  # the state is donated


@pytest.mark.slow
def test_the_first_evaluation_is_that_of_the_policies_that_it_starts_from(teacher, pupil):
    expected = evaluate_policies(load_policies(teacher[0]), 1)["return"]  # of a game that is always the same
    found = tables.to_arrays(tables_of(pupil.path)["eval"])
    np.testing.assert_array_equal(found["return"][found["iteration"] == 0], expected)
    assert len(set(expected)) > 1
    assert pupil.finished


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_it_starts_again_from_the_same_without_the_old_folder(
    teacher, pupil, killed, tmp_path
):
    away = tmp_path / "away"
    teacher[0].rename(away)
    try:
        again = go_on(killed)
    finally:
        away.rename(teacher[0])
    assert_same_tables(again.path, pupil.path)
    assert_same_bits(load_policies(again.path).params, load_policies(pupil.path).params)


def test_card_and_configuration_tell_where_it_came_from(teacher, killed):
    config, card = read_run(killed)
    assert config.train.init_from == str(teacher[0])
    record = card["init_from"]
    assert (record["algorithm"], record["environment"], record["rows"]) == ("iql", "m_step", 5)
    assert record["fresh"] == {}
    assert set(record["taken"]) == set(flat(teacher[1]))
    assert str(teacher[0]) in (killed / "card.md").read_text(encoding="utf-8")
    rows = dict(compare_runs([teacher[0], killed]).rows)
    assert rows["initial parameters"][0] == "-"
    assert str(teacher[0]) in rows["initial parameters"][1]


def test_initial_parameters_that_are_gone_or_others_are_noticed_before_anything_is_done(teacher, killed):
    file = killed / warm_start.FILE
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = sorted(path.name for path in killed.rglob("*"))
    with pytest.raises(CheckpointError, match=r"initial.safetensors are not those .* digest differs"):
        go_on(killed)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"initial\.safetensors cannot be read"):
        go_on(killed)
    assert sorted(path.name for path in killed.rglob("*")) == [name for name in before if name != file.name]


def test_a_card_and_a_configuration_that_disagree_are_refused(killed):
    card = json.loads((killed / "card.json").read_text(encoding="utf-8"))
    (killed / "card.json").write_text(json.dumps({k: v for k, v in card.items() if k != "init_from"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train.init_from is .*teacher in .* has no digest"):
        go_on(killed)
    (killed / "card.json").write_text(json.dumps(card), encoding="utf-8")
    text = (killed / "config.yaml").read_text(encoding="utf-8")
    lines = ["  init_from: ''" if line.startswith("  init_from:") else line for line in text.splitlines()]
    (killed / "config.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train.init_from is empty in .* tells of initial parameters"):
        go_on(killed)


def test_another_start_is_no_way_to_resume(killed):
    config = replace(read_run(killed)[0], "train.init_from", "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot be resumed with train.init_from"):
        experiment.resume(killed, config=config, progress=quiet(config))


def test_what_is_refused_makes_no_folder(teacher, tmp_path):
    config = replace(config_of(tmp_path / "runs", "pupil"), "train.seeds", 2)
    with pytest.raises(ConfigError, match="expected 2"):
        experiment.train(config, init_from=teacher[0], progress=quiet(config))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_result_and_the_run_say_in_a_line_what_they_are(pupil):
    shown = repr(pupil)
    assert shown.startswith(f"Result({pupil.path}: iql on m_step, 5 seeds, 24 env steps each; final return ")
    assert "\n" not in shown
    run = repr(load_run(pupil.path))
    assert run.startswith(f"Run({pupil.path}: iql on m_step, 5 seeds, 24 env steps each; ")
    assert run.endswith("rows of training, finished)")
    assert "\n" not in run


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_command_line_hands_the_run_on(command, monkeypatch, capsys):
    given = {}

    def train(config, **more):
        given.update(more)
        raise ConfigError("enough")

    monkeypatch.setattr(experiment, "train", train)
    assert app.main([command, "--env", "m_step", "--init-from", "runs/old", "seeds=2"]) == 2
    assert given["init_from"] == "runs/old"
    assert app.main([command, "--env", "m_step"]) == 2
    assert given["init_from"] is None
