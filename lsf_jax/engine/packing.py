"""Episodes end to end in rows: what an update computes follows from how many steps there are, not from the longest.

Where most episodes end long before their limit, a batch of rows as long as its longest episode is padding for the most
part. Here an episode takes as many rows of a trajectory as it has steps and one more, from which it bootstraps, and the
next begins right after it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lsf_jax.engine.lengths import largest_of_block
from lsf_jax.platforms import is_cpu
from lsf_jax.types import Env, Episode, Layout, Observation, PackedRows, PRNGKey, Trajectory

ObserveFn: TypeAlias = Callable[[PackedRows], Trajectory]
"""Turns rows `[R, T+1, ...]` into what learning sees, time first: `[T+1, R, ...]`."""

Result = TypeVar("Result")

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


class Shape(NamedTuple):
    """Rows side by side, and places in a row: what one of a few compiled updates computes."""

    rows: int
    places: int


def shapes_of(limit: int, batch: int, lengths: Sequence[int]) -> tuple[Shape, ...]:
    """The shapes that a batch may be packed into, the last of which holds any; every one is compiled, so they are two.

    A CPU computes only as many places of a row as are in use, so a few long rows do where episodes end early. On an
    accelerator every place is computed and depth is what costs: rows half as long, half as many.

    Args:
      limit: T, steps of the longest possible episode.
      batch: episodes in an update.
      lengths: compiled lengths of an episode, see `lengths.static_lengths`; one alone packs nothing.
    """
    whole = Shape(batch, limit + 1)
    if len(lengths) < 2:
        return (whole,)
    part, places = (4, limit + 1) if is_cpu() else (2, -(-limit // 2) + 1)
    return (whole,) if batch % part else (Shape(batch // part, places), whole)


class Placement(NamedTuple):
    """Where a seed's episodes lie, longest first: it depends on their own lengths only."""

    order: Int[Array, "episodes"]  # which episode
    row: Int[Array, "episodes"]
    start: Int[Array, "episodes"]  # its first place there
    needed: Int[Array, ""]  # places in the fullest row


def place(lengths: Int[Array, "episodes"], n_rows: int) -> Placement:
    """The longest episode that is left goes to the emptiest row, one after another; L steps take L + 1 places."""
    order = jnp.argsort(-lengths)

    def put(loads: Array, need: Array) -> tuple[Array, tuple[Array, Array]]:
        row = jnp.argmin(loads).astype(jnp.int32)
        here = jnp.arange(n_rows) == row
        return loads + jnp.where(here, need, 0), (row, jnp.where(here, loads, 0).sum())

    loads, (row, start) = jax.lax.scan(put, jnp.zeros((n_rows,), jnp.int32), lengths[order] + 1)
    return Placement(order=order, row=row, start=start, needed=loads.max())


def pack_rows(episodes: Episode, placement: Placement, shape: Shape, steps: Array | None = None) -> PackedRows:
    """Episodes `[B, T, ...]` in the rows that `placement` gives them; it must fit.

    Args:
      episodes: whole and padded.
      placement: for `shape.rows` rows.
      shape: of the result.
      steps: see `Layout`.
    """
    lengths = episodes.valid.sum(axis=-1, dtype=jnp.int32)[placement.order]  # [B], longest first
    places = jnp.arange(shape.places, dtype=jnp.int32)
    here = (placement.row[None, :] == jnp.arange(shape.rows)[:, None])[:, None, :]  # [R, 1, B]
    since = places[None, :, None] - placement.start[None, None, :]  # [1, T+1, B]
    holds = here & (since >= 0) & (since <= lengths[None, None, :])  # [R, T+1, B]
    pick = lambda values: jnp.where(holds, values, 0).sum(axis=-1, dtype=jnp.int32)
    episode, moment = pick(placement.order[None, None, :]), pick(since)
    valid = (holds & (since < lengths[None, None, :])).any(axis=-1)[:, :-1]

    def of_steps(leaf: Array) -> Array:
        return zero_unless(valid, leaf[episode[:, :-1], jnp.minimum(moment[:, :-1], leaf.shape[1] - 1)])

    return PackedRows(
        world=jax.tree.map(lambda leaf: zero_unless(holds.any(axis=-1), leaf[episode, moment]), episodes.world),
        action=of_steps(episodes.action),
        reward=of_steps(episodes.reward),
        terminal=of_steps(episodes.terminal),
        valid=valid,
        first=(holds & (since == 0)).any(axis=-1),
        episode=episode,
        moment=moment,
        steps=steps,
    )


def fitted_rows(shapes: Sequence[Shape], episodes: Episode, call: Callable[[PackedRows], Result]) -> Result:
    """`call` on the episodes in the shape that computes fewest places, of those that hold every seed's of the block."""
    lengths = episodes.valid.sum(axis=-1, dtype=jnp.int32)
    if len(shapes) == 1:
        rows = one_per_row(episodes)
        return call(rows._replace(steps=_in_use(largest_of_block(lengths.max() + 1))))
    placements = [place(lengths, shape.rows) for shape in shapes]
    needed = jnp.stack([largest_of_block(placement.needed) for placement in placements])
    places = jnp.array([shape.places for shape in shapes], jnp.int32)
    cost = jnp.array([shape.rows for shape in shapes], jnp.int32) * (needed if is_cpu() else places)
    cheapest = jnp.argmin(jnp.where(needed <= places, cost, jnp.iinfo(jnp.int32).max))
    return jax.lax.switch(
        cheapest,
        [
            lambda shape=shape, placement=placement, at=at: call(
                pack_rows(episodes, placement, shape, _in_use(needed[at]))
            )
            for at, (shape, placement) in enumerate(zip(shapes, placements, strict=True))
        ],
    )


def valid_fraction(rows: PackedRows) -> Float[Array, ""]:
    """Valid steps ÷ places computed; those from which episodes bootstrap count as computed."""
    n_rows, places = rows.first.shape
    computed = n_rows * (places if rows.steps is None else rows.steps)
    return rows.valid.sum().astype(jnp.float32) / jnp.asarray(computed, jnp.float32)


def zero_unless(keep: Array, leaf: Array) -> Array:
    """`leaf`, whose first axes are those of `keep`, or zeros."""
    keep = keep.reshape(*keep.shape, *(1,) * (leaf.ndim - keep.ndim))
    return jnp.where(keep, leaf, jnp.zeros_like(leaf))


def _in_use(needed: Array) -> Array | None:
    """What a loop over places counts to: on accelerators a length that is known beforehand, all of them."""
    return needed if is_cpu() else None
