"""Rollouts of the ragged probe and of a small hunt: what is stored is what happened, and everything else is zero."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine import rollouts
from lsf_jax.engine.rollouts import device_collector, over_slots, zero_unless
from lsf_jax.envs import make
from lsf_jax.envs.probes import RaggedConfig, ragged
from lsf_jax.types import Algorithm, Clock, Env, Episode, Observation

COPIES = 32
CFG = RaggedConfig()
CLOCK = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))


def alternate(carry, observation, key):
    """The highest available action at even times, 0 at odd ones: uses both the carry and what is seen."""
    del key
    highest = observation.avail.shape[-1] - 1 - observation.avail[:, ::-1].argmax(-1)
    return carry + 1, jnp.where(carry % 2 == 0, highest, 0).astype(jnp.int32)


class Witness(NamedTuple):
    """A snapshot together with the observation that `reset` or `step` returned with it."""

    snapshot: object
    seen: Observation


def with_witness(env: Env) -> Env:
    """The same game, whose snapshots also keep the returned observation (and always carry a mark that is not zero)."""

    def reset(key):
        state, observation = env.reset(key)
        return (state, observation), observation

    def step(key, state, action):
        state, timestep = env.step(key, state[0], action)
        return (state, timestep.observation), timestep

    return env._replace(
        reset=reset, step=step, snapshot=lambda state: Witness(snapshot=env.snapshot(state[0]), seen=state[1])
    )


def play(env, act=alternate, seed=0, copies=COPIES):
    side_by_side = jax.jit(partial(over_slots, partial(rollouts.play, env, act, jnp.int32(0)), copies))
    return jax.device_get(side_by_side(jax.random.split(jax.random.key(seed), copies)))


@pytest.fixture(scope="module")
def episodes():
    return play(with_witness(ragged(CFG)))


def by_hand(start):
    """Action, reward and unavailable choices of `alternate` in `ragged`, from the rules in its docstring."""
    rows = []
    for time in range(int(start.length)):
        action = []
        for agent in range(CFG.n_agents):
            is_dead = agent == CFG.n_agents - 1 and time >= int(start.death)
            blocked = 1 + (time + agent) % (CFG.n_actions - 1)
            best = CFG.n_actions - 1 if blocked != CFG.n_actions - 1 else CFG.n_actions - 2
            action.append(0 if is_dead or time % 2 else best)
        rows.append((action, sum(a > 0 for a in action) + 0.25))
    return rows


def test_rows_of_an_episode_are_what_the_rules_say(episodes):
    lengths = set()
    for i in range(COPIES):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], episodes)
        start = jax.tree.map(lambda leaf: leaf[0], row.world.snapshot)
        length = int(start.length)
        lengths.add(length)
        assert row.valid.tolist() == [t < length for t in range(CFG.episode_limit)]
        ends = bool(start.ends_by_game) and length < CFG.episode_limit
        assert row.terminal.tolist() == [ends and t == length - 1 for t in range(CFG.episode_limit)]
        for t, (action, reward) in enumerate(by_hand(start)):
            assert row.action[t].tolist() == action
            assert row.reward[t] == reward
    assert lengths == set(range(1, CFG.episode_limit + 1))


def test_everything_after_the_end_is_exactly_zero(episodes):
    limit = CFG.episode_limit
    for leaf in jax.tree.leaves(episodes._replace(world=())):
        for row, length in zip(leaf, episodes.valid.sum(1)):
            assert not row[length:].any()
    for leaf in jax.tree.leaves(episodes.world):
        assert leaf.shape[:2] == (COPIES, limit + 1)
        for row, length in zip(leaf, episodes.valid.sum(1)):
            assert not row[length + 1 :].any()


def test_the_row_after_the_last_step_is_real(episodes):
    length = episodes.valid.sum(1)
    assert (length < CFG.episode_limit).any()
    last = jax.tree.map(lambda leaf: leaf[np.arange(COPIES), length], episodes.world)
    np.testing.assert_array_equal(last.snapshot.time, length)
    np.testing.assert_array_equal(last.snapshot.length, length)
    assert last.seen.avail.any(-1).all()


def test_world_is_one_row_longer_and_starts_at_the_reset(episodes):
    assert (episodes.world.snapshot.time[:, 0] == 0).all()
    for i, length in enumerate(episodes.valid.sum(1)):
        np.testing.assert_array_equal(episodes.world.snapshot.time[i, : length + 1], np.arange(length + 1))


def test_the_policy_sees_what_the_environment_returned():
    """A hunt whose policy acts on the sum of what it sees; the stored observations must reproduce its choices."""
    env = make("predator_prey", grid_size=4, n_predators=3, n_prey=2, episode_limit=8)

    def act(carry, observation, key):
        del key
        score = observation.obs.sum(-1, dtype=jnp.float32) + observation.state[:5].sum() + carry.astype(jnp.float32)
        wanted = (score.astype(jnp.int32)[:, None] + jnp.arange(6)[None, :]) % 6
        return carry + 1, jnp.where(observation.avail, wanted, -1).argmax(-1).astype(jnp.int32)

    episodes = play(with_witness(env), act, copies=8)
    act_again = jax.jit(jax.vmap(lambda carry, seen: act(carry, seen, None)[1]))
    for i, length in enumerate(episodes.valid.sum(1)):
        seen = jax.tree.map(lambda leaf, i=i: leaf[i, :-1], episodes.world.seen)
        expected = act_again(jnp.arange(8), Observation(*map(jnp.asarray, seen)))
        np.testing.assert_array_equal(episodes.action[i, :length], expected[:length])
        assert (np.take_along_axis(seen.avail, np.asarray(expected)[..., None], -1)[:length]).all()


def test_infos_of_valid_steps_are_kept():
    def never_available(carry, observation, key):
        del key
        return carry, jnp.argmin(observation.avail, axis=-1).astype(jnp.int32)

    episodes = play(ragged(CFG), never_available, seed=1)
    np.testing.assert_array_equal(episodes.info["unavailable"], 3.0 * episodes.valid)
    np.testing.assert_array_equal(episodes.reward, (3 * CFG.punishment + 0.25) * episodes.valid)


def test_each_step_gets_its_own_key():
    def random_action(carry, observation, key):
        del observation
        return carry, jax.random.randint(key, (CFG.n_agents,), 0, 250)

    env = ragged(RaggedConfig(episode_limit=60))
    actions = play(env, random_action, seed=2, copies=8).action.astype(int)
    drawn = [tuple(row) for episode in actions for row in episode if row.any()]
    assert len(drawn) > 100
    assert len(set(drawn)) == len(drawn)


def test_nan_after_the_end_is_not_stored():
    env = ragged(CFG)

    def step(key, state, action):
        is_over = state.time >= state.length
        state, timestep = env.step(key, state, action)
        return state, timestep._replace(reward=jnp.where(is_over, jnp.nan, timestep.reward))

    assert np.isfinite(play(env._replace(step=step)).reward).all()


def test_zero_unless_keeps_dtypes():
    tree = {"a": jnp.array([1, 2], jnp.uint8), "b": jnp.array([True])}
    kept, dropped = zero_unless(jnp.bool_(True), tree), zero_unless(jnp.bool_(False), tree)
    assert jax.tree.map(lambda leaf: (leaf.tolist(), str(leaf.dtype)), kept) == {
        "a": ([1, 2], "uint8"),
        "b": ([True], "bool"),
    }
    assert jax.tree.map(lambda leaf: (leaf.tolist(), str(leaf.dtype)), dropped) == {
        "a": ([0, 0], "uint8"),
        "b": ([False], "bool"),
    }


def test_the_collector_explores_with_the_given_parameters_clock_and_hyper_in_every_copy():
    env = ragged(CFG)

    def act(params, carry, observation, key, clock, hyper):
        del observation, key
        return carry, jnp.full((CFG.n_agents,), params + clock.env_steps + hyper, jnp.int32)

    def forbidden(*arguments):
        raise AssertionError("only `act` may be used to collect")

    stub = Algorithm(**dict.fromkeys(Algorithm._fields, forbidden))._replace(start=lambda: jnp.int32(0), act=act)
    collect = jax.jit(device_collector(env, stub, COPIES))
    clock = CLOCK._replace(env_steps=jnp.int32(20))
    episodes = collect(jnp.int32(100), clock, jnp.int32(3), jax.random.key(0))
    assert isinstance(episodes, Episode)
    assert episodes.action.shape == (COPIES, CFG.episode_limit, CFG.n_agents)
    assert episodes.action.dtype == jnp.uint8
    np.testing.assert_array_equal(episodes.action, 123 * np.asarray(episodes.valid)[..., None] * np.ones(3, int))
    assert len(set(np.asarray(episodes.valid.sum(1)).tolist())) > 3  # copies differ
