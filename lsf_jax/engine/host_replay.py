"""Replay in the host's memory: for observations that no snapshot recomputes and that a device has no room for.

The ring is the buffer's own, kept on the CPU of the process; what an iteration will sample is drawn there, with the
keys that the device would have used, and handed to the device beside the fresh episodes. So a run learns the same bits
wherever its replay is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.engine.training import AXES, iteration_keys, per_leaf
from lsf_jax.types import Batch, Buffer, BufferState, Clock, Episode, PRNGKey, TrainState


class HostReplay(NamedTuple):
    """Rings `[K, capacity, ...]` on the host, and the buffer that the device is given instead."""

    cpu: Any  # a jax.Device
    store: Callable[[BufferState, Clock, Episode], BufferState]  # fresh episodes [K, B, T, ...] in; donates the rings
    draw: Callable[[BufferState, TrainState], Batch]  # all batches of the coming iteration, [K, updates, B', T, ...]
    on_device: Buffer  # its state is what `draw` returned


def split_replay(buffer: Buffer, n_envs: int, updates: int) -> HostReplay:
    """Split a buffer into rings on the host and a hand-over to the device.

    Args:
      buffer: of one seed.
      n_envs: episodes stored in one iteration.
      updates: updates of one iteration; each has a batch of its own.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    axes = per_leaf(0, None)
    store = jax.vmap(buffer.add, in_axes=(0, axes.clock, 0))
    draw = jax.vmap(partial(_draw, buffer, n_envs, updates), in_axes=(0, AXES._replace(buffer=None)))
    return HostReplay(
        cpu=cpu,
        store=jax.jit(store, donate_argnums=0),
        draw=jax.jit(draw),
        on_device=buffer._replace(init=lambda: (), add=lambda state, clock, episodes: state, sample=_take),
    )


def _draw(buffer: Buffer, n_envs: int, updates: int, stored: BufferState, state: TrainState) -> Batch:
    """What `make_train_step` would sample of one seed: the same keys, the same clock."""
    clock = state.clock._replace(episodes=state.clock.episodes + n_envs)
    keys = jax.random.split(iteration_keys(state).update, updates)

    def one(key: PRNGKey) -> Batch:
        return buffer.sample(stored, clock, jax.random.split(key)[0])

    return jax.lax.map(one, keys)


def _take(batches: Any, clock: Clock, key: PRNGKey) -> Batch:
    """The batch of the coming update: every iteration makes as many as were drawn."""
    del key
    n = jax.tree.leaves(batches)[0].shape[0]
    return jax.tree.map(lambda leaf: leaf[clock.updates % n], batches)


def init_on_host(init: Callable[[Any], TrainState], rows: Any) -> TrainState:
    """A block's first state, its rings made in the host's memory and the rest brought to the default device."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        state = init(rows)
    return jax.device_put(state._replace(buffer=()), jax.local_devices()[0])._replace(buffer=state.buffer)


def on_host(shapes: TrainState) -> TrainState:
    """Shapes of a block's state that say where its rings belong when a checkpoint is read."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return shapes._replace(buffer=jax.tree.map(placed, shapes.buffer))


def hand_over(replay: HostReplay, state: TrainState, fresh: Episode) -> tuple[TrainState, BufferState]:
    """Store fresh episodes on the host and draw the batches of the coming iteration.

    Args:
      replay: where the rings are.
      state: of a block; its buffer holds the rings, which are donated.
      fresh: NumPy `[K, B, T, ...]`.

    Returns:
      The state for the device, whose buffer holds what was drawn; and the rings.
    """
    here = jax.device_put(state._replace(buffer=()), replay.cpu)
    rings = replay.store(state.buffer, here.clock, jax.device_put(fresh, replay.cpu))
    drawn = replay.draw(rings, here)
    return state._replace(buffer=jax.device_put(drawn, _device_of(state.iteration))), rings


def _device_of(array: Array) -> Any:
    return next(iter(jnp.asarray(array).devices()))
