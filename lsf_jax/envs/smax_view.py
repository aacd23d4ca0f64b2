"""What replay keeps of a SMAX battle, and what everyone sees of that.

Contents are JaxMARL 0.2.0's, in its order; the world state is normalised (JaxMARL's has raw positions and cooldowns)
and leaves out what never changes within a scenario: the number of each unit's team, and that of its type. Types are
fixed by the scenario, being alive is having health, and what units last did are their actions: so a moment is 14 bytes
a unit (15 with a colossus, or where types are drawn).

Everything is written for all pairs of units at once. JaxMARL builds each pair's features with scatters, which takes
many times as long; tests compare the two entry by entry.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from lsf_jax.envs.smax_scenarios import Scenario
from lsf_jax.types import EnvSpec, Observation

MAP_SIZE = 32.0
"""Cells per side of the square map; JaxMARL's."""
N_MOVES, STOP = 5, 4
"""Actions: to move north, east, south or west, to stop, and N_MOVES + j to shoot at the j-th of the other side. Allies
number enemies from the first one on, enemies number allies from the last one back."""
NORTH, EAST, SOUTH, WEST = range(STOP)


class Snapshot(NamedTuple):
    """What replay stores of a battle with U units, allies first. What enemies plan is not seen, and not kept."""

    position: Float[Array, "*lead units 2"]  # cells
    cooldown: Float[Array, "*lead units"]  # seconds until a unit can shoot again; negative once it can
    health: Shaped[Array, "*lead units"]  # whole points: uint8, or uint16 where some type has more than 255
    action: UInt8[Array, "*lead units"]  # what each unit did last; STOP after reset
    types: UInt8[Array, "*lead units"] | None = None  # type numbers, where they are drawn for each battle


class Moment(NamedTuple):
    """Features of all units at one moment, `[U, ...]`."""

    position: Array  # [U, 2] cells
    health: Array  # share of the full health
    cooldown: Array  # share of the type's cooldown, 0 to 1
    direction: Array  # [U, 2] of the last move
    shot: Array  # the last action, if it was a shot, as a share of the team's largest action
    alive: Array
    types: Array  # [U, K] one-hot


def reverse_target(number: Int[Array, "*lead"], n_allies: int) -> Int[Array, "*lead"]:
    """Index among the units of the ally that enemies give a number."""
    return n_allies - 1 - number


def sizes(scenario: Scenario, max_steps: int) -> EnvSpec:
    """Of what is seen in a scenario."""
    n_units, n_types = len(scenario.units()), len(scenario.type_names())
    return EnvSpec(
        n_agents=len(scenario.allies),
        n_actions=N_MOVES + len(scenario.enemies),
        obs_dim=(n_units - 1) * (7 + n_types) + 4 + n_types,
        state_dim=n_units * (4 + n_types),
        episode_limit=max_steps,
    )


def observe(snapshot: Snapshot, *, scenario: Scenario, see_enemy_actions: bool) -> Observation:
    """Observations, state and availability of one snapshot.

    An ally i sees, of the other allies and then of the enemies, in order: health, position relative to its own in units
    of its sight, direction of the last move, last shot, cooldown and type; zeros where the other is dead or not closer
    than its sight. Last come its own health, position on the map, cooldown and type. The dead see nothing and may only
    stop. The living may move anywhere, and shoot at living enemies closer than their range.

    Args:
      snapshot: of the moment.
      scenario: who fights.
      see_enemy_actions: whether observations show what enemies did last.
    """
    scenario = scenario._replace(types=snapshot.types)
    moment = _moment(snapshot, scenario)
    n = len(scenario.allies)
    alive = moment.alive[:n, None]
    apart = _others(moment.position, n) - moment.position[:n, None]  # [N, U - 1, 2]
    distance = jnp.sqrt(apart[..., 0] * apart[..., 0] + apart[..., 1] * apart[..., 1])
    both_live = alive & _others(moment.alive, n)
    shown = both_live & (distance < scenario.column("sight")[:n, None])
    in_range = both_live & (distance < scenario.column("range")[:n, None])
    seen = jnp.concatenate(
        [
            _others(moment.health, n)[..., None],
            apart / scenario.column("sight")[:n, None, None],
            _others(_told(moment, n, see_enemy_actions), n),
        ],
        -1,
    )
    seen = jnp.where(shown[..., None], seen, 0.0)  # [N, U - 1, 7 + K]
    own = _own(moment)
    may_stop = jnp.ones((n, 1), bool)
    return Observation(
        obs=jnp.concatenate([seen.reshape(n, -1), own[:n]], -1),
        state=own.reshape(-1),
        avail=jnp.concatenate([jnp.broadcast_to(alive, (n, STOP)), may_stop, in_range[:, n - 1 :]], -1),
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
        types=scenario.one_hot_types(),
    )


def _told(moment: Moment, n: int, see_enemy_actions: bool) -> Float[Array, "units features"]:
    """What every unit shows alike to all who see it, but for its health: 4 + K numbers."""
    acted = jnp.concatenate([moment.direction, moment.shot[:, None]], -1)
    if not see_enemy_actions:
        acted = jnp.where((np.arange(len(acted)) < n)[:, None], acted, 0.0)
    return jnp.concatenate([acted, moment.cooldown[:, None], moment.types], -1)


def _own(moment: Moment) -> Float[Array, "units features"]:
    """What each unit knows about itself, 4 + K numbers; of all units, the state."""
    columns = [moment.health[:, None], moment.position / MAP_SIZE, moment.cooldown[:, None], moment.types]
    return jnp.where(moment.alive[:, None], jnp.concatenate(columns, -1), 0.0)


def _others(values: Shaped[Array, "units *features"], n: int) -> Shaped[Array, "agents others *features"]:
    """Of every ally, all units but itself, in order: by two slices, as a gather would be slow on CPUs."""
    comes_before = np.arange(len(values) - 1)[None, :] < np.arange(n)[:, None]
    comes_before = comes_before.reshape(*comes_before.shape, *(1,) * (values.ndim - 1))
    return jnp.where(comes_before, values[None, :-1], values[None, 1:])


def living(snapshot: Snapshot) -> Bool[np.ndarray, "units"]:
    """Which units of a snapshot on the host have health left."""
    return np.asarray(snapshot.health) > 0
