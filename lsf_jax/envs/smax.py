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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from lsf_jax.envs.base import check_settings, check_spec
from lsf_jax.envs.smax_battle import TICK, TICKS, Units, fight, place_units
from lsf_jax.envs.smax_enemies import Plans, Whims, decide, first_plans
from lsf_jax.envs.smax_picture import draw_moment
from lsf_jax.envs.smax_scenarios import SCENARIOS, Scenario
from lsf_jax.envs.smax_view import MAP_SIZE, N_MOVES, STOP, Snapshot, living, observe, obs_dim, state_dim
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import Env, EnvSpec, EpisodeStats, TimeStep

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


class State(NamedTuple):
    """A battle under way."""

    units: Units
    action: Int[Array, "units"]  # what each unit did last
    plans: Plans
    time: Int[Array, ""]  # steps since reset


def make_smax(cfg: SmaxConfig) -> Env:
    """A battle as an `Env`; agents are the allies.

    `info` has, each step, `win` (1 in the step that wins), `dead_allies` and `dead_enemies` (units that died in it);
    over an episode they sum to who won and how many fell. `success` means won: every enemy dead and an ally alive.
    `max_return` is `reward_scale`, the return of every won battle.

    Raises:
      ConfigError: naming the setting that is not allowed.
    """
    check_settings(cfg)
    scenario = SCENARIOS[cfg.scenario]
    see = partial(observe, scenario=scenario, see_enemy_actions=cfg.see_enemy_actions)
    spec = EnvSpec(
        n_agents=len(scenario.allies),
        n_actions=N_MOVES + len(scenario.enemies),
        obs_dim=obs_dim(scenario),
        state_dim=state_dim(scenario),
        episode_limit=cfg.max_steps,
    )
    return Env(
        spec=check_spec(spec),
        reset=partial(_reset, scenario=scenario, see=see),
        step=partial(_step, cfg=cfg, scenario=scenario, see=see),
        snapshot=partial(_snapshot, scenario=scenario),
        observe=see,
        render=partial(_render, scenario=scenario),
        success=_success,
        max_return=cfg.reward_scale,
        ends_early=True,
        version=OUR_VERSION,
        draw=partial(draw_moment, scenario=scenario),
    )


def _snapshot(state, *, scenario):
    widest = jnp.uint8 if scenario.column("health").max() <= np.iinfo(np.uint8).max else jnp.uint16
    return Snapshot(
        position=state.units.position,
        cooldown=state.units.cooldown,
        health=state.units.health.astype(widest),
        action=state.action.astype(jnp.uint8),
    )


def _reset(key, *, scenario, see):
    _, key_units = jax.random.split(key)
    units = place_units(key_units, scenario)
    state = State(units=units, action=jnp.full(len(units.health), STOP), plans=first_plans(units, scenario), time=jnp.int32(0))
    return state, see(_snapshot(state, scenario=scenario))


def _draw(key, scenario, random_shot):
    m, n_units = len(scenario.enemies), len(scenario.units())
    n = n_units + m
    words = jax.random.uniform(key, (n + m if random_shot else n,))
    return Whims(words[n_units:n], words[n:]), words[:n_units] * (3 * TICK) - TICK


def _step(key, state, action, *, cfg, scenario, see):
    n = len(scenario.allies)
    whims, delay = _draw(key, scenario, cfg.attack_mode == "random")
    theirs, plans = decide(state.units, state.plans, whims, scenario=scenario, shoots=cfg.enemy_shoots, is_random=cfg.attack_mode == "random")
    orders = jnp.concatenate([action.astype(jnp.int32), theirs])
    units = fight(state.units, orders, delay, scenario=scenario, walls_cause_death=cfg.walls_cause_death)
    after = State(units=units, action=orders, plans=plans, time=state.time + 1)
    alive = units.health > 0
    lost, beaten = ~alive[:n].any(), ~alive[n:].any()
    died = ((state.units.health > 0) & ~alive).astype(jnp.float32)
    win = (beaten & ~lost).astype(jnp.float32)
    damage = ((state.units.health - units.health) / scenario.column("health"))[n:].sum() / len(scenario.enemies)
    terminal = lost | beaten
    return after, TimeStep(
        observation=see(_snapshot(after, scenario=scenario)),
        reward=(damage + win * cfg.won_battle_bonus) * (cfg.reward_scale / (1.0 + cfg.won_battle_bonus)),
        terminal=terminal,
        done=terminal | (after.time >= cfg.max_steps),
        info={"win": win, "dead_allies": died[:n].sum(), "dead_enemies": died[n:].sum()},
    )


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
