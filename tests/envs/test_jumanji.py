"""Jumanji's games: played as Jumanji plays them, kept in few bytes, ended and refused as the text says."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.config import composition
from lsf_jax.envs import make
from lsf_jax.envs.guests import lenient
from lsf_jax.envs.jumanji import load_jumanji
from lsf_jax.envs.stored import n_bytes
from lsf_jax.settings import ConfigError
from lsf_jax.types import EpisodeStats
from tests.support.jumanji_cases import needs_jumanji

LBF, RWARE = "LevelBasedForaging-v0", "RobotWarehouse-v0"
SMALL = {"num_agents": 2, "shelf_rows": 1, "column_height": 2, "request_queue_size": 2}


def shapes(env):
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    return jax.eval_shape(env.snapshot, state)


@needs_jumanji
@pytest.mark.parametrize(
    ("settings", "spec", "kept", "dtype"),
    [
        # Views, then masks as bits: 4 × 66 of at most the grid's 20 rows, and 20 bits.
        ({"game": RWARE}, (4, 5, 66, 264, 500), 4 * 66 + 3, "uint8"),
        ({"game": LBF}, (2, 6, 12, 24, 100), 2 * 12 + 2, "int8"),  # -1 is what is not seen
        ({"game": LBF, "arguments": {"grid_observation": True, "fov": 2}}, (2, 6, 75, 150, 100), 2 * 75 + 2, "uint8"),
    ],
)
def test_replay_keeps_views_in_the_narrowest_dtype_and_masks_as_bits(settings, spec, kept, dtype):
    env = make("jumanji", **settings)
    assert tuple(env.spec) == spec
    assert n_bytes(shapes(env)) == kept
    assert shapes(env).obs.dtype == jnp.dtype(dtype)
    assert dict(env.notes)["replay"] == f"the observations themselves; {kept} bytes a moment"


@needs_jumanji
def test_arguments_reach_the_game_and_its_generator_and_leave_the_rest():
    env = make("jumanji", game=RWARE, arguments={"num_agents": 2, "sensor_range": 2}, episode_limit=7)
    assert (env.spec.n_agents, env.spec.episode_limit) == (2, 7)
    assert env.spec.obs_dim == 8 + 25 * 7 - 5  # itself, and a field of 5 × 5 cells without an agent at its middle
    assert dict(env.notes)["team reward"] == "one reward for all"
    assert dict(make("jumanji", game=LBF, team_reward="mean").notes)["team reward"] == "mean of 2 agents' rewards"


REFUSED = {
    "name": ({"game": "Robotwarehouse-v0"}, r"^env\.game is 'Robotwarehouse-v0'; did you mean RobotWarehouse-v0\?$"),
    "no agents": ({"game": "Tetris-v0"}, "'Tetris-v0', which is not played by agents here: it lacks agents_view$"),
    "argument": ({"arguments": {"num_agent": 2}}, r"^env\.arguments\.num_agent is no argument of Robot.*num_agents\?$"),
    "value": (
        {"arguments": {"shelf_columns": 2}},
        "RobotWarehouse-v0 cannot be made: ValueError: .*must be an odd number",
    ),
    "limit": ({"arguments": {"time_limit": 2}}, r"^env\.arguments\.time_limit is no argument"),
}


@needs_jumanji
@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_played_is_refused_by_name_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message):
        make("jumanji", **settings)


def test_without_jumanji_one_line_says_what_to_install(monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == "jumanji"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "jumanji", None)
    with pytest.raises(ConfigError, match=r"need the package jumanji.*pip install 'lsf-jax\[jumanji\]'"):
        make("jumanji")


@pytest.mark.parametrize(("name", "game"), [("rware", RWARE), ("lbf", LBF)])
def test_both_games_have_a_file(name, game):
    made = composition.compose(env=f"jumanji/{name}")
    assert (made.env_name, made.env.game, made.where) == ("jumanji", game, f"jumanji/{game}")


def played_beside(env, theirs, copies=16):
    """Random available actions for `episode_limit` steps, whether or not a game has ended, beside Jumanji's account."""

    def both(key):
        key_reset, key_steps = jax.random.split(key)
        state, first = env.reset(key_reset)

        def advance(loop, key):
            state, avail, running = loop
            action = jnp.where(avail, jax.random.uniform(key, avail.shape), -1.0).argmax(-1)
            with lenient():
                _, timestep = theirs.step(state.game, action.astype(jnp.int32))
            told = (
                timestep.observation.agents_view,
                timestep.observation.action_mask,
                timestep.reward,
                timestep.last(),
            )
            state, step = env.step(key, state, action)
            return (state, step.observation.avail, running & ~step.done), (step, told, running, env.snapshot(state))

        start = (state, first.avail, jnp.bool_(True))
        return jax.lax.scan(advance, start, jax.random.split(key_steps, env.spec.episode_limit))[1]

    return jax.device_get(jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), copies)))


@needs_jumanji
@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        (
            {"game": LBF, "arguments": {"num_agents": 3, "grid_size": 6, "num_food": 1, "fov": 6, "force_coop": False}},
            80,
        ),
        pytest.param({"game": RWARE, "arguments": SMALL}, 80, marks=pytest.mark.slow),
    ],
    ids=["foraging", "warehouse"],
)
def test_a_game_of_jumanjis_is_played_as_jumanji_plays_it(settings, limit):
    env = make("jumanji", **settings, episode_limit=limit)
    generator = settings["arguments"]
    if settings["game"] == RWARE:
        generator = {"shelf_columns": 3, "sensor_range": 1} | SMALL
    default = load_jumanji().make(settings["game"])
    theirs = type(default)(generator=type(default._generator)(**generator), time_limit=limit)
    steps, (views, masks, reward, last), running, snapshots = played_beside(env, theirs)
    np.testing.assert_array_equal(steps.observation.obs, views)
    np.testing.assert_array_equal(steps.observation.state, views.reshape(*views.shape[:2], -1))
    np.testing.assert_array_equal(steps.observation.avail, masks)
    np.testing.assert_array_equal(snapshots.obs, views.reshape(*views.shape[:2], -1))  # as whole numbers too
    np.testing.assert_allclose(steps.reward, reward.sum(-1) if reward.ndim == 3 else reward, rtol=1e-6)
    # Before the limit it ends as Jumanji's does; at the limit it is truncated, where Jumanji's warehouse terminates.
    np.testing.assert_array_equal(steps.done, last)
    np.testing.assert_array_equal(steps.terminal[:, :-1], last[:, :-1])
    assert steps.done[:, -1].all()
    assert not steps.terminal[:, -1].all()
    ended = running & steps.terminal
    assert ended.any()
    if settings["game"] == LBF:
        np.testing.assert_allclose(np.where(running, steps.reward, 0).sum(1)[ended.any(1)], 1.0, rtol=1e-5)


@needs_jumanji
def test_success_is_what_the_user_says_a_success_returns():
    lbf = composition.make_env(composition.compose(env="jumanji/lbf"))
    stats = EpisodeStats(
        jnp.array([0.5, 0.99999]), jnp.array([100, 9]), jnp.array([False, True]), {}, jnp.zeros((2, 2))
    )
    assert lbf.success(stats).tolist() == [False, True]
    assert make("jumanji", game=LBF).success(stats).tolist() == [False, False]
