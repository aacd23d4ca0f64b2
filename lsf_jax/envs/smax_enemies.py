"""The scripted enemies of SMAX, as JaxMARL 0.2.0 has them.

An enemy with an ally in range shoots: at the one that it shot at before, while that is in range, else at the closest,
or at any. Without one it walks: towards any ally that it sees, else towards the place opposite its own start; in the
direction, of four, that brings it nearest. Enemies number allies from the last one back.

Reference: Rutherford et al. (2024), JaxMARL, §4 and appendix.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.envs.smax_battle import Units, length
from lsf_jax.envs.smax_scenarios import Scenario
from lsf_jax.envs.smax_view import EAST, MAP_SIZE, N_MOVES, NORTH, SOUTH, STOP, WEST

NOBODY = -1


class Plans(NamedTuple):
    """What M enemies remember."""

    prey: Int[Array, "enemies"]  # number of the ally that an enemy shoots at, or NOBODY
    goal: Float[Array, "enemies 2"]  # where it walks while it sees nobody, cells


class Whims(NamedTuple):
    """What chance decides for M enemies in a step: numbers in [0, 1)."""

    whom_to_follow: Float[Array, "enemies"]
    whom_to_shoot: Float[Array, "enemies"] | None  # None: the closest


def first_plans(units: Units, scenario: Scenario) -> Plans:
    """Of enemies who have done nothing yet."""
    start = units.position[len(scenario.allies) :]
    return Plans(prey=jnp.full(len(scenario.enemies), NOBODY, jnp.int32), goal=MAP_SIZE - start)


def decide(
    units: Units, plans: Plans, whims: Whims, *, scenario: Scenario, shoots: bool
) -> tuple[Int[Array, "enemies"], Plans]:
    """Actions of the enemies, and what they remember of them.

    Args:
      units: what they see.
      plans: from the step before.
      whims: what chance decides.
      scenario: who fights.
      shoots: whether they shoot, or only walk.
    """
    n = len(scenario.allies)
    position, alive = units.position[n:], units.health[n:] > 0
    theirs, their_health = units.position[:n][::-1], units.health[:n][::-1]
    apart = theirs.T[:, None, :] - position.T[:, :, None]  # [2, M, N]
    distance = length(apart)
    seen = (alive[:, None] & (their_health > 0)[None, :]) & (distance < scenario.column("sight")[n:, None])
    in_range = seen & (distance < scenario.column("range")[n:, None])
    prey = _choose_prey(distance, in_range, plans.prey, whims)
    followed = jnp.where(_one_of(seen, whims.whom_to_follow)[None], apart, 0.0).sum(-1)
    action = _heading(jnp.where(seen.any(-1)[None], followed, (plans.goal - position).T))
    if shoots:
        action = jnp.where(prey == NOBODY, action, N_MOVES + prey)
    return jnp.where(alive, action, STOP), plans._replace(prey=prey)


def _choose_prey(distance: Array, in_range: Bool[Array, "enemies allies"], before: Array, whims: Whims) -> Array:
    """The number of the ally in range that is most wanted, or NOBODY."""
    numbers = np.arange(in_range.shape[-1], dtype=np.int32)[None, :]
    cost = distance
    if whims.whom_to_shoot is not None:
        cost = jnp.where(_one_of(in_range, whims.whom_to_shoot), 0.0, distance)
    cost = jnp.where(before[:, None] == numbers, -1.0, cost)
    cost = jnp.where(in_range, cost, jnp.inf)
    # The place of the lowest in two reductions: `argmin` looks for NaN too, and takes three times as long on CPUs.
    lowest = cost.min(-1)
    first = jnp.where(cost == lowest[:, None], numbers, len(numbers[0])).min(-1)
    return jnp.where(lowest < jnp.inf, first, NOBODY)


def _one_of(mask: Bool[Array, "enemies allies"], chance: Float[Array, "enemies"]) -> Bool[Array, "enemies allies"]:
    """One of each row's True entries, each as likely; none where there is none."""
    n = mask.shape[-1]
    order = mask.astype(jnp.float32) @ np.triu(np.ones((n, n), np.float32))  # a cumulative sum, faster
    rank = jnp.ceil((1.0 - chance) * order[:, -1])
    return mask & (order == rank[:, None])


def _heading(towards: Float[Array, "2 enemies"]) -> Int[Array, "enemies"]:
    """The move that brings nearest; of two such, the one that is numbered first."""
    x, y = towards
    other = jnp.where(x >= jnp.abs(y), EAST, jnp.where(-y >= jnp.abs(x), SOUTH, WEST))
    return jnp.where(y >= jnp.abs(x), NORTH, other)
