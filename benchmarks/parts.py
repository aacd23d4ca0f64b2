"""The pieces of an iteration as functions of a block of seeds, so that each can be compiled and timed alone."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsf_jax.engine.training import AXES
from lsf_jax.programs.compiled import jit_init
from lsf_jax.programs.parts import Program, make_rows, take_rows
from lsf_jax.types import Clock, TrainState

CLOCK = AXES.clock


class Parts(NamedTuple):
    """Functions of a block `[K, ...]`; together they are one training iteration."""

    collect: Callable[..., Any]  # (agent, clock, hyper, key) -> episodes
    store: Callable[..., Any]  # (buffer, clock, episodes) -> buffer
    sample: Callable[..., Any]  # (buffer, clock, key) -> episodes
    update: Callable[..., Any]  # (agent, episodes, key, clock, hyper) -> (agent, metrics)
    refresh: Callable[..., Any]  # (agent, clock, clock before) -> agent
    learn: Callable[..., Any]  # state -> (agent, metrics): sample, update, refresh fused


def make_parts(program: Program) -> Parts:
    """Lift the pieces of a program over the seed axis."""
    algorithm, buffer = program.algorithm, program.buffer
    update = partial(algorithm.update, micro_batch=program.micro_batch)

    def learn(state: TrainState) -> tuple[Any, Any]:
        key_sample, key_update = jax.random.split(state.key)
        episodes = buffer.sample(state.buffer, state.clock, key_sample)
        agent, metrics = update(state.agent, episodes, key_update, state.clock, state.hyper)
        before = state.clock._replace(episodes=state.clock.episodes - 1)
        return algorithm.refresh(agent, state.clock, before), metrics

    def collect(agent: Any, clock: Clock, hyper: Any, key: Any) -> Any:
        return program.collect(algorithm.policy_params(agent), clock, hyper, key)

    return Parts(
        collect=jax.vmap(collect, in_axes=(0, CLOCK, 0, 0)),
        store=jax.vmap(buffer.add, in_axes=(0, CLOCK, 0)),
        sample=jax.vmap(buffer.sample, in_axes=(0, CLOCK, 0)),
        update=jax.vmap(update, in_axes=(0, 0, 0, CLOCK, 0)),
        refresh=jax.vmap(algorithm.refresh, in_axes=(0, CLOCK, CLOCK)),
        learn=jax.vmap(learn, in_axes=(AXES,)),
    )


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
