"""Episodes end to end in rows: none is lost, none touches another, and an update learns what it did before."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.engine.lengths import SEEDS_AXIS
from lsf_jax.engine.packing import (
    Shape,
    by_row,
    choices_of,
    fitted_rows,
    moments_of,
    observe_rows,
    one_per_row,
    pack_rows,
    place,
    row_keys,
    shapes_of,
    valid_fraction,
)
from lsf_jax.envs.probes import RaggedConfig, ragged
from lsf_jax.platforms import compiling_for
from lsf_jax.types import Episode, PackedRows
from tests.support.engine_cases import assert_same_bits, equations
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC, episodes_of, make_games

PLATFORMS = ["cpu", "gpu"]


def episodes(lengths: Any, time: int = 8) -> Episode:
    """Episodes of which no two numbers are alike, zero after the end."""
    n, lengths = len(lengths), np.asarray(lengths)
    valid = np.arange(time) < lengths[:, None]
    real = np.arange(time + 1) <= lengths[:, None]
    number = 1 + np.arange(n * (time + 1)).reshape(n, time + 1)
    steps = number[:, :time]
    return Episode(
        world={"cell": jnp.asarray(number * real, jnp.int32), "pair": jnp.asarray(np.stack([real, ~real], -1) * 1.0)},
        action=jnp.asarray((np.stack([steps, steps + 1], -1) % 250 + 1) * valid[:, :, None], jnp.uint8),
        reward=jnp.asarray(steps * valid, jnp.float32),
        terminal=jnp.asarray(valid & (np.arange(time) == lengths[:, None] - 1) & (np.arange(n) % 2 == 0)[:, None]),
        valid=jnp.asarray(valid),
        info={},
    )


def random_lengths(seed: int, n: int = 8, time: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, time + 1, n)


# Shapes.


@pytest.mark.parametrize(
    ("limit", "batch", "lengths", "on_cpu", "on_gpu"),
    [
        (10, 8, (3, 6, 9, 10), ((2, 11), (8, 11)), ((4, 6), (8, 11))),
        (10, 6, (5, 10), ((6, 11),), ((3, 6), (6, 11))),
        (10, 7, (5, 10), ((7, 11),), ((7, 11),)),
        (10, 1, (5, 10), ((1, 11),), ((1, 11),)),
        (10, 8, (10,), ((8, 11),), ((8, 11),)),
        (1, 8, (1,), ((8, 2),), ((8, 2),)),
    ],
)
def test_shapes_have_fewer_rows_than_episodes_and_the_last_one_holds_any_batch(limit, batch, lengths, on_cpu, on_gpu):
    for platform, expected in (("cpu", on_cpu), ("gpu", on_gpu)):
        with compiling_for(platform):
            shapes = shapes_of(limit, batch, lengths)
        assert shapes == expected
        _, _, starts = longest_first(np.full(batch, limit), shapes[-1].rows)
        assert max(starts) + limit + 1 <= shapes[-1].places


# Placement.


def longest_first(lengths: np.ndarray, n_rows: int) -> tuple[list[int], list[int], list[int]]:
    """Episode, row and first place by a loop: the longest that is left goes to the emptiest row."""
    loads, order = [0] * n_rows, sorted(range(len(lengths)), key=lambda episode: -lengths[episode])
    rows, starts = [], []
    for episode in order:
        rows.append(min(range(n_rows), key=lambda row: loads[row]))
        starts.append(loads[rows[-1]])
        loads[rows[-1]] += int(lengths[episode]) + 1
    return order, rows, starts


@pytest.mark.parametrize("n_rows", [1, 2, 3, 8])
def test_every_episode_gets_the_places_of_its_steps_and_one_more_and_none_twice(n_rows):
    placed = jax.jit(partial(place, n_rows=n_rows))
    for seed in range(6):
        lengths = random_lengths(seed)
        found = jax.device_get(placed(jnp.asarray(lengths, jnp.int32)))
        assert (found.order.tolist(), found.row.tolist(), found.start.tolist()) == longest_first(lengths, n_rows)
        taken = [
            (row, spot)
            for episode, row, start in zip(found.order, found.row, found.start, strict=True)
            for spot in range(start, start + lengths[episode] + 1)
        ]
        assert len(set(taken)) == len(taken) == lengths.sum() + len(lengths)
        assert sorted(found.order.tolist()) == list(range(8))
        assert 1 + max(spot for _, spot in taken) == found.needed
        assert n_rows < 8 or found.needed == lengths.max() + 1


# Rows.


def packed_by_hand(batch: Episode, lengths: np.ndarray, shape: Shape) -> PackedRows:
    """Place after place, in NumPy."""
    own = jax.tree.map(np.asarray, batch)
    empty = lambda leaf, places: np.zeros((shape.rows, places, *leaf.shape[2:]), leaf.dtype)
    index = np.zeros((shape.rows, shape.places), np.int32)
    rows = PackedRows(
        world=jax.tree.map(lambda leaf: empty(leaf, shape.places), own.world),
        **{name: empty(getattr(own, name), shape.places - 1) for name in ("action", "reward", "terminal", "valid")},
        first=index.astype(bool),
        episode=index.copy(),
        moment=index.copy(),
    )
    for episode, row, start in zip(*longest_first(lengths, shape.rows), strict=True):
        rows.first[row, start] = True
        for moment in range(lengths[episode] + 1):
            at = row, start + moment
            rows.episode[at], rows.moment[at] = episode, moment
            for packed, whole in zip(jax.tree.leaves(rows.world), jax.tree.leaves(own.world), strict=True):
                packed[at] = whole[episode, moment]
            for name in ("action", "reward", "terminal", "valid") if moment < lengths[episode] else ():
                getattr(rows, name)[at] = getattr(own, name)[episode, moment]
    return rows


@pytest.mark.parametrize("shape", [Shape(1, 80), Shape(3, 30), Shape(8, 9)], ids=str)
def test_packed_rows_are_those_of_a_loop_over_episodes(shape):
    pack = jax.jit(lambda batch, lengths: pack_rows(batch, place(lengths, shape.rows), shape))
    for seed in range(3):
        lengths = random_lengths(seed)
        batch = episodes(lengths)
        found = jax.device_get(pack(batch, jnp.asarray(lengths, jnp.int32)))
        assert_same_bits(found, packed_by_hand(batch, lengths, shape))
        assert found.valid.sum() == lengths.sum()
        assert found.reward.sum() == batch.reward.sum()


def test_an_episode_a_row_is_what_was_stored():
    lengths = random_lengths(0)
    batch = episodes(lengths)
    rows = one_per_row(batch)
    for name in ("action", "reward", "terminal", "valid"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(batch, name))
    assert rows.first.sum(axis=1).tolist() == [1] * 8
    assert rows.first[:, 0].all()
    np.testing.assert_array_equal(rows.episode, np.repeat(np.arange(8)[:, None], 9, axis=1))
    np.testing.assert_array_equal(rows.moment, np.repeat(np.arange(9)[None], 8, axis=0))


def test_what_chance_decides_in_a_row_follows_from_its_episode_and_moment():
    lengths = random_lengths(1)
    batch, key, shape = episodes(lengths), jax.random.key(3), Shape(2, 50)
    rows = pack_rows(batch, place(jnp.asarray(lengths, jnp.int32), 2), shape)
    draws = jax.jit(lambda rows: jax.vmap(jax.vmap(jax.random.uniform))(row_keys(key, rows)).T)
    whole, packed = map(np.asarray, (draws(one_per_row(batch)), draws(rows)))
    real = np.asarray(rows.first) | np.pad(np.asarray(rows.valid), ((0, 0), (1, 0)))
    assert real.sum() == lengths.sum() + 8
    np.testing.assert_array_equal(packed[real], whole[rows.episode[real], rows.moment[real]])
    assert len(np.unique(packed[real])) == real.sum()


# The shape that fits.

SHAPES = (Shape(2, 9), Shape(4, 9), Shape(8, 9))
SHORTER = (Shape(4, 4), Shape(4, 7), Shape(8, 9))


def chosen(shapes: tuple[Shape, ...], batch: Episode) -> dict[str, jax.Array]:
    def look(rows: PackedRows) -> dict[str, jax.Array]:
        steps = jnp.int32(-1) if rows.steps is None else rows.steps
        return {
            "rows": jnp.int32(rows.first.shape[0]),
            "places": jnp.int32(rows.first.shape[1]),
            "steps": steps,
            "valid": rows.valid.sum(dtype=jnp.int32),
            "reward": rows.reward.sum(),
            "begun": rows.first.sum(dtype=jnp.int32),
            "fraction": valid_fraction(rows),
        }

    return fitted_rows([(shape,) for shape in shapes], batch, look)


def cheapest(shapes: tuple[Shape, ...], block: list[Any], platform: str) -> tuple[Shape, int]:
    """The shape that computes fewest places of those that hold everything, and how many places its fullest row has."""
    costs = []
    for shape in shapes:
        needed = 0
        for lengths in block:
            order, _, starts = longest_first(np.asarray(lengths), shape.rows)
            ends = [start + lengths[episode] + 1 for episode, start in zip(order, starts, strict=True)]
            needed = max(needed, *ends)
        if needed <= shape.places:
            costs.append((shape.rows * (needed if platform == "cpu" else shape.places), len(costs), shape, needed))
    return min(costs)[2:]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("shapes", [SHAPES, SHORTER], ids=["equal", "shorter"])
def test_a_batch_goes_into_the_shape_that_computes_least_and_nothing_is_dropped(shapes, platform):
    with compiling_for(platform):
        choose = jax.jit(partial(chosen, shapes))
        taken = set()
        for seed in range(12):
            most = 1 + seed % 8
            lengths = random_lengths(seed, time=most)
            lengths[0] = most
            found = {name: value.item() for name, value in choose(episodes(lengths)).items()}
            shape, needed = cheapest(shapes, [lengths], platform)
            taken.add(shape)
            assert (found["rows"], found["places"]) == shape
            assert found["steps"] == (needed if platform == "cpu" else -1)
            assert (found["valid"], found["begun"]) == (lengths.sum(), 8)
            assert found["reward"] == float(episodes(lengths).reward.sum())
            computed = shape.rows * (needed if platform == "cpu" else shape.places)
            assert found["fraction"] == pytest.approx(lengths.sum() / computed)
    assert len(taken) > 1


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_seed_of_a_block_takes_the_shape_that_holds_all_of_them(platform):
    blocks = [([1] * 8, [2] * 8), ([1] * 8, [8] * 8), ([1, 1, 1, 1, 4, 4, 4, 4], [3] * 8)]
    with compiling_for(platform):
        choose = jax.vmap(partial(chosen, SHAPES), axis_name=SEEDS_AXIS)
        together = jax.jit(choose)
        for block in blocks:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(episodes, block))
            found = jax.device_get(together(stacked))
            shape, needed = cheapest(SHAPES, list(block), platform)
            assert [(rows, places) for rows, places in zip(found["rows"], found["places"])] == [shape] * 2
            assert found["steps"].tolist() == [needed if platform == "cpu" else -1] * 2
            assert found["valid"].tolist() == [sum(lengths) for lengths in block]
        program = list(equations(jax.make_jaxpr(choose)(stacked).jaxpr))
    choices = [each for each in program if each.primitive.name == "cond"]
    assert [(each.invars[0].aval.shape, len(each.params["branches"])) for each in choices] == [((), 3)]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_with_one_shape_an_episode_keeps_its_row(platform):
    with compiling_for(platform):
        found = jax.device_get(jax.jit(partial(chosen, (Shape(8, 9),)))(episodes([1, 2, 3, 4, 5, 1, 1, 2])))
    assert (found["rows"], found["valid"], found["begun"]) == (8, 19, 8)
    assert found["steps"] == (6 if platform == "cpu" else -1)
    assert found["fraction"] == pytest.approx(19 / (8 * (6 if platform == "cpu" else 9)))


@pytest.mark.parametrize(
    ("platform", "off", "shapes"),
    [
        ("cpu", [1] * 6, {"on": (2, 9), "off": (6, 9)}),  # six episodes are packed into no four rows
        ("cpu", [8] * 6, {"on": (2, 9), "off": (6, 9)}),
        ("gpu", [1] * 6, {"on": (4, 5), "off": (3, 5)}),
        ("gpu", [8] + [1] * 5, {"on": (8, 9), "off": (6, 9)}),  # what does not hold one part of a batch is not taken
    ],
)
def test_the_parts_of_a_batch_take_their_shapes_together_and_nothing_is_dropped(platform, off, shapes):
    batch = {"on": episodes([1, 1, 1, 1, 1, 1, 1, 2]), "off": episodes(off)}

    def look(rows: dict[str, PackedRows]) -> Any:
        sums = {name: (jnp.int32(each.first.shape), each.valid.sum(), each.reward.sum()) for name, each in rows.items()}
        steps = {name: jnp.int32(9 if each.steps is None else each.steps) for name, each in rows.items()}
        return sums, steps, valid_fraction(rows)

    with compiling_for(platform):
        choose = jax.jit(lambda batch: fitted_rows(choices_of((2, 4, 6, 8), batch), batch, look))
        sums, steps, fraction = jax.device_get(choose(batch))
    for name, (shape, valid, reward) in sums.items():
        assert tuple(shape) == shapes[name]
        assert (valid, reward) == (batch[name].valid.sum(), batch[name].reward.sum())
    places = {name: int(steps[name]) if platform == "cpu" else shapes[name][1] for name in batch}
    computed = sum(shapes[name][0] * places[name] for name in batch)
    assert fraction == pytest.approx((9 + sum(off)) / computed)


@pytest.mark.parametrize("in_use", [None, 17])
def test_steps_of_packed_rows_stand_by_moment_and_episode_and_go_back(in_use):
    """Against a loop over episodes, whose numbers are all different."""
    lengths = random_lengths(5)
    batch, shape = episodes(lengths), Shape(3, 30)
    rows = pack_rows(batch, place(jnp.asarray(lengths, jnp.int32), 3), shape, in_use and jnp.int32(in_use))
    moments = moments_of(rows, 8, 8)
    found, valid = np.asarray(moments.of_rows(rows.reward.T)), np.asarray(moments.valid)
    assert moments.longest == (None if in_use is None else lengths.max())
    for episode, length in enumerate(lengths):
        assert valid[:, episode].tolist() == [moment < length for moment in range(8)]
        np.testing.assert_array_equal(found[:length, episode], batch.reward[episode, :length])
    back = np.asarray(by_row(rows, jnp.asarray(batch.reward.T)))
    np.testing.assert_array_equal(np.where(rows.valid.T, back, 0.0), rows.reward.T)


# Learning.

SMALL = {
    **dict.fromkeys(("hidden", "central_hidden", "critic_hidden", "joint_hidden"), 8),
    **dict.fromkeys(("mixer_embed", "hyper_hidden", "encoder_hidden", "decoder_hidden"), 4),
    **dict.fromkeys(("batch_size", "on_batch", "off_batch"), BATCH),
    "trace": 0.7,
    **dict.fromkeys(("lr", "actor_lr"), 1e-2),
    "optimizer_epsilon": 1.0,  # steps as long as the gradient is: rounding of a gradient of zero is no step
    "grad_clip": 0.0,
}
OBSERVED = ragged(RaggedConfig())._replace(observe=lambda world: world)  # what is stored here is an observation
HISTORY = {"encoder_input": "history", "label": "actor_soft", "td_target": "soft_expected", "message_dim": 2}
PLACES = 13  # as many as the fuller of two rows takes


def made(name: str, **changes: Any) -> Any:
    config = ALGORITHMS[name].config
    known = {key: value for key, value in {**SMALL, **changes}.items() if key in vars(config())}
    return ALGORITHMS[name].factory(SPEC, replace(config(), **known), partial(observe_rows, OBSERVED))


def packed_algorithms() -> list[Any]:
    """All that are packed: by default one of each factory, whose others differ in a mixer or a setting."""
    cases, seen = [], set()
    for name in sorted(ALGORITHMS):
        algorithm = made(name)
        if algorithm.reads_padding:
            continue
        factory = getattr(ALGORITHMS[name].factory, "func", ALGORITHMS[name].factory)
        cases.append(pytest.param(name, {}, id=name, marks=[pytest.mark.slow] if factory in seen else []))
        seen.add(factory)
    return [*cases, pytest.param("lsf_sac", HISTORY, id="lsf_sac with memory in its encoder")]


@cache
def batch() -> Episode:
    """Full length, cut and ended; cut at two steps; ended at once, at three and at four: 26 places."""
    return episodes_of(make_games())


def packings() -> dict[str, tuple[PackedRows, int]]:
    """The batch in three rows and in two, among four, and how many places are in use: nine, and all of them."""
    lengths = batch().valid.sum(axis=1, dtype=jnp.int32)
    placements = {n_rows: place(lengths, n_rows) for n_rows in (3, 2)}
    assert [int(placed.needed) for placed in placements.values()] == [9, PLACES]
    shape = Shape(4, PLACES)
    return {n: (pack_rows(batch(), placed, shape), int(placed.needed)) for n, placed in placements.items()}


def assert_close(left: Any, right: Any, tolerance: float = 1e-6) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(left)[0], jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


ON_ACCELERATORS = ("lsf_sac", "coma", "qtran")
"""Whose updates go through time in different ways there; the rest is slow."""


def on_platforms() -> list[Any]:
    """Every packed algorithm on both platforms; on accelerators it learns from two rows at a time."""
    cases = []
    for case in packed_algorithms():
        for platform, micro_batch in (("cpu", 0), ("gpu", 2)):
            is_slow = platform == "gpu" and case.values[0] not in ON_ACCELERATORS
            marks = [*case.marks, *([pytest.mark.slow] if is_slow else [])]
            cases.append(pytest.param(*case.values, platform, micro_batch, id=f"{case.id} {platform}", marks=marks))
    return cases


@pytest.mark.default("lsf_sac cpu", "iql cpu", "coma gpu")
@pytest.mark.parametrize(("name", "changes", "platform", "micro_batch"), on_platforms())
def test_a_packed_update_is_the_update_of_an_episode_a_row(name, changes, platform, micro_batch):
    """Parameters and metrics, however the episodes lie; with `micro_batch` rows are learned from two at a time."""
    algorithm = made(name, **changes)
    agent = jax.jit(algorithm.init)(jax.random.key(0), algorithm.hyper)
    agent = agent._replace(targets=jax.tree.map(lambda leaf: 0.9 * leaf + 0.01, agent.targets))
    key = jax.random.key(1)

    def learned(rows: Any, steps: Any, micro_batch: int) -> Any:
        rows = rows if steps is None else rows._replace(steps=steps)
        learned_from = dict.fromkeys(("latest", "on", "off"), rows) if name == "dop" else rows
        after, metrics = algorithm.update(agent, learned_from, key, CLOCK, algorithm.hyper, micro_batch=micro_batch)
        return after.params, metrics

    with compiling_for(platform):
        update = jax.jit(learned, static_argnums=2)
        params, metrics = update(batch(), None, 0)
        for rows, needed in packings().values():
            steps = jnp.int32(needed) if platform == "cpu" else None
            assert_close(update(rows, steps, micro_batch), (params, metrics))
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(agent.params), jax.tree.leaves(params), strict=True)]
    assert np.mean(np.array(moved) > 1e-5) > 0.5
