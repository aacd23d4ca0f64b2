"""Policies over masked actions: values against NumPy, frequencies by chi-square, gradients that stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.distributions import (
    NEVER,
    entropy,
    epsilon_over_available,
    expectation,
    greedy,
    masked_log_softmax,
    mix_uniform,
    probabilities,
    sample,
    soft_value,
    take_actions,
)
from tests.support.policy_cases import AVAIL, DRAWS, LOGITS, counts_of, is_plausible


def pi_in_numpy(logits, avail):
    weight = np.where(avail, np.exp(np.asarray(logits, np.float64)), 0.0)
    return weight / weight.sum(-1, keepdims=True)


def test_the_masked_policy_is_the_softmax_over_available_actions():
    log_pi = masked_log_softmax(LOGITS, AVAIL)
    pi = probabilities(log_pi, AVAIL)
    expected = pi_in_numpy(LOGITS, AVAIL)
    np.testing.assert_allclose(pi, expected, rtol=1e-5)
    np.testing.assert_allclose(log_pi, np.where(AVAIL, np.log(np.where(AVAIL, expected, 1.0)), 0.0), atol=1e-6)
    assert (np.asarray(pi)[~AVAIL] == 0.0).all()
    assert (np.asarray(log_pi)[~AVAIL] == 0.0).all()


def test_a_single_available_action_has_probability_1_and_log_probability_0():
    log_pi = masked_log_softmax(LOGITS[2], AVAIL[2])
    assert log_pi.tolist() == [0.0] * 4
    assert probabilities(log_pi, AVAIL[2]).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert entropy(probabilities(log_pi, AVAIL[2]), log_pi) == 0.0


def test_unavailable_logits_change_nothing_whatever_they_are():
    noise = jnp.where(AVAIL, 0.0, 1e8 * jnp.sign(LOGITS))
    np.testing.assert_array_equal(masked_log_softmax(LOGITS + noise, AVAIL), masked_log_softmax(LOGITS, AVAIL))


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e8])
def test_gradients_of_log_probability_and_entropy_are_finite_and_zero_where_unavailable(scale):
    def both(logits):
        log_pi = masked_log_softmax(logits, AVAIL)
        pi = probabilities(log_pi, AVAIL)
        return entropy(pi, log_pi).sum() + expectation(pi, log_pi).sum() + log_pi.sum()

    gradient = np.asarray(jax.grad(both)(scale * LOGITS))
    assert np.isfinite(gradient).all()
    assert (gradient[~AVAIL] == 0.0).all()
    assert scale > 1 or np.abs(gradient[:2]).max() > 0.1


def test_a_row_with_nothing_available_stays_finite():
    never = jnp.zeros((1, 4), bool)
    gradient = jax.grad(lambda x: masked_log_softmax(x, never).sum())(LOGITS[:1])
    assert np.isfinite(gradient).all()
    assert np.isfinite(NEVER)


def test_entropy_is_in_nats_over_available_actions():
    uniform = jnp.zeros((3, 4))
    log_pi = masked_log_softmax(uniform, AVAIL)
    np.testing.assert_allclose(entropy(probabilities(log_pi, AVAIL), log_pi), np.log([4, 2, 1]), rtol=1e-6, atol=1e-7)
    expected = pi_in_numpy(LOGITS, AVAIL)
    by_hand = -(expected * np.log(np.where(expected > 0, expected, 1.0))).sum(-1)
    log_pi = masked_log_softmax(LOGITS, AVAIL)
    np.testing.assert_allclose(entropy(probabilities(log_pi, AVAIL), log_pi), by_hand, rtol=1e-5, atol=1e-6)


def test_expectation_sums_over_actions():
    pi = jnp.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_allclose(expectation(pi, jnp.array([[4.0, 8.0], [3.0, 100.0]])), [7.0, 3.0])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_mixing_gives_every_available_action_its_share_of_epsilon_and_the_others_nothing(epsilon):
    pi = pi_in_numpy(LOGITS, AVAIL)
    floored = np.asarray(mix_uniform(jnp.asarray(pi, jnp.float32), AVAIL, jnp.float32(epsilon)))
    for row, avail, mixed in zip(pi, np.asarray(AVAIL), floored):
        expected = [(1 - epsilon) * p + epsilon / avail.sum() if a else 0.0 for p, a in zip(row, avail)]
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)
        assert (mixed[~avail] == 0.0).all()
    np.testing.assert_allclose(floored.sum(-1), np.ones(3), rtol=1e-6)


def test_gradients_pass_the_floor_scaled_by_what_is_not_uniform():
    pi = jnp.asarray(pi_in_numpy(LOGITS, AVAIL), jnp.float32)

    def log_floored(pi, avail):
        return jnp.log(jnp.where(avail, mix_uniform(pi, avail, jnp.float32(0.4)), 1.0)).sum()

    gradient = np.asarray(jax.grad(log_floored)(pi, AVAIL))
    share = 0.4 / np.asarray(AVAIL).sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient, np.where(AVAIL, 0.6 / (0.6 * np.asarray(pi) + share), 0.0), rtol=1e-5)
    nothing = jnp.zeros_like(AVAIL)
    by_epsilon = jax.grad(lambda epsilon: mix_uniform(jnp.zeros_like(pi), nothing, epsilon).sum())(jnp.float32(0.4))
    assert by_epsilon == 0.0


Q = jnp.array([[1.0, -2.0, 0.5, 0.9], [np.inf, 3.0, 1e8, 3.1], [7.0, -1e8, -40.0, 500.0]])


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.5, 10.0])
def test_the_soft_value_is_the_scaled_log_sum_of_exponentials_over_available_actions(alpha):
    value = np.asarray(soft_value(Q, AVAIL, jnp.float32(alpha)))
    for row, avail, found in zip(np.asarray(Q, np.float64), np.asarray(AVAIL), value):
        best = row[avail].max()
        expected = best + alpha * np.log(np.exp((row[avail] - best) / alpha).sum())
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert value[2] == pytest.approx(-40.0)  # one action available: its value, whatever the temperature


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.5, 10.0])
def test_the_gradient_of_the_soft_value_is_the_softmax_over_available_actions(alpha):
    gradient = np.asarray(jax.grad(lambda q: soft_value(q, AVAIL, jnp.float32(alpha)).sum())(Q))
    for row, avail, found in zip(np.asarray(Q, np.float64), np.asarray(AVAIL), gradient):
        weight = np.where(avail, np.exp(np.where(avail, row - row[avail].max(), 0.0) / alpha), 0.0)
        np.testing.assert_allclose(found, weight / weight.sum(), rtol=2e-3, atol=1e-6)
        assert (found[~avail] == 0.0).all()
    by_alpha = jax.grad(lambda a: soft_value(jnp.nan_to_num(Q, posinf=9.0), AVAIL, a).sum())(jnp.float32(alpha))
    assert np.isfinite(by_alpha)


def test_the_soft_value_of_a_row_with_nothing_available_stays_finite():
    never = jnp.zeros((1, 4), bool)
    value, gradient = jax.value_and_grad(lambda q: soft_value(q, never, jnp.float32(0.05)).sum())(Q[:1])
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_greedy_takes_the_best_available_and_the_lower_index_of_ties():
    assert greedy(LOGITS, AVAIL).tolist() == [1, 1, 2]
    assert greedy(jnp.array([2.0, 5.0, 5.0]), jnp.array([True, True, True])) == 1
    assert greedy(jnp.array([2.0, 5.0, 5.0]), jnp.array([True, False, True])) == 2
    assert greedy(jnp.array([-2e10, -1e12, 0.0]), jnp.array([True, True, False])) == 0
    assert greedy(jnp.ones(3), jnp.zeros(3, bool)) == 0
    assert greedy(LOGITS, AVAIL).dtype == jnp.int32


def test_take_actions_indexes_every_leading_axis():
    values = jax.random.normal(jax.random.key(0), (5, 3, 4))
    action = jax.random.randint(jax.random.key(1), (5, 3), 0, 4)
    np.testing.assert_array_equal(
        take_actions(values, action), np.take_along_axis(np.asarray(values), np.asarray(action)[..., None], -1)[..., 0]
    )
    gradient = jax.grad(lambda v: (2.0 * take_actions(v, action)).sum())(values)
    np.testing.assert_array_equal(gradient, 2.0 * np.eye(4)[np.asarray(action)])


def test_samples_follow_the_policy_and_never_leave_the_available_actions():
    log_pi = masked_log_softmax(LOGITS, AVAIL)
    draw = jax.jit(jax.vmap(lambda key: sample(log_pi, AVAIL, key)))
    counts = counts_of(draw(jax.random.split(jax.random.key(2), DRAWS)))
    expected = DRAWS * pi_in_numpy(LOGITS, AVAIL)
    for agent in range(3):
        assert is_plausible(counts[agent], expected[agent])
    assert not is_plausible(counts[0], np.full(4, DRAWS / 4))  # the check notices another law


def floored_over_all(logits, avail, epsilon):
    """pymarl's: softmax and floor over all actions, what is unavailable zeroed, the rest divided by its sum."""
    everywhere = np.ones_like(avail)
    pi = np.where(avail, (1.0 - epsilon) * pi_in_numpy(logits, everywhere) + epsilon / avail.shape[-1], 0.0)
    return pi / pi.sum(-1, keepdims=True)


def floored_over_available(logits, avail, epsilon):
    pi = probabilities(masked_log_softmax(logits, avail), avail)
    return mix_uniform(pi, avail, epsilon_over_available(logits, avail, jnp.float32(epsilon)))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_a_floor_over_all_actions_is_a_larger_one_over_the_available_where_others_are_likelier(epsilon):
    found = floored_over_available(LOGITS, AVAIL, epsilon)
    np.testing.assert_allclose(found, floored_over_all(LOGITS, np.asarray(AVAIL), epsilon), rtol=1e-5)
    share = np.asarray(epsilon_over_available(LOGITS, AVAIL, jnp.float32(epsilon)))[:, 0]
    np.testing.assert_allclose(share[0], epsilon, rtol=1e-6)  # all are available
    assert epsilon in (0.0, 1.0) or (share[1:] > 0.99).all()  # what is likely is unavailable


def test_a_floor_over_all_actions_is_finite_with_its_gradient_where_nothing_available_has_any_probability():
    logits, some = jnp.array([200.0, 0.0, 1.0]), jnp.array([False, True, True])
    for avail in (some, jnp.zeros(3, bool)):
        for epsilon in (0.0, 0.5):
            policy = lambda x, avail=avail, epsilon=epsilon: floored_over_available(x, avail, epsilon)
            assert np.isfinite(policy(logits)).all()
            assert np.isfinite(jax.jacobian(policy)(logits)).all()
    np.testing.assert_allclose(floored_over_available(logits, some, 0.0), pi_in_numpy(logits, some), rtol=1e-5)
    np.testing.assert_allclose(floored_over_available(logits, some, 0.5), [0.0, 0.5, 0.5], rtol=1e-5)
