"""A game of predator-prey's sizes for JaxMARL's training that costs next to nothing: noise, and episodes that end."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxmarl.environments.multi_agent_env import MultiAgentEnv
from jaxmarl.environments.spaces import Box, Discrete

AGENTS, ACTIONS, OBSERVATION, STATE = 8, 6, 75, 300


class Moment(NamedTuple):
    """Where a game is, in the form in which JaxMARL's logging wrapper would hand it on."""

    env_state: jax.Array  # steps played


class StandIn(MultiAgentEnv):
    """Eight agents with observations of 75 numbers, a state of 300, six actions that are all available.

    JaxMARL's training takes state, masks and reward from the game itself only where its name speaks of SMAX.
    """

    name = "stand-in for smax"

    def __init__(self, episode_limit: int):
        super().__init__(num_agents=AGENTS)
        self.episode_limit = episode_limit
        self.observation_spaces = {agent: Box(-1.0, 1.0, (OBSERVATION,)) for agent in self.agents}
        self.action_spaces = {agent: Discrete(ACTIONS) for agent in self.agents}

    def reset(self, key: jax.Array) -> tuple[dict[str, jax.Array], Moment]:
        """Noise, at step 0."""
        return self._noise(key), Moment(env_state=jnp.int32(0))

    def step(self, key: jax.Array, state: Moment, actions: Any) -> tuple[Any, ...]:
        """Noise again, a reward of one; the episode ends at its limit."""
        del actions
        played = state.env_state + 1
        ended = played >= self.episode_limit
        after = Moment(env_state=jnp.where(ended, 0, played))
        done = {agent: ended for agent in (*self.agents, "__all__")}
        return self._noise(key), after, {agent: jnp.float32(1.0) for agent in self.agents}, done, {}

    def get_avail_actions(self, state: Any) -> dict[str, jax.Array]:
        """Everything, always."""
        del state
        return {agent: jnp.ones(ACTIONS, jnp.uint8) for agent in self.agents}

    def _noise(self, key: jax.Array) -> dict[str, jax.Array]:
        key_agents, key_state = jax.random.split(key)
        noise = jax.random.uniform(key_agents, (AGENTS, OBSERVATION))
        return dict(zip(self.agents, noise)) | {"world_state": jax.random.uniform(key_state, (STATE,))}
