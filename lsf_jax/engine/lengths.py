"""What the seeds of a block agree on: loops over time as long as the longest episode of them all.

Such a choice is common to all seeds: so it stays one branch or one bound under the seed axis, where a choice for each
seed would compute them all. Nothing leaves the device for it.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from lsf_jax.platforms import platform

SEEDS_AXIS, EPISODES_AXIS = "seeds", "episodes"
"""Names of the axes that `vmap` maps over in a block."""
Function = TypeVar("Function", bound=Callable[..., Any])
EARLY = 4  # lengths of an environment whose episodes usually end early


def largest_of_block(value: Array) -> Array:
    """The largest value over the episodes and seeds that are mapped over here, one scalar common to them all."""
    for axis in (EPISODES_AXIS, SEEDS_AXIS):
        try:
            value = jax.lax.pmax(value, axis)
        except NameError:  # JAX's word for an axis that is not there: this one is not mapped over
            continue
    return value


def traced_once(function: Function) -> Function:
    """The same function, traced once for a platform and arguments of the same shapes, though shapes are asked first."""
    traced: dict[str, Any] = {}

    @wraps(function)
    def once(*arguments: Any) -> Any:
        if platform() not in traced:  # `partial` makes another function: JAX keeps traces by function
            traced[platform()] = jax.jit(partial(function), inline=True)
        return traced[platform()](*arguments)

    return once  # pyright: ignore[reportReturnType]


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


def computed_steps(lengths: Sequence[int], needed: Array) -> Array:
    """The smallest of `lengths` that covers `needed` steps."""
    choices = jnp.asarray(lengths, jnp.int32)
    return choices[(needed > choices[:-1]).sum()]
