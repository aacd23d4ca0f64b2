"""JaxMARL's own registry: a game by its name there, made with arguments from plain data, and checked.

Nothing here lists JaxMARL's games: what it registers can be asked for, and what does not fit says why.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lsf_jax.envs.base import require
from lsf_jax.envs.guests import lenient, one_line, silence
from lsf_jax.envs.jaxmarl import Game, action_counts, load_jaxmarl
from lsf_jax.settings import ConfigError, nearest

MOST_ACTIONS = 256
"""Of an agent: replay keeps an action as one byte."""


def open_game(name: str, arguments: Mapping[str, Any]) -> Game:
    """A registered game, made and found fit to be played here.

    Args:
      name: JaxMARL's.
      arguments: of its constructor, plain data; layouts of Overcooked and scenarios of SMAX by their names.

    Raises:
      ConfigError: JaxMARL is not installed or has no such game; the game cannot be made, or is not to be played:
        its actions are continuous, or it does not speak of each agent by name. One line.
    """
    module = load_jaxmarl()
    known = module.registered_envs
    if name not in known:
        raise ConfigError(f"env.game is {name!r}{nearest(name, known)}")
    made = {key: _NAMED[name, key](value) if (name, key) in _NAMED else value for key, value in arguments.items()}
    try:
        with silence(), lenient():
            game = module.make(name, **made)
    except Exception as error:  # somebody else's constructor, given a user's arguments: anything may come
        given = f" with env.arguments {arguments!r}" if arguments else ""
        raise ConfigError(f"env.game is {name!r}, which cannot be made{given}: {one_line(error)}") from None
    _check_playable(name, game)
    return game


def own_limit(game: Game) -> int | None:
    """Steps after which a game ends an episode by itself; None: it goes on until it is decided."""
    if hasattr(game, "max_steps"):
        return int(game.max_steps)
    if hasattr(game, "num_inner_steps") and hasattr(game, "num_outer_steps"):
        return int(game.num_inner_steps) * int(game.num_outer_steps)  # several rounds are one episode
    return None


def _check_playable(name: str, game: Game) -> None:
    try:
        counts = action_counts(game)
    except ValueError as error:
        kinds = [key for key in inspect.signature(type(game)).parameters if key in ("action_type", "act_type")]
        advice = f"; if it has them, env.arguments={{{kinds[0]}: Discrete}} asks for them" if kinds else ""
        raise ConfigError(f"env.game is {name!r}, whose {str(error).rstrip('.')}{advice}") from None
    require(len(counts) > 1, "game", name, "a game of two agents or more; with these arguments it has one")
    require(max(counts) <= MOST_ACTIONS, "game", name, f"at most {MOST_ACTIONS} actions an agent, not {max(counts)}")
    try:
        with silence(), lenient():
            obs, state = jax.eval_shape(game.reset, jax.random.key(0))
            chosen = {agent: jax.ShapeDtypeStruct((), jnp.int32) for agent in game.agents}
            seen, _, reward, done, _ = jax.eval_shape(game.step_env, jax.random.key(0), state, chosen)
    except Exception as error:  # somebody else's game
        raise ConfigError(f"env.game is {name!r}, which cannot be played: {one_line(error)}") from None
    for what, values in (("observations", obs), ("observations", seen), ("rewards", reward)):
        if not _by_agent(values, game.agents):
            shown = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ConfigError(
                f"env.game is {name!r}, which does not keep to JaxMARL's interface: its {what} are not an array for"
                f" each agent ({shown}), so it cannot be played here"
            )
    require("__all__" in done, "game", name, "a game that says when all agents are done")


def _by_agent(values: Any, agents: Any) -> bool:
    return isinstance(values, Mapping) and all(hasattr(values.get(agent), "shape") for agent in agents)


def _overcooked_layout(name: Any) -> Any:
    return _chosen("layout", name, load_jaxmarl("environments.overcooked.layouts").overcooked_layouts)


def _smax_scenario(name: Any) -> Any:
    return _chosen("scenario", name, load_jaxmarl("environments.smax.smax_env").MAP_NAME_TO_SCENARIO)


def _chosen(key: str, name: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"env.arguments.{key} is {name!r}{nearest(str(name), known)}")
    return known[name]


_NAMED: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("overcooked", "layout"): _overcooked_layout,
    ("SMAX", "scenario"): _smax_scenario,
    ("HeuristicEnemySMAX", "scenario"): _smax_scenario,
}
"""Arguments that JaxMARL takes as objects, and people as names: (game, argument) -> the object of a name."""
