"""Predator-prey on a bounded grid ("stag hunt"): prey that only several predators together can catch.

One step resolves the predators' moves one at a time in a random order, then the prey one at a time in a second random
order. All randomness of a step is drawn first (`draw_randomness`); the rest (`transition`) is deterministic, so the
game can be replayed against any other implementation of the rules.

This is the plain form of a step: comparisons of cell numbers (on CPUs, XLA's scatters and gathers are several times
slower at this size). Accelerators get `predator_prey_bits`, with the same results.

Reference: Böhmer et al. (2020), Deep Coordination Graphs, relative overgeneralisation task; Li et al. LSF-SAC §VI.B.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Integer

from lsf_jax.envs import predator_prey_bits, predator_prey_bits_view
from lsf_jax.envs.base import check_settings, check_spec, require
from lsf_jax.envs.chance import random_bits
from lsf_jax.envs.predator_prey_picture import draw_board, render_board, unpack_board
from lsf_jax.envs.predator_prey_types import CATCH, FEATURES, Outcome, PredatorPreyConfig, Randomness, Snapshot, State
from lsf_jax.platforms import is_cpu
from lsf_jax.registry import Entry
from lsf_jax.types import Env, EnvSpec, EpisodeStats, Observation, PRNGKey, TimeStep

_ROW_STEP = np.array([0, 1, 0, -1, 0, 0], np.int32)
_COLUMN_STEP = np.array([1, 0, -1, 0, 0, 0], np.int32)
_NOWHERE = -1  # the cell of a frozen predator or a dead prey
_NO_TARGET = -2  # the target of who does not move; differs from _NOWHERE so that the two never match


def make_predator_prey(cfg: PredatorPreyConfig) -> Env:
    """The game as an `Env`.

    `TimeStep.terminal` is the original's stored flag: game over and not step `episode_limit`. So a hunt that ends
    exactly on the last step counts as truncated (`done` but not `terminal`); `transition` tells the two apart.

    `success` means that as many prey were caught as possible: min(n_prey, n_predators // capture_threshold).
    `max_return` is that number times `capture_reward`, without a punishment; with a positive p, which nobody uses, it
    is only an upper bound: p for every prey in every step comes on top.

    Raises:
      ValueError: naming the setting that is out of range, or too large for the board or the number of predators.
    """
    _check(cfg)
    most = min(cfg.n_prey, cfg.n_predators // cfg.capture_threshold)
    spec = EnvSpec(
        n_agents=cfg.n_predators,
        n_actions=6,
        obs_dim=FEATURES * (2 * cfg.sight + 1) ** 2,
        state_dim=FEATURES * cfg.grid_size**2,
        episode_limit=cfg.episode_limit,
    )
    board = partial(unpack_board, n_predators=cfg.n_predators, n_prey=cfg.n_prey, grid_size=cfg.grid_size)
    return Env(
        spec=check_spec(spec),
        reset=partial(_reset, cfg=cfg),
        step=partial(_step, cfg=cfg),
        snapshot=lambda state: _form().take_snapshot(state, cfg),
        observe=partial(_observe, cfg=cfg),
        render=lambda snapshot: render_board(board(snapshot)),
        draw=lambda moment, step, sums: draw_board(board(moment), step, sums),
        success=partial(_success, most=most),
        max_return=cfg.capture_reward * most + max(cfg.punishment, 0.0) * cfg.n_prey * cfg.episode_limit,
    )


class Form(NamedTuple):
    """A way to compute a step; both have the same results, bit for bit."""

    draw_randomness: Callable[[PRNGKey, PredatorPreyConfig], Randomness]
    transition: Callable[[State, Array, Randomness, PredatorPreyConfig], tuple[State, Outcome]]
    take_snapshot: Callable[[State, PredatorPreyConfig], Snapshot]
    see: Callable[[State, PredatorPreyConfig], Observation]


def _form() -> Form:
    """The form for the platform that a program is traced for: this module, or bits, four times slower on CPUs."""
    return PLAIN if is_cpu() else BITS


class _Turn(NamedTuple):
    """What one prey's turn needs; stacked in the order of the turns."""

    is_mine: Array  # [prey] one-hot of the prey whose turn it is
    is_alive: Array
    touches: Array  # [predators] who tries to catch it
    neighbours: Array  # [4] cells, _NO_TARGET off the board
    rank: Array


def draw_randomness(key: PRNGKey, cfg: PredatorPreyConfig) -> Randomness:
    """Draws two independent uniform orders and the prey's ranks.

    Orders sort 32-bit words and ranks are words modulo 12 = lcm(1, 2, 3, 4), so `rank mod m` is uniform for every m
    that occurs; ties and the modulus bias probabilities by less than 1e-7.

    Args:
      key: used once.
      cfg: the numbers of predators and prey.
    """
    n, m = cfg.n_predators, cfg.n_prey
    bits = random_bits(key, n + 2 * m)
    return Randomness(
        predator_turn=_turns(bits[:n]),
        prey_turn=_turns(bits[n : n + m]),
        prey_rank=(bits[n + m :] % jnp.uint32(12)).astype(jnp.int32),
    )


def transition(
    state: State, actions: Integer[Array, "predators"], randomness: Randomness, cfg: PredatorPreyConfig
) -> tuple[State, Outcome]:
    """One step of the game, given the chance events.

    First the predators, by `predator_turn`: an active one that moves goes to its target cell if no active predator and
    no live prey is there at that moment. Then the prey, by `prey_turn`: n active predators beside it that chose catch
    take it if n reaches the threshold (all n freeze and leave the board at once), else cost p if n > 0; a prey not
    caught goes to a free neighbouring cell, if any. Availability is not checked: an impossible move is a stay.

    Args:
      state: before the step.
      actions: one of the six per predator.
      randomness: as `draw_randomness` gives it.
      cfg: settings.

    Returns:
      The next state, and what the step earned.
    """
    actions = actions.astype(jnp.int32)
    predator = jnp.where(state.active, state.predator, _NOWHERE)
    prey = jnp.where(state.alive, state.prey, _NOWHERE)
    moved = _move_predators(predator, prey, actions, randomness.predator_turn, cfg)
    hunters, hunted, captures, lone_catches = _move_prey(moved, prey, actions, randomness, cfg)
    active, alive = hunters != _NOWHERE, hunted != _NOWHERE
    next_state = State(
        predator=jnp.where(state.active, moved, state.predator),
        active=active,
        prey=jnp.where(alive, hunted, state.prey),
        alive=alive,
        time=state.time + 1,
    )
    outcome = Outcome(
        reward=captures.astype(jnp.float32) * cfg.capture_reward + lone_catches.astype(jnp.float32) * cfg.punishment,
        captures=captures,
        lone_catches=lone_catches,
        game_over=~active.any() | ~alive.any(),
        time_limit=next_state.time >= cfg.episode_limit,
    )
    return next_state, outcome


def _turns(bits: Array) -> Array:
    """The rank of each of the `bits`, by comparing all pairs."""
    index = np.arange(bits.shape[0])
    first = index[:, None] > index[None, :]  # earlier index first among equal words
    smaller = (bits[None, :] < bits[:, None]) | ((bits[None, :] == bits[:, None]) & first)
    return smaller.sum(1, dtype=jnp.int32)


def _pick(one_hot: Array, values: Array) -> Array:
    """The selected value of each row: a gather written as comparisons."""
    return jnp.where(one_hot, values, 0).sum(-1, dtype=jnp.int32)


def _rows_and_columns(cell: Array, cfg: PredatorPreyConfig) -> tuple[Array, Array]:
    row = lax.div(cell, jnp.full_like(cell, cfg.grid_size))
    return row, cell - row * cfg.grid_size


def _neighbours(cell: Array, cfg: PredatorPreyConfig) -> Array:
    """The cells right of, below, left of and above each cell, _NO_TARGET off the board."""
    row, column = _rows_and_columns(cell[:, None], cfg)
    row, column = row + _ROW_STEP[None, :4], column + _COLUMN_STEP[None, :4]
    is_on_board = (row >= 0) & (row < cfg.grid_size) & (column >= 0) & (column < cfg.grid_size)
    return jnp.where(is_on_board, row * cfg.grid_size + column, _NO_TARGET)  # [entities, 4]


def _are_adjacent(cell: Array, other: Array, cfg: PredatorPreyConfig) -> Array:
    """Which pairs of cells `[I]`, `[J]` are at Manhattan distance 1; `[I, J]`. Cells must be on the board."""
    row, column = _rows_and_columns(cell[:, None], cfg)
    other_row, other_column = _rows_and_columns(other[None, :], cfg)
    return jnp.abs(row - other_row) + jnp.abs(column - other_column) == 1


def _move_predators(predator: Array, prey: Array, actions: Array, turn: Array, cfg: PredatorPreyConfig) -> Array:
    """Phase 1; cells with _NOWHERE for the frozen and the dead, in and out."""
    wanted = _pick(actions[:, None] == np.arange(4)[None, :], _neighbours(predator, cfg))
    is_moving = (actions >= 0) & (actions < 4) & (predator != _NOWHERE)
    target = jnp.where(is_moving, wanted, _NO_TARGET)
    is_mine = turn[None, :] == np.arange(cfg.n_predators)[:, None]  # [turns, predators]
    target = _pick(is_mine, target[None, :])  # in the order of the turns
    is_free = (target >= 0) & ~(target[:, None] == prey[None, :]).any(-1)

    def take_turn(cells: Array, turn: tuple[Array, Array, Array]) -> tuple[Array, None]:
        is_mine, target, is_free = turn
        goes = is_free & ~(cells == target[None]).any()
        return jnp.where(is_mine & goes[None], target[None], cells), None

    return lax.scan(take_turn, predator, (is_mine, target, is_free))[0]


def _move_prey(
    predator: Array, prey: Array, actions: Array, randomness: Randomness, cfg: PredatorPreyConfig
) -> tuple[Array, Array, Array, Array]:
    """Phase 2: where predators and prey are afterwards, and the numbers of prey caught and missed.

    Who touches which prey is fixed when it begins: catchers stay, and a prey moves on its own turn only.
    """
    is_mine = randomness.prey_turn[None, :] == np.arange(cfg.n_prey)[:, None]  # [turns, prey]
    cell = _pick(is_mine, prey[None, :])
    is_alive = cell != _NOWHERE
    is_catching = (actions == CATCH) & (predator != _NOWHERE)
    turns = _Turn(
        is_mine=is_mine,
        is_alive=is_alive,
        touches=_are_adjacent(cell, predator, cfg) & is_catching[None, :],
        neighbours=_neighbours(cell, cfg),
        rank=_pick(is_mine, randomness.prey_rank[None, :]),
    )
    (predator, prey), (is_caught, is_missed) = lax.scan(partial(_take_prey_turn, cfg=cfg), (predator, prey), turns)
    return predator, prey, is_caught.sum(dtype=jnp.int32), is_missed.sum(dtype=jnp.int32)


def _take_prey_turn(
    cells: tuple[Array, Array], turn: _Turn, cfg: PredatorPreyConfig
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """One prey is caught, or moves if it can; and whether it was caught, and whether too few tried."""
    predator, prey = cells
    catchers = turn.touches & (predator != _NOWHERE)
    n_catchers = catchers.sum(dtype=jnp.int32)
    is_caught = turn.is_alive & (n_catchers >= cfg.capture_threshold)
    is_missed = turn.is_alive & (n_catchers > 0) & ~is_caught
    predator = jnp.where(catchers & is_caught[None], _NOWHERE, predator)
    prey = jnp.where(turn.is_mine & is_caught[None], _NOWHERE, prey)

    target = turn.neighbours
    is_taken = (target[:, None] == predator[None, :]).any(-1) | (target[:, None] == prey[None, :]).any(-1)
    is_free = (target >= 0) & ~is_taken  # [4]
    n_free = is_free.sum(dtype=jnp.int32)
    choice = lax.rem(turn.rank, jnp.maximum(n_free, 1))
    before = jnp.where(np.tri(4, k=-1, dtype=bool), is_free[None, :], False).sum(-1, dtype=jnp.int32)
    destination = _pick(is_free & (before == choice), target)
    moves = turn.is_alive & ~is_caught & (n_free > 0)
    prey = jnp.where(turn.is_mine & moves[None], destination[None], prey)
    return (predator, prey), (is_caught, is_missed)


def take_snapshot(state: State, cfg: PredatorPreyConfig) -> Snapshot:
    """The bytes of `state` that replay keeps; the narrowest exact dtypes."""
    dtype = jnp.uint8 if cfg.grid_size**2 <= 256 else jnp.uint16
    return Snapshot(
        predator=state.predator.astype(dtype),
        prey=state.prey.astype(dtype),
        active=jnp.packbits(state.active, bitorder="little"),
        alive=jnp.packbits(state.alive, bitorder="little"),
    )


def see(state: State, cfg: PredatorPreyConfig) -> Observation:
    """Observations, state and availability of one moment."""
    predator, active, prey, alive, _ = state
    sees_predator = _place_in_window(predator, predator, active[:, None] & active[None, :], cfg)
    sees_prey = _place_in_window(predator, prey, active[:, None] & alive[None, :], cfg)
    predator_at, prey_at = jnp.where(active, predator, _NOWHERE), jnp.where(alive, prey, _NOWHERE)
    return Observation(
        obs=_features(sees_predator, sees_prey, (2 * cfg.sight + 1) ** 2),
        state=_features(predator_at[None, :], prey_at[None, :], cfg.grid_size**2)[0],
        avail=_available(predator, active, prey, alive, cfg),
    )


def _unpacked(snapshot: Snapshot, cfg: PredatorPreyConfig) -> State:
    """The state of a snapshot, but for the time, which nobody sees."""
    flags = lambda packed, count: jnp.unpackbits(packed, count=count, bitorder="little").astype(bool)
    return State(
        predator=snapshot.predator.astype(jnp.int32),
        active=flags(snapshot.active, cfg.n_predators),
        prey=snapshot.prey.astype(jnp.int32),
        alive=flags(snapshot.alive, cfg.n_prey),
        time=jnp.int32(0),
    )


def _features(predators: Array, prey: Array, n_places: int) -> Array:
    """Who is where, as zeros and ones in the order [place, feature]; `[I, entities]` twice to `[I, 3 · n_places]`."""
    places = np.arange(n_places)[None, :, None]
    marks = [(entities[:, None, :] == places).any(-1) for entities in (predators, prey)]
    features = jnp.stack([*marks, jnp.zeros_like(marks[0])], -1).astype(jnp.float32)  # [I, places, 3]
    return features.reshape(features.shape[0], -1)


def _place_in_window(predator: Array, other: Array, is_visible: Array, cfg: PredatorPreyConfig) -> Array:
    """Where in each predator's window `[I]` each entity `[J]` is seen, _NOWHERE if it is not; `[I, J]`."""
    side = 2 * cfg.sight + 1
    row, column = _rows_and_columns(predator[:, None], cfg)
    other_row, other_column = _rows_and_columns(other[None, :], cfg)
    down, right = other_row - row + cfg.sight, other_column - column + cfg.sight
    is_seen = (down >= 0) & (down < side) & (right >= 0) & (right < side) & is_visible
    return jnp.where(is_seen, down * side + right, _NOWHERE)


def _available(predator: Array, active: Array, prey: Array, alive: Array, cfg: PredatorPreyConfig) -> Array:
    moves = (_neighbours(predator, cfg) >= 0) & active[:, None]  # [predators, 4]
    stay = jnp.ones_like(moves[:, :1])
    catch = (_are_adjacent(predator, prey, cfg) & alive[None, :]).any(-1, keepdims=True) & active[:, None]
    return jnp.concatenate([moves, stay, catch], -1)


def _reset(key: PRNGKey, *, cfg: PredatorPreyConfig) -> tuple[State, Observation]:
    n, m = cfg.n_predators, cfg.n_prey
    cells = jax.random.permutation(key, jnp.arange(cfg.grid_size**2, dtype=jnp.int32))
    state = State(
        predator=cells[:n],
        active=jnp.ones(n, bool),
        prey=cells[n : n + m],
        alive=jnp.ones(m, bool),
        time=jnp.int32(0),
    )
    return state, _form().see(state, cfg)


def _step(key: PRNGKey, state: State, actions: Array, *, cfg: PredatorPreyConfig) -> tuple[State, TimeStep]:
    form = _form()
    next_state, outcome = form.transition(state, actions, form.draw_randomness(key, cfg), cfg)
    return next_state, TimeStep(
        observation=form.see(next_state, cfg),
        reward=outcome.reward,
        terminal=outcome.game_over & ~outcome.time_limit,
        done=outcome.game_over | outcome.time_limit,
        info={
            "captures": outcome.captures.astype(jnp.float32),
            "lone_catches": outcome.lone_catches.astype(jnp.float32),
        },
    )


def _observe(snapshot: Snapshot, *, cfg: PredatorPreyConfig) -> Observation:
    return _form().see(_unpacked(snapshot, cfg), cfg)


def _check(cfg: PredatorPreyConfig) -> None:
    check_settings(cfg)
    cells, entities = cfg.grid_size**2, cfg.n_predators + cfg.n_prey
    fits = f"at least {int(np.ceil(np.sqrt(entities)))}, so that {entities} predators and prey find a cell each"
    require(entities <= cells, "grid_size", cfg.grid_size, fits)
    expected = f"at most n_predators = {cfg.n_predators}; lower it or add predators"
    require(cfg.capture_threshold <= cfg.n_predators, "capture_threshold", cfg.capture_threshold, expected)
    require(
        cfg.sight < cfg.grid_size, "sight", cfg.sight, f"less than grid_size = {cfg.grid_size}: the board ends there"
    )


def _success(stats: EpisodeStats, *, most: int) -> Array:
    return jnp.asarray(stats.info["captures"]) >= most


PLAIN = Form(draw_randomness=draw_randomness, transition=transition, take_snapshot=take_snapshot, see=see)
BITS = Form(
    draw_randomness=predator_prey_bits.draw_randomness,
    transition=predator_prey_bits.transition,
    take_snapshot=predator_prey_bits_view.take_snapshot,
    see=predator_prey_bits_view.see,
)

ENTRIES = (
    Entry(
        name="predator_prey",
        config=PredatorPreyConfig,
        factory=make_predator_prey,
        doc="Predator-prey (stag hunt) of deep coordination graphs: 10x10, 8 predators, 8 prey; a lone catch costs "
        "p = 0 (env.punishment; predator_prey_p2: -2)",
    ),
)
