"""SMAX on the device: StarCraft-like micromanagement against scripted enemies.

The rules and the enemies are those of JaxMARL 0.2.0, written anew so that a step is few operations (`smax_battle`,
`smax_enemies`); given what chance decides, a step is JaxMARL's to the last bits, which a test shows. **SMAX is not
SMAC**, and numbers of one say nothing about the other: no terrain, no shields that recover, no armour and no bonus,
splash or healing; damage, sight and range by type; walls kill; units act all at once, so that a battle may be drawn;
enemies see what units see; 100 steps for every scenario. Scenarios that SMAX lacks have names of their own
(`smax_scenarios.SCENARIOS`).

Differences from JaxMARL:

- Time: an episode has at most `max_steps` steps. JaxMARL compares its limit before it counts the step, so that 101
  steps pass for its 100. Reaching the limit truncates (`done` without `terminal`), unless that very step decides the
  battle: then it is terminal.
- Reward: multiplied so that a won battle returns `reward_scale` in all.
- State: normalised; see `smax_view`.
- The dead may only stop; JaxMARL's masks are the same, as numbers. Dead enemies stop too, which nobody sees.
- Chance: the distributions are JaxMARL's, the numbers are not: one draw a step, where JaxMARL draws for every unit in
  each of eight ticks.

Reference: Rutherford et al. (2024), JaxMARL, §4 and appendix; version 0.2.0, whose observations differ from 0.1.
"""

import string
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt8

from lsf_jax.envs.base import check_settings, check_spec
from lsf_jax.envs.chance import uniform
from lsf_jax.envs.smax_battle import SPREAD, TICK, Units, facing, fight, muster
from lsf_jax.envs.smax_drawn import draw_teams
from lsf_jax.envs.smax_enemies import Plans, Whims, decide, first_plans
from lsf_jax.envs.smax_picture import draw_moment
from lsf_jax.envs.smax_scenarios import SCENARIOS, UNITS, Scenario
from lsf_jax.envs.smax_view import MAP_SIZE, STOP, Snapshot, living, observe, sizes
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import Env, EpisodeStats, Observation, PRNGKey, TimeStep

VERSION = "1, jaxmarl 0.2.0"
"""Ours, another whenever rewards, observations or the end of episodes change, and whose rules and enemies these are."""
_MARKS = string.digits + string.ascii_lowercase  # allies in a picture
_COLUMNS, _ROWS = 32, 16  # characters; one is about twice as high as wide


@dataclass(frozen=True)
class SmaxConfig:
    """Settings of `smax`; values are those of JaxMARL's own baselines (version 0.2.0) unless said otherwise."""

    scenario: str = setting("3m", choices=tuple(SCENARIOS), doc="who fights whom; not SMAC's maps of the same names")
    max_steps: int = setting(
        100, low=1, high=100_000, doc="steps of an episode at most; reaching it truncates and is not terminal"
    )
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
    action: Int[Array, "units"]  # what each unit did last; STOP after reset, and of the dead
    plans: Plans
    time: Int[Array, ""]  # steps since reset
    types: UInt8[Array, "units"] | None = None  # type numbers, where they are drawn for each battle


class Chances(NamedTuple):
    """All that chance decides in a step."""

    whims: Whims
    delay: Float[Array, "units"]  # seconds by which the weapon of whoever shoots is ready later, -1/16 to 1/8


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
    return Env(
        spec=check_spec(sizes(scenario, cfg.max_steps)),
        reset=partial(_reset, cfg=cfg),
        step=partial(_step, cfg=cfg),
        snapshot=partial(take_snapshot, scenario=scenario),
        observe=partial(observe, scenario=scenario, see_enemy_actions=cfg.see_enemy_actions),
        render=partial(_render, scenario=scenario),
        success=_success,
        max_return=cfg.reward_scale,
        ends_early=True,
        version=VERSION,
        draw=partial(draw_moment, scenario=scenario),
    )


def begin(place: Float[Array, "units 2"], scenario: Scenario) -> State:
    """A battle that begins with every unit at its place, but for being pushed apart."""
    units = muster(place, scenario)
    return State(
        units=units,
        action=jnp.full(len(scenario.units()), STOP, jnp.int32),
        plans=first_plans(units, scenario),
        time=jnp.int32(0),
        types=scenario.types,
    )


def draw_chances(key: PRNGKey, cfg: SmaxConfig) -> Chances:
    """One draw for all that chance decides in a step."""
    scenario = SCENARIOS[cfg.scenario]
    n_units, m = len(scenario.units()), len(scenario.enemies)
    is_random = cfg.attack_mode == "random"
    numbers = uniform(key, n_units + m + m * is_random)
    return Chances(
        whims=Whims(
            whom_to_follow=numbers[n_units : n_units + m],
            whom_to_shoot=numbers[n_units + m :] if is_random else None,
        ),
        delay=numbers[:n_units] * (3 * TICK) - TICK,
    )


def transition(state: State, action: Integer[Array, "agents"], chances: Chances, cfg: SmaxConfig) -> State:
    """The battle half a second later; deterministic, and the same after its end.

    Args:
      state: before the step.
      action: of the allies.
      chances: as `draw_chances` gives them.
      cfg: settings.
    """
    scenario = SCENARIOS[cfg.scenario]._replace(types=state.types)
    against, plans = decide(state.units, state.plans, chances.whims, scenario=scenario, shoots=cfg.enemy_shoots)
    action = jnp.concatenate([action.astype(jnp.int32), against])
    walls = cfg.walls_cause_death
    units = fight(state.units, action, chances.delay, scenario=scenario, walls_cause_death=walls)
    return State(units=units, action=action, plans=plans, time=state.time + 1, types=state.types)


def judge(before: State, after: State, cfg: SmaxConfig) -> TimeStep:
    """What a step shows, earns and ends."""
    scenario = SCENARIOS[cfg.scenario]._replace(types=after.types)
    n, health = len(scenario.allies), scenario.column("health")
    alive = after.units.health > 0
    lost, beaten = ~alive[:n].any(), ~alive[n:].any()
    won = (beaten & ~lost).astype(jnp.float32)
    died = ((before.units.health > 0) & ~alive).astype(jnp.float32)
    damage = ((before.units.health - after.units.health) / health)[n:].mean()
    return TimeStep(
        observation=_see(after, cfg),
        reward=(damage + won * cfg.won_battle_bonus) * (cfg.reward_scale / (1.0 + cfg.won_battle_bonus)),
        terminal=lost | beaten,
        done=lost | beaten | (after.time >= cfg.max_steps),
        info={"win": won, "dead_allies": died[:n].sum(), "dead_enemies": died[n:].sum()},
    )


def take_snapshot(state: State, *, scenario: Scenario) -> Snapshot:
    """The bytes of a battle that replay keeps."""
    most = max(UNITS[name].health for name in scenario.type_names())
    widest = jnp.uint8 if most <= np.iinfo(np.uint8).max else jnp.uint16
    return Snapshot(
        position=state.units.position,
        cooldown=state.units.cooldown,
        health=state.units.health.astype(widest),
        action=state.action.astype(jnp.uint8),
        types=state.types,
    )


def _see(state: State, cfg: SmaxConfig) -> Observation:
    scenario = SCENARIOS[cfg.scenario]
    snapshot = take_snapshot(state, scenario=scenario)
    return observe(snapshot, scenario=scenario, see_enemy_actions=cfg.see_enemy_actions)


def _reset(key: PRNGKey, *, cfg: SmaxConfig) -> tuple[State, Observation]:
    scenario = SCENARIOS[cfg.scenario]
    n_units = len(scenario.units())
    if scenario.is_drawn:
        types, place = draw_teams(key, len(scenario.allies), len(scenario.type_names()))
        scenario = scenario._replace(types=types)
    else:
        place = facing(SPREAD * (2 * uniform(key, 2 * n_units).reshape(n_units, 2) - 1), scenario)
    state = begin(place, scenario)
    return state, _see(state, cfg)


def _step(key: PRNGKey, state: State, action: Integer[Array, "agents"], *, cfg: SmaxConfig) -> tuple[State, TimeStep]:
    after = transition(state, action, draw_chances(key, cfg), cfg)
    return after, judge(state, after, cfg)


def _success(stats: EpisodeStats) -> Array:
    return jnp.asarray(stats.info["win"]) > 0


def _render(snapshot: Snapshot, *, scenario: Scenario) -> str:
    """The map, north up, in 32 by 16 characters: allies as digits, then lower-case letters, enemies as `#`.

    Below it, for each side, how many of each type live and how much health is left of all that there was.
    """
    scenario = scenario.named(snapshot.types)
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
