"""Static lengths: loops over time as long as the longest episode at hand, where most end long before their limit.

A program has up to four lengths compiled into it and takes, at every update, the smallest that covers the batch of
every seed of its block. The choice is common to all seeds: so it stays one branch under the seed axis, where a choice
for each seed would compute them all. Nothing leaves the device for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lsf_jax.platforms import platform
from lsf_jax.types import Batch, Episode

SEEDS_AXIS, EPISODES_AXIS = "seeds", "episodes"
"""Names of the axes that `vmap` maps over in a block."""
EARLY = 4  # lengths of an environment whose episodes usually end early
Result = TypeVar("Result")


def largest_of_block(value: Array) -> Array:
    """The largest value over the episodes and seeds that are mapped over here, one scalar common to them all."""
    for axis in (EPISODES_AXIS, SEEDS_AXIS):
        try:
            value = jax.lax.pmax(value, axis)
        except NameError:  # JAX's word for an axis that is not there: this one is not mapped over
            continue
    return value


def only_if(wanted: Bool[Array, ""], change: Callable[[Any], Any], state: Any) -> Any:
    """`change(state)` if `wanted`, else the state as it is; `wanted` is common to all that is mapped.

    On GPUs a loop of one pass or of none, whose state stays where it is: a `cond` copies every array of it, whichever
    branch it takes, and again behind it. (A TPU's compiler copies for the loop what `change` only reads, all of replay;
    it gets the `cond`.)
    """
    if platform() != "gpu":
        return jax.lax.cond(wanted, change, lambda unchanged: unchanged, state)
    once = lambda loop: (jnp.bool_(False), change(loop[1]))
    return jax.lax.while_loop(lambda loop: loop[0], once, (wanted, state))[1]


def static_lengths(limit: int, n: int) -> tuple[int, ...]:
    """`n` equally spaced lengths, the last one the limit; fewer where the limit is smaller."""
    part = -(-limit // n)
    return tuple(sorted({min(part * (i + 1), limit) for i in range(n)}))


def episodes_of(batch: Batch) -> list[Episode]:
    """The episodes of a batch: one `Episode` `[B, T, ...]`, or several in a dict."""
    return jax.tree.leaves(batch, is_leaf=_is_episode)


def longest(batch: Batch) -> Int[Array, ""]:
    """Steps of the longest episode of a batch."""
    lengths = [episodes.valid.sum(axis=-1, dtype=jnp.int32).max() for episodes in episodes_of(batch)]
    return jnp.stack(lengths).max()


def cut(batch: Batch, length: int) -> Batch:
    """The first `length` steps of every episode, and the world after the last of them."""

    def one(episode: Episode) -> Episode:
        rest = jax.tree.map(lambda leaf: leaf[:, :length], episode._replace(world=()))
        return rest._replace(world=jax.tree.map(lambda leaf: leaf[:, : length + 1], episode.world))

    return jax.tree.map(one, batch, is_leaf=_is_episode)


def fitted(lengths: Sequence[int], batch: Batch, call: Callable[[Batch], Result]) -> Result:
    """`call` on the batch cut to the smallest of `lengths` that covers it, in every seed of the block."""
    if len(lengths) == 1:
        return call(batch)
    needed = largest_of_block(longest(batch))
    index = sum((needed > length).astype(jnp.int32) for length in lengths[:-1])
    return jax.lax.switch(index, [lambda at=length: call(cut(batch, at)) for length in lengths])


def computed_steps(lengths: Sequence[int], needed: Array) -> Array:
    """The smallest of `lengths` that covers `needed` steps."""
    choices = jnp.asarray(lengths, jnp.int32)
    return choices[(needed > choices[:-1]).sum()]


def _is_episode(node: Any) -> bool:
    return isinstance(node, Episode)
