"""Messages: who reads whose by construction, and the two information terms of eqs (11) and (12) against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.distributions import NEVER
from lsf_jax.networks.agents import agent_inputs
from lsf_jax.networks.messages import (
    MessageDecoder,
    MessageEncoder,
    decoder_hits,
    encode,
    kl_to_standard_normal,
    label_cross_entropy,
    route_broadcast,
    route_per_receiver,
    sample_messages,
)
from lsf_jax.types import Layout

TIME, N_AGENTS, DIM, N_ACTIONS = 4, 3, 2, 5


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_broadcast_gives_everyone_the_whole_pool_in_the_order_of_senders():
    sent = jnp.arange(TIME * N_AGENTS * DIM, dtype=jnp.float32).reshape(TIME, N_AGENTS, DIM)
    received = route_broadcast(sent)
    assert received.shape == (TIME, 1, N_AGENTS * DIM)  # one row for all receivers
    for t in range(TIME):
        assert received[t, 0].tolist() == [float(x) for sender in range(N_AGENTS) for x in sent[t, sender]]


def test_per_receiver_gives_block_i_of_every_sender_to_receiver_i():
    sent = np.zeros((TIME, N_AGENTS, N_AGENTS * DIM), np.float32)
    for t, sender, receiver, d in np.ndindex(TIME, N_AGENTS, N_AGENTS, DIM):
        sent[t, sender, receiver * DIM + d] = 1000 * t + 100 * sender + 10 * receiver + d
    received = np.asarray(route_per_receiver(jnp.asarray(sent)))
    assert received.shape == sent.shape
    for t, receiver, sender, d in np.ndindex(TIME, N_AGENTS, N_AGENTS, DIM):
        assert received[t, receiver, sender * DIM + d] == 1000 * t + 100 * sender + 10 * receiver + d


@pytest.mark.parametrize(
    ("route", "width", "reaches"),
    [
        (route_broadcast, DIM, lambda receiver, where: True),
        (route_per_receiver, N_AGENTS * DIM, lambda receiver, where: receiver == where // DIM),
    ],
)
def test_a_disturbed_sender_reaches_its_receivers_at_its_own_place(route, width, reaches):
    sent = normal(0, TIME, N_AGENTS, width)
    for sender in range(N_AGENTS):
        for where in range(width):
            changed = np.asarray(route(sent) != route(sent.at[1, sender, where].add(1.0)))
            changed = np.broadcast_to(changed, (TIME, N_AGENTS, N_AGENTS * DIM))
            assert not changed[[0, 2, 3]].any()
            expected = np.zeros((N_AGENTS, N_AGENTS * DIM), bool)
            for receiver in range(N_AGENTS):
                expected[receiver, sender * DIM + where % DIM] = reaches(receiver, where)
            np.testing.assert_array_equal(changed[1], expected)


@pytest.mark.parametrize("history", [False, True])
def test_the_encoder_reads_this_step_only_or_the_history_and_never_other_agents(history):
    network, layout = MessageEncoder(6, DIM, history=history), Layout(first=jnp.arange(TIME) == 0)
    obs, nothing_yet = normal(1, TIME, N_AGENTS, 3), jnp.full((TIME, N_AGENTS), -1)
    inputs, other = (agent_inputs(each, nothing_yet, N_ACTIONS) for each in (obs, obs.at[1, 2].add(3.0)))
    params = jax.jit(network.init)(jax.random.key(2), inputs)["params"]
    clean, disturbed = (encode(network, params, layout, x) for x in (inputs, other))
    assert clean.shape == (TIME, N_AGENTS, DIM)
    changed = np.asarray(clean != disturbed).any(-1)
    assert changed[:, 2].tolist() == [False, True, history, history]
    assert not changed[:, :2].any()


def test_the_decoder_answers_each_receiver_from_its_own_row():
    network = MessageDecoder(6, N_ACTIONS)
    inputs, received = normal(3, TIME, N_AGENTS, 4), normal(5, TIME, N_AGENTS, 2)
    variables = jax.jit(network.init)(jax.random.key(4), inputs, received)
    clean, disturbed = (network.apply(variables, x, received) for x in (inputs, inputs.at[1, 2].add(3.0)))
    assert clean.shape == (TIME, N_AGENTS, N_ACTIONS)
    assert np.argwhere(np.asarray(clean != disturbed).any(-1)).tolist() == [[1, 2]]
    informed = network.apply(variables, inputs, received.at[2, 1].add(3.0))
    assert np.argwhere(np.asarray(clean != informed).any(-1)).tolist() == [[2, 1]]
    pooled = network.apply(variables, inputs, received[:, :1])  # one row for all receivers
    repeated = network.apply(variables, inputs, jnp.repeat(received[:, :1], N_AGENTS, axis=1))
    np.testing.assert_allclose(pooled, repeated, rtol=1e-6)


@pytest.mark.parametrize("settings", [(), (3.0,)])
def test_messages_are_normal_around_their_mean_with_unit_variance_or_as_asked(settings):
    mean, deviation = jnp.array([[[-3.0, 0.0], [2.0, 50.0]]]), (*settings, 1.0)[0]
    keys = jax.random.split(jax.random.key(5), 20_000)
    drawn = jax.vmap(lambda key: sample_messages(mean, key[None], *settings) - mean)(keys)
    noise = np.asarray(drawn, np.float64).reshape(20_000, 4)
    assert np.abs(noise.mean(0)).max() < deviation * 4 / 20_000**0.5
    covariance = np.cov(noise.T)
    assert np.abs(covariance - deviation**2 * np.eye(4)).max() < deviation**2 * 0.05  # 5 standard errors


def test_the_noise_of_a_row_follows_from_its_own_key():
    keys, mean = jax.random.split(jax.random.key(6), 500), jnp.zeros((500, 2, 3))
    noise = np.asarray(sample_messages(mean, keys))
    order = np.random.default_rng(0).permutation(500)
    np.testing.assert_array_equal(sample_messages(mean, keys[order]), noise[order])
    assert len(np.unique(noise)) > 0.99 * noise.size  # rows share nothing


def test_messages_without_noise_are_their_means():
    mean = normal(0, 1, 2, 3)
    np.testing.assert_array_equal(sample_messages(mean, jax.random.key(1)[None], 0.0), mean)


def test_the_gradient_reaches_the_mean_through_the_sample():
    weight = normal(6, 1, 2, 3)
    gradient = jax.grad(lambda mean: (weight * sample_messages(mean, jax.random.key(7)[None])).sum())(
        normal(8, 1, 2, 3)
    )
    np.testing.assert_array_equal(gradient, weight)


def test_eq_11_kl_equals_its_monte_carlo_estimate():
    mean = np.array([[[0.5, -1.0], [0.0, 2.0]], [[0.1, 0.2], [-0.3, 0.0]]])
    message = mean + np.random.default_rng(0).standard_normal((400_000, *mean.shape))
    log_ratio = -0.5 * (message - mean) ** 2 + 0.5 * message**2  # log N(m; μ, I) - log N(m; 0, I)
    estimate = log_ratio.sum((-2, -1)).mean(0)
    np.testing.assert_allclose(kl_to_standard_normal(jnp.asarray(mean, jnp.float32)), estimate, atol=0.02)


def test_eq_11_kl_by_hand_is_one_number_for_each_step():
    mean = jnp.array([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, -4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(kl_to_standard_normal(mean), [2.5, 8.0, 0.0])


def cross_entropy_in_numpy(logits, label):
    logits, label = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    q = weight / weight.sum(-1, keepdims=True)
    return -(label * np.log(q + 1e-6)).sum((-2, -1))


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 100.0])
def test_eq_12_cross_entropy_equals_numpy_with_the_floor(spread):
    logits = spread * normal(9, TIME, N_AGENTS, N_ACTIONS)
    one_hot = jax.nn.one_hot(jnp.arange(TIME * N_AGENTS).reshape(TIME, N_AGENTS) % N_ACTIONS, N_ACTIONS)
    for label in (one_hot, jax.nn.softmax(normal(10, TIME, N_AGENTS, N_ACTIONS))):
        expected = cross_entropy_in_numpy(logits, label)
        np.testing.assert_allclose(label_cross_entropy(logits, label), expected, rtol=1e-5, atol=1e-5)


def test_eq_12_a_label_that_the_decoder_excludes_costs_the_floor_and_no_more():
    logits = jnp.array([[[NEVER, 0.0]], [[0.0, NEVER]]])
    label = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]])
    np.testing.assert_allclose(label_cross_entropy(logits, label), [-np.log(1e-6), 0.0], rtol=1e-6, atol=2e-6)


def test_eq_12_is_lowest_where_the_decoder_says_the_label():
    label = jax.nn.softmax(normal(11, 1, 1, N_ACTIONS))
    entropy = -(label * jnp.log(label)).sum()
    right = label_cross_entropy(jnp.log(label), label)[0]
    np.testing.assert_allclose(right, entropy, rtol=1e-4)
    assert (label_cross_entropy(jnp.log(label) + normal(12, 50, 1, N_ACTIONS), label.repeat(50, 0)) > right).all()


@pytest.mark.parametrize("extreme", [1e2, 1e4, 1e10, 1e30])
def test_eq_12_gradients_stay_finite_at_extreme_logits(extreme):
    logits = jnp.array([[[extreme, 0.0, -extreme], [-extreme, -extreme, extreme]]])
    for winner in range(3):
        label = jax.nn.one_hot(jnp.full((1, 2), winner), 3)
        value, gradient = jax.value_and_grad(lambda x, p=label: label_cross_entropy(x, p).sum())(logits)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_decoder_hits_counts_agents_whose_best_available_guess_is_the_label():
    logits = jnp.array([[[5.0, 1.0, 0.0], [0.0, 1.0, 9.0]], [[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]])
    avail = jnp.array([[[False, True, True], [True, True, True]], [[True, True, True], [True, True, True]]])
    label = jnp.array([[1, 2], [2, 0]])
    np.testing.assert_allclose(decoder_hits(logits, label, avail), [1.0, 0.5])
