"""Probes: that their answers are what they are said to be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs.probes import PROBES


def build(name, **settings):
    entry = PROBES[name]
    return entry.factory(entry.config(**settings))


def play(env, actions, seed=0):
    """Every `TimeStep` of one episode with the joint actions `[T, N]`, stacked, and the first observation."""
    state, first = env.reset(jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed + 1), len(actions))

    def advance(state, event):
        return env.step(event[0], state, event[1])

    _, steps = jax.jit(partial(jax.lax.scan, advance))(state, (keys, jnp.asarray(actions)))
    return first, jax.device_get(steps)


def test_constant_reward_is_1():
    for actions in ([[0, 0]], [[1, 0]], [[1, 1]]):
        _, steps = play(build("constant_reward"), actions)
        assert (steps.reward.tolist(), steps.terminal.tolist()) == ([1.0], [True])


def test_reward_of_observation_is_read_off_the_observation():
    env = build("reward_of_observation")
    seen = set()
    for seed in range(8):
        first, steps = play(env, [[seed % 2, 0]], seed)
        assert steps.reward[0] == (1.0 if first.obs[0, 0] == 1 else -1.0)
        assert steps.terminal[0]
        seen.add(float(steps.reward[0]))
    assert seen == {1.0, -1.0}


def test_reward_of_action_counts_ones():
    env = build("reward_of_action", n_agents=3)
    for actions, reward in (([0, 0, 0], 0), ([1, 0, 1], 2), ([1, 1, 1], 3)):
        assert play(env, [actions])[1].reward[0] == reward
    assert env.max_return == 3


def test_delayed_reward_comes_in_the_second_step():
    _, steps = play(build("delayed_reward"), [[0, 1], [1, 1]])
    assert steps.reward.tolist() == [0, 1]
    assert steps.terminal.tolist() == [False, True]
    assert steps.observation.obs[0, 0].tolist() == [0, 1]


def ragged_resets(env, copies=512):
    return jax.device_get(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), copies)))


def test_ragged_has_every_length_and_both_kinds_of_end():
    env = build("ragged")
    state, _ = ragged_resets(env)
    assert set(state.length.tolist()) == set(range(1, 7))
    assert set(state.death.tolist()) == set(range(6))
    assert 0.4 < state.ends_by_game.mean() < 0.6


@pytest.mark.parametrize("seed", range(6))
def test_ragged_ends_when_and_how_its_state_says(seed):
    env = build("ragged")
    state, _ = env.reset(jax.random.key(seed))
    _, steps = play(env, np.zeros((6, 3), int), seed)
    length = int(state.length)
    assert steps.done[: length - 1].tolist() == [False] * (length - 1)
    assert steps.done[length - 1]
    assert bool(steps.terminal[length - 1]) == (bool(state.ends_by_game) and length < 6)


def test_ragged_pays_for_available_and_punishes_unavailable_actions():
    env = build("ragged")
    state, _ = env.reset(jax.random.key(0))
    state = state._replace(death=jnp.uint8(0), time=jnp.uint8(0))
    avail = np.asarray(env.observe(env.snapshot(state)).avail)
    expected = np.ones((3, 4), bool)
    expected[0, 1] = expected[1, 2] = False  # 1 + (time + agent) mod 3
    expected[2, 1:] = False  # dead
    np.testing.assert_array_equal(avail, expected)
    for actions, reward in (([0, 0, 0], 0.25), ([2, 1, 0], 2.25), ([1, 1, 0], 0.75), ([1, 2, 3], -1.25)):
        timestep = env.step(jax.random.key(0), state, jnp.array(actions))[1]
        assert timestep.reward == reward
        assert timestep.info["unavailable"] == sum(not avail[i, a] for i, a in enumerate(actions))
