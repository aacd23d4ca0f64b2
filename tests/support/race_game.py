"""A game of short wins and long losses: who counts the first episodes to finish counts too many wins."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.envs.base import check_spec
from lsf_jax.types import Env, EnvSpec, Observation, PRNGKey, TimeStep

WIN, LOSS = 2, 12
"""Steps of an episode that is won, and of one that is lost."""


class RaceState(NamedTuple):
    time: Array
    wins: Array


def race() -> Env:
    """Half of all episodes are won, whatever is done, as chance decides at the reset."""

    def observe(state: RaceState) -> Observation:
        obs = jnp.full((1, 1), 1.0) * state.time.astype(jnp.float32)
        return Observation(obs=obs, state=obs[0], avail=jnp.ones((1, 2), bool))

    def reset(key: PRNGKey) -> tuple[RaceState, Observation]:
        state = RaceState(time=jnp.int32(0), wins=jax.random.bernoulli(key))
        return state, observe(state)

    def step(key: PRNGKey, state: RaceState, action: Array) -> tuple[RaceState, TimeStep]:
        del key, action
        state = state._replace(time=state.time + 1)
        done = state.time >= jnp.where(state.wins, WIN, LOSS)
        won = (done & state.wins).astype(jnp.float32)
        return state, TimeStep(observe(state), reward=won, terminal=done & state.wins, done=done, info={"won": won})

    return Env(
        spec=check_spec(EnvSpec(n_agents=1, n_actions=2, obs_dim=1, state_dim=1, episode_limit=LOSS)),
        reset=reset,
        step=step,
        snapshot=lambda state: state,
        observe=observe,
        render=str,
        success=lambda stats: stats.info["won"] > 0,
        max_return=1.0,
        ends_early=True,
    )
