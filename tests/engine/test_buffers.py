"""Replay: an exact round trip, the ring's order, fair sampling, recomputed observations, and how few bytes it takes."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.buffers import bundle, choose_distinct, latest, pack, uniform, unpack
from lsf_jax.engine.packing import observe_rows, one_per_row
from lsf_jax.engine.rollouts import over_slots, play
from lsf_jax.envs import make
from lsf_jax.envs.probes import RaggedConfig, ragged
from lsf_jax.types import Clock, Episode

TIME, N_AGENTS, N_ENVS, CAPACITY, BATCH = 11, 2, 2, 6, 3  # 11: flags do not fill their last byte
DRAWS = 12_000


def clock_at(episodes):
    return Clock(env_steps=jnp.int32(0), episodes=jnp.int32(episodes), updates=jnp.int32(0))


def episodes_numbered(first, n=N_ENVS):
    """Episodes that carry their number in every field; of differing lengths."""
    number = np.arange(first, first + n)
    valid = np.arange(TIME)[None, :] < 1 + (7 * number % TIME)[:, None]
    return Episode(
        world=jnp.asarray(number[:, None] * np.ones((1, TIME + 1)), jnp.uint16),
        action=jnp.asarray(np.broadcast_to(number[:, None, None] % 256, (n, TIME, N_AGENTS)), jnp.uint8),
        reward=jnp.asarray(number[:, None] + np.arange(TIME)[None, :] / 16, jnp.float32),
        terminal=jnp.asarray((np.arange(TIME)[None, :] + number[:, None]) % 3 == 0),
        valid=jnp.asarray(valid),
        info={"number": jnp.asarray(number[:, None] * np.ones((1, TIME)), jnp.float32)},
    )


EXAMPLE = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], episodes_numbered(0)))


def make_uniform(capacity=CAPACITY, batch_size=BATCH):
    return uniform(EXAMPLE, capacity=capacity, batch_size=batch_size, n_envs=N_ENVS)


def make_latest(batch_size=CAPACITY, n_envs=N_ENVS):
    return latest(EXAMPLE, batch_size=batch_size, n_envs=n_envs)


def make_bundle():
    return bundle(new=make_latest(4), near=make_uniform(6, 2), far=make_uniform(16, 5))


@pytest.fixture(scope="module")
def ring():
    return make_uniform()


def filled(ring, n_writes):
    """The ring and the clock after writing episodes 0, 1, 2, ... in `n_writes` writes."""
    state = ring.init()
    for write in range(n_writes):
        state = ring.add(state, clock_at(write * N_ENVS), episodes_numbered(write * N_ENVS))
    return state, clock_at(n_writes * N_ENVS)


def stored_numbers(state):
    return np.asarray(state.world[:, 0]).tolist()


def test_unpacking_what_was_packed_gives_back_every_bit():
    episodes = episodes_numbered(3, 9)
    packed = pack(episodes)
    assert packed.valid.dtype == packed.terminal.dtype == jnp.uint8
    assert packed.valid.shape == packed.terminal.shape == (9, 2)
    again = unpack(packed)
    assert again.info == {}
    for before, after in zip(jax.tree.leaves(episodes._replace(info={})), jax.tree.leaves(again)):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        np.testing.assert_array_equal(before, after)


def test_the_ring_overwrites_the_oldest_episodes_first(ring):
    contents = [stored_numbers(filled(ring, n)[0]) for n in range(6)]
    assert contents == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 2, 3, 0, 0],
        [0, 1, 2, 3, 4, 5],
        [6, 7, 2, 3, 4, 5],
        [6, 7, 8, 9, 4, 5],
    ]


@pytest.mark.parametrize(("n_writes", "expected"), [(2, {0, 1, 2, 3}), (3, set(range(6))), (5, set(range(4, 10)))])
def test_sampling_returns_whole_distinct_stored_episodes_only(ring, n_writes, expected):
    state, clock = filled(ring, n_writes)
    sample = jax.jit(jax.vmap(lambda key: ring.sample(state, clock, key)))
    batches = jax.device_get(sample(jax.random.split(jax.random.key(0), 200)))
    numbers = batches.world[:, :, 0]
    assert set(numbers.ravel().tolist()) == expected
    assert all(len(set(row)) == BATCH for row in numbers.tolist())
    for number in expected:
        drawn = jax.tree.map(lambda leaf, n=number: leaf[numbers == n][0], batches)
        original = jax.tree.map(lambda leaf: leaf[0], episodes_numbered(number, 1))._replace(info={})
        for before, after in zip(jax.tree.leaves(original), jax.tree.leaves(drawn)):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("make_buffer", [make_uniform, make_latest, make_bundle])
@pytest.mark.parametrize("episodes_axis", [None, 0])
def test_a_write_compiles_to_a_slice_update_in_place_because_seeds_share_the_count(make_buffer, episodes_axis):
    ring = make_buffer()
    state = jax.vmap(lambda _: ring.init())(jnp.arange(4))
    fresh = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), episodes_numbered(0))
    clock = clock_at(2)._replace(episodes=jnp.int32(2) if episodes_axis is None else jnp.full((4,), 2, jnp.int32))
    axes = (0, Clock(env_steps=None, episodes=episodes_axis, updates=None), 0)
    program = jax.jit(jax.vmap(ring.add, in_axes=axes), donate_argnums=0).lower(state, clock, fresh).compile().as_text()
    is_slice_update = "dynamic-update-slice(" in program and " while(" not in program and " scatter(" not in program
    assert is_slice_update == (episodes_axis is None)  # a count for each seed makes it a loop over seeds


def test_the_first_sample_waits_for_one_batch(ring):
    assert ring.prefill == BATCH


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"capacity": 7, "batch_size": 3, "n_envs": 2}, r"train\.buffer_capacity 7 .*train\.n_envs 2"),
        ({"capacity": 6, "batch_size": 8, "n_envs": 2}, r"algo\.batch_size 8 .*train\.buffer_capacity 6"),
        ({"capacity": 1, "batch_size": 1, "n_envs": 2}, r"train\.buffer_capacity 1 .*train\.n_envs 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        uniform(EXAMPLE, **sizes)


@pytest.mark.parametrize(("batch_size", "n_envs"), [(7, 2), (2, 4)])
def test_a_batch_of_broken_collections_is_refused(batch_size, n_envs):
    with pytest.raises(ValueError, match=rf"^algo\.batch_size {batch_size} .*train\.n_envs {n_envs};") as caught:
        make_latest(batch_size, n_envs)
    assert "\n" not in str(caught.value)


def assert_same_episodes(sampled, expected):
    for before, after in zip(jax.tree.leaves(expected._replace(info={})), jax.tree.leaves(sampled), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("n_writes", [1, 2, 5])
def test_a_batch_as_large_as_a_collection_is_exactly_what_was_just_collected(n_writes):
    buffer = make_latest(N_ENVS)
    assert buffer.prefill == N_ENVS
    state, clock = filled(buffer, n_writes)
    assert_same_episodes(buffer.sample(state, clock, jax.random.key(0)), episodes_numbered((n_writes - 1) * N_ENVS))


@pytest.mark.parametrize(
    ("n_writes", "by_slot"), [(3, range(6)), (4, [6, 7, 2, 3, 4, 5]), (8, [12, 13, 14, 15, 10, 11])]
)
def test_on_policy_data_are_all_of_the_newest_episodes_whatever_the_key(n_writes, by_slot):
    buffer = make_latest()
    assert buffer.prefill == CAPACITY
    state, clock = filled(buffer, n_writes)
    everything = [episodes_numbered(number, 1)._replace(info={}) for number in by_slot]
    expected = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *everything)
    for seed in (0, 1):
        assert_same_episodes(buffer.sample(state, clock, jax.random.key(seed)), expected)


def test_a_bundle_gives_what_each_of_its_buffers_would_give_alone():
    buffer, alone = make_bundle(), {"new": make_latest(4), "near": make_uniform(6, 2), "far": make_uniform(16, 5)}
    assert buffer.prefill == 5  # the slowest: far needs five, new four
    state, clock = filled(buffer, 5)
    assert set(state) == set(alone)
    batch = buffer.sample(state, clock, jax.random.key(0))
    for name, part in alone.items():
        for ours, theirs in zip(jax.tree.leaves(state[name]), jax.tree.leaves(filled(part, 5)[0]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    numbers = {name: np.asarray(sampled.world[:, 0]).tolist() for name, sampled in batch.items()}
    assert numbers["new"] == [8, 9, 6, 7]
    assert set(numbers["near"]) <= set(range(4, 10))
    assert set(numbers["far"]) <= set(range(10))
    assert (len(set(numbers["near"])), len(set(numbers["far"]))) == (2, 5)


def test_the_buffers_of_a_bundle_draw_apart_from_each_other():
    buffer = bundle(one=make_uniform(16, 1), two=make_uniform(16, 1))
    state, clock = filled(buffer, 2)
    draw = jax.jit(jax.vmap(lambda key: buffer.sample(state, clock, key)))
    batch = draw(jax.random.split(jax.random.key(4), DRAWS))
    pairs = np.bincount(np.asarray(4 * batch["one"].world[:, 0, 0] + batch["two"].world[:, 0, 0]), minlength=16)
    assert is_uniform(pairs)


def count_subsets(chosen, available, n):
    """How often each subset of `n` of `available` was chosen; raises KeyError for anything that is not one."""
    counts = dict.fromkeys(combinations(range(available), n), 0)
    for row in np.sort(np.asarray(chosen), axis=-1).tolist():
        counts[tuple(row)] += 1
    return np.array(list(counts.values()))


def is_uniform(counts):
    """Pearson's chi-square below a bound that fair sampling exceeds about once in a thousand."""
    expected, degrees = counts.sum() / len(counts), len(counts) - 1
    return ((counts - expected) ** 2 / expected).sum() <= degrees + 5.0 * (2.0 * degrees) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_every_subset_is_equally_likely_for_every_traced_number_of_stored_episodes(n):
    choose = jax.jit(jax.vmap(lambda key, available: choose_distinct(key, available, n), in_axes=(0, None)))
    for available in (5, 6, 7):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), available), DRAWS)
        counts = count_subsets(choose(keys, jnp.int32(available)), available, n)
        assert is_uniform(counts), (available, n, counts)


def test_the_fairness_check_notices_sampling_that_favours_late_episodes():
    rng = np.random.default_rng(0)
    chosen = [rng.choice(5, 2, replace=False, p=[0.18, 0.18, 0.2, 0.22, 0.22]) for _ in range(DRAWS)]
    assert not is_uniform(count_subsets(chosen, 5, 2))


def test_choices_stay_distinct_and_in_range_when_seeds_hold_different_numbers():
    available = jnp.arange(32, 132, dtype=jnp.int32)
    chosen = jax.vmap(lambda key, m: choose_distinct(key, m, 32))(jax.random.split(jax.random.key(2), 100), available)
    for row, m in zip(np.asarray(chosen), np.asarray(available)):
        assert len(set(row.tolist())) == 32
        assert 0 <= row.min() <= row.max() < m
    assert sorted(np.asarray(chosen[0]).tolist()) == list(range(32))


def random_available(carry, observation, key):
    return carry, jnp.where(observation.avail, jax.random.uniform(key, observation.avail.shape), -1.0).argmax(-1)


def record(env):
    """The same game, whose snapshots also keep the observation that came with them."""

    def reset(key):
        state, observation = env.reset(key)
        return (state, observation), observation

    def step(key, state, action):
        state, timestep = env.step(key, state[0], action)
        return (state, timestep.observation), timestep

    return env._replace(reset=reset, step=step, snapshot=lambda state: (env.snapshot(state[0]), state[1]))


HUNT = {"grid_size": 4, "n_predators": 3, "n_prey": 2, "capture_threshold": 1, "episode_limit": 40}


@pytest.mark.parametrize("env", [ragged(RaggedConfig()), make("predator_prey", **HUNT)], ids=["ragged", "hunt"])
def test_observations_of_a_stored_episode_are_what_was_seen_and_nothing_after_the_end(env):
    recording = record(env)

    @jax.jit
    def play_and_replay(keys):
        episode = over_slots(partial(play, recording, random_available, jnp.int32(0)), len(keys), keys)
        snapshots, seen = episode.world
        stored = jax.vmap(unpack)(jax.vmap(pack)(episode._replace(world=snapshots)))
        return episode, seen, observe_rows(env, one_per_row(stored))

    episode, seen, trajectory = jax.device_get(play_and_replay(jax.random.split(jax.random.key(3), 12)))
    trajectory = jax.tree.map(lambda leaf: np.swapaxes(leaf, 0, 1), trajectory)  # [B, T+1, ...] as the episodes are
    lengths = episode.valid.sum(1)
    assert len(set(lengths.tolist())) > 2
    for i, length in enumerate(lengths):
        for field in ("obs", "state", "avail"):
            recomputed, returned = getattr(trajectory.observation, field)[i], getattr(seen, field)[i]
            np.testing.assert_array_equal(recomputed[: length + 1], returned[: length + 1])
        assert not trajectory.observation.obs[i, length + 1 :].any()
        assert not trajectory.observation.state[i, length + 1 :].any()
        assert trajectory.observation.avail[i, length + 1 :].all()
    assert trajectory.observation.obs.shape[1] == env.spec.episode_limit + 1
    assert (trajectory.layout.first == (np.arange(env.spec.episode_limit + 1) == 0)).all()
    assert trajectory.action.dtype == np.int32
    for field in ("action", "reward", "terminal", "valid"):
        np.testing.assert_array_equal(getattr(trajectory, field), getattr(episode, field))


def test_a_step_of_predator_prey_takes_at_most_64_bytes_and_5000_episodes_less_than_70_megabytes():
    env = make("predator_prey")
    assert env.spec.episode_limit == 200
    played = jax.eval_shape(partial(play, env, random_available, jnp.int32(0)), jax.random.split(jax.random.key(0), 1))
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), played)
    ring = uniform(example, capacity=5000, batch_size=32, n_envs=8)
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(ring.init)))
    # 18 bytes for each of 201 snapshots; 8 actions and a reward of 4 bytes for each of 200 steps; 2 flags as bits
    assert n_bytes == 5000 * (201 * 18 + 200 * (8 + 4) + 2 * 25)
    assert n_bytes / (5000 * 200) <= 64
    assert n_bytes < 70e6
