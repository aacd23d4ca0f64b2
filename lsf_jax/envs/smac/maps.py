"""The ten SMAC maps of the LSF-SAC paper: sizes and rewards, known without StarCraft II.

Plain Python without imports from the package, so that a worker's interpreter or a script can load this file by itself.

References: Samvelyan et al. (2019), The StarCraft Multi-Agent Challenge, and oxwhirl/smac `smac_maps.py`; the maps and
their difficulty classes are those of LSF-SAC §VI.C.
"""

from typing import Dict, NamedTuple  # noqa: UP035  (Python 3.8 reads this file too)

DEATH_VALUE = 10
"""Reward for an enemy killed, before scaling; oxwhirl's default."""
WIN_VALUE = 200
"""Reward for a battle won, before scaling; oxwhirl's default."""


class GameMap(NamedTuple):
    """One map with oxwhirl's default flags."""

    level: str  # easy, hard or super hard in the SMAC and LSF-SAC papers
    agents: int
    enemies: int
    episode_limit: int  # steps
    races: str  # of agents and enemies: Terran, Protoss, Zerg
    type_bits: int  # columns that tell unit types apart; 0 where there is one type
    n_actions: int  # no-op, stop, four moves, then one for each enemy
    obs: int  # length of one agent's observation
    state: int  # length of the global state
    enemy_health: int  # health and shields of all enemies, StarCraft II 4.10
    budget: int  # environment steps of the paper's curves, as in its authors' release (3m: as the other easy maps)

    @property
    def max_reward(self) -> int:
        """Undiscounted, unscaled reward of winning without losing time; SMAC scales returns to 20 by it."""
        return self.enemies * DEATH_VALUE + WIN_VALUE + self.enemy_health


# fmt: off
MAPS: Dict[str, GameMap] = {  # noqa: UP006
    # map: level                        agents enemies limit races types actions  obs state health      budget
    "3m": GameMap("easy",                   3,      3,   60, "TT",    0,      9,  30,   48,   135, 2_005_000),
    "8m": GameMap("easy",                   8,      8,  120, "TT",    0,     14,  80,  168,   360, 2_005_000),
    "3s5z": GameMap("easy",                 8,      8,  150, "PP",    2,     14, 128,  216,  1230, 2_005_000),
    "1c3s5z": GameMap("easy",               9,      9,  180, "PP",    3,     15, 162,  270,  1580, 2_005_000),
    "3s_vs_5z": GameMap("hard",             3,      5,  250, "PP",    0,     11,  48,   68,   750, 3_005_000),
    "5m_vs_6m": GameMap("hard",             5,      6,   70, "TT",    0,     12,  55,   98,   270, 4_005_000),
    "27m_vs_30m": GameMap("super hard",    27,     30,  180, "TT",    0,     36, 285, 1170,  1350, 2_005_000),
    "6h_vs_8z": GameMap("super hard",       6,      8,  150, "ZP",    0,     14,  78,  140,  1200, 5_005_000),
    "corridor": GameMap("super hard",       6,     24,  400, "PZ",    0,     30, 156,  282,   840, 5_005_000),
    "MMM2": GameMap("super hard",          10,     12,  180, "TT",    3,     18, 176,  322,   885, 2_005_000),
}
"""Every map by its name in `smac`; columns as in `GameMap`."""
# fmt: on
