"""What tests of JaxMARL's games share: whether it is there, and battles of SMAX played beside JaxMARL's own account."""

import importlib.util
import os
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.envs.jaxmarl import lenient, load_jaxmarl, stack
from lsf_jax.envs.smax import Chances, SmaxConfig, State, judge, make_smax, transition
from lsf_jax.envs.smax_battle import TICK, TICKS, Units
from lsf_jax.envs.smax_enemies import Plans, Whims
from lsf_jax.envs.smax_scenarios import SCENARIOS, UNITS
from lsf_jax.envs.smax_view import EAST, MAP_SIZE, N_MOVES, NORTH, SOUTH, STOP, WEST

# Never `import jaxmarl` in a test: it swaps sys.stdout for good, and with it what pytest captures.
HAS_JAXMARL = importlib.util.find_spec("jaxmarl") is not None
needs_jaxmarl = pytest.mark.skipif(not HAS_JAXMARL, reason="jaxmarl is not installed: pip install 'jaxmarl>=0.2,<0.3'")

PAPER = (
    *("3m", "8m", "3s5z", "3s_vs_5z", "5m_vs_6m", "27m_vs_30m", "6h_vs_8z"),
    *("corridor_open", "2M7m_vs_3M8m", "1c3s5z_nosplash"),
)
"""The paper's ten maps, by our names."""
DRAWN = ("smacv2_5_units", "smacv2_10_units", "smacv2_20_units")
"""Scenarios whose types and places are drawn for each battle."""


EMITTERS = "xla_cpu_use_fusion_emitters"
AS_IN_RUNS = {EMITTERS: True} if EMITTERS in os.environ.get("XLA_FLAGS", "") else {}
"""Compiles as training does, not as the suite: two simulators that contract products differently drift by rounding."""


class JaxmarlStep(NamedTuple):
    """JaxMARL's own account of a step, agents stacked."""

    obs: Any
    world_state: Any
    avail: Any
    reward: Any
    done: Any
    state: Any  # after the step, as ours
    fired: Any  # whether each unit did


class Battles(NamedTuple):
    """Episodes played to T steps, whether or not they had ended; `[B, T, ...]`."""

    first: tuple  # observation and snapshot after reset, [B, ...]
    steps: Any  # TimeStep
    snapshot: Any  # after each step
    state: Any  # after each step
    action: Any
    theirs: JaxmarlStep  # from the same state before the step
    running: Any  # before each step


@cache
def case(scenario, **settings):
    """An environment, and JaxMARL's own game of the same settings."""
    cfg = SmaxConfig(scenario=scenario, **settings)
    return make_smax(cfg), their_game(cfg)


def their_game(cfg):
    """JaxMARL's own environment, `HeuristicEnemySMAX`, with a scenario of ours and all tables given outright."""
    module = load_jaxmarl("environments.smax")
    scenario = SCENARIOS[cfg.scenario]
    types = [UNITS[name] for name in scenario.type_names()]
    columns = {
        "velocities": "speed",
        "attacks": "damage",
        "attack_ranges": "range",
        "sight_ranges": "sight",
        "radiuses": "radius",
        "health": "health",
        "weapon_cooldowns": "cooldown",
    }
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
            **{
                f"unit_type_{key}": jnp.array([getattr(unit, field) for unit in types])
                for key, field in columns.items()
            },
        )


def as_theirs(game, state):
    """A state of ours as JaxMARL's. At time 0 its enemies have not yet chosen a goal."""
    module = load_jaxmarl("environments.smax")
    minds = load_jaxmarl("environments.smax.heuristic_enemy").HeuristicPolicyState
    with lenient():
        move, shot = game._decode_discrete_actions(state.action)
    units = module.smax_env.State(
        unit_positions=state.units.position,
        unit_alive=state.units.health > 0,
        unit_teams=(jnp.arange(len(state.action)) >= game.num_allies).astype(jnp.float32),
        unit_health=state.units.health,
        unit_types=game.scenario if state.types is None else state.types,
        unit_weapon_cooldowns=state.units.cooldown,
        prev_movement_actions=move,
        prev_attack_actions=shot,
        step=state.time,
        done=jnp.bool_(False),
    )
    goal = jnp.where(state.time > 0, state.plans.goal, 0.0)
    mind = minds(default_target=goal, last_attacked_enemy=state.plans.prey)
    return module.heuristic_enemy_smax_env.State(state=units, enemy_policy_state=mind)


def as_ours(state):
    """A state of JaxMARL's as ours."""
    units, mind = state.state, state.enemy_policy_state
    right, up = units.prev_movement_actions[:, 0], units.prev_movement_actions[:, 1]  # -1, 0 or 1, up to rounding
    along = jnp.where(right > 0.5, EAST, jnp.where(right < -0.5, WEST, STOP))
    went = jnp.where(up > 0.5, NORTH, jnp.where(up < -0.5, SOUTH, along))
    return State(
        units=Units(position=units.unit_positions, health=units.unit_health, cooldown=units.unit_weapon_cooldowns),
        action=jnp.where(units.prev_attack_actions >= N_MOVES, units.prev_attack_actions, went),
        plans=Plans(prey=mind.last_attacked_enemy, goal=mind.default_target),
        time=units.step,
    )


def their_step(game, key, state, action):
    """What JaxMARL itself makes of a state of ours, and what chance decided in it."""
    with lenient():
        by_agent = {agent: action[index] for index, agent in enumerate(game.agents)}
        obs, after, reward, done, _ = game.step_env(key, as_theirs(game, state), by_agent)
        cooldown = after.state.unit_weapon_cooldowns
        account = JaxmarlStep(
            obs=stack({agent: obs[agent] for agent in game.agents}, game.agents),
            world_state=obs["world_state"],
            avail=stack(game.get_avail_actions(after), game.agents),
            reward=jnp.stack([reward[agent] for agent in game.agents]),
            done=done["__all__"],
            state=as_ours(after),
            fired=cooldown > state.units.cooldown - (TICKS - 0.5) * TICK,
        )
    return account, _their_chances(game, key, cooldown, after.state.unit_types)


def _their_chances(game, key, cooldown, types):
    """What JaxMARL drew from a step's key, as far as it mattered: of eight delays of each unit, that of its shot.

    Its keys: half of a step's for the enemies, of which one half of each enemy's for whom it follows and the other for
    whom it shoots; the other half of the step's for the ticks, one after another, of which one for each unit.
    """
    key_ticks, key_enemies = jax.random.split(key)
    minds = jax.vmap(jax.random.split)(jax.random.split(key_enemies, game.num_enemies))
    _, key_ticks = jax.lax.scan(lambda key, _: tuple(jax.random.split(key)), key_ticks, None, length=TICKS)
    each = jax.vmap(partial(jax.random.split, num=len(cooldown)))(key_ticks)
    delays = jax.vmap(jax.vmap(partial(jax.random.uniform, minval=-TICK, maxval=2 * TICK)))(each)
    # A shot in tick t was followed by 7 - t ticks of waiting.
    left = (TICKS - 1 - jnp.arange(TICKS, dtype=jnp.float32)) * TICK
    reload = game.unit_type_weapon_cooldowns[types]
    tick = jnp.abs(reload[None, :] + delays - left[:, None] - cooldown[None, :]).argmin(0)
    draw = jax.vmap(jax.random.uniform)
    return Chances(
        whims=Whims(
            whom_to_follow=draw(minds[:, 0]),
            whom_to_shoot=draw(minds[:, 1]) if game.attack_mode == "random" else None,
        ),
        delay=jnp.take_along_axis(delays, tick[None, :], 0)[0],
    )


def heuristic(game):
    """JaxMARL's scripted policy for our side: its state at the start, and its step for all agents."""
    module = load_jaxmarl("environments.smax.heuristic_enemy")
    decide = module.create_heuristic_policy(game._env, 0)

    def start():
        one = jax.tree.map(jnp.asarray, module.get_heuristic_policy_initial_state())
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(game.agents)), one)

    def act(key, mind, obs):
        with lenient():
            return jax.vmap(decide)(jax.random.split(key, len(game.agents)), mind, obs)

    return start, act


def both_step(game, cfg, key, state, action):
    """Our state after a step, our account of the step, and JaxMARL's, of the same chances."""
    theirs, chances = their_step(game, key, state, action)
    after = transition(state, action, chances, cfg)
    return after, judge(state, after, cfg), theirs


def battle(env, game, cfg, key, is_clever):
    """One episode: of the heuristic policy where `is_clever`, else of random available actions."""
    start, act = heuristic(game)
    key_reset, key_steps = jax.random.split(key)
    state, observation = env.reset(key_reset)

    def advance(loop, key_step):
        state, observation, mind, running = loop
        key_act, key_mind, key_env = jax.random.split(key_step, 3)
        avail = observation.avail
        chance = jnp.where(avail, jax.random.uniform(key_act, avail.shape), -1.0).argmax(-1)
        choice, mind = act(key_mind, mind, observation.obs)
        action = jnp.where(is_clever, choice.astype(jnp.int32), chance.astype(jnp.int32))
        after, step, theirs = both_step(game, cfg, key_env, state, action)
        row = (step, env.snapshot(after), after, action, theirs, running)
        return (after, step.observation, mind, running & ~step.done), row

    begin = (state, observation, start(), jnp.bool_(True))
    _, rows = jax.lax.scan(advance, begin, jax.random.split(key_steps, cfg.max_steps - 1))
    return Battles((observation, env.snapshot(state)), *rows)


@cache
def play(scenario, copies):
    """Battles of a scenario, the first half of them heuristic, and their observations recomputed from snapshots."""
    env, game = case(scenario)
    keys = jax.random.split(jax.random.key(3), copies)
    is_clever = jnp.arange(copies) < copies // 2
    side_by_side = jax.vmap(partial(battle, env, game, SmaxConfig(scenario=scenario)))
    battles = jax.jit(side_by_side, compiler_options=AS_IN_RUNS)(keys, is_clever)
    again = jax.jit(jax.vmap(jax.vmap(env.observe)))(battles.snapshot)
    first_again = jax.jit(jax.vmap(env.observe))(battles.first[1])
    return jax.device_get((battles, again, first_again))
