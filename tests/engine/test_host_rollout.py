"""Games on the host: every episode arrives whole and once, whatever its neighbours do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import compose
from lsf_jax.engine.host_rollout import EXPLORE, GREEDY, Behaviour, HostCollector, make_actor
from lsf_jax.envs.host import HostError, empty_episodes, pack, unpack
from lsf_jax.types import Clock, Observation
from tests.support import host_cases
from tests.support.host_cases import LIMIT, SPEC, ToyConfig, length_of

K, E = 2, 3
SETTINGS = ("algo.hidden=8", "algo.epsilon_start=0.3", "algo.epsilon_finish=0.3")


def make(**toy):
    cfg = ToyConfig(**toy)
    config = compose(algo="qmix", env="matrix_game", overrides=SETTINGS)
    algorithm = ALGORITHMS["qmix"].factory(SPEC, config.algo, lambda episode: episode)
    opened = []
    collector = HostCollector(host_cases.make_toy(cfg), host_cases.host_toy(cfg, opened), algorithm, K, E)
    collector.open(0)
    return algorithm, collector, opened[0]


def at(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def behaviour_for(algorithm, seed=0):
    def one(key):
        agent = algorithm.init(key, algorithm.hyper)
        return Behaviour(
            params=algorithm.policy_params(agent),
            clock=Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0)),
            hyper=algorithm.hyper,
            key=key,
        )

    each = [one(key) for key in jax.random.split(jax.random.key(seed), K)]
    together = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *each)
    clock = Clock(env_steps=together.clock.env_steps, episodes=jnp.int32(0), updates=jnp.int32(0))
    return together._replace(clock=clock)


def named(episode):
    """(worker, number) of one delivered episode, checked to be whole."""
    length = int(episode.valid.sum())
    obs = np.asarray(episode.world.obs, np.float32)
    worker, number = round(float(obs[0, 0, 1]) * 8), round(float(obs[0, 0, 2]) * 128)
    assert length == length_of(worker, number)
    expected = np.array([[t / 8, worker / 8, number / 128, 1.0] for t in range(length + 1)], np.float16)
    np.testing.assert_array_equal(obs[: length + 1], np.repeat(expected[:, None], 2, axis=1))
    assert not obs[length + 1 :].any()
    assert not episode.world.avail[length + 1 :].any()
    np.testing.assert_array_equal(episode.valid, np.arange(LIMIT) < length)
    np.testing.assert_array_equal(episode.terminal, (np.arange(LIMIT) == length - 1) & (length < LIMIT))
    rewards = [host_cases.reward_of(action) for action in episode.action[:length]]
    np.testing.assert_array_equal(episode.reward, [*rewards, *[0.0] * (LIMIT - length)])
    at_end = np.arange(LIMIT) == length - 1
    np.testing.assert_array_equal(episode.info["won"], at_end * (worker % 2))
    np.testing.assert_array_equal(episode.info["steps"], at_end * length)
    return worker, number


def episodes_of(batch):
    """(seed, episode) of a batch `[K, n, ...]`."""
    for seed in range(batch.reward.shape[0]):
        for index in range(batch.reward.shape[1]):
            yield seed, at(batch, seed, index)


@pytest.mark.parametrize("lose_every", [0, 3])
@pytest.mark.parametrize("ahead", [0, E])
def test_every_finished_episode_is_delivered_whole_and_once_in_the_order_it_ended(lose_every, ahead):
    algorithm, collector, games = make(lose_every=lose_every)
    behaviour = behaviour_for(algorithm)
    delivered = {seed: [] for seed in range(K)}
    for _ in range(6):
        batch = collector.collect(behaviour, E, ahead)
        assert batch.reward.shape == (K, E, LIMIT)
        for seed, episode in episodes_of(batch):
            delivered[seed].append(named(episode))
    for seed in range(K):
        ended = [name for name in games.finished if name[0] // E == seed]
        assert delivered[seed] == ended[: len(delivered[seed])]
        assert len(ended) - len(delivered[seed]) <= ahead
    lost = [number for names in delivered.values() for _, number in names if lose_every and number % lose_every == 0]
    assert lost == []
    assert (games.counters["lost_episodes"] > 0) == bool(lose_every)


def test_with_nothing_ahead_every_worker_is_idle_at_the_end():
    algorithm, collector, games = make()
    collector.collect(behaviour_for(algorithm), E)
    steps = games.steps
    assert len(games.finished) == K * E
    collector.evaluate(behaviour_for(algorithm), 1)
    assert games.steps > steps


def test_an_evaluation_plays_exactly_n_episodes_and_keeps_what_was_in_progress_for_the_next_batch():
    algorithm, collector, games = make(lose_every=4)
    behaviour = behaviour_for(algorithm)
    first = [named(episode) for _, episode in episodes_of(collector.collect(behaviour, E, E))]
    before = len(games.finished)
    stats = collector.evaluate(behaviour, 4)
    assert stats.episode_return.shape == (K, 4)
    assert stats.first_action.shape == (K, 4, 2)
    drained = len(games.finished) - before - K * 4
    assert 0 <= drained <= K * E
    second = [named(episode) for _, episode in episodes_of(collector.collect(behaviour, E, 0))]
    assert not set(first) & set(second)
    evaluated = games.finished[before + drained : before + drained + K * 4]
    assert not set(evaluated) & set(second)
    lengths = {seed: sorted(length_of(*name) for name in evaluated if name[0] // E == seed) for seed in range(K)}
    assert {seed: sorted(stats.length[seed].tolist()) for seed in range(K)} == lengths
    np.testing.assert_array_equal(stats.info["steps"], stats.length)
    np.testing.assert_array_equal(stats.terminal, stats.length < LIMIT)


def test_greedy_play_equals_a_loop_over_each_episode_with_its_own_memory():
    """Full-width inference with a ready mask gives each game what it would get alone."""
    algorithm, collector, _ = make()
    behaviour = behaviour_for(algorithm, seed=3)
    while any(len(queue) < 4 for queue in collector.queues):
        collector._advance(GREEDY, behaviour, lambda seed: True)
    checked = 0
    for seed, queue in enumerate(collector.queues):
        params = at(behaviour.params, seed)
        for episode in queue:
            carry = algorithm.start()
            for t in range(int(episode.valid.sum())):
                seen = unpack(jax.tree.map(jnp.asarray, at(episode.world, t)), SPEC.n_actions)
                carry, action = algorithm.act_greedy(
                    params, carry, seen, jax.random.key(0), behaviour.clock, algorithm.hyper
                )
                np.testing.assert_array_equal(action, episode.action[t])
                checked += 1
    assert checked > 20


def test_a_game_that_is_not_ready_keeps_its_memory_and_a_first_one_begins_afresh():
    algorithm, collector, _ = make()
    act = make_actor(algorithm, EXPLORE)
    behaviour = behaviour_for(algorithm)
    ones = jax.tree.map(jnp.ones_like, collector.carry)
    seen = Observation(obs=jnp.ones((K, E, 2, 4)), state=jnp.ones((K, E, 3)), avail=jnp.ones((K, E, 2, 3), bool))
    flags = np.zeros((K, E, 2), bool)
    flags[0, 1, 1] = True  # goes on
    flags[1, 2] = True  # begins
    carry, _ = act(behaviour, ones, seen, np.int32(0), flags)
    again, _ = act(behaviour, jax.tree.map(jnp.zeros_like, ones), seen, np.int32(0), flags)
    for after, before, afresh in zip(*map(jax.tree.leaves, (carry, ones, again)), strict=True):
        idle = np.ones((K, E), bool)
        idle[0, 1] = idle[1, 2] = False
        np.testing.assert_array_equal(after[idle], before[idle])
        np.testing.assert_array_equal(after[1, 2], afresh[1, 2])
    assert not np.array_equal(jax.tree.leaves(carry)[0][0, 1], jax.tree.leaves(ones)[0][0, 1])


def test_packing_keeps_flags_exactly_and_observations_to_the_rounding_of_the_dtype():
    rng = np.random.default_rng(0)
    seen = Observation(
        obs=rng.normal(size=(7, 2, 4)).astype(np.float32),
        state=rng.normal(size=(7, 3)).astype(np.float32),
        avail=rng.random((7, 2, 11)) < 0.5,
    )
    for dtype, tolerance in (("float32", 0.0), ("float16", 1e-3)):
        packed = pack(seen, dtype)
        assert packed.obs.dtype == packed.state.dtype == dtype
        assert packed.avail.shape == (7, 2, 2)
        back = unpack(jax.tree.map(jnp.asarray, packed), 11)
        np.testing.assert_array_equal(back.avail, seen.avail)
        np.testing.assert_allclose(back.obs, seen.obs, rtol=tolerance)
        np.testing.assert_allclose(back.state, seen.state, rtol=tolerance)


def test_empty_episodes_have_the_shapes_of_delivered_ones():
    algorithm, collector, _ = make()
    batch = collector.collect(behaviour_for(algorithm), 1)
    empty = empty_episodes(SPEC, collector.hosted, 1)
    assert jax.tree.structure(batch) == jax.tree.structure(empty)
    for got, wanted in zip(jax.tree.leaves(batch), jax.tree.leaves(empty), strict=True):
        assert (got.shape, got.dtype) == ((K, *wanted.shape), wanted.dtype)


def test_games_that_cannot_go_on_say_so_and_a_closed_collector_plays_nothing():
    algorithm, collector, games = make(fail_after=9)
    with pytest.raises(HostError, match="mend it"):
        collector.collect(behaviour_for(algorithm), 4)
    collector.close()
    collector.close()
    assert not games.open
    with pytest.raises(HostError, match="not running"):
        collector.collect(behaviour_for(algorithm), 1)
