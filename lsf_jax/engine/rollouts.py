"""Rollouts: one episode of a JAX environment, padded to its limit, with everything after the end zero."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.engine.lengths import EPISODES_AXIS, largest_of_block
from lsf_jax.types import (
    Act,
    Algorithm,
    Carry,
    Clock,
    Collect,
    Env,
    EnvState,
    Episode,
    Hyper,
    Observation,
    Params,
    PRNGKey,
    TimeStep,
)


def zero_unless(keep: Array, tree: Any) -> Any:
    """Every leaf of `tree`, or zeros where the scalar `keep` is False."""
    return jax.tree.map(lambda leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), tree)


def rollout(env: Env, act: Act, carry: Carry, key: PRNGKey, parts: int = 1) -> Episode:
    """Play one episode and pad it with zeros to T = `env.spec.episode_limit`.

    Padding is zeroed here, at birth: a mask in the loss alone would let the gradient of an unselected branch turn
    garbage into NaN. Rows 0..L of `world` are real for an episode of L steps; row L is where learning bootstraps.

    Args:
      env: the environment; it is not reset again after the end.
      act: policy with parameters bound.
      carry: what the agent remembers at t = 0.
      key: consumed.
      parts: the loop over time is cut into so many; a part is left out once every episode of the block has ended.
    """
    key_reset, key_steps = jax.random.split(key)
    state, observation = env.reset(key_reset)

    def step(loop: tuple, key_step: PRNGKey) -> tuple[tuple, tuple]:
        state, observation, carry, running = loop
        key_act, key_env = jax.random.split(key_step)
        carry, action = act(carry, observation, key_act)
        next_state, timestep = env.step(key_env, state, action)
        row = _row(env, next_state, action, timestep, running)
        return (next_state, timestep.observation, carry, running & ~timestep.done), row

    start = (state, observation, carry, jnp.bool_(True))
    after, episode = _scan(step, start, key_steps, env.spec.episode_limit, parts)
    first = env.snapshot(state)
    world = jax.tree.map(lambda head, tail: jnp.concatenate([head[None], tail]), first, after)
    return episode._replace(world=world)


def _scan(step: Callable[[tuple, PRNGKey], tuple], start: tuple, key: PRNGKey, limit: int, parts: int) -> Any:
    """The rows of `limit` steps; of several parts, those that nobody plays any more are zeros and cost nothing."""
    if parts == 1:
        return jax.lax.scan(step, start, jax.random.split(key, limit))[1]
    keys = jax.random.split(key, parts * -(-limit // parts)).reshape(parts, -1)
    rows = jax.eval_shape(lambda loop, keys: jax.lax.scan(step, loop, keys)[1], start, keys[0])

    def part(loop: tuple, keys: Array) -> tuple[tuple, Any]:
        def play(loop: tuple) -> tuple[tuple, Any]:
            return jax.lax.scan(step, loop, keys)

        def leave_out(loop: tuple) -> tuple[tuple, Any]:
            return loop, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rows)

        playing = largest_of_block(loop[-1].astype(jnp.int32)) > 0
        return jax.lax.cond(playing, play, leave_out, loop)

    _, played = jax.lax.scan(part, start, keys)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:limit], played)


def _row(env: Env, state: EnvState, action: Array, timestep: TimeStep, running: Array) -> tuple[Any, Episode]:
    """The snapshot after a step, and the step's row of the episode (its `world` is filled in afterwards)."""
    row = Episode(
        world=(),
        action=action.astype(jnp.uint8),
        reward=timestep.reward,
        terminal=timestep.terminal,
        valid=jnp.bool_(True),
        info=timestep.info,
    )
    return zero_unless(running, env.snapshot(state)), zero_unless(running, row)


def device_collector(env: Env, algorithm: Algorithm, n_envs: int, parts: int = 1) -> Collect:
    """Collects `n_envs` exploring episodes at once: `[B, T, ...]`, pure, to be jitted and vmapped over seeds.

    Args:
      env: the environment.
      algorithm: how to act.
      n_envs: B.
      parts: see `rollout`.
    """

    def collect(params: Params, clock: Clock, hyper: Hyper, key: PRNGKey) -> Episode:
        def act(carry: Carry, observation: Observation, key_act: PRNGKey) -> tuple[Carry, Array]:
            return algorithm.act(params, carry, observation, key_act, clock, hyper)

        def play(key_episode: PRNGKey) -> Episode:
            return rollout(env, act, algorithm.start(), key_episode, parts)

        return jax.vmap(play, axis_name=EPISODES_AXIS)(jax.random.split(key, n_envs))

    return collect
