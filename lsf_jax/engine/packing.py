"""Episodes end to end in rows: what an update computes follows from how many steps there are, not from the longest.

Where most episodes end long before their limit, a batch of rows as long as its longest episode is padding for the most
part. Here an episode takes as many rows of a trajectory as it has steps and one more, from which it bootstraps, and the
next begins right after it.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from lsf_jax.types import Env, Episode, Layout, Observation, PackedRows, PRNGKey, Trajectory

ObserveFn: TypeAlias = Callable[[PackedRows], Trajectory]
"""Turns rows `[R, T+1, ...]` into what learning sees, time first: `[T+1, R, ...]`."""

PER_TRAJECTORY = Trajectory(observation=1, action=1, reward=1, terminal=1, valid=1, layout=Layout(first=1, steps=None))  # pyright: ignore
"""Where the axis of trajectories lies in what `ObserveFn` gives, for `vmap`."""


def one_per_row(episodes: Episode) -> PackedRows:
    """Every episode `[B, T, ...]` in a row of its own, padding and all."""
    n_episodes, time = episodes.valid.shape
    index = lambda values: jnp.broadcast_to(values, (n_episodes, time + 1))
    moment = index(jnp.arange(time + 1, dtype=jnp.int32)[None, :])
    return PackedRows(
        world=episodes.world,
        action=episodes.action,
        reward=episodes.reward,
        terminal=episodes.terminal,
        valid=episodes.valid,
        first=moment == 0,
        episode=index(jnp.arange(n_episodes, dtype=jnp.int32)[:, None]),
        moment=moment,
    )


def as_rows(batch: Episode | PackedRows) -> PackedRows:
    """A batch that is packed already, or one episode a row."""
    return one_per_row(batch) if isinstance(batch, Episode) else batch


def row_keys(key: PRNGKey, rows: PackedRows) -> Key[Array, "rows trajectories"]:
    """A key for every row, time first, of its episode and its moment there: so packing changes no draw."""
    of_moment = lambda episode, moment: jax.random.fold_in(jax.random.fold_in(key, episode), moment)
    return jax.vmap(jax.vmap(of_moment))(rows.episode.T, rows.moment.T)


def observe_rows(env: Env, rows: PackedRows) -> Trajectory:
    """Recompute what everyone saw from snapshots, for many trajectories at once.

    Rows after the last real observation of an episode get zero obs and state and *all* actions available: a zero
    snapshot does not observe to zeros, and a row without an available action makes a log-softmax NaN.

    Args:
      env: whose snapshots these are.
      rows: `[R, T+1, ...]`.

    Returns:
      Time first: `[T+1, R, ...]`.
    """
    by_time = lambda leaf: jnp.swapaxes(leaf, 0, 1)
    rows = jax.tree.map(lambda leaf: by_time(leaf) if leaf.ndim else leaf, rows)
    seen = jax.vmap(jax.vmap(env.observe))(rows.world)
    after_a_step = jnp.concatenate([jnp.zeros_like(rows.valid[:1]), rows.valid])  # [T+1, R]
    real = rows.first | after_a_step
    return Trajectory(
        observation=Observation(
            obs=jnp.where(real[:, :, None, None], seen.obs, 0.0),
            state=jnp.where(real[:, :, None], seen.state, 0.0),
            avail=seen.avail | ~real[:, :, None, None],
        ),
        action=rows.action.astype(jnp.int32),
        reward=rows.reward,
        terminal=rows.terminal,
        valid=rows.valid,
        layout=Layout(first=rows.first, steps=rows.steps),
    )
