"""JaxMARL's scripted enemies: they shoot at whom they can, and walk towards somebody they see, or across the map.

An enemy that has an ally in range shoots at the one that it shot at before, as long as that is alive and in range, else
at the closest, or at a random one. Without one in range it walks towards a random ally in sight, along the axis on
which that is farther; without one in sight, towards the place opposite its own start. Enemies number allies from the
last one on backwards, as JaxMARL does.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.envs.smax_battle import Units, _length
from lsf_jax.envs.smax_scenarios import Scenario
from lsf_jax.envs.smax_view import EAST, MAP_SIZE, N_MOVES, NORTH, SOUTH, STOP, WEST

NOBODY = -1


class Plans(NamedTuple):
    """What m enemies remember."""

    prey: Int[Array, "enemies"]  # the ally that an enemy shoots at, or NOBODY
    goal: Float[Array, "enemies 2"]  # where it walks while it sees nobody, cells


class Whims(NamedTuple):
    """An enemy's two random numbers of a step, in [0, 1)."""

    follow: Float[Array, "enemies"]  # decides whom it follows
    shoot: Float[Array, "enemies"]  # decides whom it shoots at, where that is random


def first_plans(units: Units, scenario: Scenario) -> Plans:
    """Plans at the start of a battle."""
    start = units.position[len(scenario.allies) :]
    return Plans(prey=jnp.full(len(scenario.enemies), NOBODY), goal=MAP_SIZE / 2 - (start - MAP_SIZE / 2))


def decide(
    units: Units, plans: Plans, whims: Whims, *, scenario: Scenario, shoots: bool, is_random: bool
) -> tuple[Int[Array, "enemies"], Plans]:
    """Actions of the enemies, and what they remember."""
    n = len(scenario.allies)
    position, alive = units.position[n:], units.health[n:] > 0
    apart = units.position[:n][::-1][None, :] - position[:, None]  # [m, n, 2]
    distance = _length(apart)
    seen = alive[:, None] & (units.health[:n][::-1] > 0)[None, :] & (distance < scenario.column("sight")[n:, None])
    in_range = seen & (distance < scenario.column("range")[n:, None])
    if is_random:
        distance = jnp.where(_pick(in_range, whims.shoot), 0.0, distance)
    is_prey = plans.prey[:, None] == np.arange(n)[None, :]
    wish = jnp.where(in_range, jnp.where(is_prey, -1.0, distance), jnp.inf)
    prey = jnp.where(in_range.any(-1), wish.argmin(-1), NOBODY)
    towards = jnp.where(_pick(seen, whims.follow)[..., None], apart, 0.0).sum(1)
    towards = jnp.where(seen.any(-1)[:, None], towards, plans.goal - position)
    action = _heading(towards)
    if shoots:
        action = jnp.where(prey == NOBODY, action, N_MOVES + prey)
    return jnp.where(alive, action, STOP), plans._replace(prey=prey)


def _pick(mask: Bool[Array, "enemies allies"], chance: Float[Array, "enemies"]) -> Bool[Array, "enemies allies"]:
    """One of each row's True entries, all equally likely."""
    import os
    n = mask.shape[-1]
    form = os.environ.get("PICK", "0")
    if form == "0": order = jnp.cumsum(mask, -1)
    if form == "1": order = (mask.astype(jnp.float32) @ np.triu(np.ones((n, n), np.float32)))
    if form == "2": order = jnp.where(np.triu(np.ones((n, n), bool))[None], mask[:, :, None], False).sum(1)
    if form == "3": order = jnp.where(np.triu(np.ones((n, n), bool))[None], mask[:, :, None].astype(jnp.float32), 0.0).sum(1)
    if form == "4": order = jnp.cumsum(mask.astype(jnp.float32), -1)
    rank = jnp.ceil((1.0 - chance) * order[:, -1]).astype(order.dtype)
    return mask & (order == rank[:, None])


def _heading(towards: Float[Array, "enemies 2"]) -> Int[Array, "enemies"]:
    """The move that brings most; of two, the first."""
    x, y = towards[:, 0], towards[:, 1]
    east_or_so = jnp.where(x >= jnp.abs(y), EAST, jnp.where(-y >= jnp.abs(x), SOUTH, WEST))
    return jnp.where(y >= jnp.abs(x), NORTH, east_or_so)
