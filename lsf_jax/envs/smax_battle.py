"""The rules of a SMAX battle: what units do with their orders in the half second of a step, and how a battle begins.

The rules and the random draws are those of JaxMARL 0.2.0, written anew for all units at once, so that a step is few
operations: JaxMARL asks each unit, gathers its type's numbers, and scatters. Types are fixed by the scenario here, and
who lives is who has health. A step is eight ticks of 1/16 s. In each, from what was true when it began:

1. Units walk, and whoever shoots at a living unit closer than its range, with its weapon ready, takes its damage from
   that unit's health; the weapon is then ready again after its type's cooldown, which varies from -1 to +2 ticks.
2. Whoever touches the edge of the map dies, if walls kill.
3. The living who overlap push each other apart.

Reference: Rutherford et al. (2024), JaxMARL, §4 and appendix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lsf_jax.envs.smax_scenarios import Scenario
from lsf_jax.envs.smax_view import EAST, MAP_SIZE, N_MOVES, NORTH, SOUTH, WEST
from lsf_jax.types import PRNGKey

TICKS = 8
"""Of one step."""
TICK = 1 / 16  # seconds
_STRIDE = 2 * (np.float32(1) / np.sqrt(np.float32(2))) ** 2  # JaxMARL turns a diagonal of this length: 1 - 6e-8
_SPREAD = 2.0  # cells, each way, that units start from the middle of their side
_APART = 1e-6  # cells, so that nothing is divided by zero


class Units(NamedTuple):
    """U units of both sides, allies first."""

    position: Float[Array, "units 2"]  # cells
    health: Float[Array, "units"]  # whole points; 0: dead
    cooldown: Float[Array, "units"]  # seconds until a unit can shoot again; negative once it can


class Orders(NamedTuple):
    """What units do during a step."""

    stride: Array  # [2, U] cells of a tick
    target: Array  # [U] unit to shoot at
    shoots: Array  # [U]
    reload: Array  # [U] seconds from a shot to the next one
    damage: Array  # [U, U] points that unit i's shot takes from unit j


class Moving(NamedTuple):
    x: Array
    y: Array
    health: Array
    cooldown: Array


def place_units(key: PRNGKey, scenario: Scenario) -> Units:
    """Both armies at the start, west and east, strewn about and then pushed apart."""
    _, key_west, key_east = jax.random.split(key, 3)
    armies = ((key_west, 1 / 4, scenario.allies), (key_east, 3 / 4, scenario.enemies))
    position = jnp.concatenate(
        [
            np.array([MAP_SIZE * share, MAP_SIZE / 2], np.float32)
            + jax.random.uniform(key_army, (len(army), 2), minval=-_SPREAD, maxval=_SPREAD)
            for key_army, share, army in armies
        ]
    )
    health = jnp.asarray(scenario.column("health"))
    x, y = _push_apart(position[:, 0], position[:, 1], jnp.ones(len(health), bool), scenario)
    return Units(
        position=jnp.stack([x, y], -1),
        health=health,
        cooldown=jnp.zeros(len(health)),
    )


def fight(
    units: Units,
    action: Int[Array, "units"],
    delay: Float[Array, "ticks units"],
    *,
    scenario: Scenario,
    walls_cause_death: bool,
) -> Units:
    """What a step makes of the units.

    Args:
      units: before the step.
      action: of all units; enemies number their targets from the last ally on backwards.
      delay: seconds, -1/16 to 1/8, that a shot in a tick adds to the weapon's cooldown.
      scenario: who fights.
      walls_cause_death: whether touching the edge of the map kills.
    """
    orders = _orders(action, delay, scenario)

    def tick(units: Moving, _) -> tuple[Moving, None]:
        units = _shoot_and_walk(units, orders, scenario)
        if walls_cause_death:
            inside = (units.x > 0.0) & (units.x < MAP_SIZE) & (units.y > 0.0) & (units.y < MAP_SIZE)
            units = units._replace(health=jnp.where(inside, units.health, 0.0))
        x, y = _push_apart(units.x, units.y, units.health > 0, scenario)
        units = units._replace(x=x, y=y)
        if BARRIER:
            units = jax.lax.optimization_barrier(units)
        return units, None

    start = Moving(x=units.position[:, 0], y=units.position[:, 1], health=units.health, cooldown=units.cooldown)
    end, _ = jax.lax.scan(tick, start, None, length=TICKS, unroll=UNROLL)
    return Units(position=jnp.stack([end.x, end.y], -1), health=end.health, cooldown=end.cooldown)


import os
UNROLL = int(os.environ.get("UNROLL", "1"))
BARRIER = int(os.environ.get("BARRIER", "0"))


def _orders(action: Array, delay: Array, scenario: Scenario) -> Orders:
    n, m = len(scenario.allies), len(scenario.enemies)
    is_ally = np.arange(n + m) < n
    went = [(action == move).astype(jnp.float32) for move in range(N_MOVES - 1)]
    direction = jnp.stack([went[EAST] - went[WEST], went[NORTH] - went[SOUTH]])
    shoots = action >= N_MOVES
    aimed = jnp.where(is_ally, n + action - N_MOVES, n - 1 - (action - N_MOVES))
    target = jnp.where(shoots, aimed, np.arange(n + m))
    struck = target[:, None] == np.arange(n + m)[None, :]
    return Orders(
        stride=direction * (_STRIDE * scenario.column("speed") * np.float32(TICK))[None, :],
        target=target,
        shoots=shoots,
        reload=scenario.column("cooldown") + delay,
        damage=jnp.where(struck & shoots[:, None], scenario.column("damage")[:, None], 0.0),
    )


def _shoot_and_walk(units: Moving, orders: Orders, scenario: Scenario) -> Moving:
    alive = units.health > 0
    apart_x, apart_y = units.x - units.x[orders.target], units.y - units.y[orders.target]
    in_range = apart_x * apart_x + apart_y * apart_y < squared_reach(scenario.column("range"))
    hits = orders.shoots & alive & alive[orders.target] & in_range & (units.cooldown <= 0.0)
    lost = jnp.where(hits[:, None], orders.damage, 0.0).sum(0)
    return Moving(
        x=jnp.where(alive, jnp.clip(units.x + orders.stride[0], 0.0, MAP_SIZE), units.x),
        y=jnp.where(alive, jnp.clip(units.y + orders.stride[1], 0.0, MAP_SIZE), units.y),
        health=jnp.maximum(units.health - lost, 0.0),
        cooldown=units.cooldown + jnp.where(hits, orders.reload - units.cooldown, -TICK),
    )


def _push_apart(x: Array, y: Array, alive: Array, scenario: Scenario) -> tuple[Array, Array]:
    """Every two of the living that overlap move apart, each by half of the overlap's share of their distance."""
    radius = scenario.column("radius")
    away_x, away_y = x[None, :] - x[:, None], y[None, :] - y[:, None]
    distance = jnp.sqrt(away_x * away_x + away_y * away_y) + (np.eye(len(radius), dtype=np.float32) + np.float32(_APART))
    overlap = jnp.maximum((radius[:, None] + radius[None, :]) / distance - 1.0, 0.0)
    overlap = jnp.where(alive[:, None] & alive[None, :], overlap, 0.0)
    if os.environ.get("VAR") == "2":
        away = jnp.stack([x[None, :] - x[:, None], y[None, :] - y[:, None]])
        push = (away * overlap).sum(1) / 2
        return x + push[0], y + push[1]
    if os.environ.get("VAR") == "3":
        xy = jnp.stack([x, y], -1)
        push = ((xy[None] - xy[:, None]) * overlap[..., None]).sum(0) / 2
        return x + push[:, 0], y + push[:, 1]
    if int(os.environ.get("VAR", "0")):
        px, py = jax.lax.reduce((away_x * overlap, away_y * overlap), (jnp.float32(0), jnp.float32(0)), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,))
        return x + px / 2, y + py / 2
    return x + (away_x * overlap).sum(0) / 2, y + (away_y * overlap).sum(0) / 2


def squared_reach(reach):
    """The smallest squares whose float32 roots are at least `reach`."""
    square = np.square(reach, dtype=np.float32)
    while (root := np.sqrt(lower := np.nextafter(square, np.float32(0)))).dtype and (root >= reach).any():
        square = np.where(root >= reach, lower, square)
    return square


def _length(vector: Float[Array, "*lead 2"]) -> Float[Array, "*lead"]:
    return jnp.sqrt((vector * vector).sum(-1))
