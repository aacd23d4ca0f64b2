"""Who fights whom in SMAX: unit types, and armies by scenario. Plain data; nothing of JaxMARL is needed to read it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class UnitType(NamedTuple):
    """What every unit of a type has."""

    letter: str  # in pictures; JaxMARL's shorthand
    speed: float  # cells a second
    damage: float  # of one shot, a whole number
    range: float  # cells, from centre to centre
    sight: float  # cells
    radius: float  # cells
    health: float  # shields included, which do not come back; a whole number
    cooldown: float  # seconds between two shots; each is drawn from cooldown -1/16 to +1/8


UNITS: dict[str, UnitType] = {
    "marine": UnitType("m", 3.15, 9.0, 5.0, 9.0, 0.375, 45.0, 0.61),
    "marauder": UnitType("M", 2.25, 10.0, 6.0, 10.0, 0.5625, 125.0, 1.07),
    "stalker": UnitType("s", 4.13, 13.0, 6.0, 10.0, 0.625, 160.0, 1.87),
    "zealot": UnitType("Z", 3.15, 8.0, 2.0, 9.0, 0.5, 150.0, 0.86),
    "zergling": UnitType("z", 4.13, 5.0, 2.0, 8.0, 0.375, 35.0, 0.5),
    "hydralisk": UnitType("h", 3.15, 12.0, 5.0, 9.0, 0.625, 80.0, 0.59),
    "colossus": UnitType("C", 3.15, 10.0, 7.0, 10.0, 1.0, 350.0, 1.07),
}
"""JaxMARL 0.2.0's six, by its type numbers, and ours: StarCraft II's colossus in the form that SMAX gives its units,
with shields added to health, one of its two rays (as the zealot has one of its two blades), no bonus against light
units and no armour. It hits one unit at a time."""

N_STANDARD = 6  # types that JaxMARL has itself


class Scenario(NamedTuple):
    """Two armies, as names of unit types; our side comes first and acts."""

    allies: tuple[str, ...]
    enemies: tuple[str, ...]
    is_drawn: bool = False  # types and places are drawn anew for each battle; the names are then the first type's
    types: Any = None  # type number of each unit of the battle at hand, `[U]` uint8, where they are drawn

    def units(self) -> tuple[str, ...]:
        """Types of all units, `[U]`: the allies, then the enemies."""
        return self.allies + self.enemies

    def type_names(self) -> tuple[str, ...]:
        """Types that the game knows, K of them; a scenario without a colossus is JaxMARL's game to the bit."""
        return tuple(UNITS) if "colossus" in self.units() else tuple(UNITS)[:N_STANDARD]

    def type_numbers(self) -> np.ndarray:
        """Type number of each unit, `[U]` uint8."""
        return np.array([list(UNITS).index(name) for name in self.units()], np.uint8)

    def column(self, field: str) -> Any:
        """A field of `UnitType` for each unit, `[U]` float32: NumPy, or of the types drawn for the battle at hand."""
        if self.types is None:
            return np.array([getattr(UNITS[name], field) for name in self.units()], np.float32)
        table = np.array([getattr(UNITS[name], field) for name in self.type_names()], np.float32)
        return jnp.where(self._is_of_type(), table[None], 0.0).sum(-1)  # exact, and no gather

    def one_hot_types(self) -> Float[Array, "units types"]:
        """The type of each unit as a row of zeros with a one."""
        if self.types is None:
            return jnp.asarray(np.eye(len(self.type_names()), dtype=np.float32)[self.type_numbers()])
        return self._is_of_type().astype(jnp.float32)

    def named(self, types: Any) -> "Scenario":
        """On the host: the scenario with the types `[U]` that were drawn for a battle, by name; None: as it is."""
        if types is None:
            return self
        names = [self.type_names()[number] for number in np.asarray(types).tolist()]
        n = len(self.allies)
        return Scenario(allies=tuple(names[:n]), enemies=tuple(names[n:]))

    def _is_of_type(self) -> Bool[Array, "units types"]:
        return self.types[:, None] == np.arange(len(self.type_names()), dtype=np.uint8)[None]


def _army(**counts: int) -> tuple[str, ...]:
    return tuple(name for name, count in counts.items() for _ in range(count))


def _drawn(n: int) -> Scenario:
    return Scenario(_army(marine=n), _army(marine=n), is_drawn=True)


SCENARIOS: dict[str, Scenario] = {
    "3m": Scenario(_army(marine=3), _army(marine=3)),
    "8m": Scenario(_army(marine=8), _army(marine=8)),
    "25m": Scenario(_army(marine=25), _army(marine=25)),
    "2s3z": Scenario(_army(stalker=2, zealot=3), _army(stalker=2, zealot=3)),
    "3s5z": Scenario(_army(stalker=3, zealot=5), _army(stalker=3, zealot=5)),
    "3s_vs_5z": Scenario(_army(stalker=3), _army(zealot=5)),
    "3s5z_vs_3s6z": Scenario(_army(stalker=3, zealot=5), _army(stalker=3, zealot=6)),
    "5m_vs_6m": Scenario(_army(marine=5), _army(marine=6)),
    "10m_vs_11m": Scenario(_army(marine=10), _army(marine=11)),
    "27m_vs_30m": Scenario(_army(marine=27), _army(marine=30)),
    "6h_vs_8z": Scenario(_army(hydralisk=6), _army(zealot=8)),
    "smacv2_5_units": _drawn(5),
    "smacv2_10_units": _drawn(10),
    "smacv2_20_units": _drawn(20),
    "corridor_open": Scenario(_army(zealot=6), _army(zergling=24)),
    "2M7m_vs_3M8m": Scenario(_army(marauder=2, marine=7), _army(marauder=3, marine=8)),
    "1c3s5z_nosplash": Scenario(_army(colossus=1, stalker=3, zealot=5), _army(colossus=1, stalker=3, zealot=5)),
}
"""By name. The first fourteen are JaxMARL's; three of them, after SMACv2, draw everybody's type and place anew for each
battle (`smax_drawn`). The last three stand for SMAC maps that SMAX does not have, and are not these maps:
`corridor_open` is corridor's armies on open ground, without the choke point that the map is about; `2M7m_vs_3M8m` is
MMM2 without its medivacs, so that nobody is healed; `1c3s5z_nosplash` is 1c3s5z whose colossi hit one unit at a
time."""
