"""The stored view: where no small snapshot recomputes what was seen, replay keeps the observation itself.

All agents' numbers lie end to end in one array of the dtype that the game gives them (truth values and bytes stay one
byte each), availability is bits, and what can be derived is not kept: agents' padding, and a state that is nothing but
all observations side by side. Snapshots of games that a few bytes describe are smaller by far; give those where you
can (`lsf_jax.types.Env`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from lsf_jax.types import Observation, Snapshot


class Widths(NamedTuple):
    """How wide each agent's own observation is, and how many actions it has."""

    obs: tuple[int, ...]
    actions: tuple[int, ...]


class StoredObservation(NamedTuple):
    """What replay keeps of one moment."""

    obs: Shaped[Array, "*lead features"]  # every agent's own numbers, end to end
    state: Shaped[Array, "*lead state"] | None  # None: all of `obs` is the state
    avail: UInt8[Array, "*lead bytes"] | None  # bits; None: everybody may do all that it has


def store(
    obs: Sequence[Array], *, state: Array | None = None, avail: Sequence[Array] | None = None
) -> StoredObservation:
    """What was seen, as replay keeps it.

    Args:
      obs: of each agent, of any shape; where dtypes differ all become float32.
      state: for critics, of any shape; None: all observations side by side.
      avail: of each agent, truth values, as many as it has actions; None: all of them, always.
    """
    dtypes = {each.dtype for each in obs}
    dtype = dtypes.pop() if len(dtypes) == 1 else jnp.float32
    return StoredObservation(
        obs=jnp.concatenate([each.reshape(-1).astype(dtype) for each in obs]),
        state=None if state is None else state.reshape(-1),
        avail=None if avail is None else jnp.packbits(jnp.concatenate([each.astype(bool) for each in avail])),
    )


def recall(stored: StoredObservation, widths: Widths) -> Observation:
    """What was seen: float32, exactly where the game's numbers are (whole numbers up to 2²⁴ are).

    Args:
      stored: by `store`.
      widths: of the agents whose moment it is. The narrower ones are padded with zeros, and with actions that are not
        available.
    """
    obs = stored.obs.astype(jnp.float32)
    if stored.avail is None:
        avail = jnp.ones(sum(widths.actions), bool)
    else:
        avail = jnp.unpackbits(stored.avail, count=sum(widths.actions)).astype(bool)
    return Observation(
        obs=_rows(obs, widths.obs),
        state=obs if stored.state is None else stored.state.astype(jnp.float32),
        avail=_rows(avail, widths.actions),
    )


def n_bytes(snapshot: Snapshot) -> int:
    """Bytes of one moment in replay, of arrays or their shapes."""
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(snapshot))


def narrowest(low: int, high: int) -> np.dtype:
    """The smallest dtype that holds all whole numbers from `low` to `high`."""
    kinds = ("uint8", "int8", "uint16", "int16", "int32")
    fits = [kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
    return np.dtype(fits[0])


def _rows(flat: Array, widths: tuple[int, ...]) -> Array:
    """One row for each agent, padded with zeros (False) to the widest."""
    widest = max(widths)
    if set(widths) == {widest}:
        return flat.reshape(len(widths), widest)
    ends = np.cumsum(widths)
    parts = [flat[end - width : end] for end, width in zip(ends, widths)]
    return jnp.stack([jnp.pad(part, (0, widest - width)) for part, width in zip(parts, widths)])
