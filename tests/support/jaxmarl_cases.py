"""What tests of JaxMARL's games share: whether it is there, and battles of SMAX played beside JaxMARL's own account."""

import importlib.util
import os
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.envs.jaxmarl import lenient, load_jaxmarl, stack
from lsf_jax.envs.smax import SmaxConfig, make_game, make_smax

# Never `import jaxmarl` in a test: it swaps sys.stdout for good, and with it what pytest captures.
HAS_JAXMARL = importlib.util.find_spec("jaxmarl") is not None
needs_jaxmarl = pytest.mark.skipif(not HAS_JAXMARL, reason="jaxmarl is not installed: pip install 'jaxmarl>=0.2,<0.3'")

PAPER = (
    *("3m", "8m", "3s5z", "3s_vs_5z", "5m_vs_6m", "27m_vs_30m", "6h_vs_8z"),
    *("corridor_open", "2M7m_vs_3M8m", "1c3s5z_nosplash"),
)
"""The paper's ten maps, by our names."""


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


class Battles(NamedTuple):
    """Episodes played to T steps, whether or not they had ended; `[B, T, ...]`."""

    first: tuple  # observation and snapshot after reset, [B, ...]
    steps: Any  # TimeStep
    snapshot: Any  # after each step
    game: Any  # JaxMARL's state after each step
    action: Any
    theirs: JaxmarlStep
    running: Any  # before each step


@cache
def case(scenario, **settings):
    """An environment, and JaxMARL's own game of the same settings."""
    cfg = SmaxConfig(scenario=scenario, **settings)
    return make_smax(cfg), make_game(cfg)


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


def their_step(game, key, state, action):
    """What JaxMARL itself returns for the step."""
    with lenient():
        by_agent = {agent: action[index] for index, agent in enumerate(game.agents)}
        obs, after, reward, done, _ = game.step_env(key, state, by_agent)
        return JaxmarlStep(
            obs=stack({agent: obs[agent] for agent in game.agents}, game.agents),
            world_state=obs["world_state"],
            avail=stack(game.get_avail_actions(after), game.agents),
            reward=jnp.stack([reward[agent] for agent in game.agents]),
            done=done["__all__"],
        )


def battle(env, game, steps, key, is_clever):
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
        theirs = their_step(game, key_env, state.game, action)
        state, step = env.step(key_env, state, action)
        row = (step, env.snapshot(state), state.game.state, action, theirs, running)
        return (state, step.observation, mind, running & ~step.done), row

    begin = (state, observation, start(), jnp.bool_(True))
    _, rows = jax.lax.scan(advance, begin, jax.random.split(key_steps, steps))
    return Battles((observation, env.snapshot(state)), *rows)


@cache
def play(scenario, copies, steps):
    """Battles of a scenario, the first half of them heuristic, and their observations recomputed from snapshots."""
    env, game = case(scenario)
    keys = jax.random.split(jax.random.key(3), copies)
    is_clever = jnp.arange(copies) < copies // 2
    side_by_side = jax.vmap(lambda key, clever: battle(env, game, steps, key, clever))
    battles = jax.jit(side_by_side, compiler_options=AS_IN_RUNS)(keys, is_clever)
    again = jax.jit(jax.vmap(jax.vmap(env.observe)))(battles.snapshot)
    first_again = jax.jit(jax.vmap(env.observe))(battles.first[1])
    return jax.device_get((battles, again, first_again))
