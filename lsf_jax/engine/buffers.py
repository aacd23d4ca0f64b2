"""Replay of whole episodes, packed: snapshots instead of observations, bits for flags.

The write position and the number of stored episodes follow from `clock.episodes`, which is common to all seeds: so a
write stays one `dynamic_update_slice` under the seed axis, where a per-seed index would become a scatter.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from lsf_jax.types import Buffer, BufferState, Clock, Episode, PRNGKey

AddFn: TypeAlias = Callable[[BufferState, Clock, Episode], BufferState]
"""Stores fresh episodes `[B, T, ...]`; the clock is that before they were counted."""


class PackedEpisodes(NamedTuple):
    """Stored form of episodes; leading axes [capacity]."""

    world: Any  # [T+1, ...] snapshots
    action: UInt8[Array, "*lead time agents"]
    reward: Array  # [T] float32
    terminal: UInt8[Array, "*lead bytes"]  # [ceil(T/8)] bits
    valid: UInt8[Array, "*lead bytes"]


def pack(episodes: Episode) -> PackedEpisodes:
    """Drop `info` and turn flags `[..., T]` into bits."""
    return PackedEpisodes(
        world=episodes.world,
        action=episodes.action.astype(jnp.uint8),
        reward=episodes.reward,
        terminal=jnp.packbits(episodes.terminal, axis=-1),
        valid=jnp.packbits(episodes.valid, axis=-1),
    )


def unpack(packed: PackedEpisodes) -> Episode:
    """Inverse of `pack`, without `info`."""
    time = packed.reward.shape[-1]
    return Episode(
        world=packed.world,
        action=packed.action,
        reward=packed.reward,
        terminal=jnp.unpackbits(packed.terminal, axis=-1, count=time).astype(bool),
        valid=jnp.unpackbits(packed.valid, axis=-1, count=time).astype(bool),
        info={},
    )


@jax.custom_batching.custom_vmap
def write_rows(ring: Array, rows: Array, position: Int[Array, ""]) -> Array:
    """The ring `[capacity, ...]` with `rows [n, ...]` written from `position` on.

    A rule of our own for `vmap`: JAX's turns every batched slice update into a scatter, even at one common position.
    """
    return jax.lax.dynamic_update_slice_in_dim(ring, rows, position, axis=0)


@write_rows.def_vmap
def _write_rows_of_all(axis_size: int, batched: list[bool], ring: Array, rows: Array, position: Array) -> tuple:
    if batched == [True, True, False]:
        return jax.lax.dynamic_update_slice_in_dim(ring, rows, position, axis=1), True
    axes = [0 if each else None for each in batched]
    plain = partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
    return jax.vmap(plain, in_axes=axes, axis_size=axis_size)(ring, rows, position), True


def choose_distinct(key: PRNGKey, available: Int[Array, ""], n: int) -> Int[Array, "n"]:
    """`n` distinct indices below `available`, every subset equally likely (Floyd's algorithm).

    Needs n draws where a shuffle needs one for each stored episode; for a thousand seeds of a one-step game the shuffle
    would cost more than learning. `available` must be at least `n`.
    """
    slots = jnp.arange(n)
    last = available.astype(jnp.int32) - n + slots  # the i-th draw is from 0..last[i]
    drawn = jax.random.randint(key, (n,), 0, last + 1)

    def insert(i: Array, chosen: Array) -> Array:
        taken = (chosen == drawn[i]).any()
        return jnp.where(slots == i, jnp.where(taken, last[i], drawn[i]), chosen)

    return jax.lax.fori_loop(0, n, insert, jnp.full((n,), -1, jnp.int32))


def uniform(example: Episode, *, capacity: int, batch_size: int, n_envs: int) -> Buffer:
    """A ring of the newest `capacity` episodes, sampled uniformly without replacement (off-policy replay).

    Args:
      example: shapes and dtypes of one episode `[T, ...]`, for instance from `jax.eval_shape`.
      capacity: episodes; a multiple of `n_envs`, so that a write never wraps.
      batch_size: episodes drawn at a time.
      n_envs: episodes added at a time.

    Raises:
      ValueError: if the sizes do not fit together.
    """
    if capacity % n_envs:
        raise ValueError(f"train.buffer_capacity {capacity} is not a multiple of train.n_envs {n_envs}.")
    if batch_size > capacity:
        raise ValueError(f"algo.batch_size {batch_size} exceeds train.buffer_capacity {capacity}.")

    def sample(state: BufferState, clock: Clock, key: PRNGKey) -> Episode:
        chosen = choose_distinct(key, jnp.minimum(clock.episodes, capacity), batch_size)
        return unpack(jax.tree.map(lambda ring: ring[chosen], state))

    init, add = _ring(example, capacity)
    return Buffer(init=init, add=add, sample=sample, prefill=batch_size)


def latest(example: Episode, *, batch_size: int, n_envs: int) -> Buffer:
    """The newest `batch_size` episodes, all of them in every sample, by slot and not by age (on-policy data).

    With `batch_size` equal to `n_envs` the batch is exactly what has just been collected.

    Args:
      example: shapes and dtypes of one episode `[T, ...]`, for instance from `jax.eval_shape`.
      batch_size: episodes kept and sampled; a multiple of `n_envs`, so that a write never wraps.
      n_envs: episodes added at a time.

    Raises:
      ValueError: if the sizes do not fit together.
    """
    if batch_size % n_envs:
        raise ValueError(
            f"algo.batch_size {batch_size} is not a multiple of train.n_envs {n_envs}; on-policy learning takes whole "
            "collections."
        )

    def sample(state: BufferState, clock: Clock, key: PRNGKey) -> Episode:
        del clock, key  # there is nothing to choose
        return unpack(state)

    init, add = _ring(example, batch_size)
    return Buffer(init=init, add=add, sample=sample, prefill=batch_size, on_policy=True)


def bundle(**buffers: Buffer) -> Buffer:
    """Several buffers that are given the same episodes; state and sample are dicts by name.

    Args:
      buffers: by name; each samples with a key of its own, once the one that waits longest can.
    """

    def init() -> BufferState:
        return {name: buffer.init() for name, buffer in buffers.items()}

    def add(state: BufferState, clock: Clock, episodes: Episode) -> BufferState:
        return {name: buffer.add(state[name], clock, episodes) for name, buffer in buffers.items()}

    def sample(state: BufferState, clock: Clock, key: PRNGKey) -> dict[str, Any]:
        keys = dict(zip(buffers, jax.random.split(key, len(buffers)), strict=True))
        return {name: buffer.sample(state[name], clock, keys[name]) for name, buffer in buffers.items()}

    return Buffer(
        init=init,
        add=add,
        sample=sample,
        prefill=max(buffer.prefill for buffer in buffers.values()),
        on_policy=any(buffer.on_policy for buffer in buffers.values()),
    )


def _ring(example: Episode, capacity: int) -> tuple[Callable[[], BufferState], AddFn]:
    """`init` and `add` of the newest `capacity` episodes, packed; episodes must come in divisors of `capacity`."""
    packed = jax.eval_shape(pack, example)

    def init() -> BufferState:
        return jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), packed)

    def add(state: BufferState, clock: Clock, episodes: Episode) -> BufferState:
        position = clock.episodes % capacity
        return jax.tree.map(
            lambda ring, rows: write_rows(ring, rows.astype(ring.dtype), position), state, pack(episodes)
        )

    return init, add
