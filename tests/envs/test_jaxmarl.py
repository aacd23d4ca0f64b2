"""The adapter: order of agents, padding, what is an argument, and how episodes end; on a toy game and on JaxMARL's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs import make
from lsf_jax.envs.jaxmarl import Rules, from_jaxmarl, full_view, lenient, load_jaxmarl, stack
from lsf_jax.envs.jaxmarl_games import GAMES, mean_reward, side_by_side
from lsf_jax.types import EpisodeStats
from tests.support.jaxmarl_cases import needs_jaxmarl

pytestmark = needs_jaxmarl


class Space(NamedTuple):
    n: int


class Count(NamedTuple):
    total: jnp.ndarray
    step: jnp.ndarray


class Toy:
    """Two unlike agents in JaxMARL's interface: they count up by their actions; 5 ends the game, `late` steps at most.

    Like JaxMARL's particle worlds it compares its limit before it counts, and says nothing about who is done why.
    """

    agents = ("tall", "small")  # on purpose not in alphabetical order

    def __init__(self, late=3):
        self.late = late

    def action_space(self, agent):
        return Space({"tall": 4, "small": 2}[agent])

    def reset(self, key):
        state = Count(total=jax.random.randint(key, (), 0, 2), step=jnp.int32(0))
        return self.get_obs(state), state

    def get_obs(self, state):
        small = state.total * jnp.ones(2)  # dtypes that only lenient promotion joins
        return {"small": small, "tall": (state.total + jnp.arange(3.0)).reshape(3, 1)}

    def get_avail_actions(self, state):
        return {
            "small": jnp.uint8(state.total + 1) * jnp.ones(2, jnp.uint8),
            "tall": jnp.array([1, 1, 0, 1], jnp.uint8),
        }

    def step_env(self, key, state, actions):
        after = Count(total=state.total + 2 * actions["tall"] + actions["small"], step=state.step + 1)
        done = (after.total >= 5) | (state.step >= self.late)
        reward = {"small": actions["small"] * 1.0, "tall": actions["tall"] * 3.0}
        return self.get_obs(after), after, reward, {"__all__": done}, {}


RULES = Rules(
    episode_limit=3,
    reward=mean_reward,
    terminal=lambda transition: transition.after.total >= 5,
    info=lambda transition: {"gain": (transition.after.total - transition.before.total).astype(jnp.float32)},
    max_return=6.0,
)


def toy(rules=RULES, state=side_by_side):
    game = Toy()
    return from_jaxmarl(game, full_view(game, state=state), rules)


def test_agents_keep_the_games_order_and_the_narrow_ones_are_padded():
    env = toy()
    assert env.spec == (2, 4, 3, 5, 3)
    seen = env.observe(Count(total=jnp.int32(7), step=jnp.int32(0)))
    np.testing.assert_array_equal(seen.obs, [[7, 8, 9], [7, 7, 0]])
    np.testing.assert_array_equal(seen.avail, [[True, True, False, True], [True, True, False, False]])
    assert (seen.obs.dtype, seen.avail.dtype) == (jnp.float32, bool)


def test_what_the_state_is_is_an_argument():
    seen = toy().observe(Count(total=jnp.int32(7), step=jnp.int32(2)))
    np.testing.assert_array_equal(seen.state, [7, 7, 7, 8, 9])  # in the order of the game's dict
    other = toy(state=lambda obs, state: jnp.stack([obs["tall"][2, 0], state.step]))
    assert other.spec.state_dim == 2
    np.testing.assert_array_equal(other.observe(Count(total=jnp.int32(7), step=jnp.int32(2))).state, [9, 2])


def test_what_the_team_earns_is_an_argument():
    state, _ = jax.jit(toy().reset)(jax.random.key(0))
    actions = jnp.array([1, 1], jnp.uint8)
    assert toy().step(jax.random.key(1), state, actions)[1].reward == 2
    alone = RULES._replace(reward=lambda transition: transition.reward["tall"])
    assert toy(alone).step(jax.random.key(1), state, actions)[1].reward == 3


def steps_of(env, *actions):
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    state = state._replace(game=state.game._replace(total=jnp.int32(0)))
    for action in actions:
        state, step = env.step(jax.random.key(1), state, jnp.array(action))
        yield step


def test_the_limit_truncates_and_is_our_own():
    ends = [(bool(step.done), bool(step.terminal)) for step in steps_of(toy(), (0, 0), (0, 1), (0, 0))]
    assert ends == [(False, False), (False, False), (True, False)]  # Toy itself would go on


def test_a_game_that_ends_is_terminal_and_shows_its_last_observation():
    steps = list(steps_of(toy(), (1, 1), (1, 0)))
    assert [(bool(step.done), bool(step.terminal)) for step in steps] == [(False, False), (True, True)]
    np.testing.assert_array_equal(steps[1].observation.obs[0], [5, 6, 7])
    assert [float(step.info["gain"]) for step in steps] == [3, 2]


def test_a_picture_is_a_line_for_each_array():
    text = toy().render(Count(total=np.int32(7), step=np.array([[0.125, 1], [2, 3]])))
    assert text == "total: 7\nstep: [[0.12, 1. ], [2. , 3. ]]"


def test_success_is_the_best_return():
    stats = EpisodeStats(jnp.array([6.0, 5.9]), jnp.array([2, 2]), jnp.array([True, True]), {}, jnp.zeros((2, 2), int))
    assert toy().success(stats).tolist() == [True, False]


def test_stacking_flattens_and_pads_with_zeros():
    rows = stack({"a": jnp.ones((2, 2)), "b": jnp.ones(1), "c": jnp.ones(3)}, ["b", "a"])
    np.testing.assert_array_equal(rows, [[1, 0, 0, 0], [1, 1, 1, 1]])


def test_continuous_actions_are_refused():
    game = Toy()
    game.action_space = lambda agent: type("Box", (), {"shape": (2,)})()
    with pytest.raises(ValueError, match="actions of tall are Box; expected Discrete ones"):
        from_jaxmarl(game, full_view(game, state=side_by_side), RULES)


@pytest.mark.parametrize("name", GAMES)
def test_a_game_of_jaxmarls_is_played_as_jaxmarl_plays_it(name):
    env = make("jaxmarl", game=name)
    with lenient():
        game = load_jaxmarl().make(name)
    widths = [space.n for space in (game.action_space(agent) for agent in game.agents)]

    def both(key):
        key_reset, key_act, key_steps = jax.random.split(key, 3)
        state, first = env.reset(key_reset)
        with lenient():
            their_first, _ = game.reset(key_reset)

        def advance(state, row):
            key_step, action = row
            with lenient():
                by_agent = {agent: action[index] for index, agent in enumerate(game.agents)}
                obs, _, reward, done, _ = game.step_env(key_step, state.game, by_agent)
                theirs = (stack(obs, game.agents), jnp.stack(list(reward.values())).mean(), done["__all__"])
            state, step = env.step(key_step, state, action)
            return state, (step, theirs)

        limit = env.spec.episode_limit
        actions = jax.random.randint(key_act, (limit, len(widths)), 0, jnp.array([widths]))
        _, (steps, theirs) = jax.lax.scan(advance, state, (jax.random.split(key_steps, limit), actions))
        return first, stack(their_first, game.agents), steps, theirs

    first, their_first, steps, theirs = jax.device_get(jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 8)))
    np.testing.assert_allclose(first.obs, their_first, atol=1e-6)
    np.testing.assert_allclose(steps.observation.obs, theirs[0], atol=1e-6)
    np.testing.assert_allclose(steps.reward, theirs[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(steps.observation.avail[0, 0].sum(-1), widths)
    before_limit = steps.done[:, :-1]
    np.testing.assert_array_equal(before_limit, theirs[2][:, :-1])
    assert steps.done[:, -1].all()
    if name == "switch_riddle":
        assert steps.terminal.any()
        np.testing.assert_array_equal(steps.terminal, steps.reward != 0)
    else:
        assert not steps.terminal.any()  # JaxMARL would play a 26th step
        assert not theirs[2].any()
