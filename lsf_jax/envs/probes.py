"""Probes: tiny games with known answers, for tests, benchmarks and notebooks. Each isolates one thing to get right."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from lsf_jax.envs.base import check_settings, check_spec
from lsf_jax.envs.tabular import Game, for_all, table_env
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import Env, EnvSpec, EpisodeStats, Observation, PRNGKey, TimeStep


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of the probes that are tables."""

    n_agents: int = setting(2, low=1, high=8, doc="agents, with two actions each")


@dataclass(frozen=True)
class RaggedConfig:
    """Settings of `ragged`."""

    n_agents: int = setting(3, low=2, high=8, doc="agents; the last one dies on the way")
    n_actions: int = setting(4, low=3, high=8, doc="actions; 0 is always available")
    episode_limit: int = setting(6, low=2, high=250, doc="steps of the longest episode")
    punishment: float = setting(-0.5, low=-100, high=0, doc="reward per agent that took an unavailable action")


class RaggedState(NamedTuple):
    """State and snapshot of `ragged`; both bytes and truth values, 4 bytes together."""

    time: UInt8[Array, "*lead"]  # steps since reset
    length: UInt8[Array, "*lead"]  # step that ends this episode
    death: UInt8[Array, "*lead"]  # time from which the last agent may only do 0
    ends_by_game: Bool[Array, "*lead"]  # terminal if it ends before the limit; else truncated early


def constant_reward(cfg: ProbeConfig) -> Env:
    """One step, reward 1 whatever is seen and done: every value is 1."""
    reward = np.ones((1, *_joint(cfg)), np.float32)
    return table_env(_chain(reward, np.ones((1, 1), np.float32)))


def reward_of_observation(cfg: ProbeConfig) -> Env:
    """One step from one of two equally likely states; the reward is +1 or -1 by what is seen, whatever is done."""
    reward = np.stack([np.full(_joint(cfg), 1.0, np.float32), np.full(_joint(cfg), -1.0, np.float32)])
    game = _chain(reward, np.eye(2, dtype=np.float32))
    return table_env(game._replace(start=(0, 1), next_node=np.full_like(game.next_node, 2), episode_limit=1))


def reward_of_action(cfg: ProbeConfig) -> Env:
    """One step, reward = how many agents chose action 1: additive, so that every mixer can represent it."""
    reward = np.indices(_joint(cfg)).sum(0).astype(np.float32)[None]
    return table_env(_chain(reward, np.ones((1, 1), np.float32)))


def delayed_reward(cfg: ProbeConfig) -> Env:
    """Two steps, reward 0 and then 1: the value is 1 in the second and the discount factor in the first."""
    reward = np.stack([np.zeros(_joint(cfg), np.float32), np.ones(_joint(cfg), np.float32)])
    return table_env(_chain(reward, np.eye(2, dtype=np.float32)))


def ragged(cfg: RaggedConfig) -> Env:
    """Episodes of every length from 1 to the limit, ended by the game or truncated, with actions that come and go.

    At reset chance decides the length (uniform), whether an episode shorter than the limit is terminal or truncated
    early (evenly), and when the last agent dies (uniform over the steps). Agent i cannot take action
    1 + (time + i) mod (n_actions - 1); the dead agent can only take 0. Each step pays the number of agents that took
    an available action other than 0, plus `punishment` per agent that took an unavailable one, plus 1/4.
    """
    check_settings(cfg)
    limit = cfg.episode_limit
    spec = EnvSpec(
        n_agents=cfg.n_agents, n_actions=cfg.n_actions, obs_dim=cfg.n_agents + 2, state_dim=3, episode_limit=limit
    )
    return Env(
        spec=check_spec(spec),
        reset=partial(_ragged_reset, cfg=cfg),
        step=partial(_ragged_step, cfg=cfg),
        snapshot=lambda state: state,
        observe=partial(_ragged_observe, cfg=cfg),
        render=_ragged_render,
        success=partial(_lasted, limit=limit),
        max_return=limit * (cfg.n_agents + 0.25),
    )


def _joint(cfg: ProbeConfig) -> tuple[int, ...]:
    check_settings(cfg)
    return (2,) * cfg.n_agents


def _chain(reward: np.ndarray, seen: np.ndarray) -> Game:
    """Rounds one after another, then a last node that looks like nothing; `[M, A, ..., A]`, `[M, O]`."""
    m, n_agents = len(reward), reward.ndim - 1
    successor = np.minimum(np.arange(m + 1) + 1, m).astype(np.int32).reshape(-1, *(1,) * n_agents)
    state = np.concatenate([seen, np.zeros_like(seen[:1])])
    reward = np.concatenate([reward, np.zeros_like(reward[:1])])
    return Game(
        start=(0,),
        reward=reward,
        next_node=np.broadcast_to(successor, reward.shape).copy(),
        ends=np.arange(m + 1) == m,
        obs=for_all(n_agents, state),
        state=state,
        labels=(*(f"step {step}" for step in range(m)), "end"),
        episode_limit=m,
    )


def _ragged_reset(key: PRNGKey, *, cfg: RaggedConfig) -> tuple[RaggedState, Observation]:
    key_length, key_death, key_end = jax.random.split(key, 3)
    state = RaggedState(
        time=jnp.uint8(0),
        length=jax.random.randint(key_length, (), 1, cfg.episode_limit + 1).astype(jnp.uint8),
        death=jax.random.randint(key_death, (), 0, cfg.episode_limit).astype(jnp.uint8),
        ends_by_game=jax.random.bernoulli(key_end),
    )
    return state, _ragged_observe(state, cfg=cfg)


def _ragged_step(
    key: PRNGKey, state: RaggedState, actions: Array, *, cfg: RaggedConfig
) -> tuple[RaggedState, TimeStep]:
    del key  # all was decided at reset
    avail = _ragged_observe(state, cfg=cfg).avail
    is_chosen = actions.astype(jnp.int32)[:, None] == np.arange(cfg.n_actions)[None, :]
    is_allowed = (is_chosen & avail).any(-1)
    good = (is_allowed & (actions != 0)).sum(dtype=jnp.int32).astype(jnp.float32)
    bad = (~is_allowed).sum(dtype=jnp.int32).astype(jnp.float32)
    next_state = state._replace(time=state.time + jnp.uint8(1))
    done = next_state.time >= state.length
    return next_state, TimeStep(
        observation=_ragged_observe(next_state, cfg=cfg),
        reward=good + bad * cfg.punishment + 0.25,
        terminal=done & state.ends_by_game & (state.length < cfg.episode_limit),
        done=done,
        info={"unavailable": bad},
    )


def _ragged_observe(snapshot: RaggedState, *, cfg: RaggedConfig) -> Observation:
    """Each agent sees its id, the time and whether it lives; the state is time, length and deaths, over the limit."""
    time, index = snapshot.time.astype(jnp.int32), np.arange(cfg.n_agents)
    lives = (index < cfg.n_agents - 1) | (time < snapshot.death.astype(jnp.int32))
    blocked = 1 + (time + index) % (cfg.n_actions - 1)
    action = np.arange(cfg.n_actions)[None, :]
    avail = (action == 0) | ((action != blocked[:, None]) & lives[:, None])
    share = time.astype(jnp.float32) / cfg.episode_limit
    columns = [jnp.eye(cfg.n_agents), jnp.full((cfg.n_agents, 1), share), lives[:, None].astype(jnp.float32)]
    numbers = jnp.stack([snapshot.time, snapshot.length, snapshot.death]).astype(jnp.float32)
    return Observation(obs=jnp.concatenate(columns, 1), state=numbers / cfg.episode_limit, avail=avail)


def _ragged_render(snapshot: RaggedState) -> str:
    ending = "the game" if bool(snapshot.ends_by_game) else "truncation"
    death = f"the last agent lives until {int(snapshot.death)}"
    return f"step {int(snapshot.time)} of {int(snapshot.length)}, then {ending}; {death}"


def _lasted(stats: EpisodeStats, *, limit: int) -> Array:
    return jnp.asarray(stats.length) >= limit


PROBES: dict[str, Entry] = {
    "constant_reward": Entry("constant_reward", ProbeConfig, constant_reward, "a probe"),
    "reward_of_observation": Entry("reward_of_observation", ProbeConfig, reward_of_observation, "a probe"),
    "reward_of_action": Entry("reward_of_action", ProbeConfig, reward_of_action, "a probe"),
    "delayed_reward": Entry("delayed_reward", ProbeConfig, delayed_reward, "a probe"),
    "ragged": Entry("ragged", RaggedConfig, ragged, "a probe"),
}
"""Every probe by name, as in `lsf_jax.envs.ENVS`; not for the command line."""
