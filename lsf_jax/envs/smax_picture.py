"""Pictures of SMAX: discs with their type's letter and a bar of health, lines for shots, crosses for the dead."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lsf_jax.envs.smax_scenarios import UNITS, Scenario
from lsf_jax.envs.smax_view import MAP_SIZE, N_MOVES, Snapshot
from lsf_jax.types import Colour, Cross, Disc, Line, Picture, Rectangle

PIXELS = 16
"""Per cell of the map."""
NOBODY = -1
_SIDES: tuple[Colour, Colour] = ("ally", "enemy")
_SHOTS: tuple[Colour, Colour] = ("ally_shot", "enemy_shot")


class Battle(NamedTuple):
    """One moment of a battle of U units, allies first."""

    position: Float[np.ndarray, " units 2"]  # cells, from the south-west corner
    radius: Float[np.ndarray, " units"]  # cells
    health: Float[np.ndarray, " units"]  # share of the full health; 0: dead
    target: Int[np.ndarray, " units"]  # the unit that a unit has just shot at, or NOBODY
    letters: tuple[str, ...]  # of the units' types
    n_allies: int


def unpack_battle(snapshot: Snapshot, scenario: Scenario) -> Battle:
    """The battle of a snapshot on the host."""
    scenario = scenario.named(snapshot.types)
    n, action = len(scenario.allies), np.asarray(snapshot.action).astype(np.int64)
    # Allies number the enemies from the first one on; enemies number the allies from the last one back.
    aimed = np.where(np.arange(len(action)) < n, n + action - N_MOVES, n - 1 - (action - N_MOVES))
    return Battle(
        position=np.asarray(snapshot.position).astype(np.float64),
        radius=scenario.column("radius"),
        health=np.asarray(snapshot.health) / scenario.column("health"),
        target=np.where(action >= N_MOVES, aimed, NOBODY),
        letters=tuple(UNITS[name].letter for name in scenario.units()),
        n_allies=n,
    )


def draw_battle(battle: Battle, caption: str = "") -> Picture:
    """A battle as shapes, north up, on a map of always the same size."""
    places = [(x, MAP_SIZE - y) for x, y in battle.position.tolist()]
    radius = battle.radius.tolist()
    side: list[Colour] = [_SIDES[int(unit >= battle.n_allies)] for unit in range(len(places))]
    shot: list[Colour] = [_SHOTS[int(unit >= battle.n_allies)] for unit in range(len(places))]
    alive = battle.health > 0
    shooters = np.flatnonzero(alive & (battle.target != NOBODY)).tolist()
    return Picture(
        width=MAP_SIZE,
        height=MAP_SIZE,
        scale=PIXELS,
        shapes=(
            Rectangle(0.0, 0.0, MAP_SIZE, MAP_SIZE, "ground", edge="wall"),
            *(Cross(*places[unit], radius[unit] / 2, "fallen") for unit in np.flatnonzero(~alive).tolist()),
            *(Line(places[unit], places[battle.target[unit]], shot[unit]) for unit in shooters),
            *(
                Disc(*places[unit], radius[unit], side[unit], battle.letters[unit], bar=float(battle.health[unit]))
                for unit in np.flatnonzero(alive).tolist()
            ),
        ),
        caption=caption,
    )


def draw_moment(snapshot: Snapshot, step: int, sums: dict[str, float], *, scenario: Scenario) -> Picture:
    """A snapshot on the host with a line that says how the battle stands; `sums` as in `Env.draw`."""
    return draw_battle(
        unpack_battle(snapshot, scenario),
        f"step {step} · allies down {sums['dead_allies']:.0f}/{len(scenario.allies)} · "
        f"enemies down {sums['dead_enemies']:.0f}/{len(scenario.enemies)} · return {sums['return']:.1f}",
    )
