"""Networks with memory, unrolled over time for many trajectories at once: one loop forward and one backward.

What a step computes is kept nowhere but in the hidden state: the backward loop runs every step forward again before it
runs it backward, from the state that it started in. On CPUs residuals are memory traffic, on accelerators they are what
fills the memory; the second forward pass costs less than either.

The whole network stands inside the loop, and the rows of all trajectories and agents lie on one axis, so that every
product of a step is a single one and its operands stay in the cache. Against layers around a loop that is vmapped over
episodes, the gradient of 32 × 201 × 8 rows of width 64 takes half the time and a quarter of the memory
(`benchmarks/README.md`).
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.networks.gru import KEPT
from lsf_jax.platforms import is_cpu
from lsf_jax.types import Layout, Params

AT_ONCE = 256
"""Rows of a product in a CPU's loop: enough for its full rate, few enough for the cache."""

BLOCKS = 3
"""Blocks of time on accelerators: what the layers of a block fill is a third, what is paid for a block three times."""
SHORTEST = 32
"""Rows that are one block."""
UNROLL = 4
"""Steps in one pass of a loop on accelerators: what is paid for each pass is paid for four steps."""

Step = Callable[[Params, Array, tuple[Array, ...]], tuple[Array, Any]]
"""One step of all rows: `(params, hidden [R, N, H], inputs [R, N or 1, X] each) -> (hidden, outputs [R, N, ...])`."""


def mapped_as(like: Array, values: Any) -> Any:
    """The same values, mapped over whatever `like` is mapped over.

    `vmap` finds out what of a loop's state is mapped by mapping the loop's body again until nothing changes; with a
    state that is mapped from the start it does so once. XLA drops what is written here.
    """
    some = (like.astype(jnp.uint32) & 0) == 0
    return jax.tree.map(lambda leaf: jnp.where(some, leaf, leaf), values)


def read_row(rows: Array, index: Int[Array, ""]) -> Array:
    """`rows[index]` of `[n, ...]`.

    A rule of our own for `vmap`, here and in `write_row`: JAX's make gathers and scatters of every batched slice, even
    at one common index.
    """
    return _reader(0)(rows, index)


def write_row(rows: Array, row: Array, index: Int[Array, ""]) -> Array:
    """`rows` `[n, ...]` with `row` at `index`."""
    return _writer(0)(rows, row, index)


@cache
def _reader(axis: int) -> Callable[..., Array]:
    """Reads at one index of an axis; every `vmap` over the rows alone moves that axis on by one, and no more."""
    plain = partial(jax.lax.dynamic_index_in_dim, axis=axis, keepdims=False)
    read = jax.custom_batching.custom_vmap(plain)

    @read.def_vmap
    def of_all(axis_size: int, batched: list[bool], rows: Array, index: Array) -> tuple[Array, bool]:
        if not batched[1]:
            return _reader(axis + 1)(rows, index), True
        return jax.vmap(plain, in_axes=_axes(batched), axis_size=axis_size)(rows, index), True

    return read


@cache
def _writer(axis: int) -> Callable[..., Array]:
    """Writes at one index of an axis, as `_reader` reads."""
    plain = partial(jax.lax.dynamic_update_index_in_dim, axis=axis)
    write = jax.custom_batching.custom_vmap(plain)

    @write.def_vmap
    def of_all(axis_size: int, batched: list[bool], rows: Array, row: Array, index: Array) -> tuple[Array, bool]:
        if not batched[2]:
            rows, row = (
                leaf if each else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
                for leaf, each in zip((rows, row), batched[:2], strict=True)
            )
            return _writer(axis + 1)(rows, row, index), True
        return jax.vmap(plain, in_axes=_axes(batched), axis_size=axis_size)(rows, row, index), True

    return write


def _axes(batched: list[bool]) -> list[int | None]:
    return [0 if each else None for each in batched]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(step: Step, params: Params, hidden: Array, layout: Layout, inputs: tuple[Array, ...]) -> Any:
    """Outputs of a network with memory at every row of R trajectories.

    Args:
      step: what the network computes in one row of all trajectories.
      params: of the network.
      hidden: `[R, N, H]`, the state where an episode begins; takes no gradient.
      layout: where episodes begin, `[T+1, R]`, and how many rows are in use.
      inputs: `[T+1, R, N, X]` each, of length 1 along what is common.

    Returns:
      Outputs `[T+1, R, ...]`; zeros in rows beyond those in use.
    """
    return _forward(step, params, hidden, layout, inputs)[0]


def _forward(step: Step, params: Params, start: Array, layout: Layout, inputs: tuple) -> tuple[Any, tuple]:
    """The outputs, and what the backward loop needs: the arguments, and the state in which every step began."""
    n_rows = layout.first.shape[0]

    def advance(index: Array, loop: tuple) -> tuple:
        hidden, befores, outputs = loop
        first, row = read_row(layout.first, index), _row_of(inputs, index, layout)
        before = restarted(hidden, start, first)
        hidden, output = step(params, before, row)
        befores = write_row(befores, before, index)
        return hidden, befores, jax.tree.map(lambda rows, row: write_row(rows, row, index), outputs, output)

    _, shapes = jax.eval_shape(step, params, start, tuple(part[0] for part in inputs))
    empty = jax.tree.map(lambda leaf: jnp.zeros((n_rows, *leaf.shape), leaf.dtype), (start, shapes))
    begin = mapped_as(layout.first[0, 0], (start, *empty))
    _, befores, outputs = jax.lax.fori_loop(0, _in_use(layout), advance, begin)
    return outputs, (params, start, layout, inputs, befores)


def _backward(step: Step, kept: tuple, slopes: Any) -> tuple:
    """Cotangents of parameters and inputs; those of inputs that nobody asks for are never computed (XLA drops them)."""
    params, start, layout, inputs, befores = kept
    in_use = _in_use(layout)

    def retreat(back: Array, loop: tuple) -> tuple:
        index = in_use - 1 - back
        slope, of_params, of_inputs = loop
        row = _row_of(inputs, index, layout)
        _, pull_back = jax.vjp(step, params, read_row(befores, index), row)
        more, slope, of_row = pull_back((slope, jax.tree.map(lambda rows: read_row(rows, index), slopes)))
        slope = restarted(slope, jnp.zeros_like(slope), read_row(layout.first, index))
        of_inputs = tuple(
            rows + row[None] if _is_common(rows, layout) else write_row(rows, row, index)
            for rows, row in zip(of_inputs, of_row, strict=True)
        )
        return slope, jax.tree.map(jnp.add, of_params, more), of_inputs

    zeros = mapped_as(layout.first[0, 0], jax.tree.map(jnp.zeros_like, (start, params, inputs)))
    _, of_params, of_inputs = jax.lax.fori_loop(0, in_use, retreat, zeros)
    return of_params, None, None, of_inputs


recur.defvjp(_forward, _backward)


def recur_keeping(step: Step, params: Params, hidden: Array, layout: Layout, inputs: tuple[Array, ...]) -> Any:
    """As `recur`, with everything kept that the backward loop needs, in all rows: fewer products, more memory."""

    def advance(before: Array, row: tuple[Array, tuple[Array, ...]]) -> tuple[Array, Any]:
        return step(params, restarted(before, hidden, row[0]), row[1])

    n_rows = layout.first.shape[0]
    inputs = tuple(jnp.broadcast_to(part, (n_rows, *part.shape[1:])) for part in inputs)
    return jax.lax.scan(advance, hidden, (layout.first, inputs))[1]


def over_blocks(block: Callable[..., tuple[Array, Any]], carry: Array, first: Array, inputs: tuple[Array, ...]) -> Any:
    """Outputs of all rows, computed block of time after block, for accelerators.

    Backward, everything in a block is computed again but the hidden states of `gru_over_time`.

    Args:
      block: `(carry, (first [K, R], inputs [K, R, ...])) -> (carry, outputs [K, R, ...])`.
      carry: before the first block.
      first: where episodes begin, `[T, R]`.
      inputs: `[T, R, ...]` each, or of length 1 where all rows share them.
    """
    time = first.shape[0]
    length = block_length(time)
    n_blocks = -(-time // length)
    common = [part.shape[0] == 1 and time > 1 for part in inputs]
    filled = n_blocks * length - time

    def cut(rows: Array, fill: Any) -> Array:
        rows = jnp.pad(rows, [(0, filled)] + [(0, 0)] * (rows.ndim - 1), constant_values=fill)
        return rows.reshape(n_blocks, length, *rows.shape[1:])

    def one(carry: Array, rows: tuple[Array, list[Array]]) -> tuple[Array, Any]:
        own = iter(rows[1])
        return block(carry, (rows[0], tuple(part if all_ else next(own) for part, all_ in zip(inputs, common))))

    if n_blocks == 1 and not filled:
        return block(carry, (first, inputs))[1]
    own = [cut(part, 0) for part, all_ in zip(inputs, common, strict=True) if not all_]
    kept = jax.checkpoint(one, policy=jax.checkpoint_policies.save_only_these_names(KEPT), prevent_cse=False)
    outputs = jax.lax.scan(kept, carry, (cut(first, True), own))[1]
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:time], outputs)


def block_length(time: int) -> int:
    """Rows of a block on accelerators: a multiple of `UNROLL`, long enough for `BLOCKS` blocks."""
    return time if time <= SHORTEST else -(-time // (BLOCKS * UNROLL)) * UNROLL


def each_row(function: Callable[..., Any], params: Params, layout: Layout, *inputs: Array) -> Any:
    """A function without memory of every row of a trajectory: `function(params, *rows)`, each with the rows in front.

    On CPUs so many rows at once as are `AT_ONCE` of all trajectories, in a loop as in `recur` where that is not all of
    them: what a large network makes of many would go through memory. On accelerators block of time after block
    (`over_blocks`).

    Args:
      function: of parameters and rows `[..., X]`; what it makes of a row depends on no other.
      params: of the function.
      layout: of the trajectory; of its rows only their number in use counts.
      inputs: `[T, ...]` each, or T+1 rows; of length 1 where all rows share them.
    """

    def blocks(params: Params, layout: Layout, inputs: tuple[Array, ...]) -> Any:
        block = lambda carry, rows: (carry, function(params, *rows[1]))
        return over_blocks(block, jnp.zeros(()), layout.first, inputs)

    def step(params: Params, hidden: Array, row: tuple[Array, ...]) -> tuple[Array, Any]:
        return hidden, function(params, *row)

    def rows(params: Params, layout: Layout, inputs: tuple[Array, ...]) -> Any:
        time, n_trajectories = layout.first.shape
        several = _at_once(time, max(math.prod(part.shape[1:-1]) for part in inputs))
        # Of a single row nobody can tell what is common to all rows from what merely is the same in all trajectories.
        is_common = lambda part: part.shape[:2] == (1, 1) and time > 1
        merge = lambda part: part if is_common(part) else _merged(part, several, n_trajectories)
        if several == time:  # a loop would be run once, and copy what it reads and writes
            outputs = function(params, *(merge(part)[0] for part in inputs))
            return jax.tree.map(lambda leaf: leaf.reshape(time, n_trajectories, *leaf.shape[1:]), outputs)
        steps = None if layout.steps is None else -(-layout.steps // several)
        blocks = Layout(first=jnp.ones((time // several, 1), bool), steps=steps)
        outputs = recur(step, params, jnp.zeros((1, 1, 0)), blocks, tuple(map(merge, inputs)))
        return jax.tree.map(lambda leaf: leaf.reshape(time, n_trajectories, *leaf.shape[2:]), outputs)

    n_rows = max(part.shape[0] for part in inputs)
    steps = None if layout.steps is None else jnp.minimum(layout.steps, n_rows)  # of T rows not T+1 can be in use
    return over_rows(rows if is_cpu() else blocks)(params, Layout(first=layout.first[:n_rows], steps=steps), inputs)


def _at_once(time: int, rows: int) -> int:
    """Of how many rows of a trajectory a product is made: a divisor of their number, for `AT_ONCE` rows at the most."""
    return next(size for size in range(max(AT_ONCE // rows, 1), 0, -1) if time % size == 0)


def _merged(part: Array, several: int, n_trajectories: int) -> Array:
    """`[T, R, ...]` as `[T / several, several · R, ...]`."""
    part = jnp.broadcast_to(part, (part.shape[0], n_trajectories, *part.shape[2:]))
    return part.reshape(part.shape[0] // several, several * n_trajectories, *part.shape[2:])


def restarted(hidden: Float[Array, "rows agents hidden"], start: Array, first: Bool[Array, "rows"]) -> Array:
    """The state in which a row begins: that of the row before, or `start` where an episode begins."""
    return jnp.where(first[:, None, None], start, hidden)


def _is_common(part: Array, layout: Layout) -> bool:
    return part.shape[0] == 1 < layout.first.shape[0]


def _row_of(inputs: tuple[Array, ...], index: Array, layout: Layout) -> tuple[Array, ...]:
    return tuple(part[0] if _is_common(part, layout) else read_row(part, index) for part in inputs)


def _in_use(layout: Layout) -> Any:
    return layout.first.shape[0] if layout.steps is None else layout.steps


Rows = Callable[[Params, Layout, tuple[Array, ...]], Any]
"""A function of many trajectories at once: time, then trajectories, then agents."""


def over_rows(rows: Rows) -> Rows:
    """The function of one trajectory `[T+1, ...]` that, mapped over trajectories by `vmap`, calls `rows` once for all.

    The mathematics of an algorithm is written for one trajectory; a rule of our own for `vmap` puts the trajectories on
    an axis of the products in place of a batch of products. Where parameters are mapped too (twin critics), it is
    `rows` of every one of them. A gradient is taken of what is mapped, never inside of `vmap`: JAX refuses that.

    Args:
      rows: of `(params, layout [T+1, R], inputs [T+1, R, ...])`; outputs `[T+1, R, ...]`.
    """

    def single(params: Params, layout: Layout, inputs: tuple[Array, ...]) -> Any:
        layout = layout._replace(first=layout.first[:, None])
        outputs = rows(params, layout, tuple(part[:, None] for part in inputs))
        return jax.tree.map(lambda leaf: leaf[:, 0], outputs)

    one = jax.custom_batching.custom_vmap(single)

    @one.def_vmap
    def all_of_them(axis_size: int, batched: list, params: Params, layout: Layout, inputs: tuple) -> tuple[Any, Any]:
        of_params, of_layout, of_inputs = batched
        params_differ, layout_differs = any(jax.tree.leaves(of_params)), any(jax.tree.leaves(of_layout))
        if params_differ and layout_differs:
            axes = jax.tree.map(lambda each: 0 if each else None, batched)
            outputs = jax.vmap(single, in_axes=axes, axis_size=axis_size)(params, layout, inputs)
        elif params_differ:
            # The axis of the parameters goes behind that of the trajectories, which may still come.
            axes = (
                jax.tree.map(lambda each: 0 if each else None, of_params),
                None,
                tuple(2 if b else None for b in of_inputs),
            )
            inputs = tuple(
                jnp.moveaxis(part, 0, 1) if each else part for part, each in zip(inputs, of_inputs, strict=True)
            )
            outputs = over_rows(jax.vmap(rows, in_axes=axes, out_axes=2))(params, layout, inputs)
            outputs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), outputs)
        else:
            first = _trajectories_second(layout.first, of_layout.first)
            first = jnp.broadcast_to(first, (first.shape[0], axis_size))
            outputs = rows(params, layout._replace(first=first), tuple(map(_trajectories_second, inputs, of_inputs)))
            outputs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), outputs)
        return outputs, jax.tree.map(lambda leaf: True, outputs)

    return one


def _trajectories_second(leaf: Array, batched: bool) -> Array:
    """Trajectories as the second axis of `[T+1, ...]`; of length 1 where all share the leaf."""
    return jnp.moveaxis(leaf, 0, 1) if batched else leaf[:, None]
