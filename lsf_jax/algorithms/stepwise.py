"""Critics that take one optimiser step for each time step of a batch, one after another, as those of COMA and DOP."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from lsf_jax import types
from lsf_jax.engine import learner
from lsf_jax.networks.recurrence import read_row, write_row

SINCE_COPY = "since_copy"
"""Key of `AgentState.opt_state`: optimiser steps of the critic since its target was copied."""

LossAt: TypeAlias = Callable[[types.Params, Any], tuple[Float[Array, "episodes"], Any]]
"""`(params, inputs of one time step [B, ...]) -> (loss of each episode [B], what the caller wants to see [B, ...])`."""


class Steps(NamedTuple):
    """Where a pass over a batch's time steps has led, and what was seen on the way."""

    params: types.Params
    opt_state: Any
    outputs: Any  # [T, B, ...]: the second result of `loss_at` in every step, at the parameters just before that step
    loss: Float[Array, ""]  # mean over valid steps, each at the parameters just before it
    gradient_norm: Float[Array, ""]  # mean over optimiser steps, before clipping
    taken: Int[Array, ""]  # optimiser steps


class TimeSteps(NamedTuple):
    """The time steps of a batch."""

    valid: Bool[Array, "time episodes"]
    longest: Int[Array, ""] | None = None  # how many a pass goes through, none of which after is valid; None: all


def critic_steps(
    loss_at: LossAt,
    optimizer: optax.GradientTransformation,
    rate: Float[Array, ""],
    params: types.Params,
    opt_state: Any,
    inputs: Any,
    time: TimeSteps,
    *,
    reverse: bool,
) -> Steps:
    """A separate step on the mean loss of each time step's valid episodes, every one from where the last has led.

    A time step at which no episode is valid changes nothing, not even the optimiser's state: with a gradient of zero
    Adam would still move. It is left out by a selection, since a `cond` on a seed's own data becomes one under `vmap`.

    Args:
      loss_at: loss of each episode in one time step. What does not depend on the parameters, such as targets, is better
        computed once before and passed with `inputs`.
      optimizer: up to, not including, the learning rate.
      rate: learning rate.
      params: parameters before the first step.
      opt_state: the optimiser's state before the first step.
      inputs: what `loss_at` reads, a tree of `[T, B, ...]`.
      time: which steps count.
      reverse: from the last time step to the first (COMA), or from the first to the last (DOP).
    """

    def loss(params: types.Params, row: Any, valid_row: Array) -> tuple[Array, tuple[Array, Any]]:
        losses, outputs = loss_at(params, row)
        total = learner.sum_over_valid(losses, valid_row)
        return total * (1.0 / jnp.maximum(valid_row.sum(), 1).astype(jnp.float32)), (total, outputs)

    def step(carry: tuple[types.Params, Any], rows: tuple[Any, Array]) -> tuple[tuple[types.Params, Any], tuple]:
        gradients, (total, outputs) = jax.grad(loss, has_aux=True)(carry[0], *rows)
        moved = learner.optimizer_step(optimizer, rate, *carry, gradients)
        taken = rows[1].any()
        carry = jax.tree.map(lambda new, old: jnp.where(taken, new, old), moved, carry)
        return carry, (outputs, total, jnp.where(taken, optax.tree.norm(gradients), 0.0))

    valid, n_steps = time.valid, time.valid.shape[0] if time.longest is None else time.longest
    row_at = lambda index: jax.tree.map(lambda leaf: read_row(leaf, index), (inputs, valid))
    first = jax.tree.map(lambda leaf: leaf[0], (inputs, valid))
    shapes = jax.eval_shape(step, (params, opt_state), first)[1]
    seen = jax.tree.map(lambda leaf: jnp.zeros((valid.shape[0], *leaf.shape), leaf.dtype), shapes)

    def advance(turn: Array, loop: tuple[Any, Any]) -> tuple[Any, Any]:
        index = n_steps - 1 - turn if reverse else turn
        carry, found = step(loop[0], row_at(index))
        return carry, jax.tree.map(lambda every, one: write_row(every, one, index), loop[1], found)

    carry, seen = jax.lax.fori_loop(0, n_steps, advance, ((params, opt_state), seen))
    outputs, totals, norms = seen
    taken = valid.any(axis=1).sum(dtype=jnp.int32)
    return Steps(
        params=carry[0],
        opt_state=carry[1],
        outputs=outputs,
        loss=totals.sum() / jnp.maximum(valid.sum(), 1).astype(jnp.float32),
        gradient_norm=norms.sum() / jnp.maximum(taken, 1).astype(jnp.float32),
        taken=taken,
    )


def counting(agent: types.AgentState) -> types.AgentState:
    """A fresh agent whose critic's steps since the last target copy are counted, beside the optimisers' states."""
    return agent._replace(opt_state={**agent.opt_state, SINCE_COPY: jnp.int32(0)})


def copy_after_steps(every: int) -> learner.Refresh:
    """Copy the critic to its target once it has taken `every` steps since the last copy, at the end of an iteration.

    Steps are a seed's own, as episodes end when they end. So this is a selection and no `cond`, which would become one
    under the seed axis anyway; beside a critic's pass over all time steps it costs nothing.
    """

    def refresh(agent: types.AgentState, clock: types.Clock, previous: types.Clock) -> types.AgentState:
        del clock, previous
        due = agent.opt_state[SINCE_COPY] >= every
        kept, current = agent.targets["critic"], agent.params["critic"]
        return agent._replace(
            targets={**agent.targets, "critic": jax.tree.map(lambda new, old: jnp.where(due, new, old), current, kept)},
            opt_state={**agent.opt_state, SINCE_COPY: jnp.where(due, 0, agent.opt_state[SINCE_COPY])},
        )

    return refresh
