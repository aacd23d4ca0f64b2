"""Loops over rows: several episodes, rows in use, gradients against plain autodiff, and slices that stay so."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.networks import recurrence
from lsf_jax.networks.agents import AgentNetwork, Mlp, run, unroll
from lsf_jax.networks.gru import gru_cell
from lsf_jax.networks.recurrence import each_row, mapped_as, over_rows, read_row, recur, recur_keeping, write_row
from lsf_jax.platforms import compiling_for
from lsf_jax.types import Layout
from tests.support.engine_cases import equations

ROWS, TRAJECTORIES, AGENTS, OWN, SHARED, HIDDEN, OUTPUTS = 7, 3, 2, 4, 3, 5, 2
BEGINNINGS = np.array([[0, 3], [0, 2], [0, 5]])  # two episodes in each trajectory
NETWORK = AgentNetwork(HIDDEN, OUTPUTS)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


FIRST = jnp.asarray((np.arange(ROWS)[:, None, None] == BEGINNINGS).any(axis=-1))  # [T+1, R]
INPUTS = (
    normal(0, ROWS, TRAJECTORIES, AGENTS, OWN),
    normal(1, 1, TRAJECTORIES, 1, SHARED),
)  # of a trajectory's own, common
START = 0.1 * normal(2, TRAJECTORIES, AGENTS, HIDDEN)


@pytest.mark.parametrize("is_mapped", [True, False])
def test_a_loop_whose_state_is_mapped_from_the_start_is_mapped_once_and_nothing_of_that_is_left(is_mapped):
    seen = []
    add = jax.custom_batching.custom_vmap(jnp.add)

    @add.def_vmap
    def of_all(axis_size, batched, total, value):
        seen.append(tuple(batched))
        return jnp.broadcast_to(total, (axis_size,)) + value, True

    def loop(value):
        start = mapped_as(value, jnp.zeros(())) if is_mapped else jnp.zeros(())
        return jax.lax.fori_loop(0, 3, lambda _, total: add(total, value), start)

    compiled = jax.jit(jax.vmap(loop)).lower(jnp.arange(2.0)).compile()
    assert compiled(jnp.arange(2.0)).tolist() == [0, 3]
    assert set(seen) == ({(True, True)} if is_mapped else {(False, True), (True, True)})
    assert " select(" not in compiled.as_text()


@pytest.fixture(scope="module")
def params():
    born = jax.jit(NETWORK.init)(jax.random.key(3), START, *(part[0] for part in INPUTS))["params"]
    return jax.tree.map(lambda leaf: 2.0 * leaf, born)


def step(params, hidden, row):
    return NETWORK.apply({"params": params}, hidden, *row)


def close(left, right, tolerance=2e-5):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def weighted(function, counts=None):
    """A scalar of all outputs, which differ in what they count; `counts [T+1]` says in which rows."""

    def total(*arguments):
        outputs = function(*arguments)
        weight = normal(9, *outputs.shape)
        weight = weight if counts is None else weight * counts.reshape(-1, *(1,) * (outputs.ndim - 1))
        return (weight * jnp.square(outputs)).sum()

    return total


@pytest.mark.parametrize("loop", [recur, recur_keeping])
def test_several_episodes_in_a_trajectory_equal_the_episodes_apart(params, loop):
    together = jax.jit(partial(loop, step))(params, START, Layout(FIRST), INPUTS)
    for r, (_, second) in enumerate(BEGINNINGS):
        for begin, end in ((0, second), (second, ROWS)):
            inputs = INPUTS[0][begin:end, r : r + 1], INPUTS[1][:, r : r + 1]
            hidden, alone = START[r : r + 1], []
            for row in inputs[0]:  # no loop of the library's
                hidden, output = step(params, hidden, (row, inputs[1][0]))
                alone.append(output[0])
            np.testing.assert_allclose(together[begin:end, r], np.stack(alone), rtol=1e-5, atol=1e-6)


def test_nothing_flows_back_from_one_episode_into_the_one_before(params):
    last = lambda own: recur(step, params, START, Layout(FIRST), (own, INPUTS[1]))[-1].sum()
    reached = np.asarray((jax.jit(jax.grad(last))(INPUTS[0]) != 0).any(axis=(2, 3)))
    np.testing.assert_array_equal(reached, np.arange(ROWS)[:, None] >= BEGINNINGS[:, 1])


def test_gradients_are_those_of_plain_autodiff_shared_inputs_included(params):
    def gradients(loop):
        run = lambda params, inputs: loop(step, params, START, Layout(FIRST), inputs)
        return jax.jit(jax.value_and_grad(weighted(run), argnums=(0, 1)))(params, INPUTS)

    close(gradients(recur), gradients(recur_keeping))
    assert gradients(recur)[1][1][1].shape == INPUTS[1].shape


@pytest.mark.parametrize("in_use", [1, 4, ROWS])
def test_rows_beyond_those_in_use_are_zero_and_touch_nothing(params, in_use):
    counts = jnp.asarray(np.arange(ROWS) < in_use, jnp.float32)

    def results(inputs, steps):
        run = lambda params, inputs: recur(step, params, START, Layout(FIRST, steps), inputs)
        outputs = run(params, inputs)
        return outputs, jax.grad(weighted(run, counts), argnums=(0, 1))(params, inputs)

    results = jax.jit(results)
    spoilt = INPUTS[0].at[in_use:].set(jnp.nan), INPUTS[1]
    outputs, gradients = results(spoilt, jnp.int32(in_use))
    every_row, all_gradients = results(INPUTS, jnp.int32(ROWS))
    np.testing.assert_array_equal(outputs[:in_use], every_row[:in_use])
    assert not outputs[in_use:].any()
    close(gradients, all_gradients, 1e-6)
    assert not gradients[1][0][in_use:].any()


def plainly(network, params, first, own):
    """One trajectory by a scan of the test's own."""

    def advance(hidden, row):
        return network.apply({"params": params}, jnp.where(row[0], 0.0, hidden), row[1])

    return jax.lax.scan(advance, jnp.zeros((AGENTS, HIDDEN)), (first, own))[1]


def in_two_blocks(monkeypatch, shortest):
    """On accelerators 6 or 7 rows are two blocks of 4, unless they are at most `shortest`; rows are filled up."""
    for name, value in (("SHORTEST", shortest), ("BLOCKS", 2), ("UNROLL", 2)):
        monkeypatch.setattr(recurrence, name, value)
    assert shortest or recurrence.block_length(6) == recurrence.block_length(7) == 4


@pytest.mark.default("cpu-True-True-0", "gpu-True-True-7")
@pytest.mark.parametrize(
    ("platform", "recurrent", "remat", "shortest"),
    [
        *(("cpu", True, True, 0), ("cpu", True, False, 0), ("cpu", False, True, 0)),
        *(("gpu", True, True, ROWS), ("gpu", True, True, 0)),
    ],
)
def test_twin_parameters_over_trajectories_equal_a_loop_forward_and_backward(
    monkeypatch, platform, recurrent, remat, shortest
):
    """`vmap` over parameters inside `vmap` over trajectories, as in algorithms with two critics."""
    in_two_blocks(monkeypatch, shortest)
    network, obs = NETWORK.clone(recurrent=recurrent, remat=remat), normal(4, TRAJECTORIES, ROWS, AGENTS, OWN)
    init = lambda key: network.init(key, START[0], obs[0, 0])["params"]
    twins = jax.vmap(init)(jax.random.split(jax.random.key(5), 2))

    def mapped(twins, obs):
        of_one = lambda first, own: jax.vmap(lambda one: unroll(network, one, Layout(first), own))(twins)
        return jax.vmap(of_one, in_axes=(1, 0))(FIRST, obs)

    def loop(twins, obs):
        each = lambda twin, r: plainly(network, jax.tree.map(lambda leaf: leaf[twin], twins), FIRST[:, r], obs[r])
        return jnp.stack([jnp.stack([each(twin, r) for twin in range(2)]) for r in range(TRAJECTORIES)])

    run = lambda function: jax.jit(jax.value_and_grad(weighted(function), argnums=(0, 1)))(twins, obs)
    expected = loop(twins, obs), run(loop)
    with compiling_for(platform):
        close((mapped(twins, obs), run(mapped)), expected)


MLP = Mlp((6, OUTPUTS))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_twins_that_read_what_is_their_own_equal_a_loop_and_multiply_trajectories_at_once(monkeypatch, platform):
    """As where each of two critics mixes its own values: parameters and inputs are mapped, the layout is not."""
    in_two_blocks(monkeypatch, 0)
    own, state = normal(6, TRAJECTORIES, 2, ROWS, OWN), normal(7, TRAJECTORIES, ROWS, SHARED)
    init = lambda key: MLP.init(key, own[0, 0], state[0])["params"]
    twins = jax.vmap(init)(jax.random.split(jax.random.key(5), 2))

    def mapped(twins, own, state):
        each = lambda twin, first, own, state: each_row(partial(run, MLP), twin, Layout(first), own, state)
        of_one = jax.vmap(each, in_axes=(0, None, 0, None))
        return jax.vmap(of_one, in_axes=(None, 1, 0, 0))(twins, FIRST, own, state)

    def loop(twins, own, state):
        each = lambda twin, r: run(MLP, jax.tree.map(lambda leaf: leaf[twin], twins), own[r, twin], state[r])
        return jnp.stack([jnp.stack([each(twin, r) for twin in range(2)]) for r in range(TRAJECTORIES)])

    results = lambda function: jax.jit(jax.value_and_grad(weighted(function), argnums=(0, 1, 2)))(twins, own, state)
    expected = loop(twins, own, state), results(loop)
    with compiling_for(platform):
        close((mapped(twins, own, state), results(mapped)), expected)
        axes = [eqn.params["dimension_numbers"][1][0] for eqn in products(mapped, twins, own, state)]
    assert {len(each) for each in axes} == {0, 1}  # twins; nothing of trajectories


def test_parameters_of_a_seed_each_equal_a_loop_over_seeds(params):
    """Everything mapped at once, but for how many rows are in use."""
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    inputs = tuple(jnp.stack([part, part + 1.0]) for part in INPUTS)
    run = lambda params, inputs: recur(step, params, START, Layout(FIRST, jnp.int32(5)), inputs)
    one = jax.jit(jax.value_and_grad(weighted(run), argnums=(0, 1)))
    apart = [one(*jax.tree.map(lambda leaf, s=seed: leaf[s], (seeds, inputs))) for seed in range(2)]
    close(jax.jit(jax.vmap(one))(seeds, inputs), jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart))


# On CPUs 6 rows for each time: 1, 2 (AT_ONCE // 6) or all 6 times together.
@pytest.mark.parametrize(("platform", "at_once"), [("cpu", 1), ("cpu", 13), ("cpu", 256), ("gpu", 1)])
@pytest.mark.parametrize("steps", [None, 3])
def test_each_row_equals_the_plain_function_forward_and_backward(monkeypatch, platform, at_once, steps):
    monkeypatch.setattr(recurrence, "AT_ONCE", at_once)
    in_two_blocks(monkeypatch, 0)
    time = ROWS - 1  # fewer than the layout has: mixers read what is done, not what comes after
    own, common, row = normal(6, TRAJECTORIES, time, AGENTS, OWN), normal(7, 1, AGENTS, SHARED), normal(8, time, 1, 2)
    params = MLP.init(jax.random.key(9), own[0], *(jnp.zeros((time, AGENTS, n)) for n in (SHARED, 2)))["params"]
    counts = jnp.asarray(np.arange(time) < (steps or time), jnp.float32)[None, :]

    def function(params, own, common, row):
        wide = lambda part: jnp.broadcast_to(part, (*own.shape[:-1], part.shape[-1]))
        return run(MLP, params, own, wide(common), wide(row))

    def by_rows(params, own, common, row):
        layout = Layout(FIRST[:, 0], None if steps is None else jnp.int32(steps))
        one = lambda own: each_row(function, params, layout, own, common, row)
        return jax.vmap(one)(own)

    def plain(params, own, common, row):
        return jax.vmap(lambda own: function(params, own, common, row))(own)

    def results(of):
        counted = lambda *arguments: jnp.where(counts[..., None, None] > 0, of(*arguments), 0.0)
        return jax.jit(jax.value_and_grad(weighted(counted), argnums=(0, 1, 2, 3)))(params, own, common, row)

    expected = results(plain)
    with compiling_for(platform):
        close(results(by_rows), expected)
        found = by_rows(params, own, common, row)[:, : steps or time]
    np.testing.assert_allclose(found, plain(params, own, common, row)[:, : steps or time], rtol=1e-5, atol=1e-6)


def test_a_single_row_that_trajectories_share_in_part_reaches_the_function_whole():
    """As in tables of all joint actions in one state: the function need not know what is mapped."""
    own, state = normal(1, TRAJECTORIES, 1, OWN), normal(2, 1, SHARED)
    join = lambda params, own, state: params * jnp.concatenate([own, state], axis=-1)
    found = jax.vmap(lambda own: each_row(join, jnp.float32(2.0), Layout(FIRST[:1, 0]), own, state))(own)
    wide = jnp.broadcast_to(state, (TRAJECTORIES, 1, SHARED))
    np.testing.assert_array_equal(found, 2.0 * jnp.concatenate([own, wide], axis=-1))


def test_products_of_a_cpus_loop_have_as_many_rows_as_fit_and_divide_the_time(monkeypatch):
    monkeypatch.setattr(recurrence, "AT_ONCE", 13)
    own = normal(6, TRAJECTORIES, ROWS - 1, AGENTS, OWN)
    params = MLP.init(jax.random.key(9), own[0])["params"]
    apply = lambda own: each_row(partial(run, MLP), params, Layout(FIRST[:, 0]), own)
    rows = [eqn.invars[0].aval.shape for eqn in products(jax.vmap(apply), own)]
    assert rows == [(2 * TRAJECTORIES * AGENTS, OWN), (2 * TRAJECTORIES * AGENTS, 6)]
    with compiling_for("gpu"):
        assert {shape[0] for shape in (eqn.invars[0].aval.shape for eqn in products(apply, own[0]))} == {6 * AGENTS}


def products(function, *arguments):
    return [eqn for eqn in equations(jax.make_jaxpr(function)(*arguments).jaxpr) if eqn.primitive.name == "dot_general"]


def primitives(function, *arguments):
    return {equation.primitive.name for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)}


def is_sliced(names):
    return not any(name.startswith(("gather", "scatter")) for name in names)


def test_rows_stay_slices_under_seeds_and_trajectories():
    rows, row, index = normal(1, 2, 3, ROWS, 4), normal(2, 2, 3, 4), jnp.int32(5)
    twice = lambda function, axes: jax.vmap(jax.vmap(function, in_axes=axes), in_axes=axes)
    read, write = twice(read_row, (0, None)), twice(write_row, (0, 0, None))
    np.testing.assert_array_equal(read(rows, index), rows[:, :, 5])
    np.testing.assert_array_equal(write(rows, row, index), rows.at[:, :, 5].set(row))
    assert is_sliced(primitives(read, rows, index))
    assert is_sliced(primitives(write, rows, row, index))
    plain = jax.vmap(lambda rows, index: rows[index], in_axes=(0, None))
    assert not is_sliced(primitives(plain, rows[0], index))  # what JAX makes of it
    indices = jnp.array([[1, 2, 3], [4, 5, 6]])  # an index of each its own
    np.testing.assert_array_equal(twice(read_row, (0, 0))(rows, indices)[1, 2], rows[1, 2, 6])
    np.testing.assert_array_equal(twice(write_row, (0, 0, 0))(rows, row, indices)[1, 0, 4], row[1, 0])


def test_a_gradient_for_seeds_and_twins_side_by_side_has_no_gather_and_no_scatter(params):
    run = lambda params, inputs: recur(step, params, START, Layout(FIRST, jnp.int32(5)), inputs)
    seeds, inputs = (jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree) for tree in (params, INPUTS))
    twins = lambda params, inputs: jax.vmap(lambda one: weighted(run)(one, inputs))(params).sum()
    pairs = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=1), seeds)
    for function, mapped in ((weighted(run), seeds), (twins, pairs)):
        names = primitives(jax.vmap(jax.grad(function)), mapped, inputs)
        assert "while" in names
        assert is_sliced(names)


def gru_by_its_equations(weights, hidden, inputs):
    """PyTorch's, gate by gate; JAX differentiates them."""
    gate = lambda source, value, k: (
        value @ jnp.split(weights[f"{source}_kernel"], 3, axis=1)[k] + jnp.split(weights[f"{source}_bias"], 3)[k][None]
    )
    r = jax.nn.sigmoid(gate("input", inputs, 0) + gate("hidden", hidden, 0))
    z = jax.nn.sigmoid(gate("input", inputs, 1) + gate("hidden", hidden, 1))
    n = jnp.tanh(gate("input", inputs, 2) + r * gate("hidden", hidden, 2))
    return (1.0 - z) * n + z * hidden


def test_the_hand_written_derivative_of_the_gru_is_that_of_its_equations():
    shapes = {"input_kernel": (OWN, 3 * HIDDEN), "hidden_kernel": (HIDDEN, 3 * HIDDEN)}
    shapes |= {f"{source}_bias": (3 * HIDDEN,) for source in ("input", "hidden")}
    weights = {name: normal(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    arguments = weights, normal(5, 8, HIDDEN), normal(6, 8, OWN)
    results = [
        jax.jit(jax.value_and_grad(weighted(cell), argnums=(0, 1, 2)))(*arguments)
        for cell in (gru_cell, gru_by_its_equations)
    ]
    close(*results)
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(results[0]))


def test_a_function_over_rows_sees_all_trajectories_at_once_and_common_inputs_once():
    seen = []

    def rows(params, layout, inputs):
        seen.append((layout.first.shape, [part.shape for part in inputs]))
        return params * inputs[0] + inputs[1]

    own, common = normal(1, TRAJECTORIES, ROWS, AGENTS, OWN), normal(2, 1, 1, OWN)
    found = jax.vmap(lambda own: over_rows(rows)(jnp.float32(2.0), Layout(FIRST[:, 0]), (own, common)))(own)
    assert seen[-1] == ((ROWS, TRAJECTORIES), [(ROWS, TRAJECTORIES, AGENTS, OWN), (1, 1, 1, OWN)])
    np.testing.assert_allclose(found, 2.0 * own + common[None], rtol=1e-6)
