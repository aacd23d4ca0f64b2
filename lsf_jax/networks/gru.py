"""The gated recurrent unit: one step, and all steps at once for accelerators, with derivatives written by hand."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

KEPT = "hidden states"
"""Name of what `gru_over_time` keeps where its caller computes all else again (`jax.checkpoint`)."""


class Gates(NamedTuple):
    """What a gated recurrent unit computes on its way, `[..., H]` each."""

    reset: Array
    update: Array
    candidate: Array
    recalled: Array  # U_n h with its bias: what the reset gate lets through


def _gates(weights: dict[str, Array], hidden: Array, inputs: Array) -> Gates:
    from_input = inputs @ weights["input_kernel"] + weights["input_bias"][None]
    return _gates_of(from_input, hidden @ weights["hidden_kernel"] + weights["hidden_bias"][None])


def _gates_of(from_input: Array, from_hidden: Array) -> Gates:
    width = from_input.shape[-1] // 3
    both = nn.sigmoid(from_input[..., : 2 * width] + from_hidden[..., : 2 * width])
    reset, recalled = both[..., :width], from_hidden[..., 2 * width :]
    candidate = jnp.tanh(from_input[..., 2 * width :] + reset * recalled)
    return Gates(reset=reset, update=both[..., width:], candidate=candidate, recalled=recalled)


def _slopes_of(gates: Gates, hidden: Array, slope: Array) -> tuple[Array, Array]:
    """Slopes of what came from the input and of what came from the hidden state, of all three gates at once."""
    reset, update, candidate, recalled = gates
    of_candidate = slope * (1.0 - update) * (1.0 - jnp.square(candidate))
    of_update = slope * (hidden - candidate) * update * (1.0 - update)
    of_reset = of_candidate * recalled * reset * (1.0 - reset)
    of_input = jnp.concatenate([of_reset, of_update, of_candidate], axis=-1)
    return of_input, jnp.concatenate([of_reset, of_update, of_candidate * reset], axis=-1)


@jax.custom_vjp
def gru_cell(
    weights: dict[str, Array], hidden: Float[Array, "rows hidden"], inputs: Float[Array, "rows hidden"]
) -> Float[Array, "rows hidden"]:
    """One step of a gated recurrent unit with PyTorch's equations (both bias vectors, reset gate inside tanh).

    r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r (U_n h)), h' = (1 - z) n + z h, biases in W and U.

    Its derivative is written by hand: products of all three gates at once, where JAX's has one for each slice of them;
    a tenth of a recurrence's gradient on a CPU.
    """
    return _gru_forward(weights, hidden, inputs)[0]


def _gru_forward(weights: dict[str, Array], hidden: Array, inputs: Array) -> tuple[Array, tuple]:
    gates = _gates(weights, hidden, inputs)
    after = gates.candidate + gates.update * (hidden - gates.candidate)
    return after, (weights, hidden, inputs, gates)


def _gru_backward(kept: tuple, slope: Array) -> tuple[dict[str, Array], Array, Array]:
    weights, hidden, inputs, gates = kept
    of_input, of_hidden = _slopes_of(gates, hidden, slope)
    of_weights = {
        "input_kernel": inputs.T @ of_input,
        "input_bias": of_input.sum(axis=0),
        "hidden_kernel": hidden.T @ of_hidden,
        "hidden_bias": of_hidden.sum(axis=0),
    }
    of_state = slope * gates.update + of_hidden @ weights["hidden_kernel"].T
    return of_weights, of_state, of_input @ weights["input_kernel"].T


gru_cell.defvjp(_gru_forward, _gru_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gru_over_time(
    unroll: int,
    weights: dict[str, Array],
    first: Bool[Array, "time rows"],
    start: Float[Array, "rows hidden"],
    inputs: Float[Array, "time rows hidden"],
) -> Float[Array, "time rows hidden"]:
    """Hidden states after every step: `gru_cell` in the form for accelerators.

    There a loop pays for every operation in it. So the loops forward and backward have a single product each, what
    surrounds it elementwise, and a row to write; all else is a product or an elementwise pass over all steps, the
    recomputed gates and the gradients of the weights included. Kept are inputs and hidden states (`KEPT` names them).

    Args:
      unroll: steps in one pass of the loops.
      weights: as `gru_cell` takes them.
      first: where an episode begins, and the hidden state is zero.
      start: the hidden state before the first of these steps.
      inputs: of every step.
    """
    return _over_time_forward(unroll, weights, first, start, inputs)[0]


def _over_time_forward(
    unroll: int, weights: dict[str, Array], first: Array, start: Array, inputs: Array
) -> tuple[Array, tuple]:
    from_input = _by_row(inputs, weights["input_kernel"]) + weights["input_bias"][None, None]

    def advance(before: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        from_hidden = before @ weights["hidden_kernel"] + weights["hidden_bias"][None]
        gates = _gates_of(row[0], from_hidden)
        after = gates.candidate + gates.update * (before - gates.candidate)
        return jnp.where(row[1][:, None], 0.0, after), after

    rows = (from_input, jnp.concatenate([first[1:], first[:1]]))
    begin = jnp.where(first[0][:, None], 0.0, start)
    hidden = checkpoint_name(jax.lax.scan(advance, begin, rows, unroll=unroll)[1], KEPT)
    return hidden, (weights, first, start, inputs, hidden)


def _over_time_backward(unroll: int, kept: tuple, slopes: Array) -> tuple[dict[str, Array], None, Array, Array]:
    weights, first, start, inputs, hidden = kept
    before = jnp.where(first[..., None], 0.0, jnp.concatenate([start[None], hidden[:-1]]))
    from_input = _by_row(inputs, weights["input_kernel"]) + weights["input_bias"][None, None]
    from_hidden = _by_row(before, weights["hidden_kernel"]) + weights["hidden_bias"][None, None]
    gates = _gates_of(from_input, from_hidden)
    # Slopes are those of a hidden state's, times a factor that needs no loop.
    by_input, by_hidden = _slopes_of(gates, before, jnp.ones(()))
    times = lambda factor, slope: (factor.reshape(*slope.shape[:-1], 3, -1) * slope[..., None, :]).reshape(factor.shape)

    def retreat(of_after: Array, row: tuple) -> tuple[Array, Array]:
        slope, last, by_hidden_row, update = row
        slope = slope + jnp.where(last[:, None], 0.0, of_after)
        return slope * update + times(by_hidden_row, slope) @ weights["hidden_kernel"].T, slope

    last = jnp.concatenate([first[1:], jnp.zeros_like(first[:1])])
    rows = (slopes, last, by_hidden, gates.update)
    of_start, slopes = jax.lax.scan(retreat, jnp.zeros_like(start), rows, reverse=True, unroll=unroll)
    of_input, of_hidden = times(by_input, slopes), times(by_hidden, slopes)
    flat = lambda leaf: leaf.reshape(-1, leaf.shape[-1])
    of_weights = {
        "input_kernel": flat(inputs).T @ flat(of_input),
        "input_bias": flat(of_input).sum(axis=0),
        "hidden_kernel": flat(before).T @ flat(of_hidden),
        "hidden_bias": flat(of_hidden).sum(axis=0),
    }
    of_start = jnp.where(first[0][:, None], 0.0, of_start)
    return of_weights, None, of_start, _by_row(of_input, weights["input_kernel"].T)


gru_over_time.defvjp(_over_time_forward, _over_time_backward)


def _by_row(values: Array, kernel: Array) -> Array:
    """A product of `[T, rows, in]` as one of plain matrices."""
    return (values.reshape(-1, values.shape[-1]) @ kernel).reshape(*values.shape[:-1], -1)
