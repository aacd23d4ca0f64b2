"""Rollouts: episodes of a JAX environment, padded to its limit, with everything after the end zero.

A slot plays several episodes, one after another, where most end early and computing is dear: so that no slot waits for
the longest episode of all. Which slot plays what is fixed beforehand and every episode is played to its end; a rule of
"the first n to finish" would prefer short ones.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt8

from lsf_jax.engine.lengths import EPISODES_AXIS, computed_steps, largest_of_block, only_if, traced_once
from lsf_jax.engine.packing import zero_unless
from lsf_jax.envs import chance
from lsf_jax.networks.recurrence import mapped_as, write_row
from lsf_jax.platforms import is_cpu
from lsf_jax.types import (
    Act,
    Algorithm,
    Carry,
    Clock,
    Collect,
    Env,
    EnvState,
    Episode,
    Hyper,
    Observation,
    Params,
    PRNGKey,
    TimeStep,
)

EPISODES_A_SLOT = 4
"""Of a collection or an evaluation on a CPU, where most episodes end early."""


def to_bytes(tree: Any) -> UInt8[Array, "bytes"]:
    """All leaves, bit for bit, as one array."""
    return jnp.concatenate([_bytes_of(leaf) for leaf in jax.tree.leaves(tree)])


def _bytes_of(leaf: Array) -> UInt8[Array, "bytes"]:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint8).reshape(-1)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint8).reshape(-1)


def from_bytes(shapes: Any, content: UInt8[Array, "bytes"]) -> Any:
    """The tree that `to_bytes` made an array of, with leaves of the given shapes."""
    leaves, structure = jax.tree.flatten(shapes)
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves]
    pieces = [content[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return jax.tree.unflatten(structure, [_of_bytes(leaf, own) for leaf, own in zip(leaves, pieces, strict=True)])


def _of_bytes(shape: jax.ShapeDtypeStruct, content: UInt8[Array, "bytes"]) -> Array:
    if shape.dtype == jnp.bool_:
        return (content != 0).reshape(shape.shape)
    width = (shape.dtype.itemsize,) if shape.dtype.itemsize > 1 else ()
    return jax.lax.bitcast_convert_type(content.reshape(*shape.shape, *width), shape.dtype)


def slots_of(env: Env, n_episodes: int) -> int:
    """Games side by side: a divisor of the episodes, by a rule of the environment and the platform alone.

    On accelerators the depth of the loop is what costs, and where episodes last, nobody waits for long.
    """
    if not (is_cpu() and env.ends_early):
        return n_episodes
    fewest = -(-n_episodes // EPISODES_A_SLOT)
    return next(slots for slots in range(fewest, n_episodes + 1) if n_episodes % slots == 0)


class Begun(NamedTuple):
    """Everything with which a slot's episodes begin, `[M, ...]` each."""

    state: EnvState
    observation: Observation
    key: Key[Array, "episodes"]  # of all steps of an episode


class Moment(NamedTuple):
    """A game between two steps."""

    state: EnvState
    observation: Observation
    carry: Carry


class Loop(NamedTuple):
    """A slot between two steps."""

    moment: Moment
    episode: Int[Array, ""]  # 0..M-1, and M when all have ended
    steps: Int[Array, ""]  # since it began


class Row(NamedTuple):
    """What is kept of a step."""

    snapshot: Any  # of the state after it
    step: Episode  # without its `world`, which is filled in afterwards
    done: Bool[Array, ""]


def play(env: Env, act: Act, carry: Carry, keys: Key[Array, "episodes"], parts: int = 1) -> Episode:
    """Play M episodes one after another, each padded with zeros to T = `env.spec.episode_limit`: `[M, T, ...]`.

    Padding is zeroed here, at birth: a mask in the loss alone would let the gradient of an unselected branch turn
    garbage into NaN. Rows 0..L of `world` are real for an episode of L steps; row L is where learning bootstraps. What
    chance decides in an episode follows from its own key, whoever plays it and when.

    Args:
      env: the environment.
      act: policy with parameters bound.
      carry: what the agent remembers at t = 0.
      keys: one for each episode, consumed.
      parts: on accelerators the loop over time is cut into so many; a part is left out once every episode of the block
        has ended. On a CPU the loop ends with the last of them.

    Raises:
      ValueError: several episodes in a slot on an accelerator.
    """
    n_episodes, limit = keys.shape[0], env.spec.episode_limit
    both = jax.vmap(chance.split)(keys)
    states, observations = jax.vmap(env.reset)(both[:, 0])
    begun = Begun(state=states, observation=observations, key=both[:, 1])

    @traced_once
    def advance(moment: Moment, keys: Key[Array, "2"]) -> tuple[Moment, Row]:
        carry, action = act(moment.carry, moment.observation, keys[0])
        state, timestep = env.step(keys[1], moment.state, action)
        return Moment(state, timestep.observation, carry), _row(env, state, action, timestep)

    first = jax.tree.map(lambda leaf: leaf[0], (begun.state, begun.observation))
    if is_cpu():
        rows = _until_all_ended(advance, begun, Moment(*first, carry=carry), limit)
    elif n_episodes == 1:
        rows = _scan(advance, begun.key[0], Moment(*first, carry=carry), limit, parts)
    else:
        raise ValueError(f"{n_episodes} episodes in a slot: on accelerators one, see `slots_of`.")
    return _apart(rows, jax.vmap(env.snapshot)(begun.state), limit)


def rollout(env: Env, act: Act, carry: Carry, key: PRNGKey, parts: int = 1) -> Episode:
    """Play one episode, `[T, ...]`; see `play`."""
    return jax.tree.map(lambda leaf: leaf[0], play(env, act, carry, key[None], parts))


def _keys_of(episode: PRNGKey, step: Int[Array, ""]) -> Key[Array, "2"]:
    """Keys of a step, for the policy and for the game."""
    return chance.split(chance.fold_in(episode, step))


def _row(env: Env, state: EnvState, action: Array, timestep: TimeStep) -> Row:
    step = Episode(
        world=(),
        action=action.astype(jnp.uint8),
        reward=timestep.reward,
        terminal=timestep.terminal,
        valid=jnp.bool_(True),
        info=timestep.info,
    )
    return Row(snapshot=env.snapshot(state), step=step, done=timestep.done)


def _next_episode(loop: Loop, done: Bool[Array, ""], begun: Begun, carry: Carry) -> Loop:
    """The slot as it is, or at the beginning of its next episode where one has just ended."""
    n_episodes = begun.key.shape[0]
    counted = loop._replace(episode=loop.episode + done.astype(jnp.int32))
    if n_episodes == 1:
        return counted

    def restart(loop: Loop) -> Loop:
        at = jnp.minimum(loop.episode, n_episodes - 1)
        new = jax.tree.map(lambda leaf: leaf[at], (begun.state, begun.observation))
        fresh = Loop(Moment(*new, carry=carry), episode=loop.episode, steps=jnp.int32(0))
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, loop)

    any_done = largest_of_block(done.astype(jnp.int32)) > 0
    return jax.lax.cond(any_done, restart, lambda loop: loop, counted)


def _until_all_ended(advance: Callable[..., tuple[Moment, Row]], begun: Begun, start: Moment, limit: int) -> Row:
    """The rows of a slot, one after another, until every episode of the block has ended; the rest is zero."""
    n_episodes = begun.key.shape[0]

    @traced_once
    def step(loop: Loop) -> tuple[Loop, Row]:
        running, now = loop.episode < n_episodes, jnp.minimum(loop.episode, n_episodes - 1)
        moment, row = advance(loop.moment, _keys_of(begun.key[now], loop.steps))
        row = zero_unless(running, row)
        after = Loop(moment, loop.episode, loop.steps + 1)
        return _next_episode(after, row.done, begun, start.carry), row

    def running(state: tuple[Array, Loop, Any]) -> Array:
        return largest_of_block((state[1].episode < n_episodes).astype(jnp.int32)) > 0

    def write(state: tuple[Array, Loop, Any]) -> tuple[Array, Loop, Any]:
        index, loop, rows = state
        loop, row = step(loop)
        return index + 1, loop, jax.tree.map(lambda all_rows, one: write_row(all_rows, one, index), rows, row)

    first = Loop(start, episode=jnp.int32(0), steps=jnp.int32(0))
    shapes = jax.eval_shape(step, first)[1]
    empty = jax.tree.map(lambda leaf: jnp.zeros((n_episodes * limit, *leaf.shape), leaf.dtype), shapes)
    first, empty = mapped_as(jax.random.key_data(begun.key).ravel()[0], (first, empty))
    return jax.lax.while_loop(running, write, (jnp.int32(0), first, empty))[2]


def _scan(advance: Callable[..., tuple[Moment, Row]], key: PRNGKey, start: Moment, limit: int, parts: int) -> Row:
    """The rows of one episode; of several parts, those that nobody plays any more are zeros and cost nothing.

    In the loop is only what must be: keys are made before, the end is looked for afterwards, and a row is a single
    array of bytes, so that one kernel writes it.
    """
    length = -(-limit // parts)
    keys = jax.vmap(_keys_of, (None, 0))(key, jnp.arange(parts * length, dtype=jnp.int32))
    shapes = jax.eval_shape(advance, start, keys[0])[1]

    def step(moment: Moment, keys: Key[Array, "2"]) -> tuple[Moment, UInt8[Array, "bytes"]]:
        moment, row = advance(moment, keys)
        return moment, to_bytes(row)

    unpacked = jax.vmap(partial(from_bytes, shapes))
    n_bytes = jax.eval_shape(to_bytes, shapes).shape[0]
    nothing = jnp.zeros((length, n_bytes), jnp.uint8)

    def part(loop: tuple[Moment, Array], keys: Key[Array, "length 2"]) -> tuple[tuple[Moment, Array], Array]:
        moment, running = loop
        playing = largest_of_block(running.astype(jnp.int32)) > 0
        moment, rows = only_if(playing, lambda state: jax.lax.scan(step, state[0], keys), (moment, nothing))
        return (moment, running & ~unpacked(rows).done.any()), rows

    if parts == 1:
        _, content = jax.lax.scan(step, start, keys)
    else:
        _, content = jax.lax.scan(part, (start, jnp.bool_(True)), keys.reshape(parts, length, 2))
    rows = unpacked(content.reshape(parts * length, n_bytes)[:limit])
    ended = jnp.cumsum(rows.done, dtype=jnp.int32) - rows.done.astype(jnp.int32)
    return zero_unless(ended == 0, rows)


def _apart(rows: Row, first: Any, limit: int) -> Episode:
    """A slot's rows as episodes `[M, T, ...]`; `first` are the snapshots with which they began."""
    n_episodes = rows.done.shape[0] // limit
    if n_episodes > 1:
        # Where the k-th episode ends: the place of the k-th end, of M, among the rows.
        order = jnp.cumsum(rows.done, dtype=jnp.int32)
        after = jnp.array([(order < k + 1).sum(dtype=jnp.int32) + 1 for k in range(n_episodes)])
        begin = jnp.concatenate([jnp.zeros((1,), jnp.int32), after[:-1]])
        place = begin[:, None] + jnp.arange(limit, dtype=jnp.int32)[None, :]
        keep = place < after[:, None]
        place = jnp.minimum(place, rows.done.shape[0] - 1)
        rows = zero_unless(keep, jax.tree.map(lambda leaf: leaf[place], rows))
    else:
        rows = jax.tree.map(lambda leaf: leaf[None], rows)
    world = jax.tree.map(lambda head, tail: jnp.concatenate([head[:, None], tail], axis=1), first, rows.snapshot)
    return rows.step._replace(world=world)


def over_slots(play_slot: Callable[[Key[Array, "episodes"]], Any], slots: int, keys: Key[Array, "episodes"]) -> Any:
    """What slots side by side make of their episodes, `[n, ...]` in the order of the keys."""
    of_slot = keys.reshape(slots, -1)
    played = jax.vmap(play_slot, axis_name=EPISODES_AXIS)(of_slot)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), played)


def played_steps(episodes: Episode, slots: int, lengths: tuple[int, ...]) -> Int[Array, ""]:
    """Steps that a collection computed, played or not, for all its `slots` (0: one for each episode)."""
    n_episodes, limit = episodes.valid.shape
    each = episodes.valid.sum(axis=-1, dtype=jnp.int32).reshape(slots or n_episodes, -1).sum(axis=-1)
    # With a single length a seed's metrics may not tell of others: then it is what the seed alone would compute.
    longest = largest_of_block(each.max()) if len(lengths) > 1 else each.max()
    if not is_cpu():
        longest = computed_steps(lengths, longest) if len(lengths) > 1 else jnp.int32(limit)
    return each.shape[0] * longest


def device_collector(env: Env, algorithm: Algorithm, n_envs: int, parts: int = 1) -> Collect:
    """Collects `n_envs` exploring episodes at once: `[B, T, ...]`, pure, to be jitted and vmapped over seeds.

    Args:
      env: the environment.
      algorithm: how to act.
      n_envs: B.
      parts: see `play`.
    """

    @traced_once
    def collect(params: Params, clock: Clock, hyper: Hyper, key: PRNGKey) -> Episode:
        def act(carry: Carry, observation: Observation, key_act: PRNGKey) -> tuple[Carry, Array]:
            return algorithm.act(params, carry, observation, key_act, clock, hyper)

        def play_slot(keys: Key[Array, "episodes"]) -> Episode:
            return play(env, act, algorithm.start(), keys, parts)

        return over_slots(play_slot, slots_of(env, n_envs), jax.random.split(key, n_envs))

    return collect
