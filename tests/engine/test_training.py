"""The compiled chunk: one program, no host, exact however it is cut, and every seed for itself."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.config.composition import make_env
from lsf_jax.engine import packing
from lsf_jax.engine.buffers import latest
from lsf_jax.engine.packing import Shape
from lsf_jax.engine.training import Sizes, init_train_state, iteration_keys, make_chunk, make_train_step
from lsf_jax.platforms import compiling_for
from lsf_jax.programs import parts
from lsf_jax.programs.compiled import jit_chunk, seed_mesh
from lsf_jax.programs.planner import tree_bytes
from lsf_jax.types import AgentState, Algorithm, Clock, Episode, Kept, TrainState
from tests.support.engine_cases import (
    FOREVER,
    ROWS,
    advance,
    assert_same_bits,
    bits,
    chunk_of,
    counted_compilations,
    equations,
    program_of,
    seed_slice,
    small,
    start,
)

# A replay larger than everything else a chunk needs, so that a copy of it would show.
CONFIG = small("train.buffer_capacity=65536")
# Where the rounding of norms matters; every device compiles its own program, so it is a small one.
CLIPPED = small("algo.recurrent=false", "algo.grad_clip=0.01", "algo.trace=0.8", algo="vdn")
DEVICES = [2, pytest.param(8, marks=pytest.mark.slow)]
PREFILL = 2  # iterations until four episodes are stored
PURE = ("callback", "infeed", "outfeed", "debug", "host", "io_effect")


@pytest.fixture(scope="module")
def traced() -> Any:
    return chunk_of(CONFIG).trace(start(CONFIG), jnp.int32(1), jnp.int32(1)).jaxpr.jaxpr


@pytest.fixture(scope="module")
def batched_equations(traced) -> list[Any]:
    return list(equations(traced))


# One program.


def test_a_run_with_shorter_chunks_another_budget_and_other_numbers_compiles_once():
    chunk = chunk_of(CONFIG)
    states = [start(CONFIG)] + [start(CONFIG, **{name: 0.3}) for name in program_of(CONFIG).algorithm.hyper._fields]
    calls = [(jnp.int32(n), jnp.int32(budget)) for n, budget in ((1, 5), (3, 100), (2, FOREVER))]
    chunk(start(CONFIG), *calls[0])
    with counted_compilations() as found:
        for state in states:
            for call in calls:
                state, _ = chunk(state, *call)
    assert found == []
    assert chunk._cache_size() == 1


def test_counting_compilations_sees_one():
    with counted_compilations() as found:
        jax.jit(lambda x: x * 3 - 1)(jnp.arange(17)).block_until_ready()
    assert found


def step_text(*overrides: str) -> str:
    config = small("algo.recurrent=false", *overrides, env="matrix_game")
    program = program_of(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    hyper = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), program.algorithm.hyper)
    state = jax.eval_shape(partial(init_train_state, program.algorithm, program.buffer), hyper, key)
    return jax.jit(program.step).lower(state, jnp.int32(1)).as_text()


@pytest.mark.slow
def test_traced_numbers_do_not_shape_the_program_and_static_settings_do():
    base = step_text()
    numbers = [f"algo.{name}=0.25" for name in program_of(CONFIG).algorithm.hyper._fields]
    assert step_text(*numbers) == base
    assert step_text("algo.target_interval=7") != base


# No host.


def test_a_chunk_has_no_primitive_that_talks_to_the_host(batched_equations):
    names = {equation.primitive.name for equation in batched_equations}
    assert "dot_general" in names
    assert not [name for name in names if any(word in name for word in PURE)]


def test_a_chunk_moves_nothing_between_host_and_device():
    state, n, budget = start(CONFIG), jnp.int32(2), jnp.int32(FOREVER)
    with jax.transfer_guard("disallow"):
        state, log = chunk_of(CONFIG)(state, n, budget)
        jax.block_until_ready((state, log))
    assert int(state.iteration) == 2


# Under the seed axis.


def scalar_conds(found: list[Any]) -> list[Any]:
    return [each for each in found if each.primitive.name == "cond" and each.invars[0].aval.shape == ()]


def branch_work(equation: Any) -> set[str]:
    return {inner.primitive.name for branch in equation.params["branches"] for inner in equations(branch.jaxpr)}


def test_learning_or_not_and_the_target_copy_stay_branches(batched_equations):
    works = [branch_work(each) for each in scalar_conds(batched_equations)]
    assert sum("dot_general" in work for work in works) == 1  # learn or skip
    # The copy moves every target parameter and computes nothing.
    n_targets = len(jax.tree.leaves(start(CONFIG).agent.targets))
    copies = [
        each
        for each, work in zip(scalar_conds(batched_equations), works, strict=True)
        if not work and len(each.outvars) >= n_targets
    ]
    assert len(copies) == 1


def test_only_the_parameters_taken_at_the_budget_are_selected_for_each_seed(traced):
    loop = next(each for each in traced.eqns if each.primitive.name in ("while", "scan"))
    body = loop.params["body_jaxpr"].jaxpr
    kernel = start(CONFIG).agent.params["critic"]["critic"]
    shapes = [leaf.shape for leaf in jax.tree.leaves(kernel) if leaf.ndim == 3]
    shape = max(shapes, key=np.prod)
    copies = sum(leaf.shape == shape for leaf in jax.tree.leaves(start(CONFIG).agent.params))
    flat = list(top_level(body))
    selects = [each for each in flat if each.primitive.name == "select_n" and each.outvars[0].aval.shape == shape]
    assert len(selects) == copies


def top_level(jaxpr: Any) -> Any:
    """Equations outside of branches and inner loops."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name in ("pjit", "jit", "closed_call", "custom_jvp_call"):
            yield from top_level(equation.params["jaxpr"].jaxpr)


def test_storing_is_a_slice_update_and_never_a_scatter(batched_equations):
    shapes = {leaf.shape for leaf in jax.tree.leaves(start(CONFIG).buffer)}
    writes = [each for each in batched_equations if each.outvars and each.outvars[0].aval.shape in shapes]
    names = [each.primitive.name for each in writes]
    assert names.count("dynamic_update_slice") == len(jax.tree.leaves(start(CONFIG).buffer))
    assert not [name for name in names if name.startswith("scatter") or name == "select_n"]


# Memory.


def test_every_buffer_of_the_state_is_donated():
    state = start(CONFIG)
    advance(chunk_of(CONFIG), state, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_chunk_needs_less_extra_memory_than_one_replay():
    state = start(CONFIG)
    used = chunk_of(CONFIG).lower(state, jnp.int32(1), jnp.int32(1)).compile().memory_analysis()
    one_replay = tree_bytes(state.buffer) // len(state.clock.env_steps)
    assert used.alias_size_in_bytes >= tree_bytes(state)
    assert used.argument_size_in_bytes <= tree_bytes(state) + 64
    assert used.temp_size_in_bytes < one_replay


@pytest.mark.slow
def test_live_bytes_stay_flat_over_many_chunks():
    def live() -> int:
        return sum(array.nbytes for array in jax.live_arrays())

    state, seen = start(CONFIG), []
    for i in range(300):
        state, log = advance(chunk_of(CONFIG), state, 1)
        jax.block_until_ready(log)
        if i >= 5:
            seen.append(live())
    assert max(seen) == min(seen)


# Exactness.


def test_the_same_iterations_in_other_chunks_give_the_same_bits():
    whole, log = advance(chunk_of(CONFIG), start(CONFIG), 20)
    first, log_a = advance(chunk_of(CONFIG), start(CONFIG), 10)
    second, log_b = advance(chunk_of(CONFIG), first, 10)
    assert int(whole.clock.updates) == 19
    assert_same_bits(whole, second)
    halves = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a)[:10], np.asarray(b)[:10]]), log_a[:4], log_b[:4])
    assert_same_bits(halves, jax.tree.map(lambda leaf: np.asarray(leaf)[:20], log[:4]))


@pytest.mark.slow
def test_a_run_of_packed_rows_and_slots_that_goes_on_from_the_host_gives_the_same_bits(monkeypatch):
    """Its state holds no episode that has begun, nor anything of how the last batch was packed."""
    config = small("algo.recurrent=false", "algo.hyper_hidden=0")
    monkeypatch.setattr(parts, "make_env", lambda config: make_env(config)._replace(ends_early=True))
    program = parts.bind(config)
    assert (program.sizes.slots, program.sizes.packs, len(program.sizes.lengths)) == (1, True, 4)
    chunk = jit_chunk(program, rows=ROWS, mesh=seed_mesh(1))
    whole, log = advance(chunk, start(config, [0, 1]), 12)
    first, log_a = advance(chunk, start(config, [0, 1]), 5)
    saved = jax.tree.map(np.asarray, first._replace(key=jax.random.key_data(first.key)))
    loaded = jax.tree.map(jnp.asarray, saved)
    second, log_b = advance(chunk, loaded._replace(key=jax.random.wrap_key_data(loaded.key)), 7)
    assert_same_bits(whole, second)
    halves = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a)[:5], np.asarray(b)[:7]]), log_a[:4], log_b[:4])
    assert_same_bits(halves, jax.tree.map(lambda leaf: np.asarray(leaf)[:12], log[:4]))
    shares = np.asarray(log.metrics["update_valid_fraction"])[1:12]
    assert len(np.unique(shares)) > 3
    assert (shares <= 0.8).all()  # of five places, one is what an episode bootstraps from


def test_a_seed_does_not_see_its_neighbours_nor_its_place():
    ours, _ = advance(chunk_of(CONFIG), start(CONFIG, [0, 1, 2, 3]), 12)
    theirs, _ = advance(chunk_of(CONFIG), start(CONFIG, [9, 4, 17, 2], lr=[0.1, 1.0, 3.0, 1e-3]), 12)
    assert_same_bits(seed_slice(ours, 2), seed_slice(theirs, 3))
    assert not np.array_equal(bits(seed_slice(ours, 1).agent)[0], bits(seed_slice(ours, 2).agent)[0])


@pytest.mark.slow
def test_other_widths_agree_to_rounding_after_a_few_updates():
    wide, _ = advance(chunk_of(CONFIG), start(CONFIG), 6)
    narrow, _ = advance(chunk_of(CONFIG), start(CONFIG, [2, 3]), 6)
    left, right = seed_slice(wide, slice(2, 4)), seed_slice(narrow, slice(None))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), left.agent.params, right.agent.params
    )
    assert_same_bits(left.buffer, right.buffer)


# Several devices.


@pytest.mark.slow  # by default tests/runs/test_experiment.py shows it, of whole runs
@pytest.mark.parametrize("n", DEVICES)
def test_devices_give_the_bits_of_one_that_runs_blocks_of_their_width(n):
    state, log = advance(chunk_of(CLIPPED, devices=n), start(CLIPPED, range(2 * n), devices=n), 4)
    state, more = advance(chunk_of(CLIPPED, devices=n), state, 5)
    for first in range(0, 2 * n, 2):
        rows = slice(first, first + 2)
        alone, alone_log = advance(chunk_of(CLIPPED), start(CLIPPED, [first, first + 1]), 4)
        alone, alone_more = advance(chunk_of(CLIPPED), alone, 5)
        assert_same_bits(seed_slice(state, rows), seed_slice(alone, slice(None)))
        for ours, theirs in ((log, alone_log), (more, alone_more)):
            metrics = {name: values[:, rows] for name, values in jax.tree.map(np.asarray, ours.metrics).items()}
            ours = ours._replace(metrics=metrics, nonfinite_at=np.asarray(ours.nonfinite_at)[rows])
            assert_same_bits(ours, theirs)
    assert int(state.clock.updates) == 8
    assert (np.asarray(more.metrics["q_gradient_norm"])[:5] > CLIPPED.algo.grad_clip).all()


def replay_addresses(state: TrainState) -> list[int]:
    shards = [shard for leaf in jax.tree.leaves(state.buffer) for shard in leaf.addressable_shards]
    return [shard.data.unsafe_buffer_pointer() for shard in shards]


@pytest.mark.parametrize("n", DEVICES)
def test_each_device_writes_to_the_replay_that_it_was_given(n):
    state = start(CLIPPED, range(2 * n), devices=n)
    before = replay_addresses(state)
    after, _ = advance(chunk_of(CLIPPED, devices=n), state, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert replay_addresses(after) == before


def held_bytes(device: jax.Device) -> int:
    """Bytes of all arrays, or of their parts, that lie on a device."""
    here = [array for array in jax.live_arrays() if device in array.sharding.device_set]
    return sum(math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize for array in here)


@pytest.mark.parametrize("n", DEVICES)
def test_each_device_holds_its_own_rows_and_no_others(n):
    devices = jax.devices()[:n]
    before = [held_bytes(device) for device in devices]
    state, _ = advance(chunk_of(CLIPPED, devices=n), start(CLIPPED, range(2 * n), devices=n), 1)
    gained = [held_bytes(device) - had for device, had in zip(devices, before, strict=True)]
    assert gained[1] >= tree_bytes(state.buffer) // n
    assert max(gained) - min(gained) < tree_bytes(state.buffer) // (2 * n)  # one row's replay
    for leaf in jax.tree.leaves(state):
        width = (2, *leaf.shape[1:]) if leaf.shape else ()
        assert [shard.data.shape for shard in leaf.addressable_shards] == [width] * n
        assert [shard.device for shard in leaf.addressable_shards] == devices


# What is learned and kept.


def test_nothing_is_learned_before_a_batch_is_stored():
    _, log = advance(chunk_of(CONFIG), start(CONFIG), PREFILL)
    assert np.asarray(log.updates)[:PREFILL].tolist() == [0, 1]
    assert np.isnan(log.metrics["td"][0]).all()
    assert np.isfinite(log.metrics["td"][1]).all()
    assert np.asarray(log.nonfinite_at).tolist() == [-1] * 4


def test_kept_parameters_are_those_of_the_first_boundary_at_or_past_the_budget():
    budget, state, history = 40, start(CONFIG), []
    for _ in range(20):
        state, _ = advance(chunk_of(CONFIG), state, 1, budget)
        history.append((np.asarray(state.clock.env_steps), bits(state.agent.params)))
    crossed = [next(i for i, (steps, _) in enumerate(history) if steps[k] >= budget) for k in range(4)]
    assert len(set(crossed)) > 1  # seeds cross at different iterations
    for k, at in enumerate(crossed):
        assert int(state.kept.env_steps[k]) == history[at][0][k]
        for kept, then in zip(bits(state.kept.params), history[at][1], strict=True):
            np.testing.assert_array_equal(kept[k], then[k])
    assert not np.array_equal(bits(state.kept.params)[0], bits(state.agent.params)[0])


def counting_algorithm(every: int) -> Algorithm:
    """Every update adds one to its parameter and reports its clock; targets are copied every so many updates."""

    def update(agent: AgentState, episodes: Episode, key: Any, clock: Clock, hyper: Any, micro_batch: int = 0) -> tuple:
        del episodes, key, hyper, micro_batch
        metrics = {"seen": clock.updates.astype(jnp.float32), "began": clock.env_steps.astype(jnp.float32)}
        return agent._replace(params={"a": agent.params["a"] + 1}), metrics

    def refresh(agent: AgentState, clock: Clock, previous: Clock) -> AgentState:
        due = clock.updates // every > previous.updates // every
        return agent._replace(targets={"a": jnp.where(due, agent.params["a"], agent.targets["a"])})

    unused: Any = None
    zero = jnp.int32(0)
    return Algorithm(
        name="counting",
        hyper=(),
        init=lambda key, hyper: AgentState(params={"a": zero}, targets={"a": zero}, opt_state={}),
        policy_params=lambda agent: agent.params["a"],
        update=update,
        refresh=refresh,
        **dict.fromkeys(("start", "act", "act_greedy", "act_sampled", "replay", "joint_table"), unused),
    )


@pytest.mark.parametrize(("every", "copied"), [(2, [0, 2, 4, 6, 8]), (3, [0, 0, 4, 6, 6]), (4, [0, 0, 4, 4, 8])])
def test_an_iterations_updates_count_for_its_refresh_and_its_env_steps_only_for_the_next(every, copied):
    """ε while learning is ε while acting: schedules see the env steps at which the newest episodes began."""
    fresh = Episode(
        world=jnp.zeros((2, 2)),
        action=jnp.zeros((2, 1, 1), jnp.uint8),
        reward=jnp.zeros((2, 1)),
        terminal=jnp.ones((2, 1), bool),
        valid=jnp.ones((2, 1), bool),
        info={},
    )
    buffer = latest(jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], fresh)), batch_size=4, n_envs=2)
    algorithm = counting_algorithm(every)
    step = jax.jit(make_train_step(algorithm, buffer, lambda *_: fresh, updates=2))
    state = init_train_state(algorithm, buffer, (), jax.random.key(0))
    targets, seen, began = [], [], []
    for _ in range(5):  # the first iteration stores without learning, the others update twice
        state, metrics = step(state, jnp.int32(FOREVER))
        targets.append(int(state.agent.targets["a"]))
        seen.append(float(metrics["seen"]))
        began.append(float(metrics["began"]))
    assert targets == copied
    assert seen[1:] == [0.5, 2.5, 4.5, 6.5]  # an update itself counts those before it
    assert began[1:] == [2, 4, 6, 8]
    assert int(state.clock.env_steps) == 10


# How much of what is computed is valid.


def lasting(*lengths: int, time: int = 6) -> Episode:
    """An episode of each length, of a game without a world."""
    n = len(lengths)
    valid = jnp.arange(time)[None] < jnp.array(lengths)[:, None]
    return Episode(
        world=jnp.zeros((n, time + 1)),
        action=jnp.zeros((n, time, 1), jnp.uint8),
        reward=valid.astype(jnp.float32),
        terminal=jnp.zeros((n, time), bool),
        valid=valid,
        info={},
    )


@pytest.mark.parametrize(
    ("platform", "sizes", "shapes", "rollout", "update"),
    [
        # Slots play 1 + 2 and 5 + 3 steps. Two rows hold 6 + 2 and 4 + 3 places, bootstraps included.
        ("cpu", Sizes((2, 4, 6), True, 2), (Shape(2, 10), Shape(4, 7)), 11 / (2 * 8), 11 / (2 * 8)),
        # Eight places are one too many for rows of seven: an episode a row, of which six places are in use.
        ("cpu", Sizes((2, 4, 6), True, 4), (Shape(2, 7), Shape(4, 7)), 11 / (4 * 5), 11 / (4 * 6)),
        ("cpu", Sizes((6,), True), (Shape(4, 7),), 11 / (4 * 5), None),
        # Accelerators compute the compiled length of the longest episode, and all places of a shape.
        ("gpu", Sizes((2, 4, 6), True, 4), (Shape(2, 10), Shape(4, 7)), 11 / (4 * 6), 11 / (2 * 10)),
        ("gpu", Sizes((2, 5, 6), True, 4), (Shape(2, 7), Shape(4, 7)), 11 / (4 * 5), 11 / (4 * 7)),
        ("gpu", Sizes((6,), True), (Shape(4, 7),), 11 / (4 * 6), None),
        ("gpu", Sizes((2, 5, 6)), (), 11 / (4 * 5), None),  # not packed
    ],
)
def test_valid_fractions_are_steps_done_of_steps_and_places_computed(
    monkeypatch, platform, sizes, shapes, rollout, update
):
    monkeypatch.setattr(packing, "shapes_of", lambda *_: shapes)
    fresh = lasting(1, 2, 5, 3)
    buffer = latest(jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], fresh)), batch_size=4, n_envs=4)
    algorithm = counting_algorithm(8)
    with compiling_for(platform):
        step = jax.jit(make_train_step(algorithm, buffer, lambda *_: fresh, 1, sizes))
        _, metrics = step(init_train_state(algorithm, buffer, (), jax.random.key(0)), jnp.int32(FOREVER))
    assert float(metrics["valid_fraction"]) == pytest.approx(rollout)
    assert metrics.get("update_valid_fraction") == (None if update is None else pytest.approx(update))
    assert float(metrics["episode_length"]) == 11 / 4
    assert int(metrics["env_steps"]) == 11


# Trouble.


def test_a_seed_that_blows_up_is_named_and_the_others_keep_their_bits():
    lr = np.array([1e-3, np.inf, 1e-3, 1e-3])
    clean, _ = advance(chunk_of(CONFIG), start(CONFIG), 8)
    state, log = advance(chunk_of(CONFIG), start(CONFIG, lr=lr), 8)
    assert np.asarray(log.nonfinite_at).tolist() == [-1, PREFILL, -1, -1]
    others = np.array([0, 2, 3])
    assert_same_bits(seed_slice(state, others)._replace(hyper=()), seed_slice(clean, others)._replace(hyper=()))
    assert np.isnan(jax.tree.leaves(state.agent.params["critic"])[0][1]).any()


def test_a_seed_all_of_whose_norms_are_nan_is_still_reported():
    state, _ = advance(chunk_of(CONFIG), start(CONFIG, lr=np.inf, actor_lr=np.inf, alpha_lr=np.inf), 6)
    _, log = advance(chunk_of(CONFIG), state, 2)
    norms = [values[0] for name, values in log.metrics.items() if name.endswith("_norm")]
    assert np.isnan(norms).all()
    assert np.asarray(log.nonfinite_at).tolist() == [7] * 4


# The log, with a step that does nothing but count.


def counting_state(n_seeds: int = 3) -> TrainState:
    zero, seeds = jnp.int32(0), jnp.arange(n_seeds)
    return TrainState(
        agent=AgentState(params={}, targets={}, opt_state={}),
        kept=Kept(params={}, env_steps=seeds),
        hyper=(),
        buffer=(),
        clock=Clock(env_steps=seeds, episodes=zero, updates=zero),
        iteration=zero,
        key=jax.random.split(jax.random.key(0), n_seeds),
    )


def counting_step(state: TrainState, budget: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    del budget
    clock = Clock(
        env_steps=state.clock.env_steps + 10, episodes=state.clock.episodes + 2, updates=state.clock.updates + 1
    )
    return state._replace(clock=clock, iteration=state.iteration + 1), {"env_steps": clock.env_steps}


def test_rows_are_counted_from_the_start_of_the_run_whatever_the_chunks():
    chunk = jax.jit(make_chunk(counting_step, rows=4, log_every=3))
    state, written = counting_state(), []
    for n in (2, 2, 5, 11):
        before = int(state.iteration)
        state, log = chunk(state, jnp.int32(n), jnp.int32(FOREVER))
        rows = (before + n) // 3 - before // 3
        assert log.iteration.shape == (4,)
        written += np.asarray(log.iteration)[:rows].tolist()
        assert np.asarray(log.metrics["env_steps"])[:rows, 1].tolist() == [10 * i + 1 for i in written[-rows:]][:rows]
        assert np.asarray(log.episodes)[:rows].tolist() == [2 * i for i in written[len(written) - rows :]]
    assert written == [3, 6, 9, 12, 15, 18]


def test_a_chunk_may_fill_all_its_rows():
    state, log = jax.jit(make_chunk(counting_step, rows=ROWS))(counting_state(), jnp.int32(ROWS), jnp.int32(1))
    assert np.asarray(log.iteration).tolist() == list(range(1, ROWS + 1))
    assert int(state.clock.updates) == ROWS
    assert np.asarray(log.nonfinite_at).tolist() == [-1, -1, -1]


def test_the_keys_of_an_iteration_come_from_the_seeds_key_and_the_iterations_number_alone():
    state = jax.tree.map(lambda leaf: leaf[0] if leaf.ndim else leaf, start(small("train.buffer_capacity=65536")))
    later = state._replace(iteration=jnp.int32(7))
    keys = iteration_keys(later)
    expected = jax.random.split(jax.random.fold_in(state.key, 7), 3)
    for key, wanted in zip((keys.collect, keys.update, keys.evaluate), expected, strict=True):
        assert jax.random.key_data(key).tolist() == jax.random.key_data(wanted).tolist()
    assert jax.random.key_data(keys.collect).tolist() != jax.random.key_data(iteration_keys(state).collect).tolist()
