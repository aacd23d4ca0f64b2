"""The form of predator-prey for accelerators equals the plain one, bit for bit; executed on a CPU."""

import math

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.envs import predator_prey, predator_prey_bits
from lsf_jax.envs.predator_prey import BITS, PLAIN, make_predator_prey
from lsf_jax.envs.predator_prey_types import PredatorPreyConfig, Randomness, State
from lsf_jax.platforms import compiling_for
from tests.support.engine_cases import assert_same_bits

CASES = {
    "default": PredatorPreyConfig(punishment=-2.0),
    "crowded": PredatorPreyConfig(grid_size=4, n_predators=8, n_prey=8, sight=1, capture_threshold=3, punishment=-0.5),
    "one_to_catch_on_a_large_board": PredatorPreyConfig(
        grid_size=64, n_predators=3, n_prey=2, sight=3, capture_threshold=1
    ),
    "two_words_and_a_loop_of_turns": PredatorPreyConfig(grid_size=7, n_predators=9, n_prey=17, sight=1),
}


def crowded(cfg, key):
    """A state that a game might reach, with a quarter out of it, often on cells of the others; and what they do."""
    n, m = cfg.n_predators, cfg.n_prey
    size = min(math.isqrt(n + m) + 1, cfg.grid_size)  # of the corner where all stand
    keys = jax.random.split(key, 7)
    place = jax.random.permutation(keys[0], size**2)[: n + m].astype(jnp.int32)
    cell = place // size * cfg.grid_size + place % size
    there = jax.random.bernoulli(keys[1], 0.75, (n + m,))
    cell = jnp.where(there, cell, jax.random.choice(keys[2], cell, (n + m,)))
    state = State(
        predator=cell[:n],
        active=there[:n],
        prey=cell[n:],
        alive=there[n:],
        time=jax.random.randint(keys[3], (), 190, 210),
    )
    actions = jax.random.randint(keys[4], (n,), -1, 7)
    return state, jnp.where(jax.random.bernoulli(keys[5], 0.3, (n,)), 5, actions), keys[6]


def by_both(cfg, states):
    """What each form makes of crowded states."""

    def play(key):
        state, actions, key_draw = crowded(cfg, key)
        draws = [form.draw_randomness(key_draw, cfg) for form in (PLAIN, BITS)]
        return [
            (draw, form.transition(state, actions, draw, cfg), form.take_snapshot(state, cfg), form.see(state, cfg))
            for draw, form in zip(draws, (PLAIN, BITS), strict=True)
        ]

    return jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(7), states)))


@pytest.mark.default("default")
@pytest.mark.parametrize("name", CASES)
def test_chance_step_snapshot_and_sight_are_those_of_the_plain_form(name):
    expected, found = by_both(CASES[name], 1000)
    assert_same_bits(found, expected)
    outcome = expected[1][1]
    assert outcome.captures.any()
    assert outcome.lone_catches.any() or CASES[name].capture_threshold == 1


def test_equal_words_take_turns_in_the_order_of_the_units(monkeypatch):
    cfg = PredatorPreyConfig(n_predators=3, n_prey=5)
    words = jnp.array([7, 7, 7, 2**32 - 1, 4, 2**32 - 1, 4, 4, 0, 1, 2, 3, 4], jnp.uint32)
    for module in (predator_prey, predator_prey_bits):
        monkeypatch.setattr(module, "random_bits", lambda key, n: words)
    expected = Randomness(predator_turn=[0, 1, 2], prey_turn=[3, 0, 4, 1, 2], prey_rank=[0, 1, 2, 3, 4])
    for form in (PLAIN, BITS):
        found = form.draw_randomness(jax.random.key(0), cfg)
        assert [leaf.tolist() for leaf in found] == list(expected)


def test_an_environment_for_accelerators_plays_the_same_episode():
    cfg = PredatorPreyConfig(grid_size=5, n_predators=3, n_prey=3, sight=1, episode_limit=30, punishment=-1.0)
    env = make_predator_prey(cfg)

    def episode(key):
        key_reset, key_steps = jax.random.split(key)

        def advance(loop, key):
            state, avail = loop
            key_action, key_env = jax.random.split(key)
            actions = jnp.where(avail, jax.random.uniform(key_action, avail.shape), -1.0).argmax(-1)
            state, timestep = env.step(key_env, state, actions)
            return (state, timestep.observation.avail), (
                timestep,
                env.snapshot(state),
                env.observe(env.snapshot(state)),
            )

        state, first = env.reset(key_reset)
        return first, jax.lax.scan(advance, (state, first.avail), jax.random.split(key_steps, cfg.episode_limit))[1]

    keys = jax.random.split(jax.random.key(1), 64)
    expected = jax.device_get(jax.jit(jax.vmap(episode))(keys))
    with compiling_for("gpu"):
        steps = str(jax.make_jaxpr(lambda key: episode(key))(keys[0]))
        assert "optimization_barrier" in steps  # the bits, not the plain form again
        found = jax.device_get(jax.jit(jax.vmap(lambda key: episode(key)))(keys))
    assert_same_bits(found, expected)
    assert expected[1][0].info["captures"].any()
    assert expected[1][0].info["lone_catches"].any()
