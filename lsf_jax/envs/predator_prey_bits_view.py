"""What is seen and kept of predator-prey in the form for accelerators (see `predator_prey_bits`)."""

from functools import reduce
from operator import or_

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lsf_jax.envs.predator_prey_bits import NONE, over
from lsf_jax.envs.predator_prey_types import FEATURES, STAY, PredatorPreyConfig, Snapshot, State
from lsf_jax.types import Observation

_FAR = 1 << 20  # a row that no window reaches


def take_snapshot(state: State, cfg: PredatorPreyConfig) -> Snapshot:
    """As `predator_prey.take_snapshot`."""
    dtype = jnp.uint8 if cfg.grid_size**2 <= 256 else jnp.uint16
    return Snapshot(
        predator=state.predator.astype(dtype),
        prey=state.prey.astype(dtype),
        active=_packed(state.active),
        alive=_packed(state.alive),
    )


def see(state: State, cfg: PredatorPreyConfig) -> Observation:
    """As `predator_prey.see`: windows and board as words with a bit for each place, spread into numbers at the end."""
    size, side = cfg.grid_size, 2 * cfg.sight + 1
    row = lax.div(state.predator, jnp.full_like(state.predator, size))
    prey_row = lax.div(state.prey, jnp.full_like(state.prey, size))
    column, prey_column = state.predator - row * size, state.prey - prey_row * size

    def window(other_row: Array, other_column: Array, is_there: Array) -> Array:
        down = jnp.where(is_there, other_row, _FAR)[None, :] - (row - cfg.sight)[:, None]
        right = other_column[None, :] - (column - cfg.sight)[:, None]
        within = lambda value: value.astype(jnp.uint32) < np.uint32(side)
        marks = _marks(down * side + right, within(down) & within(right), side**2)
        return jnp.where(state.active[:, None], marks, NONE)

    seen = window(row, column, state.active), window(prey_row, prey_column, state.alive)
    board = _marks(state.predator, state.active, size**2), _marks(state.prey, state.alive, size**2)
    distance = jnp.abs(prey_row[None, :] - row[:, None]) + jnp.abs(prey_column[None, :] - column[:, None])
    is_beside = over(or_, (distance == 1) & state.alive[None, :])
    possible = (column != size - 1, row != size - 1, column != 0, row != 0, row >= 0, is_beside)
    can = reduce(or_, [jnp.where(holds, np.uint32(1 << action), NONE) for action, holds in enumerate(possible)])
    can = jnp.where(state.active, can, NONE) | np.uint32(1 << STAY)
    actions = np.uint32(1) << np.arange(6, dtype=np.uint32)
    return Observation(
        obs=_spread(*seen, side**2), state=_spread(*board, size**2), avail=(can[:, None] & actions[None, :]) != 0
    )


def _packed(flags: Array) -> Array:
    """Eight flags a byte, the first lowest."""
    bits = jnp.where(flags, np.uint32(1) << (np.arange(flags.shape[0]) % 8).astype(np.uint32), NONE)
    return over(or_, jnp.pad(bits, (0, -bits.shape[0] % 8)).reshape(-1, 8)).astype(jnp.uint8)


def _per_word(n_places: int) -> tuple[int, int]:
    """Words for so many places, and the places of each."""
    words = -(-n_places // 32)
    return words, -(-n_places // words)


def _marks(place: Array, is_marked: Array, n_places: int) -> Array:
    """Bits of the marked places: `[..., entities]` twice to `[..., words]`."""
    words, bits = _per_word(n_places)
    if words == 1:
        return over(or_, jnp.where(is_marked, np.uint32(1) << place.astype(jnp.uint32), NONE))[..., None]
    begin = np.arange(words, dtype=np.int32).reshape(*(1,) * (place.ndim - 1), -1, 1) * bits
    bit = (place[..., None, :] - begin).astype(jnp.uint32)
    is_in = is_marked[..., None, :] & (bit < np.uint32(bits))
    return over(or_, jnp.where(is_in, np.uint32(1) << bit, NONE))


def _spread(predators: Array, prey: Array, n_places: int) -> Array:
    """Words of marks as zeros and ones in the order [place, feature]: `[..., words]` twice to `[..., 3 · n_places]`."""
    _, bits = _per_word(n_places)
    masks = np.zeros((2, bits, FEATURES), np.uint32)
    masks[0, :, 0] = masks[1, :, 1] = np.uint32(1) << np.arange(bits, dtype=np.uint32)
    of_predators, of_prey = masks.reshape(2, *(1,) * predators.ndim, -1)
    both = (predators[..., None] & of_predators) | (prey[..., None] & of_prey)
    return (both != 0).astype(jnp.float32).reshape(*predators.shape[:-1], -1)[..., : FEATURES * n_places]
