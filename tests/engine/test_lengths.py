"""Loops over time that stop where the longest episode does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import make_env
from lsf_jax.engine import lengths
from lsf_jax.engine.lengths import EPISODES_AXIS, only_if
from lsf_jax.engine.rollouts import device_collector, play
from lsf_jax.engine.training import Sizes, make_chunk, make_train_step
from lsf_jax.envs.base import check_spec
from lsf_jax.platforms import compiling_for, platform
from lsf_jax.programs.parts import bind
from lsf_jax.types import Clock
from tests.support.engine_cases import FOREVER, small, start


@pytest.mark.parametrize(
    ("limit", "n", "expected"),
    [
        (100, 4, (25, 50, 75, 100)),
        (10, 4, (3, 6, 9, 10)),
        (3, 4, (1, 2, 3)),
        (7, 1, (7,)),
        (1, 4, (1,)),
        (5, 4, (2, 4, 5)),
    ],
)
def test_static_lengths_are_equal_parts_that_end_at_the_limit(limit, n, expected):
    assert lengths.static_lengths(limit, n) == expected


def test_a_function_is_traced_once_for_each_platform_however_often_it_is_asked():
    traced = []

    def function(value):
        traced.append(platform())
        return value + (1 if platform() == "cpu" else 2)

    once = lengths.traced_once(function)
    for name, expected in (("cpu", 1), ("gpu", 2), ("cpu", 1)):
        with compiling_for(name):
            jax.eval_shape(once, jnp.zeros(3))
            assert jax.jit(jax.vmap(once))(jnp.zeros((2, 3))).tolist() == [[expected] * 3] * 2
            jax.eval_shape(once, jnp.zeros(3))
    assert traced == ["cpu", "gpu"]


def test_computed_steps_are_the_smallest_length_that_covers():
    found = [int(lengths.computed_steps((2, 4, 8), jnp.int32(n))) for n in (0, 2, 3, 4, 5, 8)]
    assert found == [2, 2, 4, 4, 8, 8]


def m_step(n_steps):
    """Episodes of `m_step` end after 1 to n_steps steps, by chance of the first actions."""
    config = small(f"env.n_steps={n_steps}")
    return config, make_env(config)


def collected(env, config, parts, key=0, n=16, platform="gpu"):
    algorithm = ALGORITHMS[config.algo_name].factory(env.spec, config.algo, lambda episode: episode)
    agent = jax.jit(algorithm.init)(jax.random.key(1), algorithm.hyper)
    clock = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))
    collect = jax.jit(device_collector(env, algorithm, n, parts))
    with compiling_for(platform):
        return collect(algorithm.policy_params(agent), clock, algorithm.hyper, jax.random.key(key))


@pytest.mark.slow
def test_a_rollout_in_parts_plays_the_same_episodes():
    config, env = m_step(4)
    whole = collected(env, config, 1)
    others = [collected(env, config, parts) for parts in (2, 4)]
    for other in (*others, collected(env, config, 4, platform="cpu")):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert 0 < whole.valid.mean() < 1


def test_parts_that_do_not_divide_the_limit_are_cut_off_behind_it():
    config, env = m_step(5)
    batch = collected(env, config, 4)
    assert batch.valid.shape == (16, 5)
    assert jax.tree.leaves(batch.world)[0].shape[1] == 6
    steps = batch.valid.sum(axis=1)
    np.testing.assert_array_equal(batch.valid, jnp.arange(5)[None] < steps[:, None])
    assert len(set(steps.tolist())) > 1


@pytest.mark.parametrize(
    ("platform", "ends", "computed"),
    [("gpu", (2, 1), 2), ("gpu", (3, 1), 4), ("gpu", (7, 2), 8), ("gpu", (8, 8), 8), ("cpu", (3, 1), 3)],
)
def test_parts_that_nobody_plays_cost_nothing(platform, ends, computed):
    """Steps are counted while the program runs; a CPU's loop has no parts and ends with the last episode."""
    _, env = m_step(4)
    env = env._replace(spec=check_spec(env.spec._replace(episode_limit=8)))
    counted = []

    def one(end):
        def step(key, state, action):
            jax.debug.callback(lambda: counted.append(1))
            _, timestep = env.step(key, state[1], action)
            done = state[0] + 1 >= end
            return (state[0] + 1, state[1]), timestep._replace(done=done, terminal=done)

        def reset(key):
            state, observation = env.reset(key)
            return (jnp.int32(0), state), observation

        timed = env._replace(step=step, reset=reset, snapshot=lambda state: env.snapshot(state[1]))
        act = lambda carry, observation, key: (carry, jnp.zeros(env.spec.n_agents, jnp.int32))
        return play(timed, act, (), jax.random.key(0)[None], 4).valid.sum()

    with compiling_for(platform):
        played = jax.jit(jax.vmap(one, axis_name=EPISODES_AXIS))(jnp.array(ends))
    jax.effects_barrier()
    assert played.tolist() == list(ends)
    assert len(counted) in (computed, computed * len(ends))  # once for all, or once for each


def steps_of(metrics):
    """How far each of six collections went, `[6, K]`: what was computed, by the share of it that was valid."""
    computed = np.asarray(metrics["episode_length"][:6]) / np.asarray(metrics["valid_fraction"][:6])
    found = np.rint(computed).astype(int)
    np.testing.assert_allclose(computed, found, rtol=1e-4)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_run_with_packed_rows_learns_what_one_with_a_single_length_does(platform):
    """To the rounding of sums in another order."""
    config = small()
    limit = config.env.n_steps
    several = lengths.static_lengths(limit, 4)
    with compiling_for(platform):
        program = bind(config)
        runs = {}
        for name, sizes in {
            "plain": Sizes(lengths=(limit,)),
            "packed": Sizes(lengths=several, packs=True),
        }.items():
            step = make_train_step(program.algorithm, program.buffer, program.collect, 1, sizes)
            runs[name] = jax.jit(make_chunk(step, rows=8))(start(config, [0, 1]), jnp.int32(6), jnp.int32(FOREVER))
    plain, log = runs.pop("plain")
    learned = np.isfinite(log.metrics["td"][:6])
    assert learned.sum() == 5 * 2
    for state, other in runs.values():
        for a, b in zip(jax.tree.leaves(plain.agent.params), jax.tree.leaves(state.agent.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(log.metrics["td"][:6][learned], other.metrics["td"][:6][learned], rtol=1e-3)
        shares = other.metrics["update_valid_fraction"][:6][learned]
        assert ((shares > 0) & (shares <= 1)).all()
        # On a CPU a seed alone goes on until its own last episode ends, and several until the last of them all; on
        # accelerators alone to the limit, and several to the smallest of the lengths that covers them.
        alone, together = (steps_of(each.metrics) for each in (log, other))
        if platform == "cpu":
            np.testing.assert_array_equal(together, np.broadcast_to(alone.max(axis=1, keepdims=True), alone.shape))
        else:
            assert (alone == limit).all()
            assert (together == together[:, :1]).all()
            assert set(together.ravel()) <= set(several)
            assert together.min() < limit


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_not_wanted_leaves_the_state_as_it_is_and_is_not_computed(backend, wanted):
    computed = []

    def change(state):
        jax.debug.callback(lambda _: computed.append(1), state[0])
        return state[0] + 1.0, -state[1]

    def one(wanted, number, counts):
        return only_if(wanted, change, (number, counts))

    with compiling_for(backend):
        found = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))(jnp.bool_(wanted), jnp.arange(2.0), jnp.ones((2, 3), int))
    jax.effects_barrier()
    assert found[0].tolist() == [0.0 + wanted, 1.0 + wanted]
    assert found[1].tolist() == [[-1 if wanted else 1] * 3] * 2
    assert len(computed) == 2 * wanted
