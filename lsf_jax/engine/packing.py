"""Episodes end to end in rows: what an update computes follows from how many steps there are, not from the longest.

Where most episodes end long before their limit, a batch of rows as long as its longest episode is padding for the most
part. Here an episode takes as many rows of a trajectory as it has steps and one more, from which it bootstraps, and the
next begins right after it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from lsf_jax.engine.lengths import largest_of_block
from lsf_jax.envs import chance
from lsf_jax.platforms import is_cpu
from lsf_jax.types import Batch, Env, Episode, Layout, Observation, PackedRows, PRNGKey, Trajectory

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
    of_moment = lambda episode, moment: chance.fold_in(chance.fold_in(key, episode), moment)
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


def as_trajectory(env: Env, episode: Episode) -> Trajectory:
    """One whole episode `[T, ...]` as learning sees it: what an algorithm's `forward` takes.

    Args:
      env: that it was played in.
      episode: arrays of JAX or NumPy.
    """
    rows = one_per_row(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], episode))
    return jax.tree.map(lambda leaf: leaf[:, 0], observe_rows(env, rows))


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
        world=zero_unless(holds.any(axis=-1), jax.tree.map(lambda leaf: leaf[episode, moment], episodes.world)),
        action=of_steps(episodes.action),
        reward=of_steps(episodes.reward),
        terminal=of_steps(episodes.terminal),
        valid=valid,
        first=(holds & (since == 0)).any(axis=-1),
        episode=episode,
        moment=moment,
        steps=steps,
    )


def choices_of(lengths: Sequence[int], batch: Batch) -> tuple[tuple[Shape, ...], ...]:
    """The shapes that a batch may be packed into, one for each of its parts: an `Episode`, or several by name."""
    each = [shapes_of(part.valid.shape[1], part.valid.shape[0], lengths) for part in _episodes_of(batch)]
    n_choices = max(map(len, each))
    return tuple(tuple(shapes[min(at, len(shapes) - 1)] for shapes in each) for at in range(n_choices))


def fitted_rows(choices: Sequence[tuple[Shape, ...]], batch: Batch, call: Callable[[Batch], Result]) -> Result:
    """`call` on a batch in the shapes that compute fewest places, of those that hold every seed's of the block.

    Args:
      choices: see `choices_of`; a single one is an episode a row.
      batch: an `Episode` `[B, T, ...]`, or several by name.
      call: of `PackedRows`, or of several by the same names.
    """
    parts = _episodes_of(batch)
    tree = jax.tree.structure(batch, is_leaf=_is_episode)
    lengths = [part.valid.sum(axis=-1, dtype=jnp.int32) for part in parts]
    if len(choices) == 1:
        needed = [largest_of_block(each.max() + 1) for each in lengths]
        rows = [one_per_row(part)._replace(steps=_in_use(each)) for part, each in zip(parts, needed, strict=True)]
        return call(tree.unflatten(rows))
    fits = [[_fit(*each) for each in zip(parts, lengths, choice, strict=True)] for choice in choices]
    holds = jnp.stack([jnp.stack([fit.needed <= fit.shape.places for fit in choice]).all() for choice in fits])
    cost = jnp.stack([jnp.stack([fit.cost for fit in choice]).sum() for choice in fits])
    cheapest = jnp.argmin(jnp.where(holds, cost, jnp.iinfo(jnp.int32).max))
    rows_of = lambda choice: tree.unflatten([fit.rows() for fit in choice])
    return jax.lax.switch(cheapest, [lambda choice=choice: call(rows_of(choice)) for choice in fits])


class _Fit(NamedTuple):
    """Episodes in one shape."""

    shape: Shape
    needed: Int[Array, ""]  # places in the fullest row of the block
    cost: Int[Array, ""]  # places that are computed
    rows: Callable[[], PackedRows]


def _fit(episodes: Episode, lengths: Array, shape: Shape) -> _Fit:
    placement = place(lengths, shape.rows)
    needed = largest_of_block(placement.needed)
    places = needed if is_cpu() else jnp.int32(shape.places)
    return _Fit(shape, needed, shape.rows * places, lambda: pack_rows(episodes, placement, shape, _in_use(needed)))


def _episodes_of(batch: Batch) -> list[Episode]:
    return jax.tree.leaves(batch, is_leaf=_is_episode)


def _is_episode(node: Any) -> bool:
    return isinstance(node, Episode)


def valid_fraction(batch: Batch) -> Float[Array, ""]:
    """Valid steps ÷ places computed, of all rows of a batch; those from which episodes bootstrap count as computed."""
    parts = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, PackedRows))
    places = [rows.first.shape[1] if rows.steps is None else rows.steps for rows in parts]
    computed = sum(rows.first.shape[0] * each for rows, each in zip(parts, places, strict=True))
    valid = sum(rows.valid.sum() for rows in parts)
    return jnp.asarray(valid, jnp.float32) / jnp.asarray(computed, jnp.float32)


class Moments(NamedTuple):
    """Where the steps of packed rows stand when all episodes of a batch go through time together, from t = 0 on."""

    place: Int[Array, "time episodes"]  # of a step among all of its rows, time first: place · R + row
    valid: Bool[Array, "time episodes"]
    longest: Int[Array, ""] | None  # steps of the longest episode of the block; None: all steps are gone through

    def of_rows(self, leaf: Shaped[Array, "places trajectories ..."]) -> Shaped[Array, "time episodes ..."]:
        """What rows hold, time first, by moment and episode; beyond an episode's end anything."""
        return leaf.reshape(-1, *leaf.shape[2:])[self.place]


def moments_of(rows: PackedRows, n_episodes: int, limit: int) -> Moments:
    """The steps of rows by moment and episode.

    Args:
      rows: of so many episodes.
      n_episodes: B.
      limit: T, steps of the longest possible episode.
    """
    n_rows, places = rows.first.shape
    is_of = rows.episode.T[..., None] == jnp.arange(n_episodes)[None, None]  # [T+1, R, B]
    begin = jnp.argmax((rows.first.T[..., None] & is_of).reshape(-1, n_episodes), axis=0)
    steps = (rows.valid.T[..., None] & is_of[:-1]).sum(axis=(0, 1), dtype=jnp.int32)
    moment = jnp.arange(limit, dtype=jnp.int32)[:, None]
    place = jnp.minimum(begin[None, :] + moment * n_rows, (places - 1) * n_rows - 1)
    longest = None if rows.steps is None else largest_of_block(steps.max())
    return Moments(place=place, valid=moment < steps[None, :], longest=longest)


def by_row(rows: PackedRows, leaf: Shaped[Array, "time episodes ..."]) -> Shaped[Array, "places trajectories ..."]:
    """What is known by moment and episode, in packed rows, time first; where no step is valid anything."""
    moment = jnp.minimum(rows.moment, leaf.shape[0] - 1).T[:-1]
    return leaf[moment, rows.episode.T[:-1]]


def zero_unless(keep: Bool[Array, "..."], tree: Any) -> Any:
    """Every leaf of `tree`, whose first axes are those of `keep`, or zeros."""

    def of(leaf: Array) -> Array:
        wide = keep.reshape(*keep.shape, *(1,) * (leaf.ndim - keep.ndim))
        return jnp.where(wide, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(of, tree)


def _in_use(needed: Array) -> Array | None:
    """What a loop over places counts to: on accelerators a length that is known beforehand, all of them."""
    return needed if is_cpu() else None
