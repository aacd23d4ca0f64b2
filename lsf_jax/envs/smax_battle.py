"""The rules of a SMAX battle: how it begins, and what units do with their orders in the half second of a step.

The rules are those of JaxMARL 0.2.0, written for all units at once: JaxMARL asks every unit, gathers the numbers of its
type, scatters damage, and draws all that chance might decide. Here types are fixed by the scenario, who has health
lives, and chance decides beforehand what it can decide at all. A step is eight ticks of 1/16 s, and in each:

1. The living walk where they were told to; walls hold them. At the same time whoever was told to shoot does so, if its
   weapon is ready and its living target closer than its range. A shot costs the target health, and the weapon is ready
   again after its type's cooldown and a delay of -1 to 2 ticks.
2. Whoever touches the edge of the map dies, where walls kill.
3. The living that overlap push each other apart.

No weapon is ready twice in a step: the shortest cooldown less a tick is 7 ticks, and the tick of a shot does not count.
So a unit has one delay a step.

Reference: Rutherford et al. (2024), JaxMARL, §4 and appendix.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.envs.smax_scenarios import Scenario
from lsf_jax.envs.smax_view import EAST, MAP_SIZE, N_MOVES, NORTH, SOUTH, WEST, reverse_target

TICKS = 8
"""Of one step."""
TICK = 1 / 16
"""Seconds."""
SPREAD = 2.0
"""Cells, each way, that units start from the middle of their side."""
_PACE = np.float32(2) * np.square(
    np.float32(1) / np.sqrt(np.float32(2))
)  # 1 - 6e-8: JaxMARL turns a diagonal, in float32
_APART = np.float32(1e-6)  # cells, so that nothing is divided by zero


class Units(NamedTuple):
    """U units of both sides, allies first."""

    position: Float[Array, "units 2"]  # cells
    health: Float[Array, "units"]  # whole points; 0: dead
    cooldown: Float[Array, "units"]  # seconds until a unit can shoot again; not positive once it can


class Orders(NamedTuple):
    """What units do during a step."""

    stride: Float[Array, "2 units"]  # cells a tick
    target: Int[Array, "units"]  # whom a unit shoots at; itself, if it does not
    shoots: Bool[Array, "units"]
    reload: Float[Array, "units"]  # seconds from a shot until the weapon is ready
    damage: Float[Array, "shooter units"]  # points that a shot takes from each unit


class Moving(NamedTuple):
    """Units between two ticks, with places as two rows: so both take part in the same operations."""

    place: Float[Array, "2 units"]
    health: Float[Array, "units"]
    cooldown: Float[Array, "units"]


def facing(offset: Float[Array, "units 2"], scenario: Scenario) -> Float[Array, "units 2"]:
    """Places of both armies on either side of the map: the allies in the west, the enemies in the east.

    Args:
      offset: of each unit from the middle of its side, cells; at most `SPREAD` each way.
      scenario: who fights.
    """
    share = np.array([[1 / 4]] * len(scenario.allies) + [[3 / 4]] * len(scenario.enemies), np.float32)
    middle = MAP_SIZE * np.concatenate([share, np.full_like(share, 1 / 2)], axis=-1)
    return jnp.asarray(middle) + offset


def muster(place: Float[Array, "units 2"], scenario: Scenario) -> Units:
    """Both armies at the start, pushed apart where they overlap.

    Args:
      place: where each unit was put, cells.
      scenario: who fights.
    """
    health = jnp.asarray(scenario.column("health"))
    place = _push_apart(place.T, jnp.ones(health.shape, bool), scenario)
    return Units(position=place.T, health=health, cooldown=jnp.zeros_like(health))


def fight(
    units: Units,
    action: Int[Array, "units"],
    delay: Float[Array, "units"],
    *,
    scenario: Scenario,
    walls_cause_death: bool,
) -> Units:
    """What a step makes of the units.

    Args:
      units: before it.
      action: of all units; see `smax_view`.
      delay: seconds, -1/16 to 1/8, that a shot adds to the weapon's cooldown.
      scenario: who fights.
      walls_cause_death: whether touching the edge of the map kills.
    """
    orders = _orders(action, delay, scenario)

    def tick(units: Moving, _: None) -> tuple[Moving, None]:
        units = _walk_and_shoot(units, orders, scenario)
        if walls_cause_death:
            x, y = units.place
            is_inside = (x > 0.0) & (x < MAP_SIZE) & (y > 0.0) & (y < MAP_SIZE)
            units = units._replace(health=jnp.where(is_inside, units.health, 0.0))
        return units._replace(place=_push_apart(units.place, units.health > 0, scenario)), None

    all_ticks = partial(jax.lax.scan, tick, length=TICKS)
    # On GPUs a loop costs more than its ticks: 59 of 176 kernels of a step were counting, testing and copying.
    written_out = partial(all_ticks, unroll=TICKS)
    start = Moving(place=units.position.T, health=units.health, cooldown=units.cooldown)
    end, _ = jax.lax.platform_dependent(start, cuda=written_out, rocm=written_out, default=all_ticks)
    return Units(position=end.place.T, health=end.health, cooldown=end.cooldown)


def _orders(action: Array, delay: Array, scenario: Scenario) -> Orders:
    n, everyone = len(scenario.allies), np.arange(len(scenario.units()))
    went = [(action == move).astype(jnp.float32) for move in range(N_MOVES - 1)]
    direction = jnp.stack([went[EAST] - went[WEST], went[NORTH] - went[SOUTH]])
    shoots, number = action >= N_MOVES, action - N_MOVES
    aimed_at = jnp.where(everyone < n, n + number, reverse_target(number, n))
    target = jnp.where(shoots, aimed_at, everyone)
    is_hit = shoots[:, None] & (target[:, None] == everyone[None, :])
    return Orders(
        stride=direction * (_PACE * scenario.column("speed") * np.float32(TICK))[None, :],
        target=target,
        shoots=shoots,
        reload=jnp.asarray(scenario.column("cooldown")) + delay,
        damage=jnp.where(is_hit, scenario.column("damage")[:, None], 0.0),
    )


def _walk_and_shoot(units: Moving, orders: Orders, scenario: Scenario) -> Moving:
    """Both from what was true when the tick began."""
    alive = units.health > 0
    distance = length(units.place - units.place[:, orders.target])
    is_near = alive[orders.target] & (distance < scenario.column("range"))
    fires = orders.shoots & alive & is_near & (units.cooldown <= 0.0)
    lost = jnp.where(fires[:, None], orders.damage, 0.0).sum(0)
    return Moving(
        place=jnp.where(alive[None], jnp.clip(units.place + orders.stride, 0.0, MAP_SIZE), units.place),
        health=jnp.maximum(units.health - lost, 0.0),
        cooldown=units.cooldown + jnp.where(fires, orders.reload - units.cooldown, -TICK),
    )


def _push_apart(place: Float[Array, "2 units"], alive: Bool[Array, "units"], scenario: Scenario) -> Array:
    """Every two of the living that overlap go half as far apart as their distance is too short, both alike."""
    radius = scenario.column("radius")
    away = place[:, None, :] - place[:, :, None]  # [2, from, whom]
    distance = length(away) + np.eye(len(radius), dtype=np.float32) + _APART
    overlap = jnp.maximum((radius[:, None] + radius[None, :]) / distance - 1.0, 0.0)
    overlap = jnp.where(alive[:, None] & alive[None, :], overlap, 0.0)
    return place + (away * overlap[None]).sum(1) / 2


def length(vector: Float[Array, "2 *lead"]) -> Float[Array, "*lead"]:
    """Of vectors whose two coordinates are the first axis."""
    return jnp.sqrt(vector[0] * vector[0] + vector[1] * vector[1])
