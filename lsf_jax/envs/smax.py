"""SMAX on the device: StarCraft-like micromanagement of JaxMARL against its scripted enemies, on ten scenarios.

The physics and the enemies are JaxMARL's (`step_env`); episodes, snapshots, the world state and the scale of rewards
are ours. **SMAX is not SMAC**, and numbers of one say nothing about the other: no terrain, no shields that recover, no
armour and no bonus, splash or healing; damage, sight and range by type; walls kill; units act all at once, so that a
battle may be drawn; enemies see what units see; 100 steps for every scenario. Scenarios that SMAX lacks have names of
their own (`smax_scenarios.SCENARIOS`).

Differences from JaxMARL's interface:

- Time: an episode has at most `max_steps` steps. JaxMARL compares its limit before it counts the step, so that 101
  steps pass for its 100. Reaching the limit truncates (`done` without `terminal`), unless that very step decides the
  battle: then it is terminal.
- Reward: multiplied so that a won battle returns `reward_scale` in all.
- State: normalised; see `smax_view`.
- The dead may only stop; JaxMARL's masks are the same, as numbers.

Reference: Rutherford et al. (2024), JaxMARL, §4 and appendix; version 0.2.0, whose observations differ from 0.1.
"""

import string
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lsf_jax.envs.base import check_settings
from lsf_jax.envs.jaxmarl import Game, Rules, Transition, from_jaxmarl, jaxmarl_version, lenient, load_jaxmarl
from lsf_jax.envs.smax_picture import draw_moment
from lsf_jax.envs.smax_scenarios import SCENARIOS, UNITS, Scenario
from lsf_jax.envs.smax_view import MAP_SIZE, Snapshot, living, make_smax_view
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import Env, EpisodeStats

OUR_VERSION = "1"
"""Another one whenever this module changes rewards, observations or the end of episodes."""
_MARKS = string.digits + string.ascii_lowercase  # allies in a picture
_COLUMNS, _ROWS = 32, 16  # characters; one is about twice as high as wide


@dataclass(frozen=True)
class SmaxConfig:
    """Settings of `smax`; values are those of JaxMARL's own baselines (version 0.2.0) unless said otherwise."""

    scenario: str = setting("3m", choices=tuple(SCENARIOS), doc="who fights whom; not SMAC's maps of the same names")
    max_steps: int = setting(100, low=1, doc="steps of an episode at most; reaching it truncates and is not terminal")
    reward_scale: float = setting(20.0, above=0, doc="return of a won battle; SMAC's and the baselines' scale")
    won_battle_bonus: float = setting(1.0, low=0.0, doc="reward of winning before scaling; all damage earns 1")
    see_enemy_actions: bool = setting(True, doc="whether observations show what visible enemies did last")
    walls_cause_death: bool = setting(True, doc="whether touching the edge of the map kills, enemies too")
    enemy_shoots: bool = setting(True, doc="whether enemies shoot, or only walk")
    attack_mode: str = setting(
        "closest", choices=("closest", "random"), doc="which unit in range an enemy shoots at until it is dead"
    )


def make_smax(cfg: SmaxConfig) -> Env:
    """A battle as an `Env`; agents are the allies.

    `info` has, each step, `win` (1 in the step that wins), `dead_allies` and `dead_enemies` (units that died in it);
    over an episode they sum to who won and how many fell. `success` means won: every enemy dead and an ally alive.
    `max_return` is `reward_scale`, the return of every won battle.

    Raises:
      ConfigError: naming the setting that is not allowed, or that JaxMARL is not installed.
    """
    check_settings(cfg)
    scenario = SCENARIOS[cfg.scenario]
    env = from_jaxmarl(
        make_game(cfg),
        make_smax_view(scenario, see_enemy_actions=cfg.see_enemy_actions),
        Rules(
            episode_limit=cfg.max_steps,
            reward=partial(_reward, factor=cfg.reward_scale / (1.0 + cfg.won_battle_bonus)),
            terminal=lambda transition: _fallen(transition.after.state.unit_alive, scenario).any(),
            info=partial(_info, scenario=scenario),
            max_return=cfg.reward_scale,
        ),
    )
    return env._replace(
        render=partial(_render, scenario=scenario),
        draw=partial(draw_moment, scenario=scenario),
        success=_success,
        ends_early=True,
        version=f"{OUR_VERSION}, jaxmarl {jaxmarl_version()}",
    )


def make_game(cfg: SmaxConfig) -> Game:
    """JaxMARL's own environment, `HeuristicEnemySMAX`, with a scenario of ours and all tables given outright."""
    module = load_jaxmarl("environments.smax")
    scenario = SCENARIOS[cfg.scenario]
    types = [UNITS[name] for name in scenario.type_names()]
    with lenient():
        return module.HeuristicEnemySMAX(
            enemy_shoots=cfg.enemy_shoots,
            attack_mode=cfg.attack_mode,
            scenario=module.smax_env.Scenario(
                unit_types=jnp.asarray(scenario.type_numbers()),
                num_allies=len(scenario.allies),
                num_enemies=len(scenario.enemies),
                smacv2_position_generation=False,
                smacv2_unit_type_generation=False,
            ),
            map_width=int(MAP_SIZE),
            map_height=int(MAP_SIZE),
            see_enemy_actions=cfg.see_enemy_actions,
            walls_cause_death=cfg.walls_cause_death,
            won_battle_bonus=cfg.won_battle_bonus,
            max_steps=cfg.max_steps,
            unit_type_names=list(scenario.type_names()),
            unit_type_shorthands=[unit.letter for unit in types],
            unit_type_velocities=jnp.array([unit.speed for unit in types]),
            unit_type_attacks=jnp.array([unit.damage for unit in types]),
            unit_type_attack_ranges=jnp.array([unit.range for unit in types]),
            unit_type_sight_ranges=jnp.array([unit.sight for unit in types]),
            unit_type_radiuses=jnp.array([unit.radius for unit in types]),
            unit_type_health=jnp.array([unit.health for unit in types]),
            unit_type_weapon_cooldowns=jnp.array([unit.cooldown for unit in types]),
        )


def _fallen(alive: Array, scenario: Scenario) -> Array:
    """Whether our side is dead, and whether theirs is; `[2]`."""
    n = len(scenario.allies)
    return jnp.stack([~alive[:n].any(), ~alive[n:].any()])


def _reward(transition: Transition, *, factor: float) -> Array:
    """The allies' common reward: every ally has the same, dead or alive."""
    return next(iter(transition.reward.values())) * factor


def _info(transition: Transition, *, scenario: Scenario) -> dict[str, Array]:
    before, after = transition.before.state.unit_alive, transition.after.state.unit_alive
    died = (before & ~after).astype(jnp.float32)
    lost, beaten = _fallen(after, scenario)
    n = len(scenario.allies)
    return {
        "win": (beaten & ~lost).astype(jnp.float32),
        "dead_allies": died[:n].sum(),
        "dead_enemies": died[n:].sum(),
    }


def _success(stats: EpisodeStats) -> Array:
    return jnp.asarray(stats.info["win"]) > 0


def _render(snapshot: Snapshot, *, scenario: Scenario) -> str:
    """The map, north up, in 32 by 16 characters: allies as digits, then lower-case letters, enemies as `#`.

    Below it, for each side, how many of each type live and how much health is left of all that there was.
    """
    alive, position = living(snapshot), np.asarray(snapshot.position)
    board = np.full((_ROWS, _COLUMNS), ".")
    columns = np.clip(position[:, 0] * (_COLUMNS / MAP_SIZE), 0, _COLUMNS - 1).astype(int)
    rows = _ROWS - 1 - np.clip(position[:, 1] * (_ROWS / MAP_SIZE), 0, _ROWS - 1).astype(int)
    n = len(scenario.allies)
    marks = np.array([_MARKS[index % len(_MARKS)] if index < n else "#" for index in range(len(alive))])
    order = np.flatnonzero(alive)[::-1]  # first allies on top
    board[rows[order], columns[order]] = marks[order]
    sides = (("allies", slice(0, n)), ("enemies", slice(n, None)))
    lines = [_side_text(name, side, snapshot, scenario) for name, side in sides]
    return "\n".join(["".join(row) for row in board] + lines)


def _side_text(name: str, side: slice, snapshot: Snapshot, scenario: Scenario) -> str:
    units, alive = scenario.units()[side], living(snapshot)[side]
    counts = [
        f"{sum(lives for unit, lives in zip(units, alive) if unit == kind)}/{units.count(kind)} {kind}"
        for kind in dict.fromkeys(units)
    ]
    share = np.asarray(snapshot.health)[side].sum() / scenario.column("health")[side].sum()
    return f"{name + ':':<9}{', '.join(counts)}; health {share:.0%}"


ENTRIES = (
    Entry(
        name="smax",
        config=SmaxConfig,
        factory=make_smax,
        doc="SMAX, JaxMARL's StarCraft-like battles (not SMAC): 3 marines against 3; smax/<scenario> for the others",
    ),
)
