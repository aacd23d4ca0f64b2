"""Agent networks against NumPy in float64: PyTorch's GRU, its initialisation, and the inputs of an agent."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.networks.agents import (
    AgentNetwork,
    Linear,
    Mlp,
    agent_inputs,
    fan_in_uniform,
    last_actions,
    one_step,
    run,
    unroll,
    unroll_features,
    zero_hidden,
)
from lsf_jax.networks.gru import gru_cell
from lsf_jax.platforms import compiling_for
from lsf_jax.types import Layout

N_AGENTS, N_INPUTS, HIDDEN, OUTPUTS, TIME = 3, 5, 7, 4, 6
ONE_EPISODE = Layout(first=jnp.arange(TIME) == 0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0.0)


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def pytorch_gru(params, hidden, x):
    """torch.nn.GRUCell's documented equations, gate by gate, with the gates stacked in the order r, z, n."""
    size = hidden.shape[-1]

    def gate(source, value, which):
        columns = slice(which * size, (which + 1) * size)
        return value @ params[f"gru_{source}_kernel"][:, columns] + params[f"gru_{source}_bias"][columns]

    r = sigmoid(gate("input", x, 0) + gate("hidden", hidden, 0))
    z = sigmoid(gate("input", x, 1) + gate("hidden", hidden, 1))
    n = np.tanh(gate("input", x, 2) + r * gate("hidden", hidden, 2))
    return (1.0 - z) * n + z * hidden


def unroll_in_numpy(params, inputs):
    hidden, states, outputs = np.zeros((N_AGENTS, HIDDEN)), [], []
    for row in inputs:
        hidden = pytorch_gru(params, hidden, relu(affine(params["input_layer"], row)))
        states.append(hidden)
        outputs.append(affine(params["output_layer"], hidden))
    return np.stack(states), np.stack(outputs)


@pytest.fixture(scope="module")
def case():
    """A recurrent network, its parameters (scaled up, so that gates saturate), a hidden state and a trajectory."""
    key_init, key_hidden, key_inputs = jax.random.split(jax.random.key(0), 3)
    network = AgentNetwork(HIDDEN, OUTPUTS)
    hidden = jax.random.normal(key_hidden, (N_AGENTS, HIDDEN))
    inputs = 2.0 * jax.random.normal(key_inputs, (TIME, N_AGENTS, N_INPUTS))
    variables = jax.tree.map(lambda leaf: 3.0 * leaf, network.init(key_init, hidden, inputs[0]))
    return network, variables["params"], hidden, inputs


@pytest.mark.parametrize(("platform", "remat"), [("cpu", True), ("cpu", False), ("gpu", True)])
def test_unrolled_gru_equals_pytorchs_equations_in_float64(case, platform, remat):
    """On every platform that it has a form for."""
    _, params, _, inputs = case
    with compiling_for(platform):
        unrolled = jax.jit(partial(unroll_features, AgentNetwork(HIDDEN, OUTPUTS, remat=remat)))
        features, outputs = unrolled(params, ONE_EPISODE, inputs)
    oracle_features, oracle = unroll_in_numpy(*in_float64((params, inputs)))
    np.testing.assert_allclose(outputs, oracle, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features, oracle_features, rtol=1e-5, atol=1e-5)


def test_a_step_goes_on_from_the_hidden_state_it_is_given(case):
    network, params, hidden, inputs = case
    after, outputs = jax.jit(network.apply)({"params": params}, hidden, inputs[0])
    exact, state, row = in_float64((params, hidden, inputs[0]))
    expected = pytorch_gru(exact, state, relu(affine(exact["input_layer"], row)))
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs, affine(exact["output_layer"], expected), rtol=1e-5, atol=1e-5)


def test_stepping_one_row_at_a_time_equals_the_unroll(case):
    network, params, _, inputs = case
    features, outputs = jax.jit(partial(unroll_features, network))(params, ONE_EPISODE, inputs)
    step, hidden = jax.jit(network.apply), zero_hidden(N_AGENTS, HIDDEN)
    for row, state, expected in zip(inputs, features, outputs):
        hidden, output = step({"params": params}, hidden, row)
        np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(hidden, state, rtol=1e-6, atol=1e-6)


def test_parameters_do_not_depend_on_whether_a_row_or_many_initialised_them(case):
    network, _, hidden, inputs = case
    many = jnp.broadcast_to(hidden, (TIME, *hidden.shape))
    row, rows = (jax.jit(network.init)(jax.random.key(3), h, x) for h, x in ((hidden, inputs[0]), (many, inputs)))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), row, rows))


def test_rematerialisation_changes_neither_values_nor_gradients_and_keeps_the_hidden_state_alone(case):
    _, params, _, inputs = case

    def loss(params, remat):
        read = partial(unroll_features, AgentNetwork(HIDDEN, OUTPUTS, remat=remat), params, ONE_EPISODE)
        features, outputs = jax.vmap(read)(inputs[None])
        return jnp.square(outputs).sum() + features[:, -1].sum()

    def kept(remat):
        """Numbers that the backward pass gets from the forward pass."""
        residuals = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(p, remat), params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    results = [jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, remat) for remat in (True, False)]
    for on, off in zip(*map(jax.tree.leaves, results)):
        np.testing.assert_allclose(on, off, rtol=1e-5, atol=1e-5)
    gates = TIME * N_AGENTS * 4 * HIDDEN  # what a GRU computes on its way
    assert kept(True) + gates <= kept(False)


def test_one_agents_input_reaches_only_its_own_output(case):
    network, params, _, inputs = case
    outputs = unroll(network, params, ONE_EPISODE, inputs)
    disturbed = unroll(network, params, ONE_EPISODE, inputs.at[2, 1].add(1.0))
    changed = np.asarray(outputs != disturbed).any(-1)
    assert changed[2:, 1].all()
    assert not changed[:2].any()
    assert not changed[:, [0, 2]].any()


def test_feed_forward_agent_is_two_rectified_layers_and_leaves_the_hidden_state_alone(case):
    _, _, hidden, inputs = case
    network = AgentNetwork(HIDDEN, OUTPUTS, recurrent=False)
    hidden = jnp.broadcast_to(hidden, (TIME, *hidden.shape))
    variables = jax.jit(network.init)(jax.random.key(4), hidden, inputs)
    last, outputs = network.apply(variables, hidden, inputs)
    params, x = in_float64((variables["params"], inputs))
    features = relu(affine(params["hidden_layer"], relu(affine(params["input_layer"], x))))
    np.testing.assert_allclose(outputs, affine(params["output_layer"], features), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last, hidden)


@pytest.mark.parametrize("recurrent", [True, False])
def test_features_of_every_step_are_what_the_last_layer_reads(case, recurrent):
    _, _, _, inputs = case
    network = AgentNetwork(HIDDEN, OUTPUTS, recurrent=recurrent)
    params = jax.jit(network.init)(jax.random.key(4), zero_hidden(N_AGENTS, HIDDEN), inputs[0])["params"]
    features, outputs = unroll_features(network, params, ONE_EPISODE, inputs)
    exact, hidden = in_float64(params), np.zeros((N_AGENTS, HIDDEN))
    for t, row in enumerate(np.asarray(inputs, np.float64)):
        first = relu(affine(exact["input_layer"], row))
        hidden = pytorch_gru(exact, hidden, first) if recurrent else relu(affine(exact["hidden_layer"], first))
        np.testing.assert_allclose(features[t], hidden, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(outputs[t], affine(exact["output_layer"], hidden), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs, unroll(network, params, ONE_EPISODE, inputs))


def test_mlp_rectifies_between_layers_and_not_after_the_last():
    x = jax.random.normal(jax.random.key(5), (4, 3))
    network = Mlp((6, 5, 2))
    variables = jax.jit(network.init)(jax.random.key(6), x)
    params, value = in_float64((variables["params"], x))
    for layer in ("Linear_0", "Linear_1"):
        value = relu(affine(params[layer], value))
    expected = affine(params["Linear_2"], value)
    assert (expected < 0).any()
    np.testing.assert_allclose(network.apply(variables, x), expected, rtol=1e-5, atol=1e-6)


def test_gru_cell_by_hand_with_one_unit():
    weights = {
        "input_kernel": jnp.array([[0.5, -1.0, 2.0]]),
        "input_bias": jnp.array([0.1, 0.2, -0.3]),
        "hidden_kernel": jnp.array([[1.0, 0.5, -0.5]]),
        "hidden_bias": jnp.array([0.0, 0.4, 0.7]),
    }
    r, z = sigmoid(0.5 * 2 + 0.1 + 1.0 * -1 + 0.0), sigmoid(-1.0 * 2 + 0.2 + 0.5 * -1 + 0.4)
    n = np.tanh(2.0 * 2 - 0.3 + r * (-0.5 * -1 + 0.7))
    after = gru_cell(weights, jnp.array([[-1.0]]), jnp.array([[2.0]]))
    np.testing.assert_allclose(after, [[(1 - z) * n + z * -1.0]], rtol=1e-6)


def kolmogorov_smirnov(draws, bound):
    """Largest distance between the empirical distribution and U(-bound, bound), times √n."""
    ordered = np.sort(np.ravel(np.asarray(draws, np.float64)))
    n = len(ordered)
    law = (ordered + bound) / (2 * bound)
    return max((np.arange(1, n + 1) / n - law).max(), (law - np.arange(n) / n).max()) * n**0.5


def test_every_weight_and_bias_starts_uniform_within_one_over_root_fan_in():
    network = AgentNetwork(HIDDEN, OUTPUTS)
    inputs = jnp.zeros((N_AGENTS, N_INPUTS))
    init = jax.jit(jax.vmap(lambda key: network.init(key, zero_hidden(N_AGENTS, HIDDEN), inputs)["params"]))
    drawn = init(jax.random.split(jax.random.key(7), 600))
    fan_in = {"input_layer": N_INPUTS}  # every other layer reads H features
    leaves = jax.tree_util.tree_leaves_with_path(drawn)
    assert len(leaves) == 8
    for path, leaf in leaves:
        bound = fan_in.get(path[0].key, HIDDEN) ** -0.5
        assert np.abs(leaf).max() <= bound
        assert kolmogorov_smirnov(leaf, bound) < 1.95, path  # exceeded with probability 0.001
    assert (drawn["gru_input_bias"] != drawn["gru_hidden_bias"]).all()
    assert (drawn["gru_input_kernel"] != drawn["gru_hidden_kernel"]).all()


def test_the_uniformity_check_itself_notices_another_bound_and_another_law():
    draws = np.random.default_rng(0).uniform(-1, 1, 3000)
    assert kolmogorov_smirnov(draws, 1.0) < 1.95
    assert kolmogorov_smirnov(0.9 * draws, 1.0) > 1.95
    assert kolmogorov_smirnov(np.clip(np.random.default_rng(0).normal(0, 0.577, 3000), -1, 1), 1.0) > 1.95


def test_linear_layer_starts_from_its_own_fan_in():
    init = jax.vmap(lambda key: Linear(3).init(key, jnp.zeros((1, 16)))["params"])
    drawn = init(jax.random.split(jax.random.key(8), 400))
    for name, shape in (("kernel", (400, 16, 3)), ("bias", (400, 3))):
        assert drawn[name].shape == shape
        assert 0.24 < np.abs(drawn[name]).max() <= 0.25
    assert fan_in_uniform(4)(jax.random.key(0), (2,)).dtype == jnp.float32


def test_agent_inputs_are_observation_last_action_and_id():
    obs = jnp.array([[0.5, -1.0], [2.0, 3.0]])
    inputs = agent_inputs(obs, jnp.array([2, -1]), 3)
    expected = [[0.5, -1.0, 0, 0, 1, 1, 0], [2.0, 3.0, 0, 0, 0, 0, 1]]  # -1 is no action yet: zeros
    np.testing.assert_array_equal(np.concatenate(inputs, axis=-1), expected)


def test_agent_inputs_of_a_trajectory_are_those_of_its_rows():
    obs = jax.random.normal(jax.random.key(9), (TIME, N_AGENTS, 2))
    last_action = jnp.arange(TIME * N_AGENTS).reshape(TIME, N_AGENTS) % 5 - 1
    together = agent_inputs(obs, last_action, 4)
    assert together.agent_id.shape == (1, N_AGENTS, N_AGENTS)  # one row for all
    for t, (o, a) in enumerate(zip(obs, last_action)):
        for all_rows, row in zip(together, agent_inputs(o, a, 4)):
            np.testing.assert_array_equal(np.broadcast_to(all_rows, (TIME, *row.shape))[t], row)


def test_the_last_action_of_a_row_is_the_action_of_the_row_before_and_none_where_an_episode_begins():
    action = jnp.array([[3, 1], [0, 2], [4, 4]], jnp.int32)
    shifted = last_actions(action, jnp.array([True, False, False, False]))
    np.testing.assert_array_equal(shifted, [[-1, -1], [3, 1], [0, 2], [4, 4]])
    assert shifted.dtype == jnp.int32
    two = last_actions(action, jnp.array([True, False, True, False]))
    np.testing.assert_array_equal(two, [[-1, -1], [3, 1], [-1, -1], [4, 4]])


def test_a_step_of_acting_on_accelerators_is_that_of_the_network():
    """Inputs that all agents share, and ones of each agent, count as their concatenation; sums in another order."""
    network, keys = AgentNetwork(8, 4), jax.random.split(jax.random.key(2), 4)
    inputs = agent_inputs(jax.random.normal(keys[0], (3, 5)), jnp.array([1, -1, 0]), 4)
    shared, hidden = jax.random.normal(keys[1], (1, 2)), jax.random.normal(keys[2], (3, 8))
    params = network.init(keys[3], hidden, inputs, shared)["params"]
    expected = jax.jit(partial(run, network))(params, hidden, inputs, shared)
    with compiling_for("gpu"):
        found = jax.jit(lambda *arguments: one_step(network, *arguments))(params, hidden, inputs, shared)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
