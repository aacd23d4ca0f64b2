"""QTRAN's central networks against NumPy: what they read, agent by agent, and what they must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms.qtran_networks import CounterfactualCritic, HistoryValue, JointCritic, StateValue

T, N, A, S, H = 2, 3, 4, 5, 6
RNG = np.random.default_rng(0)
STATE, FEATURES = RNG.normal(size=(T, S)), RNG.normal(size=(T, N, H))
ACTION = np.eye(A)[RNG.integers(A, size=(T, N))]


def initialised(module, *inputs):
    """The module as a function of arrays, and its parameters in float64."""
    inputs = [jnp.asarray(each, jnp.float32) for each in inputs]
    params = jax.jit(module.init)(jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(lambda leaf: 2.0 * leaf, params)  # larger than at initialisation
    apply = lambda *inputs: np.asarray(module.apply({"params": params}, *(jnp.asarray(x, jnp.float32) for x in inputs)))
    return apply, jax.tree.map(lambda leaf: np.asarray(leaf, float), params)


def mlp(layers, x):
    for number in range(len(layers)):
        layer = layers[f"Linear_{number}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = np.maximum(x, 0.0) if number < len(layers) - 1 else x
    return x


@pytest.mark.parametrize("layers", [1, 3])
def test_joint_critic_reads_the_state_and_the_sum_of_encoded_pairs(layers):
    apply, p = initialised(JointCritic(7, layers), STATE, FEATURES, ACTION)
    assert len(p["joint"]) == layers + 1
    expected = []
    for t in range(T):
        pairs = sum(mlp(p["pair"], np.concatenate([FEATURES[t, i], ACTION[t, i]])) for i in range(N))
        expected.append(mlp(p["joint"], np.concatenate([STATE[t], pairs]))[0])
    np.testing.assert_allclose(apply(STATE, FEATURES, ACTION), expected, rtol=1e-4, atol=1e-5)


def test_counterfactual_critic_reads_all_histories_the_others_actions_and_who_asks():
    apply, p = initialised(CounterfactualCritic(7, 2), STATE, FEATURES, ACTION)
    expected = np.zeros((T, N, A))
    for t in range(T):
        history = sum(mlp(p["history"], FEATURES[t, j]) for j in range(N))
        for i in range(N):
            others = sum(mlp(p["action"], ACTION[t, j]) for j in range(N) if j != i)
            expected[t, i] = mlp(p["joint"], np.concatenate([STATE[t], history, np.eye(N)[i], others]))
    np.testing.assert_allclose(apply(STATE, FEATURES, ACTION), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("agent", range(N))
def test_a_counterfactual_row_does_not_depend_on_its_own_agents_action(agent):
    apply, _ = initialised(CounterfactualCritic(7, 2), STATE, FEATURES, ACTION)
    other = ACTION.copy()
    other[0, agent] = np.roll(other[0, agent], 1)
    same = (apply(STATE, FEATURES, ACTION) == apply(STATE, FEATURES, other)).all(axis=-1)
    np.testing.assert_array_equal(same[0], np.arange(N) == agent)
    assert same[1].all()


def test_state_value_reads_the_state_alone_and_history_value_the_histories_too():
    state_value, p = initialised(StateValue(7, 2), STATE, FEATURES)
    np.testing.assert_allclose(state_value(STATE, FEATURES), mlp(p["Mlp_0"], STATE)[:, 0], rtol=1e-4, atol=1e-5)
    history_value, p = initialised(HistoryValue(7, 2), STATE, FEATURES)
    history = sum(mlp(p["history"], FEATURES[:, j]) for j in range(N))
    expected = mlp(p["value"], np.concatenate([STATE, history], axis=-1))[:, 0]
    np.testing.assert_allclose(history_value(STATE, FEATURES), expected, rtol=1e-4, atol=1e-5)
