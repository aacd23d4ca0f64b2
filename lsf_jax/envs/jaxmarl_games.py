"""JaxMARL's other cooperative games with discrete actions that need nothing but the adapter.

Particle worlds (MPE) of the OpenAI and PettingZoo line, and the switch riddle. Replay keeps their whole state, which is
small, and the state for critics is all agents' observations side by side.

Reference: Lowe et al. (2017), Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments; Foerster et al.
(2016), Learning to Communicate with Deep Multi-Agent RL; as implemented in JaxMARL 0.2.0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.envs.base import check_settings
from lsf_jax.envs.jaxmarl import GameState, Rules, Transition, from_jaxmarl, full_view, lenient, load_jaxmarl
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import Env


def side_by_side(obs: dict[str, Array], game_state: GameState) -> Array:
    """All agents' observations in one row, as the state for critics."""
    del game_state
    return jnp.concatenate([each.reshape(-1) for each in obs.values()])


def mean_reward(transition: Transition) -> Array:
    """The mean over agents: the team's reward where agents have partly their own."""
    return jnp.stack(list(transition.reward.values())).mean()


def _never_ends(transition: Transition) -> Array:
    return jnp.zeros_like(transition.done)


def _was_told(transition: Transition) -> Array:
    """In the riddle only telling earns or costs something, and it ends the game."""
    return mean_reward(transition) != 0


class GameKind(NamedTuple):
    """What is known of one of JaxMARL's games."""

    terminal: Callable[[Transition], Array]
    max_return: float  # no team earns more


GAMES: dict[str, GameKind] = {
    "MPE_simple_spread_v3": GameKind(_never_ends, 0.0),
    "MPE_simple_speaker_listener_v4": GameKind(_never_ends, 0.0),
    "MPE_simple_reference_v3": GameKind(_never_ends, 0.0),
    "switch_riddle": GameKind(_was_told, 1.0),
}
"""By JaxMARL's names. In the particle worlds 0 is a bound that no start allows to reach, so no episode is a success."""


@dataclass(frozen=True)
class JaxmarlConfig:
    """Settings of `jaxmarl`."""

    game: str = setting("MPE_simple_spread_v3", choices=tuple(GAMES), doc="JaxMARL's name of the game")


def make_jaxmarl_game(cfg: JaxmarlConfig) -> Env:
    """One of `GAMES` with JaxMARL's own settings; its limit (25 steps in particle worlds) truncates.

    Raises:
      ConfigError: for an unknown game, or if JaxMARL is not installed.
    """
    check_settings(cfg)
    kind = GAMES[cfg.game]
    module = load_jaxmarl()
    with lenient():
        game = module.make(cfg.game)
    return from_jaxmarl(
        game,
        full_view(game, state=side_by_side),
        Rules(
            episode_limit=game.max_steps,
            reward=mean_reward,
            terminal=kind.terminal,
            max_return=kind.max_return,
        ),
    )


ENTRIES = (
    Entry(
        name="jaxmarl",
        config=JaxmarlConfig,
        factory=make_jaxmarl_game,
        doc="Other cooperative games of JaxMARL: particle worlds and the switch riddle; env.game=... for another one",
    ),
)
