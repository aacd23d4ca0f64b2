"""Settings of real SMAC, and the sizes that follow from them without a game."""

import dataclasses
from dataclasses import dataclass

from lsf_jax.envs.base import check_settings, require
from lsf_jax.envs.smac.game import RESET_LOOPS
from lsf_jax.envs.smac.maps import MAPS, GameMap
from lsf_jax.envs.workers.config import WorkersConfig
from lsf_jax.settings import setting, user_path
from lsf_jax.types import EnvSpec

LOOP_LIMIT = 2**19
"""Game loops after which StarCraft II ends any game."""
OXWHIRL = "smac.env:StarCraft2Env"
"""The environment that is meant where `factory` is empty."""


@dataclass(frozen=True)
class StarCraftConfig:
    """What `StarCraft2Env` takes as it is, with oxwhirl's defaults."""

    map_name: str = setting("8m", choices=tuple(MAPS), doc="one of the ten maps of the paper; oxwhirl")
    difficulty: str = setting("7", choices=(*"123456789", "A"), doc="built-in AI: 7 very hard, 8 to A cheat; oxwhirl")
    game_version: str = setting("", doc="version of StarCraft II, for example 4.10.0; empty: the newest installed")
    step_mul: int = setting(8, low=1, high=100, doc="game loops in one step; oxwhirl")
    move_amount: float = setting(2.0, above=0, doc="distance of one move; oxwhirl")
    continuing_episode: bool = setting(False, doc="the time limit truncates; false: it ends the game; oxwhirl")
    obs_all_health: bool = setting(True, doc="agents see the health of others; oxwhirl")
    obs_own_health: bool = setting(True, doc="agents see their own health, always with obs_all_health; oxwhirl")
    obs_last_action: bool = setting(False, doc="agents see the last actions of allies in sight; oxwhirl")
    obs_pathing_grid: bool = setting(False, doc="agents see where they can walk; oxwhirl")
    obs_terrain_height: bool = setting(False, doc="agents see the height of the ground; oxwhirl")
    obs_timestep_number: bool = setting(False, doc="agents see the time; oxwhirl")
    obs_instead_of_state: bool = setting(False, doc="the state is all observations side by side; oxwhirl")
    state_last_action: bool = setting(True, doc="the state holds the last actions; oxwhirl")
    state_timestep_number: bool = setting(False, doc="the state holds the time; oxwhirl")
    reward_sparse: bool = setting(False, doc="1 for a win, -1 for a defeat, else 0; oxwhirl")
    reward_only_positive: bool = setting(True, doc="losses of one's own cost nothing; oxwhirl")
    reward_death_value: float = setting(10.0, low=0, doc="reward of an enemy killed, before scaling; oxwhirl")
    reward_win: float = setting(200.0, low=0, doc="reward of a win, before scaling; oxwhirl")
    reward_defeat: float = setting(0.0, high=0, doc="reward of a defeat, before scaling; oxwhirl")
    reward_negative_scale: float = setting(0.5, low=0, doc="weight of own losses if they count; oxwhirl")
    reward_scale: bool = setting(True, doc="divide rewards by max_reward / reward_scale_rate; oxwhirl")
    reward_scale_rate: float = setting(20.0, above=0, doc="best return after scaling; oxwhirl")


@dataclass(frozen=True)
class SmacConfig(WorkersConfig, StarCraftConfig):
    """Settings of real SMAC: of `StarCraft2Env`, then of its workers, then of where and for how long it runs."""

    factory: str = setting(
        "", code=("",), doc=f"'file.py:Class' or 'module:Class' of another SMAC-shaped game; empty: {OXWHIRL}"
    )
    sc2_path: str = setting(
        "",
        resumable=True,
        code=("",),
        doc="StarCraft II's folder; empty: $SC2PATH, else StarCraftII in the home folder",
    )
    max_reward: float = setting(0.0, low=0, doc="unscaled best return that the game must report; 0: the table's")
    relaunch_loops: int = setting(
        400_000, low=1, high=LOOP_LIMIT, doc="game loops after which a game is started afresh, between two episodes"
    )


def game_map(cfg: SmacConfig) -> GameMap:
    """The row of the table that `cfg.map_name` names.

    Raises:
      ConfigError: for a map that is not in the table.
    """
    require(cfg.map_name in MAPS, "map_name", cfg.map_name, f"one of {', '.join(MAPS)}")
    return MAPS[cfg.map_name]


def spec_of(cfg: SmacConfig) -> EnvSpec:
    """Sizes of the environment, from the table and the flags that change them.

    Raises:
      ConfigError: for a value out of range, an unknown map, or games that would pass StarCraft II's loop limit.
    """
    check_settings(cfg)
    row = game_map(cfg)
    longest = row.episode_limit * cfg.step_mul + RESET_LOOPS
    most = LOOP_LIMIT - longest
    expected = f"at most {most}: an episode has up to {longest} loops, and a game ends after {LOOP_LIMIT}"
    require(cfg.relaunch_loops <= most, "relaunch_loops", cfg.relaunch_loops, expected)
    obs = row.obs + _more_in_obs(cfg, row)
    state = row.state - (not cfg.state_last_action) * row.agents * row.n_actions + cfg.state_timestep_number
    return EnvSpec(
        n_agents=row.agents,
        n_actions=row.n_actions,
        obs_dim=obs,
        state_dim=obs * row.agents if cfg.obs_instead_of_state else state,
        episode_limit=row.episode_limit,
    )


def expected_max_reward(cfg: SmacConfig) -> float:
    """What `StarCraft2Env.max_reward` must be after its first reset; more means that it was reset twice."""
    row = game_map(cfg)
    return cfg.max_reward or row.enemies * cfg.reward_death_value + cfg.reward_win + row.enemy_health


def game_arguments(cfg: SmacConfig) -> dict[str, bool | int | float | str | None]:
    """Keyword arguments of `StarCraft2Env`, its seed excepted."""
    arguments = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(StarCraftConfig)}
    return arguments | {"game_version": cfg.game_version or None}


def worker_variables(cfg: SmacConfig) -> dict[str, str]:
    """Environment variables of a worker: the game's folder, and parsing that every protobuf can do."""
    place = {"SC2PATH": str(user_path("env.sc2_path", cfg.sc2_path))} if cfg.sc2_path else {}
    return {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"} | place


def _more_in_obs(cfg: SmacConfig, row: GameMap) -> int:
    """Length of an observation beyond that with default flags; see `get_obs_size` in oxwhirl's code."""
    health = [1 + (race == "P") for race in row.races]  # columns of health and shields: of allies, of enemies
    hidden = 0 if cfg.obs_all_health else (row.agents - 1) * health[0] + row.enemies * health[1]
    hidden += 0 if cfg.obs_all_health or cfg.obs_own_health else health[0]
    actions = (row.agents - 1) * row.n_actions if cfg.obs_last_action else 0
    return actions + 8 * cfg.obs_pathing_grid + 9 * cfg.obs_terrain_height + cfg.obs_timestep_number - hidden
