"""Battles of SMAX after SMACv2: everybody's type and place are drawn anew for each battle, in JaxMARL's distributions.

Types: each of an ally as likely as any other; the enemies have the allies' types, one for one. Places: in one battle of
two the allies stand anywhere in the west and the enemies are their mirror image; in the other one side, either, stands
in the middle of the map, and the other surrounds it in up to four groups, each somewhere between the middle and a
corner. As in JaxMARL a group may stand at the very corner, beyond whose walls its units die in the first step.

Numbers of SMACv2 are another game's: there types are drawn by weights and by race.

Reference: Ellis et al. (2023), SMACv2; Rutherford et al. (2024), JaxMARL, §4; version 0.2.0.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from lsf_jax.envs.chance import uniform
from lsf_jax.envs.smax_battle import SPREAD
from lsf_jax.envs.smax_view import MAP_SIZE
from lsf_jax.types import PRNGKey

CORNERS = np.array([[0, 0], [0, MAP_SIZE], [MAP_SIZE, 0], [MAP_SIZE, MAP_SIZE]], np.float32)
_MIDDLE = np.float32(MAP_SIZE / 2)


class Draws(NamedTuple):
    """All that chance decides about a start, numbers in [0, 1)."""

    types: Float[Array, "allies"]
    surrounds: Float[Array, ""]  # below 1/2: one side surrounds the other
    allies_inside: Float[Array, ""]  # below 1/2: that is the enemies
    west: Float[Array, "allies 2"]  # places in the western half
    inside: Float[Array, "allies 2"]  # offsets from the middle
    outside: Float[Array, "allies 2"]  # offsets from a group's place
    group: Float[Array, "allies"]  # which group a unit belongs to
    how_near: Float[Array, "groups"]  # of each group to the middle; 0: in its corner


def draw_teams(key: PRNGKey, n: int, n_types: int) -> tuple[UInt8[Array, "units"], Float[Array, "units 2"]]:
    """Types and places of n allies and n enemies, allies first."""
    sizes = {"types": n, "surrounds": 1, "allies_inside": 1, "west": 2 * n, "inside": 2 * n, "outside": 2 * n}
    sizes |= {"group": n, "how_near": len(CORNERS)}
    numbers = jnp.split(uniform(key, sum(sizes.values())), np.cumsum(list(sizes.values()))[:-1])
    flat = dict(zip(sizes, numbers))
    pairs = {name: flat[name].reshape(n, 2) for name in ("west", "inside", "outside")}
    draws = Draws(**flat | pairs | {name: flat[name][0] for name in ("surrounds", "allies_inside")})
    types = jnp.floor(draws.types * n_types).astype(jnp.uint8)
    return jnp.concatenate([types, types]), place_teams(draws)


def place_teams(draws: Draws) -> Float[Array, "units 2"]:
    """Places of all units, allies first."""
    west = draws.west * np.array([[MAP_SIZE / 2, MAP_SIZE]], np.float32)
    mirrored = jnp.concatenate([west, jnp.stack([MAP_SIZE - west[:, 0], west[:, 1]], -1)])
    near = draws.how_near[:, None]
    groups = near * _MIDDLE + (1 - near) * CORNERS
    member = jnp.floor(draws.group * len(CORNERS)).astype(jnp.int32)
    inside = _MIDDLE + SPREAD * (2 * draws.inside - 1)
    outside = groups[member] + SPREAD * (2 * draws.outside - 1)
    surrounded = jnp.where(
        draws.allies_inside >= 0.5, jnp.concatenate([inside, outside]), jnp.concatenate([outside, inside])
    )
    return jnp.where(draws.surrounds < 0.5, surrounded, mirrored)
