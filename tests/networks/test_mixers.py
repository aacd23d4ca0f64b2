"""Every mixer against NumPy in float64, what each may represent, and which gradient trains what."""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.networks.mixers import (
    Duplexing,
    Mixing,
    convex_mixer,
    duplex_mixer,
    free_mixer,
    mix,
    mix_duplex,
    monotonic_mixer,
    soft_duplex_mixer,
    sum_mixer,
)
from lsf_jax.networks.mixers import slopes as slopes_of
from lsf_jax.types import EnvSpec

SPEC = EnvSpec(n_agents=3, n_actions=4, obs_dim=1, state_dim=5, episode_limit=6)
TIME, HEADS = 6, 2

MIXERS = {
    "sum": lambda spec: sum_mixer(spec),
    "monotonic": lambda spec: monotonic_mixer(spec, embed=4, hyper_hidden=8),
    "monotonic_linear": lambda spec: monotonic_mixer(spec, embed=4, hyper_hidden=0),
    "duplex_1": lambda spec: duplex_mixer(spec, heads=HEADS, layers=1, hidden=8),
    "duplex_3": lambda spec: duplex_mixer(spec, heads=HEADS, layers=3, hidden=8),
    "soft_duplex": lambda spec: soft_duplex_mixer(spec, heads=HEADS, embed=8),
    "free": lambda spec: free_mixer(spec, hidden=8),
    "convex": lambda spec: convex_mixer(spec, embed=4),
}
EVERY = pytest.mark.parametrize("name", MIXERS)


class Rows(NamedTuple):
    chosen: jax.Array
    value: jax.Array
    action: jax.Array
    state: jax.Array


def rows(seed, spec=SPEC, lead=(TIME,), value=lambda q: q.max(axis=-1)):
    """Utilities, and the inputs of a mixer for actions drawn at random."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shape = (*lead, spec.n_agents)
    utilities = 3.0 * jax.random.normal(keys[0], (*shape, spec.n_actions))
    action = jax.nn.one_hot(jax.random.randint(keys[1], shape, 0, spec.n_actions), spec.n_actions)
    state = 2.0 * jax.random.normal(keys[2], (*lead, spec.state_dim))
    return Rows(chosen=(utilities * action).sum(-1), value=value(utilities), action=action, state=state)


def build(name, seed=0, spec=SPEC):
    """A mixer with weights larger than it is born with, so that no term hides behind another."""
    mixer = MIXERS[name](spec)
    return mixer, jax.tree.map(lambda leaf: 2.0 * leaf, mixer.init(jax.random.key(seed)))


def linear(layer, *inputs):
    return np.concatenate(inputs) @ layer["kernel"] + layer["bias"]


def mlp(layers, *inputs):
    x = np.concatenate(inputs)
    for i in range(len(layers)):
        x = linear(layers[f"Linear_{i}"], np.maximum(x, 0.0) if i else x)
    return x


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def importance(heads, s, u):
    total = np.zeros(SPEC.n_agents)
    for k in range(HEADS):
        head = jax.tree.map(lambda leaf, k=k: leaf[k], heads)
        key, agents = np.abs(mlp(head["key"], s)[0]) + 1e-10, sigmoid(mlp(head["agents"], s))
        total += key * agents * sigmoid(mlp(head["actions"], s, u.reshape(-1)))
    return total


def monotonic_in_numpy(params, q, v, u, s):
    kernel_1 = np.abs(mlp(params["kernel_1"], s)).reshape(SPEC.n_agents, 4)
    before = q @ kernel_1 + linear(params["bias_1"], s)
    hidden = np.where(before > 0, before, np.expm1(before))
    return hidden @ np.abs(mlp(params["kernel_2"], s)) + mlp(params["bias_2"], s)[0]


def duplex_in_numpy(params, q, v, u, s):
    w, b = np.abs(mlp(params["scale"], s)) + 1e-10, mlp(params["shift"], s)
    lam = importance(params["importance"]["heads"], s, u)
    return ((w * v + b) + lam * ((w * q + b) - (w * v + b))).sum()


def soft_duplex_in_numpy(params, q, v, u, s):
    lam = importance(params["importance"]["heads"], s, u)
    return mlp(params["state_value"], s)[0] + q.sum() + ((lam - 1.0) * (q - v)).sum()


def free_in_numpy(params, q, v, u, s):
    return mlp(params["joint"], s, q)[0] + mlp(params["state_value"], s)[0]


def convex_weights_in_numpy(params, s):
    product_ = np.abs(linear(params["kernel_1"], s)).reshape(SPEC.n_agents, 4) @ np.abs(linear(params["kernel_2"], s))
    return product_ / product_.sum()


ORACLES = {
    "sum": lambda params, q, v, u, s: sum(q),
    "monotonic": monotonic_in_numpy,
    "monotonic_linear": monotonic_in_numpy,
    "duplex_1": duplex_in_numpy,
    "duplex_3": duplex_in_numpy,
    "soft_duplex": soft_duplex_in_numpy,
    "free": free_in_numpy,
    "convex": lambda params, q, v, u, s: q @ convex_weights_in_numpy(params, s),
}


def in_numpy(name, params, inputs):
    """The oracle of a mixer row by row, in float64."""
    params, inputs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, inputs))
    return np.array([ORACLES[name](params, *row) for row in zip(*inputs)])


@EVERY
def test_q_total_equals_the_published_formula_row_by_row_in_numpy(name):
    mixer, params = build(name)
    inputs = rows(1)
    np.testing.assert_allclose(
        jax.jit(mixer.mix)(params, *inputs), in_numpy(name, params, inputs), rtol=1e-5, atol=1e-5
    )


def test_with_a_soft_value_fop_equals_its_formula():
    mixer, params = build("soft_duplex")
    inputs = rows(2, value=lambda q: 0.5 * jax.nn.logsumexp(q / 0.5, axis=-1))
    assert (np.asarray(inputs.value) > np.asarray(rows(2).value)).all()  # not the greedy value
    np.testing.assert_allclose(
        mixer.mix(params, *inputs), in_numpy("soft_duplex", params, inputs), rtol=1e-5, atol=1e-5
    )


@EVERY
def test_a_batch_of_trajectories_is_mixed_as_its_rows_are(name):
    mixer, params = build(name)
    inputs = rows(3, lead=(4, TIME))
    got = jax.jit(jax.vmap(mixer.mix, in_axes=(None, 0, 0, 0, 0)))(params, *inputs)
    assert got.shape == (4, TIME)
    flat = Rows(*(leaf.reshape(-1, *leaf.shape[2:]) for leaf in inputs))
    np.testing.assert_allclose(got.reshape(-1), in_numpy(name, params, flat), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "layers"),
    [
        (sum_mixer, {}),
        (monotonic_mixer, {"kernel_1": [(5, 64), (64, 96)], "bias_1": [(5, 32)], "bias_2": [(5, 32), (32, 1)]}),
        (duplex_mixer, {"scale": [(5, 64), (64, 3)], "shift": [(5, 64), (64, 3)]}),
        (duplex_mixer, {"key": [(4, 5, 64), (4, 64, 1)], "agents": [(4, 5, 64), (4, 64, 3)]}),
        (duplex_mixer, {"actions": [(4, 17, 64), (4, 64, 3)]}),  # 17 = 5 of the state and 3 agents' 4 actions
        (soft_duplex_mixer, {"key": [(4, 5, 1)], "agents": [(4, 5, 3)], "actions": [(4, 17, 3)]}),
        (soft_duplex_mixer, {"state_value": [(5, 32), (32, 1)]}),
        (free_mixer, {"joint": [(8, 256), (256, 256), (256, 256), (256, 1)], "state_value": [(5, 256), (256, 1)]}),
        (convex_mixer, {"kernel_1": [(5, 96)], "kernel_2": [(5, 32)]}),
    ],
)
def test_by_default_layers_have_the_published_sizes(factory, layers):
    paths = jax.tree_util.tree_leaves_with_path(jax.eval_shape(factory(SPEC).init, jax.random.key(0)))
    kernels = [([part.key for part in path], leaf.shape) for path, leaf in paths if path[-1].key == "kernel"]
    found = {name: [shape for path, shape in kernels if name in path] for name in layers}
    assert found == layers


def test_without_a_hidden_layer_the_kernels_are_linear_in_the_state_before_the_absolute_value():
    linear_kernels, deeper = (MIXERS[name](SPEC).init(jax.random.key(0)) for name in ("monotonic_linear", "monotonic"))
    layers = {name: len(linear_kernels[name]) for name in ("kernel_1", "kernel_2", "bias_2")}
    assert layers == {"kernel_1": 1, "kernel_2": 1, "bias_2": 2}
    assert len(deeper["kernel_1"]) == len(deeper["kernel_2"]) == 2
    assert linear_kernels["kernel_1"]["Linear_0"]["kernel"].shape == (SPEC.state_dim, SPEC.n_agents * 4)


def test_monotonic_mixing_by_hand():
    mixing = Mixing(
        kernel_1=jnp.array([[1.0, 2.0], [0.5, 0.0]]),
        bias_1=jnp.array([0.5, -4.0]),
        kernel_2=jnp.array([2.0, 3.0]),
        bias_2=jnp.float32(-1.0),
    )
    # hidden: ELU(1·1 + 2·0.5 + 0.5) = 2.5 and ELU(1·2 + 2·0 - 4) = e⁻² - 1
    expected = 2.0 * 2.5 + 3.0 * (np.exp(-2.0) - 1.0) - 1.0
    np.testing.assert_allclose(mix(mixing, jnp.array([1.0, 2.0])), expected, rtol=1e-6)


@pytest.mark.parametrize("size", ["heads", "layers", "hidden"])
def test_a_duplex_mixer_without_size_says_so(size):
    with pytest.raises(ValueError, match=f"{size} 0 .* at least 1"):
        duplex_mixer(SPEC, **{size: 0})


def test_heads_are_born_different_and_each_from_the_distribution_of_a_single_one():
    heads = duplex_mixer(SPEC, heads=50, layers=2, hidden=8).init(jax.random.key(0))["importance"]["heads"]
    kernel = np.asarray(heads["actions"]["Linear_0"]["kernel"])
    assert len(np.unique(kernel, axis=0)) == 50
    bound = 17**-0.5  # fan-in of one head: 5 of the state and 3 agents' 4 actions
    assert 0.99 * bound < kernel.max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.03)


RISING = [name for name in MIXERS if name != "free"]


def slopes(name, seed=4, n=200):
    """dQ_tot / dq_i: by the gradient that trains, and by a finite difference of the value, both `[n, N]`."""
    inputs = rows(seed, lead=(n,))

    def one(key, *row):
        mixer = MIXERS[name](SPEC)
        params = jax.tree.map(lambda leaf: 2.0 * leaf, mixer.init(key))
        mixed = lambda q: mixer.mix(params, q, *row[1:])
        step = jnp.eye(SPEC.n_agents)
        rise = jax.vmap(mixed)(row[0][None] + step) - jax.vmap(mixed)(row[0][None] - step)
        return jax.grad(mixed)(row[0]), rise / 2.0

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), n), *inputs))


@pytest.mark.default("duplex_1", "monotonic")
@pytest.mark.parametrize("name", RISING)
def test_q_total_never_falls_when_a_utility_rises(name):
    gradient, rise = slopes(name)
    assert (gradient >= 0.0).all()
    assert (rise > -1e-5).all()
    assert (gradient > 1e-4).mean() > 0.8
    assert (rise > 1e-4).mean() > 0.8


def test_a_free_mixer_may_fall_when_a_utility_rises():
    gradient, rise = slopes("free")
    assert (gradient < -1e-2).mean() > 0.1
    assert (rise < -1e-2).mean() > 0.1


def test_convex_weights_are_positive_sum_to_one_and_are_the_gradient():
    mixer, params = build("convex")
    inputs = rows(5)
    weights = mixer.weights(params, inputs.state)
    expected = [convex_weights_in_numpy(jax.tree.map(np.float64, params), np.float64(s)) for s in inputs.state]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert (np.asarray(weights) > 0.0).all()
    np.testing.assert_allclose(np.asarray(weights, np.float64).sum(-1), 1.0, rtol=1e-6)
    gradient = jax.grad(lambda q: mixer.mix(params, q, *inputs[1:]).sum())(inputs.chosen)
    np.testing.assert_allclose(gradient, weights, rtol=1e-6)


def test_equal_utilities_are_a_fixed_point_of_the_convex_mixer():
    mixer, params = build("convex")
    inputs = rows(6)._replace(chosen=jnp.full((TIME, SPEC.n_agents), -7.0))
    np.testing.assert_allclose(mixer.mix(params, *inputs), -7.0, rtol=1e-6)


def test_vanishing_weights_become_uniform_and_keep_finite_gradients():
    mixer = convex_mixer(SPEC, embed=4)
    params = jax.tree.map(jnp.zeros_like, mixer.init(jax.random.key(0)))
    inputs = rows(7)
    np.testing.assert_allclose(mixer.weights(params, inputs.state), 1.0 / 3.0, rtol=1e-6)
    gradient = jax.grad(lambda p: mixer.mix(p, *inputs).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def best_joint_actions(name, n_agents, games=100):
    """Everyone's own best action and the best joint action by enumeration, `[games, N]` each.

    Weights stay moderate: where the sigmoids of λ saturate, an advantage rounds away in float32 and actions tie.
    """
    spec = SPEC._replace(n_agents=n_agents, n_actions=3)
    joint = np.array(list(product(range(3), repeat=n_agents)))

    def play(key):
        key_init, key_utilities, key_state = jax.random.split(key, 3)
        mixer = MIXERS[name](spec)
        params = jax.tree.map(lambda leaf: 1.5 * leaf, mixer.init(key_init))
        utilities = 2.0 * jax.random.normal(key_utilities, (n_agents, 3))
        chosen = utilities[np.arange(n_agents)[None], joint]
        value = jnp.broadcast_to(utilities.max(-1)[None], chosen.shape)
        state = jnp.broadcast_to(2.0 * jax.random.normal(key_state, (1, spec.state_dim)), (len(joint), spec.state_dim))
        return utilities, mixer.mix(params, chosen, value, jax.nn.one_hot(joint, 3), state)

    utilities, q_total = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(12), games))
    return np.asarray(utilities).argmax(-1), joint[np.asarray(q_total).argmax(-1)]


@pytest.mark.default("duplex_1-2", "monotonic-2")
@pytest.mark.parametrize("n_agents", [2, 3])
@pytest.mark.parametrize("name", ["sum", "monotonic", "duplex_1", "duplex_3", "convex"])
def test_the_best_joint_action_is_everyones_own_best(name, n_agents):
    own, best = best_joint_actions(name, n_agents)
    np.testing.assert_array_equal(best, own)


def test_the_enumeration_notices_a_mixer_without_that_property():
    own, best = best_joint_actions("free", 2)
    assert (own != best).any(axis=-1).mean() > 0.1


def test_with_a_soft_value_the_best_joint_action_may_differ_from_everyones_own_best():
    q = jnp.array([[1.0], [0.0]])  # one agent, two actions
    weights = Duplexing(scale=jnp.ones((2, 1)), shift=jnp.zeros((2, 1)), importance=jnp.array([[3.0], [0.5]]))
    soft, greedy = (mix_duplex(weights, q, jnp.full((2, 1), value)) for value in (2.0, 1.0))
    np.testing.assert_allclose(soft, [2.0 - 3.0, 2.0 - 1.0])  # v + λ (q - v): the second action wins
    np.testing.assert_allclose(greedy, [1.0, 0.5])  # with v = max q the first one does


@pytest.mark.parametrize("name", ["duplex_1", "duplex_3", "soft_duplex"])
def test_agents_learn_through_the_sum_alone_and_values_not_at_all(name):
    mixer, params = build(name)
    inputs = rows(8)
    chosen, value = jax.grad(lambda q, v: mixer.mix(params, q, v, *inputs[2:]).sum(), argnums=(0, 1))(*inputs[:2])
    if name == "soft_duplex":
        scale = np.ones((TIME, SPEC.n_agents))
    else:
        layers = jax.tree.map(np.float64, params["scale"])
        scale = np.array([np.abs(mlp(layers, np.float64(s))) for s in inputs.state])
    np.testing.assert_allclose(chosen, scale, rtol=1e-5)  # and not λ times that, the slope of the value
    np.testing.assert_array_equal(value, 0.0)


@pytest.mark.parametrize("name", ["duplex_1", "duplex_3", "soft_duplex"])
def test_importances_learn_through_the_advantages_alone(name):
    mixer, params = build(name)
    inputs = rows(9)
    gradient = jax.jit(jax.grad(lambda p, q: mixer.mix(p, q, *inputs[1:]).sum()))
    importances = jax.tree.leaves(gradient(params, inputs.chosen)["importance"])
    assert all((np.asarray(leaf) != 0.0).any() for leaf in importances)
    without = gradient(params, inputs.value)  # everyone plays its best: no advantage
    assert all((np.asarray(leaf) == 0.0).all() for leaf in jax.tree.leaves(without["importance"]))


@pytest.mark.parametrize("name", ["duplex_1", "duplex_3"])
def test_the_transformation_learns_through_the_sum_alone(name):
    mixer, params = build(name)
    inputs = rows(10)
    gradient = jax.jit(jax.grad(lambda p: mixer.mix(p, *inputs).sum()))(params)

    def sum_alone(p):
        """Σ w q + b: all that is left of Q_tot where the value is q itself, so that no advantage is."""
        return mixer.mix({**params, **p}, inputs.chosen, inputs.chosen, *inputs[2:]).sum()

    for part in ("scale", "shift"):
        expected = jax.jit(jax.grad(sum_alone))({part: params[part]})[part]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient[part], expected)
        assert all((np.asarray(leaf) != 0.0).any() for leaf in jax.tree.leaves(expected))


def test_the_gradient_of_an_importance_is_the_advantage_by_hand():
    scale, shift = jnp.array([2.0, 0.5]), jnp.array([10.0, -3.0])
    chosen, value = jnp.array([1.0, 4.0]), jnp.array([3.0, 4.5])
    mixed = lambda lam: mix_duplex(Duplexing(scale=scale, shift=shift, importance=lam), chosen, value)
    lam = jnp.array([0.25, 3.0])
    # q̃ = (12, -1), ṽ = (16, -0.75): Q_tot = 16 - 0.75 + 0.25 · (-4) + 3 · (-0.25)
    np.testing.assert_allclose(mixed(lam), 13.5, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(mixed)(lam), [-4.0, -0.25], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("sum", "chosen"),
        ("monotonic", "chosen state"),
        ("duplex_1", "chosen value action state"),
        ("soft_duplex", "chosen value action state"),
        ("free", "chosen state"),
        ("convex", "chosen state"),
    ],
)
def test_a_mixer_reads_what_it_says_row_by_row(name, read):
    mixer, params = build(name)
    inputs = rows(11)
    mixed = jax.jit(mixer.mix)
    clean = np.asarray(mixed(params, *inputs))
    for field, before in inputs._asdict().items():
        after = mixed(params, *inputs._replace(**{field: before.at[2].add(0.37)}))
        assert np.flatnonzero(np.asarray(after) != clean).tolist() == ([2] if field in read.split() else [])


@EVERY
def test_slopes_tell_how_much_each_agents_value_counts_whatever_the_gradient_is_made_to_be(name):
    mixer, params = build(name)
    inputs, step = rows(3), 1e-4
    found = np.asarray(jax.jit(lambda p, *row: slopes_of(mixer, p, *row))(params, *inputs))
    chosen = np.asarray(inputs.chosen, np.float64)
    for agent in range(SPEC.n_agents):
        moved = step * (np.arange(SPEC.n_agents) == agent)
        above, below = (in_numpy(name, params, inputs._replace(chosen=chosen + sign * moved)) for sign in (1, -1))
        np.testing.assert_allclose(found[:, agent], (above - below) / (2 * step), rtol=2e-4, atol=2e-4)
