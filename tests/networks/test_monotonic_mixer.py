"""The monotonic mixer against NumPy, and the properties that make it one."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.networks.mixers import Mixing, MonotonicHypernetwork, mix

N_AGENTS, EMBED, STATE, TIME = 3, 4, 5, 6


def build(hyper_hidden, seed=0):
    network = MonotonicHypernetwork(N_AGENTS, EMBED, hyper_hidden)
    key_init, key_state, key_values = jax.random.split(jax.random.key(seed), 3)
    state = 2.0 * jax.random.normal(key_state, (TIME, STATE))
    variables = jax.tree.map(lambda leaf: 2.0 * leaf, network.init(key_init, state))
    return network, variables, state, 3.0 * jax.random.normal(key_values, (TIME, N_AGENTS))


def mlp_in_numpy(params, x):
    layers = [params[f"Linear_{i}"] for i in range(len(params))]
    for layer in layers[:-1]:
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0.0)
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def q_total_in_numpy(params, state, values):
    """QMIX row by row, in float64."""
    params, state, values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, state, values))
    rows = []
    for s, q in zip(state, values):
        kernel_1 = np.abs(mlp_in_numpy(params["kernel_1"], s)).reshape(N_AGENTS, EMBED)
        before = q @ kernel_1 + s @ params["bias_1"]["kernel"] + params["bias_1"]["bias"]
        hidden = np.where(before > 0, before, np.expm1(before))  # ELU
        rows.append(hidden @ np.abs(mlp_in_numpy(params["kernel_2"], s)) + mlp_in_numpy(params["bias_2"], s)[0])
    return np.array(rows)


@pytest.mark.parametrize("hyper_hidden", [0, 8])
def test_q_total_equals_qmix_row_by_row_in_numpy(hyper_hidden):
    network, variables, state, values = build(hyper_hidden)
    got = jax.jit(lambda v, s, q: mix(network.apply(v, s), q))(variables, state, values)
    np.testing.assert_allclose(got, q_total_in_numpy(variables["params"], state, values), rtol=1e-5, atol=1e-5)


def test_without_a_hidden_layer_the_kernels_are_linear_in_the_state_before_the_absolute_value():
    counts = {hidden: build(hidden)[1]["params"] for hidden in (0, 8)}
    assert {name: len(counts[0][name]) for name in ("kernel_1", "kernel_2", "bias_2")} == {
        "kernel_1": 1,
        "kernel_2": 1,
        "bias_2": 2,
    }
    assert len(counts[8]["kernel_1"]) == len(counts[8]["kernel_2"]) == 2
    assert counts[0]["kernel_1"]["Linear_0"]["kernel"].shape == (STATE, N_AGENTS * EMBED)


def test_mixing_by_hand():
    mixing = Mixing(
        kernel_1=jnp.array([[1.0, 2.0], [0.5, 0.0]]),
        bias_1=jnp.array([0.5, -4.0]),
        kernel_2=jnp.array([2.0, 3.0]),
        bias_2=jnp.float32(-1.0),
    )
    # hidden: ELU(1·1 + 2·0.5 + 0.5) = 2.5 and ELU(1·2 + 2·0 - 4) = e⁻² - 1
    expected = 2.0 * 2.5 + 3.0 * (np.exp(-2.0) - 1.0) - 1.0
    np.testing.assert_allclose(mix(mixing, jnp.array([1.0, 2.0])), expected, rtol=1e-6)


@pytest.mark.parametrize("hyper_hidden", [0, 8])
def test_q_total_never_falls_when_a_utility_rises(hyper_hidden):
    def slopes(key):
        key_init, key_state, key_values = jax.random.split(key, 3)
        network = MonotonicHypernetwork(N_AGENTS, EMBED, hyper_hidden)
        state = 3.0 * jax.random.normal(key_state, (STATE,))
        params = network.init(key_init, state)
        values = 5.0 * jax.random.normal(key_values, (N_AGENTS,))
        mixing = network.apply(params, state)
        signed = jax.grad(lambda q: mix(mixing._replace(kernel_1=mixing.kernel_1 - 0.5), q))(values)
        return jax.grad(lambda q: mix(mixing, q))(values), signed

    gradient, signed = jax.jit(jax.vmap(slopes))(jax.random.split(jax.random.key(1), 500))
    assert (np.asarray(gradient) >= 0).all()
    assert (np.asarray(gradient) > 1e-3).mean() > 0.8  # and it does rise, unless ELU has saturated
    assert (np.asarray(signed) < 0).any()  # the check notices a kernel that may be negative


def test_the_best_joint_action_is_everyones_own_best():
    network, variables, state, _ = build(8, seed=2)
    utilities = jax.random.normal(jax.random.key(3), (TIME, N_AGENTS, 3))
    joint = np.array(list(product(range(3), repeat=N_AGENTS)))
    chosen = np.take_along_axis(np.asarray(utilities)[:, None], joint[None, :, :, None], axis=-1)[..., 0]
    mixing = network.apply(variables, state)
    q_total = jax.vmap(lambda q: mix(mixing, q), in_axes=1, out_axes=1)(jnp.asarray(chosen))
    np.testing.assert_array_equal(joint[np.asarray(q_total).argmax(1)], np.asarray(utilities).argmax(-1))


def test_rows_are_mixed_apart():
    network, variables, state, values = build(8)
    q_total = mix(network.apply(variables, state), values)
    disturbed = mix(network.apply(variables, state.at[1].add(1.0)), values.at[4].add(1.0))
    assert (np.asarray(q_total != disturbed) == [False, True, False, False, True, False]).all()
