"""The pieces of an iteration as functions of a block of seeds, so that each can be compiled and timed alone."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flops import Count, count_products

from lsf_jax.engine.lengths import SEEDS_AXIS
from lsf_jax.engine.packing import Shape, choices_of, fitted_rows, pack_rows, place
from lsf_jax.engine.training import AXES, fitted_update
from lsf_jax.programs.compiled import jit_init
from lsf_jax.programs.parts import Program, make_rows, take_rows
from lsf_jax.types import Clock, Episode, PackedRows, TrainState

CLOCK = AXES.clock


class Parts(NamedTuple):
    """Functions of a block `[K, ...]`; together they are one training iteration.

    `update` and `learn` compute what training does: where the run packs, packed rows.
    """

    collect: Callable[..., Any]  # (agent, clock, hyper, key) -> episodes
    store: Callable[..., Any]  # (buffer, clock, episodes) -> buffer
    sample: Callable[..., Any]  # (buffer, clock, key) -> episodes
    update: Callable[..., Any]  # (agent, episodes, key, clock, hyper) -> (agent, metrics)
    refresh: Callable[..., Any]  # (agent, clock, clock before) -> agent
    learn: Callable[..., Any]  # state -> (agent, metrics): sample, update, refresh fused


def make_parts(program: Program) -> Parts:
    """Lift the pieces of a program over the seed axis."""
    algorithm, buffer = program.algorithm, program.buffer
    learn_from = partial(algorithm.update, micro_batch=program.micro_batch)

    def update(agent: Any, batch: Any, *rest: Any) -> tuple[Any, Any]:
        return fitted_update(learn_from, program.sizes, agent, batch, rest)

    def learn(state: TrainState) -> tuple[Any, Any]:
        key_sample, key_update = jax.random.split(state.key)
        batch = buffer.sample(state.buffer, state.clock, key_sample)
        agent, metrics = update(state.agent, batch, key_update, state.clock, state.hyper)
        before = state.clock._replace(episodes=state.clock.episodes - 1)
        return algorithm.refresh(agent, state.clock, before), metrics

    def collect(agent: Any, clock: Clock, hyper: Any, key: Any) -> Any:
        return program.collect(algorithm.policy_params(agent), clock, hyper, key)

    return Parts(
        collect=of_block(collect, (0, CLOCK, 0, 0)),
        store=of_block(buffer.add, (0, CLOCK, 0)),
        sample=of_block(buffer.sample, (0, CLOCK, 0)),
        update=of_block(update, (0, 0, 0, CLOCK, 0)),
        refresh=of_block(algorithm.refresh, (0, CLOCK, CLOCK)),
        learn=of_block(learn, (AXES,)),
    )


def of_block(function: Callable[..., Any], axes: Any) -> Callable[..., Any]:
    """A function of one seed over the named seed axis, by which a block agrees on what it computes."""
    return jax.vmap(function, in_axes=axes, axis_name=SEEDS_AXIS)


def computed_shape(program: Program, batch: Episode) -> Shape:
    """Rows of a packed update, and the places that it computes of each, for a batch `[K, B, ...]`."""

    def taken(rows: PackedRows) -> tuple[Any, Any]:
        n_rows, places = rows.first.shape
        return jnp.int32(n_rows), jnp.int32(places) if rows.steps is None else rows.steps

    fitted = lambda episodes: fitted_rows(choices_of(program.sizes.lengths, episodes), episodes, taken)
    n_rows, places = jax.jit(of_block(fitted, (0,)))(batch)
    return Shape(rows=int(n_rows[0]), places=int(places[0]))


def count_learning(program: Program, state: TrainState) -> tuple[Count, Shape | None]:
    """Products of an update with target copy on a batch of `state`, and the rows that it computes, if it is packed.

    How many places a packed update computes is known only when it runs, so it is counted on rows of just that shape.
    """
    parts = make_parts(program)
    batch = jax.jit(parts.sample)(state.buffer, state.clock, state.key)
    if not (program.sizes.packs and isinstance(batch, Episode)):
        return count_products(parts.learn, state), None
    shape = computed_shape(program, batch)

    def update(agent: Any, episodes: Episode, key: Any, clock: Clock, hyper: Any) -> tuple[Any, Any]:
        placement = place(episodes.valid.sum(axis=-1, dtype=jnp.int32), shape.rows)
        rows = pack_rows(episodes, placement, shape)
        return program.algorithm.update(agent, rows, key, clock, hyper, micro_batch=program.micro_batch)

    of_seeds = of_block(update, (0, 0, 0, CLOCK, 0))
    return count_products(of_seeds, state.agent, batch, state.key, state.clock, state.hyper), shape


def start(config: Any, program: Program, n_seeds: int) -> TrainState:
    """A block of fresh seeds."""
    rows = take_rows(make_rows(config, program.algorithm), 0, n_seeds)
    return jit_init(program, config.train.seed)(rows)


def filled(config: Any, program: Program, n_seeds: int) -> TrainState:
    """A block of seeds whose replay holds enough episodes for an update, played by their first policies."""
    state, parts = start(config, program, n_seeds), make_parts(program)

    def fill(state: TrainState) -> TrainState:
        episodes = parts.collect(state.agent, state.clock, state.hyper, state.key)
        stored = parts.store(state.buffer, state.clock, episodes)
        steps = state.clock.env_steps + episodes.valid.sum(axis=(1, 2), dtype=jnp.int32)
        clock = state.clock._replace(env_steps=steps, episodes=state.clock.episodes + config.train.n_envs)
        return state._replace(buffer=stored, clock=clock)

    step = jax.jit(fill, donate_argnums=0)
    for _ in range(-(-program.buffer.prefill // config.train.n_envs)):
        state = step(state)
    return jax.block_until_ready(state)
