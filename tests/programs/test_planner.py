"""The planner: counted bytes against real arrays, and layouts that fit."""

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.config.composition import Config, compose
from lsf_jax.programs import planner
from lsf_jax.programs.compiled import jit_chunk
from lsf_jax.programs.parts import bind, make_rows
from lsf_jax.programs.planner import GIB, USABLE, make_plan, peak_bytes, plan_text, row_bytes, size_text, tree_bytes
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import program_of, shared_programs, small, start

CONFIG = small("algo.recurrent=false", "algo.batch_size=8", "train.micro_batch=0", "train.memory_gib=1")


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Counting traces a whole iteration: seconds. Plans of one program here differ in limits and layouts alone."""
    bound, counted = {}, {}

    def bind_once(config: Config) -> Any:
        key = repr((config.algo, config.env, config.train.n_envs, config.train.buffer_capacity, config.train.lengths))
        if key not in bound:
            bound[key] = bind(config)
        return bound[key]

    def count_once(program: Any, micro_batch: int) -> dict[str, int]:
        key = id(program), micro_batch  # of programs that live as long as this
        if key not in counted:
            counted[key] = row_bytes(program, micro_batch)
        return counted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "bind", bind_once)
        patch.setattr(planner, "row_bytes", count_once)
        yield


def with_train(config: Config, **settings: object) -> Config:
    return replace(config, train=replace(config.train, **settings))


def limit_for(config: Config, rows: float, micro_batch: int = 0) -> float:
    """GiB in which exactly `rows` rows fit."""
    return (rows + 0.01) * sum(planner.row_bytes(planner.bind(config), micro_batch).values()) / USABLE / GIB


def array_bytes(tree: object) -> int:
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return sum(leaf.nbytes for leaf in leaves)


def test_components_are_the_bytes_of_the_real_arrays():
    state, needs, rows = start(CONFIG), planner.row_bytes(planner.bind(CONFIG), 0), 4
    assert needs["parameters"] * rows == array_bytes(state.agent.params)
    assert needs["targets"] * rows == array_bytes(state.agent.targets)
    assert needs["optimiser"] * rows == array_bytes(state.agent.opt_state)
    assert needs["kept parameters"] * rows == array_bytes(state.kept)
    assert needs["replay"] * rows == array_bytes(state.buffer)
    program = program_of(CONFIG)
    first = jax.tree.map(lambda leaf: leaf[0], state.agent)
    clock = jax.tree.map(lambda leaf: leaf[0] if leaf.ndim else leaf, state.clock)
    hyper = program.algorithm.hyper
    fresh = program.collect(program.algorithm.policy_params(first), clock, hyper, state.key[0])
    assert needs["fresh episodes"] == array_bytes(fresh)
    assert tree_bytes(state.key) == 8 * rows


@pytest.mark.slow
def test_activations_are_estimated_within_a_factor_of_two_of_the_compiled_program():
    wide = (
        "algo.hidden=32",
        "algo.batch_size=64",
        "env.n_steps=20",
        "algo.recurrent=false",
        "train.buffer_capacity=64",
    )
    config = small(*wide)
    estimate = row_bytes(bind(config), 0)["activations"] * 2
    rows = make_rows(config, program_of(config).algorithm)
    state = jax.eval_shape(lambda: start(config, rows.seed[:2]))
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    used = jit_chunk(program_of(config), rows=4).lower(state, counter, counter).compile().memory_analysis()
    assert estimate / 2 < used.temp_size_in_bytes < 2 * estimate


@pytest.mark.slow
def test_smaller_micro_batches_need_less_for_activations_and_the_same_elsewhere():
    whole, sliced = (planner.row_bytes(planner.bind(CONFIG), size) for size in (0, 4))
    assert sliced["activations"] < whole["activations"]
    assert {**sliced, "activations": 0} == {**whole, "activations": 0}


def test_the_least_that_a_row_needs_is_never_more_than_what_it_needs():
    program = planner.bind(CONFIG)
    state, _ = planner._shapes(program)
    drawn = tree_bytes(jax.eval_shape(program.buffer.sample, state.buffer, state.clock, state.key))
    for size in (4, 8):
        least = planner.least_bytes(program)(size)
        needs = planner.row_bytes(program, 0 if size == 8 else size)
        assert drawn <= least["batch"] <= needs["activations"]
        kept = set(least) - {"batch"}
        assert kept == set(needs) - {"activations"}
        assert {name: least[name] for name in kept} == {name: needs[name] for name in kept}


def test_activations_of_a_tpu_are_planned_with_the_padding_of_its_tiles():
    def needs(platform: str) -> dict[str, int]:
        return make_plan(CONFIG, hardware=planner.Hardware(platform, 1, GIB)).bytes_per_row

    on_gpu, on_tpu = needs("gpu"), needs("tpu")
    assert on_tpu["activations"] == int(1.35 * on_gpu["activations"])
    assert {**on_tpu, "activations": 0} == {**on_gpu, "activations": 0}


def test_peak_counts_what_lives_at_the_same_time():
    def chain(x):  # each of the three is dead before the next but one
        return jnp.sin(jnp.cos(jnp.tan(x)))

    def together(x):
        return jnp.tan(x) + jnp.cos(x) + jnp.sin(x)

    x = jnp.zeros(1000, jnp.float32)
    assert peak_bytes(jax.make_jaxpr(chain)(x).jaxpr) == 8000
    assert peak_bytes(jax.make_jaxpr(together)(x).jaxpr) == 12000


def test_all_rows_go_side_by_side_with_the_whole_batch_where_they_fit():
    plan = make_plan(CONFIG)
    assert (plan.rows, plan.width, plan.n_blocks, plan.micro_batch, plan.batch_size) == (4, 4, 1, 8, 8)
    assert plan.memory_bytes == GIB
    text = plan_text(plan)
    assert "1 block(s) of 4" in text
    assert "8 episodes, whole" in text
    assert size_text(plan.bytes_per_row["replay"]) in text


def test_a_smaller_micro_batch_is_tried_before_blocks():
    between = (limit_for(CONFIG, 4, 4) + limit_for(CONFIG, 4)) / 2
    plan = make_plan(with_train(CONFIG, memory_gib=between))
    assert (plan.width, plan.n_blocks, plan.micro_batch) == (4, 1, 4)
    assert "in 2 slices of 4" in plan_text(plan)


@pytest.mark.parametrize("batch", [1, 7, 8, 96, 1_000_000])
def test_the_slice_is_that_of_a_search_through_all_and_few_are_looked_at(batch):
    looked = []

    def needs(micro_batch: int) -> dict[str, int]:
        looked.append(micro_batch)
        return {"replay": 50, "activations": 3 * micro_batch}

    least = lambda micro_batch: {"replay": 50, "batch": micro_batch}
    slices = planner._slices(batch)
    assert slices == [size for size in range(1, batch + 1) if batch % size == 0 and (size == batch or size >= 4)]
    for room, rows in itertools.product((10, 60, 100, 700, 3000, 10**6, 10**9), (1, 3, 64)):
        fits = {size: room // (50 + 3 * size) for size in slices}
        enough = [size for size in slices if fits[size] >= max(1, min(rows, max(fits.values())))] or slices[:1]
        looked.clear()
        found = planner._slice_that_fits(needs, least, slices, room, rows)
        assert found[:2] == (fits[max(enough)], max(enough))
        assert len(looked) == len(set(looked)) <= 2 + len(slices).bit_length()
        assert [size for size in looked[:-1] if 50 + size > room] == []


def test_rows_that_do_not_fit_are_cut_into_equal_blocks():
    config = with_train(CONFIG, seeds=10)
    plan = make_plan(with_train(config, memory_gib=limit_for(CONFIG, 4, 4)))
    assert (plan.width, plan.n_blocks) == (4, 3)
    plan = make_plan(with_train(config, memory_gib=limit_for(CONFIG, 8, 4)))
    assert (plan.width, plan.n_blocks) == (5, 2)
    assert plan.width * sum(plan.bytes_per_row.values()) <= USABLE * plan.memory_bytes


@pytest.mark.slow
def test_grid_points_are_rows_and_given_settings_are_taken():
    swept = small("seeds=3", "algo.lr=1e-3,3e-3", "train.memory_gib=1")
    assert make_plan(swept).rows == 6
    assert make_plan(with_train(swept, block=4))[1:4] == (1, 4, 2)
    assert make_plan(with_train(swept, block=8))[1:4] == (1, 8, 1)  # filled up
    assert make_plan(with_train(swept, micro_batch=2)).micro_batch == 2


def test_devices_share_the_rows_and_on_a_host_the_memory():
    plan = make_plan(with_train(CONFIG, seeds=16, devices=8))
    assert plan[:4] == (16, 8, 2, 1)
    assert plan.memory_bytes == GIB // 8
    assert make_plan(with_train(CONFIG, seeds=2, devices=8)).n_devices == 2
    with pytest.raises(ConfigError, match=r"train\.devices is 99"):
        make_plan(with_train(CONFIG, devices=99))


def test_what_cannot_fit_is_refused_with_needs_and_remedies():
    with pytest.raises(ConfigError, match=r"one seed needs .*may be used; lower train\.buffer_capacity \(now 16\)"):
        make_plan(with_train(CONFIG, memory_gib=1e-6))


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_traced(monkeypatch):
    monkeypatch.setattr(planner, "row_bytes", None)
    huge = small("algo.batch_size=1000000", "train.buffer_capacity=1000000", "train.micro_batch=0")
    with pytest.raises(ConfigError, match=r"one seed needs at least .*\(batch .* or algo\.batch_size \(now 1000000\)"):
        make_plan(with_train(huge, memory_gib=0.1))


def test_an_evaluation_that_cannot_fit_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"train\.eval_episodes is 1000000; an evaluation of one seed needs .* lower"):
        make_plan(with_train(CONFIG, eval_episodes=1_000_000, memory_gib=0.01))


def test_a_given_block_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"train\.block is 100000; \d+ seeds side by side fit into"):
        make_plan(replace(CONFIG, train=replace(CONFIG.train, block=100_000, memory_gib=0.05)))


def test_disk_is_what_a_checkpoint_of_a_block_holds():
    plan = make_plan(CONFIG)
    state = start(CONFIG)
    assert plan.disk_bytes == array_bytes((state.agent, state.kept, state.buffer))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", pytest.param("release", marks=pytest.mark.slow)])
def test_presets_with_128_episodes_an_update_fit_four_seeds_into_24_gb(preset):
    config = compose(
        presets=[preset], overrides=["seeds=4", "train.memory_gib=22.35", "train.devices=1", "train.block=4"]
    )
    plan = make_plan(config)  # 24e9 bytes
    assert plan.batch_size == 128
    assert config.train.buffer_capacity == 5000
    assert (plan.rows, plan.width, plan.n_blocks) == (4, 4, 1)
    assert 4 * sum(plan.bytes_per_row.values()) < 24e9


def test_sizes_are_told_in_binary_units():
    assert [size_text(n) for n in (0, 1023, 1024, 1536 * 1024, 3 * GIB)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "3.00 GiB",
    ]
