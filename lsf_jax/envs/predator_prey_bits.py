"""A step of predator-prey for accelerators: every turn is arithmetic on a few 32-bit words.

There each operation that XLA cannot fuse with the next is a kernel, and launching it is what a step costs. The plain
form (`predator_prey`) has a loop over turns that compares cells in each of them: 137 kernels a step. Here sixteen turns
are elementwise, so that many of them are one kernel; the results are the same, bit for bit.

**Places.** A cell's place is `row * (grid_size + 1) + column`: after every row comes one place where nobody ever is. So
the four neighbours of a place are those at fixed distances, and no difference of two places on the board takes the end
of a row for a neighbour of the next. Who is out of the game has the place `_NOBODY`, far from all others.

**Words.** Both sides are put in the order of their turns: from then on "unit i" is whoever moves i-th. Unit i of a side
owns nibble `i % 8` of word `i // 8` (`Words`, a tuple of scalars). Of the predators a nibble says by the four bits, for
one cell, on which sides of it the unit stands; or just, all ones or none, whether something holds for the unit. Of the
prey its four bits are the directions (right, down, left, up).

**Masks.** Units move to one of a few cells known beforehand: a predator stays or goes to its target, a prey goes to one
of four neighbours. What each of these places means to every other unit is therefore computed for all pairs at once,
before the first turn (`_predator_masks`, `_prey_masks`). What remains of a turn is to select among masks, with the
words that say who has moved, who is still there, and what is taken around each prey.

**Unions, not reductions.** XLA fuses no reduction with what reads it. `over` combines an axis of known length by
halves: elementwise again. Likewise the two sides are stacked by `where`, since a concatenation ends a fusion too.

**Barriers.** Fused without end, every turn would compute all turns before it anew (compilation then takes for ever, as
does the kernel). Optimisation barriers bound that: after the random words; after the sorting into turns; after the
masks; after each group of turns; and before the results are put back into the order of the units. Where they stand was
measured.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from operator import add, and_, or_
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Integer

from lsf_jax.envs.chance import random_bits
from lsf_jax.envs.predator_prey_types import (
    CATCH,
    Outcome,
    PredatorPreyConfig,
    Randomness,
    State,
)
from lsf_jax.types import PRNGKey

Words: TypeAlias = tuple[Array, ...]
"""A nibble for each unit: that of unit i is the (i mod 8)-th lowest of word i // 8; uint32."""

PREDATORS_AT_ONCE, PREY_AT_ONCE = 8, 4
"""Turns between two barriers. A prey's turn is longer."""
UNROLLED = 4
"""Groups of turns that are written out; more of them are a loop."""

NONE = np.uint32(0)
_PREY = np.array([[False], [True]])  # of the axis of the two sides
_NOBODY = -(1 << 20)  # the place of who is out of the game
_CATCHES, _STAYS = 2 * _NOBODY, 3 * _NOBODY  # targets that are no places
_ALL, _NIBBLE = np.uint32(0xFFFFFFFF), np.uint32(15)
_LOWEST = np.uint32(0x11111111)  # bit of every nibble


class _LineUp(NamedTuple):
    """Who stands where and wants what, in the order of the turns."""

    place: Array  # [predators]
    target: Array  # [predators] where it wants to go, or _CATCHES, or _STAYS
    prey: Array  # [prey] places
    chances: Array  # [prey] its rank, and above that nibble the directions without a cell


class _PredatorTurn(NamedTuple):
    """What each predator's turn needs; `[turns]` each."""

    before: Words  # who stands on its target before they move; itself where a prey does, or where it has none
    after: Words  # who stands there after having moved


class _PreyTurn(NamedTuple):
    """What each prey's turn needs; `[turns]` each."""

    before: Words  # in which direction each predator stands before they move
    after: Words  # in which direction those stand that have moved
    catchers: Words  # who tries to catch it
    seen_from: tuple[Words, ...]  # by each prey in which direction, after going right, down, left, up, or where it is
    taken: Array  # in its own nibble: directions without a cell or with a prey, before anyone of them moves
    choice: Array  # its number among m free directions: the two bits at 2 m


def draw_randomness(key: PRNGKey, cfg: PredatorPreyConfig) -> Randomness:
    """As `predator_prey.draw_randomness`, both sides at once."""
    n, m = cfg.n_predators, cfg.n_prey
    bits = lax.optimization_barrier(random_bits(key, n + 2 * m))
    words = _sides(bits[:n], bits[n : n + m], _ALL)
    index = np.arange(words.shape[1])
    first = (index[None, :] < index[:, None])[None]  # earlier index first among equal words
    mine, other = words[:, :, None], words[:, None, :]
    turn = over(add, ((other < mine) | (first & (other == mine))).astype(jnp.int32))
    rank = (bits[n + m :] % np.uint32(12)).astype(jnp.int32)
    return Randomness(predator_turn=turn[0, :n], prey_turn=turn[1, :m], prey_rank=rank)


def transition(
    state: State, actions: Integer[Array, "predators"], randomness: Randomness, cfg: PredatorPreyConfig
) -> tuple[State, Outcome]:
    """As `predator_prey.transition`."""
    actions = actions.astype(jnp.int32)
    units = lax.optimization_barrier(_line_up(state, actions, randomness, cfg))
    moves, hunts = lax.optimization_barrier((_predator_masks(units), _prey_masks(units, cfg)))
    gone = _move_predators(moves, cfg)
    active, record, tried = _move_prey(hunts, gone, cfg)
    captures = _count(_whole(word) for word in record)
    counts = captures, tried - captures
    gone, active, record, counts = lax.optimization_barrier((gone, active, record, counts))

    goes = _nibble_of(gone, randomness.predator_turn) != 0
    went = _nibble_of(record, randomness.prey_turn)
    steps = (1, cfg.grid_size, -1, -cfg.grid_size)
    moved = _first_match([(actions == d, step) for d, step in enumerate(steps)], 0)
    fled = _first_match([(went == np.uint32(1 << d), step) for d, step in enumerate(steps)], 0)
    next_state = State(
        predator=state.predator + jnp.where(goes, moved, 0),
        active=state.active & (_nibble_of(active, randomness.predator_turn) != 0),
        prey=state.prey + fled,
        alive=state.alive & (went != _NIBBLE),
        time=state.time + 1,
    )
    rewards = counts[0].astype(jnp.float32) * cfg.capture_reward + counts[1].astype(jnp.float32) * cfg.punishment
    return next_state, Outcome(
        reward=rewards,
        captures=counts[0],
        lone_catches=counts[1],
        game_over=~over(or_, next_state.active) | ~over(or_, next_state.alive),
        time_limit=next_state.time >= cfg.episode_limit,
    )


def over(op: Callable[[Array, Array], Array], values: Array) -> Array:
    """A commutative operation over the last axis, by halves."""
    while (size := values.shape[-1]) > 1:
        half = size // 2
        both = op(values[..., :half], values[..., half : 2 * half])
        values = jnp.concatenate([both, values[..., 2 * half :]], -1) if size % 2 else both
    return values[..., 0]


def _sides(predators: Array, prey: Array, fill: Any) -> Array:
    """Both sides as `[2, the more]`; those that one has fewer are `fill`."""
    width = max(predators.shape[0], prey.shape[0])
    padded = lambda side: jnp.pad(side, (0, width - side.shape[0]), constant_values=fill)[None]
    return jnp.where(_PREY, padded(prey), padded(predators))


def _first_match(cases: list[tuple[Array, Any]], otherwise: Any) -> Array:
    """The value of the only case that holds, if any."""
    return reduce(lambda value, case: jnp.where(*case, value), cases, otherwise)  # pyright: ignore


def _pack(nibbles: Array) -> Words:
    """The unions of nibbles `[..., units]`, each in its place already, as words `[...]`."""
    return tuple(over(or_, nibbles[..., start : start + 8]) for start in range(0, nibbles.shape[-1], 8))


def _shifts(n: int) -> np.ndarray:
    """By how much each unit's nibble is shifted in its word."""
    return (4 * (np.arange(n) % 8)).astype(np.uint32)


def _units(n: int) -> np.ndarray:
    """The lowest bit of each unit's nibble."""
    return np.uint32(1) << _shifts(n)


def _own(n: int) -> tuple[np.ndarray, ...]:
    """Words in which each unit's own nibble is set; `[units]` each."""
    unit, nibble = np.arange(n), _units(n) * _NIBBLE
    return tuple(np.where(unit // 8 == word, nibble, NONE) for word in range(-(-n // 8)))


def _each(function: Callable[..., Array], *words: Iterable[Any]) -> Words:
    return tuple(function(*word) for word in zip(*words, strict=True))


def _nibble_of(words: Words, unit: Array) -> Array:
    """The nibbles of the given units."""
    unit = unit.astype(jnp.uint32)
    word = _first_match([(unit >> np.uint32(3) == np.uint32(k), words[k]) for k in range(1, len(words))], words[0])
    return (word >> ((unit & np.uint32(7)) << np.uint32(2))) & _NIBBLE


def _whole(word: Array) -> Array:
    """The lowest bit of each nibble all of whose bits are set."""
    return word & (word >> 1) & (word >> 2) & (word >> 3) & _LOWEST


def _count(words: Iterable[Array]) -> Array:
    return sum(lax.population_count(word) for word in words).astype(jnp.int32)  # pyright: ignore


def _offsets(cfg: PredatorPreyConfig) -> tuple[int, ...]:
    """From a place to its neighbours on the right, below, on the left, and above."""
    return (1, cfg.grid_size + 1, -1, -cfg.grid_size - 1)


def _line_up(state: State, actions: Array, randomness: Randomness, cfg: PredatorPreyConfig) -> _LineUp:
    n, m, size = cfg.n_predators, cfg.n_prey, cfg.grid_size
    width = max(n, m)
    cell, there = _sides(state.predator, state.prey, 0), _sides(state.active, state.alive, False)
    wish, turn = _sides(actions, randomness.prey_rank, 0), _sides(randomness.predator_turn, randomness.prey_turn, width)
    row = lax.div(cell, jnp.full_like(cell, size))
    column, place = cell - row * size, cell + row
    is_wall = (column == size - 1, row == size - 1, column == 0, row == 0)
    moves = [
        (there & (wish == d) & ~wall, place + offset)
        for d, (wall, offset) in enumerate(zip(is_wall, _offsets(cfg), strict=True))
    ]
    target = _first_match(moves, jnp.where(there & (wish == CATCH), _CATCHES, _STAYS))
    walls = reduce(or_, [jnp.where(wall, 1 << d, 0) for d, wall in enumerate(is_wall)])
    place = jnp.where(there, place, _NOBODY)
    rest = jnp.where(_PREY, (walls << 4) | wish, target)

    is_mine = turn[:, None, :] == np.arange(width)[None, :, None]  # [sides, turns, units]
    place, rest = (over(or_, jnp.where(is_mine, value[:, None, :], 0)) for value in (place, rest))
    chances = rest[1, :m].astype(jnp.uint32)
    return _LineUp(place=place[0, :n], target=rest[0, :n], prey=place[1, :m], chances=chances)


def _predator_masks(units: _LineUp) -> _PredatorTurn:
    place, target, prey = units.place, units.target, units.prey
    n = place.shape[0]
    nibble, own = (_units(n) * _NIBBLE)[None], _own(n)
    before = _pack(jnp.where(place[None, :] == target[:, None], nibble, NONE))
    after = _pack(jnp.where(target[None, :] == target[:, None], nibble, NONE))
    is_blocked = (target < 0) | over(or_, prey[None, :] == target[:, None])
    before = _each(lambda word, mine: jnp.where(is_blocked, word | mine, word), before, own)
    return _PredatorTurn(before=before, after=after)


def _prey_masks(units: _LineUp, cfg: PredatorPreyConfig) -> _PreyTurn:
    prey, offsets = units.prey, _offsets(cfg)
    n, m = cfg.n_predators, cfg.n_prey
    bit, prey_bit = _units(n)[None], _units(m)[None]
    apart = units.place[None, :] - prey[:, None]
    before = _pack(_directions(apart, bit, enumerate(offsets)))
    after = _pack(_directions(units.target[None, :] - prey[:, None], bit, enumerate(offsets)))
    is_catcher = (units.target == _CATCHES)[None] & reduce(or_, [apart == offset for offset in offsets])
    away = prey[None, :] - prey[:, None]
    # Where unit q is to p once it has made `step`: p + offset = q + step.
    seen_from = tuple(
        _pack(_directions(away, prey_bit, [(d, step - offset) for d, offset in enumerate(offsets) if offset != step]))
        for step in (*offsets, 0)
    )
    walls, rank = units.chances >> 4, units.chances & _NIBBLE
    taken = walls | over(or_, _directions(away, np.uint32(1), enumerate(offsets)))
    taken = jnp.where(prey >= 0, taken, _NIBBLE)  # the dead go nowhere
    return _PreyTurn(
        before=before,
        after=after,
        catchers=_pack(jnp.where(is_catcher, bit, NONE)),
        seen_from=seen_from,
        taken=taken << _shifts(m),
        choice=reduce(or_, [(rank % np.uint32(free)) << np.uint32(2 * free) for free in (2, 3, 4)]),
    )


def _directions(difference: Array, bit: Any, steps: Iterable[tuple[int, int]]) -> Array:
    """The bit of every direction, shifted from `bit`, whose step the difference of two places is."""
    return reduce(or_, [jnp.where(difference == step, bit << np.uint32(d), NONE) for d, step in steps])


def _move_predators(turns: _PredatorTurn, cfg: PredatorPreyConfig) -> Words:
    """All ones for each predator that goes to its target."""

    def take_turn(gone: Words, turn: tuple[_PredatorTurn, Words]) -> Words:
        (before, after), own = turn
        there = reduce(or_, _each(_select, gone, after, before))
        return _each(lambda word, mine: jnp.where(there == 0, word | mine, word), gone, own)

    n = cfg.n_predators
    return _in_groups(take_turn, _words(n, 0), (turns, _own(n)), PREDATORS_AT_ONCE)


def _move_prey(turns: _PreyTurn, gone: Words, cfg: PredatorPreyConfig) -> tuple[Words, Words, Array]:
    """All ones for each predator that still hunts; where each prey went, or all ones if caught; how many were tried."""

    def take_turn(hunt: tuple, row: tuple[_PreyTurn, Words, Array]) -> tuple:
        active, taken, record, tried = hunt
        turn, own, shift = row
        catchers = _each(and_, turn.catchers, active)
        n_catchers = _count(catchers)
        is_caught = n_catchers >= cfg.capture_threshold
        active = _each(lambda word, who: jnp.where(is_caught, word & ~(who * _NIBBLE), word), active, catchers)

        now = _each(
            lambda before, after, gone, there: _select(gone, after, before) & there,
            turn.before,
            turn.after,
            gone,
            active,
        )
        predators = _fold_nibbles(reduce(or_, now))
        prey = reduce(or_, _each(and_, taken, own)) >> shift
        goes = jnp.where(is_caught, _NIBBLE, _chosen(~(predators | prey) & _NIBBLE, turn.choice))
        *seen_gone, seen_here = turn.seen_from
        lands = lambda *seen: _first_match([(goes == np.uint32(1 << d), word) for d, word in enumerate(seen)], NONE)
        leave = lambda word, here, there: (word & ~jnp.where(goes != 0, here, NONE)) | there
        taken = _each(leave, taken, seen_here, _each(lands, *seen_gone))
        record = _each(lambda word, mine: word | ((goes << shift) & mine), record, own)
        return active, taken, record, tried + (n_catchers > 0).astype(jnp.int32)

    m, shift = cfg.n_prey, _shifts(cfg.n_prey)
    start = (_words(cfg.n_predators, _ALL), _pack(turns.taken), _words(m, 0), jnp.int32(0))
    active, _, record, tried = _in_groups(take_turn, start, (turns, _own(m), shift), PREY_AT_ONCE)
    return active, record, tried


def _words(units: int, fill: Any) -> Words:
    return (jnp.uint32(fill),) * -(-units // 8)


def _select(bits: Array, where_set: Array, elsewhere: Array) -> Array:
    return (where_set & bits) | (elsewhere & ~bits)


def _fold_nibbles(word: Array) -> Array:
    """The union of a word's nibbles, in the lowest one; the other bits say nothing."""
    for shift in (16, 8, 4):
        word = word | (word >> shift)
    return word


def _chosen(free: Array, choice: Array) -> Array:
    """The direction that a prey takes, as the only bit, or none: of the m free ones, by its number among m."""
    number = (choice >> (lax.population_count(free) << 1)) & np.uint32(3)
    for passed in range(3):
        free = jnp.where(number > passed, free & (free - 1), free)  # without its lowest bit
    return free & (~free + 1)


def _in_groups(take_turn: Callable[[Any, Any], Any], start: Any, turns: Any, at_once: int) -> Any:
    """What all turns, one after another, make of `start`, with a barrier after each group of them but the last."""
    n_turns = jax.tree.leaves(turns)[0].shape[0]
    groups = -(-n_turns // at_once)

    def group(carry: Any, rows: Any) -> Any:
        for index in range(at_once):
            carry = take_turn(carry, _row(rows, index))
        return carry

    # Turns of zeros change nothing.
    filled = jax.tree.map(lambda leaf: jnp.pad(leaf, (0, groups * at_once - n_turns)), turns)
    rows = jax.tree.map(lambda leaf: leaf.reshape(groups, at_once), filled)
    guarded = lambda carry, rows: (lax.optimization_barrier(group(carry, rows)), None)
    if groups > UNROLLED:
        return lax.scan(guarded, start, rows)[0]
    for index in range(groups):
        carry = group(start, _row(rows, index))
        start = lax.optimization_barrier(carry) if index < groups - 1 else carry
    return start


def _row(rows: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], rows)
