"""Exploring: which actions are drawn how often, by chi-square, and schedules."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.distributions import greedy
from lsf_jax.engine.exploration import FLOORS, epsilon_greedy, linear_schedule, without_floor
from lsf_jax.types import Clock, Observation
from tests.support.policy_cases import AVAIL, DRAWS, LOGITS, counts_of, is_plausible


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_mixes_a_uniform_available_action_with_the_greedy_one(epsilon):
    draw = jax.jit(jax.vmap(lambda key: epsilon_greedy(LOGITS, AVAIL, jnp.float32(epsilon), key)))
    counts = counts_of(draw(jax.random.split(jax.random.key(3), DRAWS)))
    uniform = np.asarray(AVAIL) / np.asarray(AVAIL).sum(-1, keepdims=True)
    expected = DRAWS * (epsilon * uniform + (1 - epsilon) * np.eye(4)[np.asarray(greedy(LOGITS, AVAIL))])
    for agent in range(3):
        assert is_plausible(counts[agent], expected[agent])


def test_agents_explore_apart_from_each_other():
    values, avail = jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (2, 1)), jnp.ones((2, 4), bool)
    draw = jax.jit(jax.vmap(lambda key: epsilon_greedy(values, avail, jnp.float32(0.5), key)))
    actions = np.asarray(draw(jax.random.split(jax.random.key(4), DRAWS)))
    law = np.array([0.625, 0.125, 0.125, 0.125])
    joint = np.bincount(actions[:, 0] * 4 + actions[:, 1], minlength=16)
    assert is_plausible(joint, DRAWS * np.outer(law, law).ravel())


@pytest.mark.parametrize(
    ("env_steps", "expected"), [(0, 1.0), (25, 0.8), (50, 0.6), (100, 0.2), (101, 0.2), (10_000_000, 0.2)]
)
def test_the_schedule_falls_linearly_and_then_stays(env_steps, expected):
    value = linear_schedule(jnp.float32(1.0), jnp.float32(0.2), jnp.float32(100.0), jnp.int32(env_steps))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_schedule_of_no_steps_has_finished_after_the_first():
    values = [
        float(linear_schedule(jnp.float32(1.0), jnp.float32(0.25), jnp.float32(0.0), jnp.int32(step)))
        for step in (0, 1, 5)
    ]
    assert values == [1.0, 0.25, 0.25]


CLOCK = Clock(env_steps=jnp.int32(50), episodes=jnp.int32(0), updates=jnp.int32(0))
HYPER = SimpleNamespace(
    epsilon_start=jnp.float32(0.6), epsilon_finish=jnp.float32(0.2), epsilon_anneal=jnp.float32(100.0)
)


@pytest.mark.parametrize("over", FLOORS)
def test_a_floored_policy_is_acted_by_and_its_logarithm_is_its_own(over):
    pi, log_pi = FLOORS[over].policy(LOGITS, AVAIL, CLOCK, HYPER)
    np.testing.assert_allclose(np.where(AVAIL, np.exp(log_pi), 0.0), pi, rtol=1e-5)
    observation = Observation(obs=jnp.zeros((3, 1)), state=jnp.zeros((1,)), avail=AVAIL)
    draw = jax.jit(jax.vmap(lambda key: FLOORS[over].behave(LOGITS, observation, key, CLOCK, HYPER)))
    counts = counts_of(draw(jax.random.split(jax.random.key(5), DRAWS)))
    for agent in range(3):
        assert is_plausible(counts[agent], DRAWS * np.asarray(pi)[agent])
    bare, _ = without_floor(LOGITS, AVAIL, CLOCK, HYPER)
    assert not is_plausible(counts[0], DRAWS * np.asarray(bare)[0])


def test_the_two_floors_differ_only_where_something_is_unavailable():
    ours, pymarls = (np.asarray(FLOORS[over].policy(LOGITS, AVAIL, CLOCK, HYPER)[0]) for over in ("available", "all"))
    np.testing.assert_allclose(ours[0], pymarls[0], rtol=1e-5)
    assert np.abs(ours[1] - pymarls[1]).max() > 0.1
