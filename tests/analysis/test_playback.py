"""Policies of a finished run: loaded, evaluated again, and recorded move by move."""

import json

import jax
import numpy as np
import pytest

from lsf_jax.analysis import playback
from lsf_jax.analysis.render import draw_text, paint
from lsf_jax.config.composition import compose
from lsf_jax.config.documents import to_yaml
from lsf_jax.envs import make
from lsf_jax.programs.compiled import jit_init, jit_joint_table
from lsf_jax.programs.parts import bind, make_rows, take_rows
from lsf_jax.runs import checkpoint, experiment, folder
from lsf_jax.runs.params_file import save_params
from lsf_jax.settings import ConfigError
from lsf_jax.types import Disc, Episode, Picture
from tests.support.engine_cases import QUICK, assert_same_bits, quiet, shared_programs


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Five rows in blocks of four: two policy files, the second one without its padding."""
    settings = ("seeds=5", "train.block=4", "train.env_steps=24", "train.name=games")
    runs = tmp_path_factory.mktemp("runs")
    config = compose(env="m_step", overrides=[*QUICK, *settings, f"train.run_dir={runs}"])
    return experiment.train(config, progress=quiet(config))


@pytest.fixture(scope="module")
def policies(result):
    return playback.load_policies(result.path)


def test_policies_of_all_blocks_are_the_parameters_kept_at_the_budget(result, policies):
    assert policies.seed.tolist() == [0, 1, 2, 3, 4]
    assert {len(leaf) for leaf in jax.tree.leaves(policies.params)} == {5}
    block = result.path / "checkpoints" / "block-0000"
    rows = take_rows(make_rows(policies.config, policies.program.algorithm), 0, 4)
    state, _ = checkpoint.restore(block, jax.eval_shape(jit_init(policies.program, 0), rows))
    assert_same_bits(state.kept.params, jax.tree.map(lambda leaf: leaf[:4], policies.params))


def test_evaluation_is_repeatable_and_agrees_with_the_final_one_of_the_run(result, policies):
    first = playback.evaluate_policies(policies, 4)
    assert_same_bits(first, playback.evaluate_policies(policies, 4))
    assert first["row"].tolist() == [0, 1, 2, 3, 4]
    # m_step has one start: greedy play is the same game whatever the randomness.
    np.testing.assert_array_equal(first["return"], result.final["return"])
    np.testing.assert_array_equal(first["length"], result.final["length"])
    other = playback.evaluate_policies(policies, 4, stochastic=True, root_seed=3)
    assert not np.array_equal(other["return"], first["return"])


def test_many_episodes_are_evaluated_in_pieces_each_with_chance_of_its_own(policies, monkeypatch):
    whole = playback.evaluate_policies(policies, 6, stochastic=True)
    monkeypatch.setattr(playback, "MOST_AT_ONCE", 4)
    rounds, plays = [], playback._in_pieces

    def watched(program, evaluate, state, pieces):
        def once(state):
            rounds.append((int(state.iteration), evaluate(state)))
            return rounds[-1][1]

        return plays(program, once, state, pieces)

    monkeypatch.setattr(playback, "_in_pieces", watched)
    columns = playback.evaluate_policies(policies, 5, stochastic=True)
    assert [number for number, _ in rounds] == [0, 1]
    first, second = (np.asarray(stats.episode_return) for _, stats in rounds)
    assert first.shape == second.shape == (5, 3)
    assert not np.array_equal(first, second)
    counted = np.concatenate([first, second[:, :2]], axis=1)
    np.testing.assert_allclose(columns["return"], counted.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(columns["return_std"], counted.std(axis=1), rtol=1e-5)
    assert {name: values.dtype for name, values in columns.items()} == {name: v.dtype for name, v in whole.items()}


def test_pieces_are_as_large_as_they_may_be_and_as_equal_as_they_can_be(monkeypatch):
    monkeypatch.setattr(playback, "AT_ONCE", 1000)
    assert playback.pieces_of(100, 10) == [100]
    assert playback.pieces_of(101, 10) == [51, 50]
    assert playback.pieces_of(7, 400) == [2, 2, 2, 1]
    assert playback.pieces_of(3, 10**9) == [1, 1, 1]
    assert sum(playback.pieces_of(1_000_000, 3)) == 1_000_000


def test_the_configuration_of_a_run_is_read_once(result, monkeypatch):
    read, looks = folder.read_documents, []
    monkeypatch.setattr(folder, "read_documents", lambda path: looks.append(path) or read(path))
    saved, wanted, _ = folder.read_with(result.path, ["train.checkpoint_minutes=5"])
    assert (saved.train.checkpoint_minutes, wanted.train.checkpoint_minutes) == (10.0, 5.0)
    playback.load_policies(result.path, ["train.checkpoint_minutes=5"])
    assert looks == [result.path] * 2


def test_a_recorded_greedy_episode_is_the_one_that_was_evaluated(policies):
    returns = playback.evaluate_policies(policies, 1)["return"]
    for row in range(3):
        episode = playback.record_episode(policies, row, jax.random.key(1))
        assert float(episode.reward.sum()) == returns[row]
        length = int(episode.valid.sum())
        frames = playback.episode_frames(policies.program.env, episode)
        assert len(frames) == length + 1
        assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)


def toy_draw(moment, step, sums):
    """What a package of somebody else's would offer: nothing but records of `types`."""
    disc = Disc(float(moment), 0.5, 0.25, "enemy" if sums["tries"] else "ally")
    return Picture(width=4, height=1, scale=8, shapes=(disc,), caption=f"{step}: {sums['return']:g}")


def test_an_environment_draws_its_own_pictures_from_the_moment_the_step_and_the_sums_so_far():
    env = make("matrix_game")._replace(draw=toy_draw)
    episode = Episode(
        world=np.array([0, 1, 3, 2], np.uint8),
        action=np.zeros((3, 2), np.uint8),
        reward=np.array([1.5, 2.0, 9.0], np.float32),
        terminal=np.zeros(3, bool),
        valid=np.array([True, True, False]),
        info={"tries": np.array([0.0, 1.0, 5.0], np.float32)},
    )
    frames = playback.episode_frames(env, episode)
    discs = [Disc(0.0, 0.5, 0.25, "ally"), Disc(1.0, 0.5, 0.25, "ally"), Disc(3.0, 0.5, 0.25, "enemy")]
    captions = ["0: 0", "1: 1.5", "2: 3.5"]
    expected = [Picture(4, 1, 8, (disc,), caption) for disc, caption in zip(discs, captions)]
    assert len(frames) == 3
    for frame, picture in zip(frames, expected):
        np.testing.assert_array_equal(frame, paint(picture))


def test_an_environment_that_draws_nothing_is_shown_in_characters():
    env = make("matrix_game")
    assert env.draw is None
    episode = Episode(
        world=np.array([0, 1], np.uint8),
        action=np.zeros((1, 2), np.uint8),
        reward=np.array([8.0], np.float32),
        terminal=np.ones(1, bool),
        valid=np.ones(1, bool),
        info={},
    )
    first, last = playback.episode_frames(env, episode)
    np.testing.assert_array_equal(first, draw_text(env.render(np.array(0, np.uint8)) + "\n\nstep 0 return 0"))
    np.testing.assert_array_equal(last, draw_text("end\n\nstep 1 return 8"))


def test_a_folder_without_policies_is_named(result, tmp_path):
    with pytest.raises(ConfigError, match="is not a run folder"):
        playback.load_policies(tmp_path)


def saved_by_hand(tmp_path, algo, env="matrix_game"):
    """A run folder with fresh policies of two seeds, as training leaves them; and their tree."""
    config = compose(algo=algo, env=env, overrides=["train.seeds=2", "algo.hidden=8"])
    program = bind(config)
    state = jit_init(program, 0)(make_rows(config, program.algorithm))
    (tmp_path / "policies").mkdir()
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    layout = {"width": 2, "n_devices": 1, "n_blocks": 1, "micro_batch": config.algo.batch_size}
    (tmp_path / "card.json").write_text(json.dumps({"layout": layout}))
    save_params(tmp_path / "policies" / "block-0000.safetensors", state.kept.params, {})
    return state


OTHERS = ["masac", "qmix", "qplex", "cw_qmix", "coma", "fop", "maa2c"]


@pytest.mark.default("lsf_sac")
@pytest.mark.parametrize(
    "algo", ["lsf_sac", "qtran", "dop", "ndq", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_loaded_policies_have_the_tree_of_the_algorithm(tmp_path, algo):
    state = saved_by_hand(tmp_path, algo)
    assert_same_bits(playback.load_policies(tmp_path).params, state.kept.params)


@pytest.mark.parametrize("algo", ["vdn", pytest.param("iql", marks=pytest.mark.slow)])
def test_a_loaded_policy_without_a_mixer_gives_its_joint_table(tmp_path, algo):
    state = saved_by_hand(tmp_path, algo)
    policies = playback.load_policies(tmp_path)
    table = jit_joint_table(policies.program, policies.program.env.payoff.starts)
    assert_same_bits(table(policies.params, state), table(state.kept.params, state))
