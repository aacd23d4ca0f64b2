"""JaxMARL's games as environments: dicts by agent become stacked arrays, and an episode ends where it ended.

`from_jaxmarl` makes an `Env` of any JaxMARL game with discrete actions. It plays with `step_env`, which does not start
the next episode by itself (JaxMARL's `step` does, and throws the last observation away), and keeps the time itself:
JaxMARL's own limit lets one step more pass in some games, and never says that it was the limit that ended an episode.

What replay keeps and what is seen of it is a `View`; what is earned and what ends the game are `Rules`. Both are
arguments: nothing here asks for a game's name. JaxMARL is imported when a game is made, not before.

Reference: Rutherford et al. (2024), JaxMARL: Multi-Agent RL Environments and Algorithms in JAX; version 0.2.0.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from lsf_jax.envs.base import check_spec
from lsf_jax.envs.guests import fields_text, lenient, reached, silence
from lsf_jax.envs.stored import StoredObservation
from lsf_jax.settings import ConfigError
from lsf_jax.types import Env, EnvSpec, EpisodeStats, Observation, PRNGKey, Snapshot, TimeStep

Game: TypeAlias = Any
"""A `jaxmarl.environments.MultiAgentEnv`; the package may be missing."""
GameState: TypeAlias = Any
"""Its state: a pytree of arrays."""


class Transition(NamedTuple):
    """One step of a game, as JaxMARL tells it; its own states, whatever the view."""

    before: GameState
    after: GameState
    reward: dict[str, Array]  # by agent
    done: Bool[Array, ""]  # JaxMARL's own verdict, its time limit included
    time: Int[Array, ""]  # steps since reset, this one included


class View(NamedTuple):
    """What replay keeps of a moment, and what everyone sees of that."""

    snapshot: Callable[[GameState], Snapshot]
    observe: Callable[[Snapshot], Observation]


class Rules(NamedTuple):
    """What a team earns, and what ends its episode."""

    episode_limit: int  # steps; reaching it truncates
    reward: Callable[[Transition], Array]  # the team's
    terminal: Callable[[Transition], Array]  # whether the game has ended, whatever the time
    info: Callable[[Transition], dict[str, Array]] = lambda transition: {}  # as in TimeStep
    max_return: float = float("inf")  # no episode earns more
    success: Callable[[EpisodeStats], Array] | None = None  # which episodes count as won; None: who earned `max_return`


class Remembered(NamedTuple):
    """The state of a game, and what everybody saw of it last; see `jaxmarl_stored`."""

    game: GameState
    seen: StoredObservation


class State(NamedTuple):
    """A game under way."""

    game: GameState
    time: Int[Array, ""]  # steps since reset


def load_jaxmarl(part: str = "") -> ModuleType:
    """Imports `jaxmarl`, which takes seconds, without the lines and warnings that it writes on the way.

    Args:
      part: module inside the package, for example "environments.smax".

    Raises:
      ConfigError: if it is not installed, or too old.
    """
    remedy = "run `pip install 'jaxmarl>=0.2,<0.3'`, or choose another env"
    try:
        with silence():
            module = importlib.import_module(f"jaxmarl.{part}" if part else "jaxmarl")
    except ImportError as error:
        raise ConfigError(f"JaxMARL games need the package jaxmarl: {error}; {remedy}") from None
    if tuple(int(number) for number in jaxmarl_version().split(".")[:2]) < (0, 2):
        raise ConfigError(f"JaxMARL games need version 0.2.0 or later, but {jaxmarl_version()} is installed; {remedy}")
    return module


def jaxmarl_version() -> str:
    """The installed version of JaxMARL, which is part of `Env.version`: results of two do not compare."""
    return importlib.metadata.version("jaxmarl")


def from_jaxmarl(game: Game, view: View, rules: Rules) -> Env:
    """A JaxMARL game as an `Env`; agents are in the order of `game.agents`.

    `render` prints the snapshot's arrays: replace it, or give `draw` (`Env._replace`), where more is known.

    Args:
      game: with discrete actions for every agent.
      view: for example `full_view(game, state=...)`.
      rules: what is earned and what ends an episode.

    Raises:
      ValueError: if an agent's actions are not discrete.
    """
    _, shapes = jax.eval_shape(partial(_reset, game=game, view=view), jax.random.key(0))
    spec = EnvSpec(
        n_agents=len(game.agents),
        n_actions=int(shapes.avail.shape[-1]),
        obs_dim=int(shapes.obs.shape[-1]),
        state_dim=int(shapes.state.shape[-1]),
        episode_limit=rules.episode_limit,
    )
    if max(action_counts(game)) > spec.n_actions:
        raise ValueError(f"avail has {spec.n_actions} actions; expected the game's {max(action_counts(game))}.")
    return Env(
        spec=check_spec(spec),
        reset=partial(_reset, game=game, view=view),
        step=partial(_step, game=game, view=view, rules=rules),
        snapshot=lambda state: view.snapshot(state.game),
        observe=view.observe,
        render=fields_text,
        success=rules.success or partial(reached, best=rules.max_return),
        max_return=rules.max_return,
        version=f"1, jaxmarl {jaxmarl_version()}",
    )


def full_view(game: Game, state: Callable[[dict[str, Array], GameState], Array]) -> View:
    """JaxMARL's own observations, recomputed from the whole state of the game: fits any game, and needs most memory.

    Observations are flattened and padded with zeros, and availability with False, to those of the agent with the most.

    Args:
      game: whose `get_obs`, and `get_avail_actions` where it has them, are asked.
      state: what a critic sees, `[S]`: of the observations by agent (as JaxMARL gives them) and the game's state.
    """
    return View(snapshot=lambda game_state: game_state, observe=partial(_observe_all, game=game, state=state))


def unwrapped(state: GameState) -> GameState:
    """The game's own state, whether or not it is remembered with what was seen."""
    return state.game if isinstance(state, Remembered) else state


def stack(values: dict[str, Array], agents: Sequence[str]) -> Array:
    """One row per agent, `[N, widest]`: flattened, and padded with zeros (False) to the widest."""
    rows = [values[agent].reshape(-1) for agent in agents]
    widest = max(row.shape[0] for row in rows)
    return jnp.stack([jnp.pad(row, (0, widest - row.shape[0])) for row in rows])


def action_counts(game: Game) -> list[int]:
    """How many actions each agent has, in their order.

    Raises:
      ValueError: if an agent's actions are not discrete.
    """
    spaces = {agent: game.action_space(agent) for agent in game.agents}
    for agent, space in spaces.items():
        if not isinstance(getattr(space, "n", None), int | np.integer):
            raise ValueError(f"actions of {agent} are {type(space).__name__}; expected Discrete ones.")
    return [int(space.n) for space in spaces.values()]


def _observe_all(snapshot: Snapshot, *, game: Game, state: Callable[..., Array]) -> Observation:
    with lenient():
        obs = game.get_obs(snapshot)
        return Observation(
            obs=stack(obs, game.agents).astype(jnp.float32),
            state=state(obs, snapshot).astype(jnp.float32),
            avail=stack(_available(game, snapshot), game.agents),
        )


def availability(game: Game, game_state: GameState) -> dict[str, Array] | None:
    """What each agent may do, truth values; None where the game does not say: everything that it has.

    Hanabi calls its masks legal moves. Masks that have not an entry for each action are none: JaxNav's have two. Where
    nothing is allowed, as when all is over, everything is: a policy needs something to choose.
    """
    n_actions = dict(zip(game.agents, action_counts(game)))
    for name in ("get_avail_actions", "get_legal_moves"):
        try:
            masks = getattr(game, name)(game_state) if hasattr(game, name) else {}
        except NotImplementedError:
            continue
        if all(agent in masks and masks[agent].shape == (n,) for agent, n in n_actions.items()):
            return {agent: _something(masks[agent].astype(bool)) for agent in game.agents}
    return None


def _something(mask: Bool[Array, "actions"]) -> Bool[Array, "actions"]:
    return mask | ~mask.any()


def _available(game: Game, game_state: GameState) -> dict[str, Array]:
    everything = {agent: jnp.ones(n, bool) for agent, n in zip(game.agents, action_counts(game))}
    return availability(game, game_state) or everything


def _reset(key: PRNGKey, *, game: Game, view: View) -> tuple[State, Observation]:
    with lenient():
        _, game_state = game.reset(key)
    return State(game=game_state, time=jnp.int32(0)), view.observe(view.snapshot(game_state))


def _step(
    key: PRNGKey, state: State, actions: Integer[Array, "agents"], *, game: Game, view: View, rules: Rules
) -> tuple[State, TimeStep]:
    with lenient():
        by_agent = {agent: actions[index].astype(jnp.int32) for index, agent in enumerate(game.agents)}
        _, game_state, reward, done, _ = game.step_env(key, state.game, by_agent)
        transition = Transition(
            before=unwrapped(state.game),
            after=unwrapped(game_state),
            reward=reward,
            done=done["__all__"],
            time=state.time + 1,
        )
        terminal = rules.terminal(transition)
        earned = rules.reward(transition).astype(jnp.float32)
    time = transition.time
    return State(game=game_state, time=time), TimeStep(
        observation=view.observe(view.snapshot(game_state)),
        reward=earned,
        terminal=terminal,
        done=terminal | (time >= rules.episode_limit),
        info=rules.info(transition),
    )
