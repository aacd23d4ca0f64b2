"""What replay keeps of a SMAX battle, and what everyone sees of that.

Contents are JaxMARL 0.2.0's, in its order; the world state is normalised (JaxMARL's has raw positions and cooldowns)
and leaves out what never changes within a scenario: the number of each unit's team, and that of its type. Types are
fixed by the scenario, being alive is having health, and what units last did are their actions: so a moment is 14 bytes
a unit (15 with a colossus).

Everything is written for all pairs of units at once. JaxMARL builds each pair's features with scatters, which takes
1.5 to 2.5 times as long on a CPU and 4 to 8 times as long to compile; tests compare the two entry by entry.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from lsf_jax.envs.smax_scenarios import Scenario
from lsf_jax.types import Observation

MAP_SIZE = 32.0
"""Cells per side of the square map; JaxMARL's."""
N_MOVES, STOP = 5, 4
"""Actions: to move north, east, south or west, to stop, and N_MOVES + j to shoot at enemy j."""
NORTH, EAST, SOUTH, WEST = range(STOP)


class Snapshot(NamedTuple):
    """What replay stores of a battle with U units, allies first. What enemies plan is not seen, and not kept."""

    position: Float[Array, "*lead units 2"]  # cells
    cooldown: Float[Array, "*lead units"]  # seconds until a unit can shoot again; negative once it can
    health: Shaped[Array, "*lead units"]  # whole points: uint8, or uint16 where some type has more than 255
    action: UInt8[Array, "*lead units"]  # what each unit did last; STOP after reset


class Moment(NamedTuple):
    """Features of all units at one moment, `[U, ...]`."""

    position: Array  # [U, 2] cells
    health: Array  # share of the full health
    cooldown: Array  # share of the type's cooldown, 0 to 1
    direction: Array  # [U, 2] of the last move
    shot: Array  # the last action, if it was a shot, as a share of the team's largest action
    alive: Array
    types: Array  # [U, K] one-hot


def obs_dim(scenario):
    k = len(scenario.type_names())
    return (len(scenario.units()) - 1) * (7 + k) + 4 + k


def state_dim(scenario):
    return len(scenario.units()) * (4 + len(scenario.type_names()))


def observe(snapshot: Snapshot, *, scenario: Scenario, see_enemy_actions: bool) -> Observation:
    """Observations, state and availability of one snapshot.

    An ally i sees, of the other allies and then of the enemies, in order: health, position relative to its own in units
    of its sight, direction of the last move, last shot, cooldown and type; zeros where the other is dead or not closer
    than its sight. Last come its own health, position on the map, cooldown and type. The dead see nothing and may only
    stop. The living may move anywhere, and shoot at living enemies closer than their range.
    """
    moment = _moment(snapshot, scenario)
    n = len(scenario.allies)
    apart = moment.position[None, :] - moment.position[:n, None]  # [N, U, 2]
    distance = jnp.sqrt((apart * apart).sum(-1))
    both_live = moment.alive[:n, None] & moment.alive[None, :]
    shown = both_live & (distance < scenario.column("sight")[:n, None])
    in_range = both_live & (distance < scenario.column("range")[:n, None])
    seen = _seen(moment, apart / scenario.column("sight")[:n, None, None], see_enemy_actions, n)
    seen = jnp.where(shown[..., None], seen, 0.0)  # [N, U, 7 + K]
    own = _own(moment)
    others = jnp.concatenate([_without_diagonal(seen[:, :n]).reshape(n, -1), seen[:, n:].reshape(n, -1)], -1)
    may_move = jnp.broadcast_to(moment.alive[:n, None], (n, STOP))
    return Observation(
        obs=jnp.concatenate([others, own[:n]], -1),
        state=own.reshape(-1),
        avail=jnp.concatenate([may_move, jnp.ones((n, 1), bool), in_range[:, n:]], -1),
    )


def _moment(snapshot: Snapshot, scenario: Scenario) -> Moment:
    n, m = len(scenario.allies), len(scenario.enemies)
    largest = np.array([N_MOVES + m - 1] * n + [N_MOVES + n - 1] * m, np.float32)
    went = [(snapshot.action == action).astype(jnp.float32) for action in range(STOP)]
    return Moment(
        position=snapshot.position,
        health=snapshot.health.astype(jnp.float32) / scenario.column("health"),
        cooldown=jnp.clip(snapshot.cooldown / scenario.column("cooldown"), 0.0, 1.0),
        direction=jnp.stack([went[EAST] - went[WEST], went[NORTH] - went[SOUTH]], -1),
        shot=jnp.where(snapshot.action >= N_MOVES, snapshot.action, 0).astype(jnp.float32) / largest,
        alive=snapshot.health > 0,
        types=jnp.asarray(np.eye(len(scenario.type_names()), dtype=np.float32)[scenario.type_numbers()]),
    )


def _seen(moment: Moment, apart: Float[Array, "agents units 2"], see_enemy_actions: bool, n: int) -> Array:
    """Every unit as every ally would see it, `[N, U, 7 + K]`, were it close enough."""
    direction, shot = moment.direction, moment.shot
    if not see_enemy_actions:
        is_ally = np.arange(len(shot)) < n
        direction, shot = jnp.where(is_ally[:, None], direction, 0.0), jnp.where(is_ally, shot, 0.0)
    after = jnp.concatenate([direction, shot[:, None], moment.cooldown[:, None], moment.types], -1)  # [U, 4 + K]
    lead = apart.shape[:2]
    health = jnp.broadcast_to(moment.health[None, :, None], (*lead, 1))
    return jnp.concatenate([health, apart, jnp.broadcast_to(after[None], (*lead, after.shape[-1]))], -1)


def _own(moment: Moment) -> Float[Array, "units features"]:
    """What each unit knows about itself, 4 + K numbers; of all units, the state."""
    columns = [moment.health[:, None], moment.position / MAP_SIZE, moment.cooldown[:, None], moment.types]
    return jnp.where(moment.alive[:, None], jnp.concatenate(columns, -1), 0.0)


def _without_diagonal(values: Float[Array, "agents agents features"]) -> Float[Array, "agents others features"]:
    """Every row without the entry about itself, by slices alone: a gather would be slow on CPUs."""
    n, features = values.shape[0], values.shape[2]
    rows = values.reshape(n * n, features)[1:].reshape(n - 1, n + 1, features)
    return rows[:, :n].reshape(n, n - 1, features)


def living(snapshot: Snapshot) -> Bool[np.ndarray, "units"]:
    """Which units of a snapshot on the host have health left."""
    return np.asarray(snapshot.health) > 0
