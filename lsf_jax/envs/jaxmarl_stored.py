"""JaxMARL's games in the stored view: their state carries what was seen last, and replay keeps that."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.envs.guests import lenient
from lsf_jax.envs.jaxmarl import Game, GameState, Remembered, View, action_counts, availability
from lsf_jax.envs.stored import Widths, recall, store
from lsf_jax.types import PRNGKey


class Remembering:
    """A JaxMARL game that remembers what it showed; as much of JaxMARL's interface as `from_jaxmarl` asks for."""

    def __init__(self, game: Game, state: Callable[[GameState], Array] | None) -> None:
        """Wraps `game`; `state` is what critics see of its state, None: all observations side by side."""
        self.agents = game.agents
        self.action_space = game.action_space
        self._game, self._state = game, state

    def reset(self, key: PRNGKey) -> tuple[Any, Remembered]:
        """As the game's."""
        obs, state = self._game.reset(key)
        return obs, self._remember(obs, state)

    def step_env(self, key: PRNGKey, state: Remembered, actions: dict) -> tuple[Any, Remembered, Any, Any, Any]:
        """As the game's."""
        obs, after, reward, done, info = self._game.step_env(key, state.game, actions)
        return obs, self._remember(obs, after), reward, done, info

    def _remember(self, obs: dict, state: GameState) -> Remembered:
        masks = availability(self._game, state)
        seen = store(
            [jnp.asarray(obs[agent]) for agent in self.agents],
            state=None if self._state is None else self._state(state),
            avail=None if masks is None else [masks[agent] for agent in self.agents],
        )
        return Remembered(game=state, seen=seen)


def stored_view(game: Game, state: Callable[[GameState], Array] | None) -> tuple[Game, View]:
    """A game, and its view that keeps JaxMARL's own observations as they are: fits any game.

    Args:
      game: whose observations are one array for each agent.
      state: what critics see, of the game's state; None: all observations side by side.

    Returns:
      What to give `from_jaxmarl`.
    """
    with lenient():
        obs, _ = jax.eval_shape(game.reset, jax.random.key(0))
    widths = Widths(obs=tuple(obs[agent].size for agent in game.agents), actions=tuple(action_counts(game)))
    view = View(snapshot=lambda remembered: remembered.seen, observe=partial(recall, widths=widths))
    return Remembering(game, state), view
