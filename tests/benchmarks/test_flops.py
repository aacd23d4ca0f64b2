"""Counting matrix products, and the bound that nothing in an update is computed twice."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops
from benchmarks.flops import Product
from lsf_jax.config.composition import Config, compose, make_env
from lsf_jax.engine.training import init_train_state
from lsf_jax.platforms import compiling_for
from lsf_jax.programs.parts import bind

BOUND = 1.15
ROWS = jnp.zeros((5, 3))
SQUARE = jnp.zeros((3, 3))


def count(function, *arguments) -> int:
    return flops.count_flops(flops.count_products(function, *arguments))


def count_update(config: Config, n_seeds: int = 0) -> flops.Count:
    """Products of sample → update, of one seed or of several side by side."""
    program = bind(config)

    def learn(key):
        state = init_train_state(program.algorithm, program.buffer, program.algorithm.hyper, key)
        episodes = program.buffer.sample(state.buffer, state.clock, key)
        more = state.clock, state.hyper, config.train.micro_batch
        return program.algorithm.update(state.agent, episodes, key, *more)

    keys = jax.random.key(0) if not n_seeds else jax.random.split(jax.random.key(0), n_seeds)
    return flops.count_products(jax.vmap(learn) if n_seeds else learn, keys)


def config_of(*overrides: str, algo: str = "lsf_sac") -> Config:
    """The reference size: 32 episodes of predator-prey, 200 steps of 8 agents, hidden 64."""
    sizes = ["train.buffer_capacity=64", "algo.batch_size=32", "algo.hidden=64"]
    return compose(algo=algo, overrides=[*sizes, *overrides])


def test_a_product_counts_two_operations_for_each_multiplication_and_addition():
    counted = flops.count_products(lambda a, b: a @ b, jnp.zeros((2, 3)), jnp.zeros((3, 7)))
    assert counted.products == (Product(batch=1, m=2, n=7, k=3, times=1),)
    assert flops.count_flops(counted) == 2 * 2 * 3 * 7


def test_batched_products_keep_their_batch():
    counted = flops.count_products(jax.vmap(jnp.dot), jnp.zeros((4, 2, 3)), jnp.zeros((4, 3, 7)))
    assert counted.products == (Product(batch=4, m=2, n=7, k=3, times=1),)


def test_a_vector_product_has_one_row():
    assert count(lambda a, b: a @ b, jnp.zeros(3), jnp.zeros((3, 7))) == 2 * 3 * 7


def test_the_body_of_a_scan_counts_once_for_each_step():
    def scan(x):
        return jax.lax.scan(lambda h, _: (h @ SQUARE, None), x, None, length=11)[0]

    assert count(scan, ROWS) == 11 * 2 * 5 * 3 * 3
    assert count(lambda x: jax.lax.scan(lambda h, _: (scan(h), None), x, None, length=7)[0], ROWS) == 77 * 90


def test_a_cond_counts_its_dearest_branch():
    branches = (lambda x: x, lambda x: x @ SQUARE @ SQUARE, lambda x: x @ SQUARE)
    assert count(lambda i, x: jax.lax.switch(i, branches, x), jnp.int32(0), ROWS) == 2 * 90


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    counted = flops.count_products(lambda n, x: jax.lax.fori_loop(0, n, lambda _, h: h @ SQUARE, x), jnp.int32(9), ROWS)
    assert flops.count_flops(counted) == 90
    assert counted.unknown_loops == 1
    known = flops.count_products(lambda x: jax.lax.fori_loop(0, 9, lambda _, h: h @ SQUARE, x), ROWS)
    assert (flops.count_flops(known), known.unknown_loops) == (9 * 90, 0)


def test_inner_jits_and_rematerialised_functions_are_looked_into():
    assert count(jax.jit(lambda x: jax.jit(lambda y: y @ SQUARE)(x)), ROWS) == 90

    def loss(weights, step):
        return jax.lax.scan(lambda h, _: (step(h, weights), None), ROWS, None, length=4)[0].sum()

    plain = count(jax.grad(lambda w: loss(w, lambda h, w: jnp.tanh(h @ w))), SQUARE)
    again = count(jax.grad(lambda w: loss(w, jax.checkpoint(lambda h, w: jnp.tanh(h @ w)))), SQUARE)
    assert plain == 4 * 3 * 90
    assert again == 4 * 4 * 90


def test_products_that_no_output_depends_on_are_left_out():
    def wasteful(x):
        unused = jax.lax.scan(lambda h, _: (h @ SQUARE, h @ SQUARE), x, None, length=4)
        return x + (x @ SQUARE), unused[0]

    assert count(lambda x: wasteful(x)[0], ROWS) == 90
    assert count(wasteful, ROWS) == 90 + 4 * 90


def test_a_network_of_two_layers_costs_what_the_rule_says():
    def loss(params, x):
        return (jnp.maximum(x @ params[0], 0.0) @ params[1]).sum()

    params = (jnp.zeros((3, 4)), jnp.zeros((4, 2)))
    layers = (flops.Layer("1", 5, 3, 4, flops.FIRST), flops.Layer("2", 5, 4, 2, flops.TRAINED))
    # The gradient of a sum needs no product for the last layer's output, only shapes decide here.
    assert count(jax.value_and_grad(loss), params, ROWS) == sum(flops.layer_flops(layer) for layer in layers)


def test_the_reference_size_needs_about_34_gflop():
    config = config_of("algo.message_routing=per_receiver")
    spec = make_env(config).spec
    total = flops.analytic_update_flops(spec, config.algo)
    assert total == pytest.approx(34e9, rel=0.02)  # per-receiver messages; independent count in the design, section 9


@pytest.mark.parametrize("algo", ["lsf_sac", "masac", "masac_double_q", "qmix", "vdn"])
def test_every_layer_of_a_table_has_a_name_of_its_own(algo):
    config = config_of(algo=algo)
    names = [layer.name for layer in flops.update_layers(make_env(config).spec, config.algo)]
    assert len(names) == len(set(names))


def test_settings_of_an_algorithm_without_a_table_are_refused():
    config = config_of(algo="qplex")
    with pytest.raises(ValueError, match="no table of layers for QplexConfig"):
        flops.analytic_update_flops(make_env(config).spec, config.algo)


@pytest.mark.default("default")
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("algo.message_routing=per_receiver",),
        pytest.param(("algo.recurrent=false",), marks=pytest.mark.slow),
        pytest.param(("algo.encoder_input=history",), marks=pytest.mark.slow),
        pytest.param(("algo.td_gradient_to_encoder=false",), marks=pytest.mark.slow),
        pytest.param(("algo.hyper_hidden=0",), marks=pytest.mark.slow),
        pytest.param(("algo.td_target=double_q", "algo.label=actor_soft"), marks=pytest.mark.slow),
        ("train.micro_batch=8",),
        pytest.param(("algo.communicate=true", "algo.message_routing=per_receiver"), marks=pytest.mark.slow),
        ("algo.communicate=true",),
        ("algo.twin=true",),
    ],
    ids=lambda overrides: overrides[0] if overrides else "default",
)
def test_nothing_in_an_update_is_computed_twice(overrides):
    """But for what is declared; on accelerators, too, at the default."""
    assert_needs_what_its_table_says("lsf_sac", *overrides, platforms=("cpu",) if overrides else ("cpu", "gpu"))


@pytest.mark.default("iql-overrides7")
@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        pytest.param("lsf_sac_fixed_alpha", (), marks=pytest.mark.slow),
        ("masac", ()),
        pytest.param("masac", ("algo.recurrent=false", "algo.td_target=sampled"), marks=pytest.mark.slow),
        pytest.param("masac_double_q", (), marks=pytest.mark.slow),
        ("qmix", ()),
        ("qmix", ("algo.recurrent=false", "algo.hyper_hidden=0")),
        pytest.param("vdn", (), marks=pytest.mark.slow),
        ("iql", ()),
    ],
)
def test_nothing_in_an_update_of_the_ablations_and_of_qmix_is_computed_twice(algo, overrides):
    assert_needs_what_its_table_says(algo, *overrides)


def assert_needs_what_its_table_says(algo, *overrides, platforms=("cpu",)):
    """With the recomputation that is declared, and nothing else."""
    config = config_of(*overrides, algo=algo)
    declared = flops.analytic_update_flops(make_env(config).spec, config.algo, recompute=True)
    for platform in platforms:
        with compiling_for(platform):
            counted = count_update(config)
        assert counted.unknown_loops == 0
        assert 0.99 < flops.count_flops(counted) / declared <= BOUND


@pytest.mark.default("qmix-overrides1")
@pytest.mark.parametrize(("algo", "overrides"), [("lsf_sac", ("algo.communicate=true",)), ("qmix", ())])
def test_rematerialisation_repeats_the_forward_pass_of_the_recurrences_once_and_nothing_else(algo, overrides):
    plain, repeated = (config_of(f"algo.remat={each}", *overrides, algo=algo) for each in ("false", "true"))
    spec = make_env(plain).spec
    declared = [flops.analytic_update_flops(spec, each.algo, recompute=True) for each in (plain, repeated)]
    found = [flops.count_flops(count_update(each)) for each in (plain, repeated)]
    assert found[1] - found[0] == declared[1] - declared[0] > 0.13 * found[0]


def test_mixers_repeat_their_forward_pass_once_and_nothing_else():
    config = config_of("algo.remat=false", algo="qmix")
    spec, found = make_env(config).spec, flops.count_flops(count_update(config))
    needed, declared = (flops.analytic_update_flops(spec, config.algo, recompute=each) for each in (False, True))
    assert needed < declared < found < 1.001 * declared  # sums of biases are products too


@pytest.mark.slow
def test_seeds_side_by_side_cost_what_they_cost_alone():
    config = config_of("env.episode_limit=5", "algo.batch_size=4")
    one, three = count_update(config), count_update(config, n_seeds=3)
    assert flops.count_flops(three) == 3 * flops.count_flops(one)
