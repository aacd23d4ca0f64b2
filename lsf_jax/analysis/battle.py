"""Pictures of SMAX: discs with their type's letter and a bar of health, lines for shots, crosses for the dead."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw

from lsf_jax.analysis.render import MARGIN, SCALE, Picture, find_font, reduce_and_caption
from lsf_jax.envs.smax_scenarios import UNITS, Scenario
from lsf_jax.envs.smax_view import MAP_SIZE, N_MOVES

PIXELS = 16  # per cell of the map
NOBODY = -1
_WHITE, _GROUND, _WALL = (255, 255, 255), (248, 249, 250), (173, 181, 189)
_FALLEN, _LOST = (206, 212, 218), (222, 226, 230)  # crosses; the missing part of a bar
_SIDES = ((0, 114, 178), (213, 94, 0))  # allies, enemies
_SHOTS = ((140, 190, 222), (238, 178, 140))


class Battle(NamedTuple):
    """One moment of a battle of U units, allies first."""

    position: Float[np.ndarray, " units 2"]  # cells, from the south-west corner
    radius: Float[np.ndarray, " units"]  # cells
    health: Float[np.ndarray, " units"]  # share of the full health; 0: dead
    target: Int[np.ndarray, " units"]  # the unit that a unit has just shot at, or NOBODY
    letters: tuple[str, ...]  # of the units' types
    n_allies: int


def unpack_battle(snapshot: Any, scenario: Scenario) -> Battle:
    """The battle of a SMAX snapshot.

    Args:
      snapshot: `lsf_jax.envs.smax_view.Snapshot` on the host.
      scenario: who fights.
    """
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
    """A battle as a picture, north up: allies blue, enemies orange, the caption below.

    Args:
      battle: what to draw.
      caption: one line of text.

    Returns:
      RGB picture, always of the same size.
    """
    side = round(MAP_SIZE * PIXELS) + 2 * MARGIN
    large = Image.new("RGB", (side * SCALE, side * SCALE), _WHITE)
    draw = ImageDraw.Draw(large)
    corner, far = MARGIN * SCALE, (side - MARGIN) * SCALE
    draw.rectangle([corner, corner, far, far], fill=_GROUND, outline=_WALL, width=2 * SCALE)
    places = _to_pixels(battle.position)
    alive = battle.health > 0
    for unit in np.flatnonzero(~alive).tolist():
        _draw_cross(draw, places[unit], float(battle.radius[unit]) * PIXELS * SCALE / 2)
    for unit in np.flatnonzero(alive & (battle.target != NOBODY)).tolist():
        ends = [*places[unit], *places[battle.target[unit]]]
        draw.line(ends, fill=_SHOTS[int(unit >= battle.n_allies)], width=2 * SCALE)
    for unit in np.flatnonzero(alive).tolist():
        _draw_unit(draw, places[unit], battle, unit)
    return reduce_and_caption(large, caption)


def _to_pixels(position: Float[np.ndarray, " units 2"]) -> list[tuple[float, float]]:
    corner = MARGIN * SCALE
    scale = PIXELS * SCALE
    return [(corner + x * scale, corner + (MAP_SIZE - y) * scale) for x, y in position.tolist()]


def _draw_cross(draw: ImageDraw.ImageDraw, place: tuple[float, float], half: float) -> None:
    x, y = place
    draw.line([x - half, y - half, x + half, y + half], fill=_FALLEN, width=2 * SCALE)
    draw.line([x - half, y + half, x + half, y - half], fill=_FALLEN, width=2 * SCALE)


def _draw_unit(draw: ImageDraw.ImageDraw, place: tuple[float, float], battle: Battle, unit: int) -> None:
    (x, y), radius = place, float(battle.radius[unit]) * PIXELS * SCALE
    colour = _SIDES[int(unit >= battle.n_allies)]
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    font = find_font(round(1.5 * radius), bold=True)
    draw.text((x, y), battle.letters[unit], fill=_WHITE, font=font, anchor="mm")
    top, height = y - radius - 4 * SCALE, 2 * SCALE
    draw.rectangle([x - radius, top - height, x + radius, top], fill=_LOST)
    draw.rectangle([x - radius, top - height, x - radius + 2 * radius * float(battle.health[unit]), top], fill=colour)
