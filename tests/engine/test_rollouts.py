"""Rollouts of the ragged probe and of a small hunt: what is stored is what happened, and everything else is zero.

Whoever plays them: an episode a slot on accelerators, with the loop over time whole or in parts, and any number on a
CPU; accelerators' programs are traced and run here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.lengths import SEEDS_AXIS
from lsf_jax.engine.packing import zero_unless
from lsf_jax.engine.rollouts import (
    device_collector,
    from_bytes,
    over_slots,
    play,
    played_steps,
    slots_of,
    to_bytes,
)
from lsf_jax.envs import make
from lsf_jax.envs.probes import RaggedConfig, ragged
from lsf_jax.platforms import compiling_for
from lsf_jax.types import Algorithm, Clock, Env, Episode, Observation
from tests.support.engine_cases import assert_same_bits

COPIES = 32
CFG = RaggedConfig()
LIMIT = CFG.episode_limit
WAYS = [("cpu", COPIES, 1), ("cpu", 8, 1), ("gpu", COPIES, 1), ("gpu", COPIES, 4)]
"""Platform, slots, and parts of an accelerator's loop."""
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


def played(env, act=alternate, seed=0, copies=COPIES, way=("cpu", COPIES, 1)):
    platform, slots, parts = way
    keys = jax.random.split(jax.random.key(seed), copies)

    def all_of_them(keys):
        return over_slots(lambda own: play(env, act, jnp.int32(0), own, parts), min(slots, copies), keys)

    with compiling_for(platform):
        return jax.device_get(jax.jit(all_of_them)(keys))


@pytest.fixture(scope="module", params=WAYS, ids=str)
def episodes(request):
    return played(with_witness(ragged(CFG)), way=request.param)


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
    for leaf in jax.tree.leaves(episodes._replace(world=())):
        for row, length in zip(leaf, episodes.valid.sum(1)):
            assert not row[length:].any()
    for leaf in jax.tree.leaves(episodes.world):
        assert leaf.shape[:2] == (COPIES, LIMIT + 1)
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


@pytest.mark.parametrize("way", [("cpu", 2, 1), ("gpu", 8, 1)], ids=str)
def test_the_policy_sees_what_the_environment_returned(way):
    """A hunt whose policy acts on the sum of what it sees; the stored observations must reproduce its choices."""
    env = make("predator_prey", grid_size=4, n_predators=3, n_prey=2, episode_limit=8)

    def act(carry, observation, key):
        del key
        score = observation.obs.sum(-1, dtype=jnp.float32) + observation.state[:5].sum() + carry.astype(jnp.float32)
        wanted = (score.astype(jnp.int32)[:, None] + jnp.arange(6)[None, :]) % 6
        return carry + 1, jnp.where(observation.avail, wanted, -1).argmax(-1).astype(jnp.int32)

    episodes = played(with_witness(env), act, copies=8, way=way)
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

    episodes = played(ragged(CFG), never_available, seed=1)
    np.testing.assert_array_equal(episodes.info["unavailable"], 3.0 * episodes.valid)
    np.testing.assert_array_equal(episodes.reward, (3 * CFG.punishment + 0.25) * episodes.valid)


@pytest.mark.parametrize("way", [("cpu", 4, 1), ("gpu", 8, 1)], ids=str)
def test_each_step_gets_its_own_key(way):
    def random_action(carry, observation, key):
        del observation
        return carry, jax.random.randint(key, (CFG.n_agents,), 0, 250)

    env = ragged(RaggedConfig(episode_limit=60))
    actions = played(env, random_action, seed=2, copies=8, way=way).action.astype(int)
    drawn = [tuple(row) for episode in actions for row in episode if row.any()]
    assert len(drawn) > 100
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_nan_after_the_end_is_not_stored(way):
    env = ragged(CFG)

    def step(key, state, action):
        is_over = state.time >= state.length
        state, timestep = env.step(key, state, action)
        return state, timestep._replace(reward=jnp.where(is_over, jnp.nan, timestep.reward))

    assert np.isfinite(played(env._replace(step=step), way=way).reward).all()


# Slots that play several episodes.


def by_chance(carry, observation, key):
    """Chooses by chance, by what is seen, and by how often it has chosen before."""
    n_agents, n_actions = observation.avail.shape
    drawn = jax.random.randint(key, (n_agents,), 0, 60) + carry
    return carry + 1, jnp.where(observation.avail[jnp.arange(n_agents), drawn % n_actions], drawn, 200)


def test_an_episode_is_the_same_whoever_plays_it():
    """Chance of the game and of the policy follows from the episode's own key, and memory begins with the episode."""
    env = with_witness(ragged(CFG))
    ways = [("gpu", COPIES, 1), *(("cpu", slots, 1) for slots in (1, 2, 4, COPIES))]
    expected, *others = (played(env, by_chance, seed=3, way=way) for way in ways)
    assert len({tuple(row) for row in expected.action[:, 0].tolist()}) > COPIES // 2
    for found in others:
        assert_same_bits(found, expected)


def test_a_game_that_draws_as_it_goes_draws_the_same_in_any_slot():
    env = make("predator_prey", grid_size=4, n_predators=2, n_prey=1, episode_limit=6)
    stay = lambda carry, observation, key: (carry, observation.avail.argmax(-1).astype(jnp.int32))
    alone, in_turn = (played(env, stay, copies=6, way=("cpu", slots, 1)) for slots in (6, 2))
    assert_same_bits(in_turn, alone)


def test_several_episodes_in_a_slot_of_an_accelerator_are_refused():
    with pytest.raises(ValueError, match=r"4 episodes in a slot: on accelerators one"):
        played(ragged(CFG), way=("gpu", 8, 1))


@pytest.mark.parametrize(("slots", "seeds"), [(1, 1), (3, 2), (12, 2)])
def test_the_loop_ends_with_the_last_episode_of_the_block_and_every_step_counts_as_computed(slots, seeds):
    """Steps are counted while the program runs."""
    env, turns = ragged(CFG), []

    def step(key, state, action):
        jax.debug.callback(lambda _: turns.append(1), state.length)  # drawn: differs by slot and seed
        return env.step(key, state, action)

    def one_seed(key):
        keys = jax.random.split(key, 12)
        counted = env._replace(step=step)
        episodes = over_slots(lambda own: play(counted, alternate, jnp.int32(0), own), slots, keys)
        return episodes.valid.sum(axis=1), played_steps(episodes, slots, (LIMIT,))

    all_seeds = jax.jit(jax.vmap(one_seed, axis_name=SEEDS_AXIS))
    lengths, computed = jax.device_get(all_seeds(jax.random.split(jax.random.key(4), seeds)))
    jax.effects_barrier()
    depth = max(sum(row) for row in lengths.reshape(seeds * slots, -1).tolist())
    assert slots == 12 or depth < 12 // slots * LIMIT
    assert len(turns) == depth * slots * seeds
    assert computed.tolist() == [depth * slots] * seeds


@pytest.mark.parametrize(("lengths", "expected"), [((6,), 18), ((2, 4, 6), 12), ((3, 6), 18)])
def test_steps_that_an_accelerator_computes_are_those_of_the_parts_that_are_played(lengths, expected):
    episodes = Episode(
        world=(),
        action=jnp.zeros((3, 6, 1), jnp.uint8),
        reward=jnp.zeros((3, 6)),
        terminal=jnp.zeros((3, 6), bool),
        valid=jnp.arange(6)[None] < jnp.array([1, 4, 2])[:, None],
        info={},
    )
    with compiling_for("gpu"):
        assert int(played_steps(episodes, 0, lengths)) == expected
        assert int(played_steps(episodes, 3, lengths)) == expected
    assert int(played_steps(episodes, 0, lengths)) == 3 * 4
    assert int(played_steps(episodes, 1, lengths)) == 7


@pytest.mark.parametrize(("n", "slots"), [(1, 1), (2, 1), (4, 1), (6, 2), (7, 7), (8, 2), (32, 8), (33, 11)])
def test_the_number_of_slots_follows_from_environment_and_platform(n, slots):
    """Fewer than episodes only on a CPU, where most episodes end early; every slot plays equally many."""
    early = ragged(CFG)._replace(ends_early=True)
    assert slots_of(early, n) == slots
    assert slots_of(ragged(CFG), n) == n
    with compiling_for("tpu"):
        assert slots_of(early, n) == n


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


def test_a_tree_comes_back_from_its_bytes_bit_for_bit():
    tree = {
        "numbers": jnp.array([[1.5, -0.0], [jnp.nan, jnp.inf]]),
        "flags": jnp.array([True, False, True]),
        "cells": jnp.array([[0, 65535]], jnp.uint16),
        "bytes": jnp.array([7, 255], jnp.uint8),
        "one": jnp.int32(-3),
    }
    content = to_bytes(tree)
    assert content.shape == (16 + 3 + 4 + 2 + 4,)
    found = from_bytes(jax.eval_shape(lambda: tree), content)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), tree
    )
    assert_same_bits(found, tree)


@pytest.mark.parametrize("early", [False, True])
def test_the_collector_explores_with_the_given_parameters_clock_and_hyper_in_every_copy(early):
    env = ragged(CFG)._replace(ends_early=early)

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
