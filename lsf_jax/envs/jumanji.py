"""Jumanji's games for teams, in the stored view: RobotWarehouse and Level-Based Foraging.

Any game that Jumanji registers is taken whose observation has a row `agents_view` and an `action_mask` for each agent,
and whose action is a number for each agent; `env.game` names it as Jumanji does. `env.arguments` goes to the game and
to its generator alike, whichever has a parameter of that name; what is not given stays as registered.

- Agents see their `agents_view`, flattened; critics see all of them side by side.
- The reward is the sum over agents where each has one of its own (`env.team_reward`): all food of a level-based
  foraging game is then worth 1. RobotWarehouse has one reward for all.
- The limit is our own and truncates. RobotWarehouse itself calls reaching it a termination; two robots that collide
  end a game of Jumanji's for good, unlike the original's.
- Replay keeps the views in the narrowest dtype that holds what Jumanji says, or its rules imply, of their range.

Reference: Bonnet et al. (2024), Jumanji: a Diverse Suite of Scalable RL Environments in JAX; Papoudakis et al. (2021),
Benchmarking Multi-Agent Deep RL Algorithms in Cooperative Tasks.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from lsf_jax.envs.base import check_settings, check_spec, require
from lsf_jax.envs.guests import (
    TEAM_REWARD_DOC,
    TEAM_REWARDS,
    TeamReward,
    fields_text,
    lenient,
    one_line,
    reached,
    silence,
)
from lsf_jax.envs.stored import StoredObservation, Widths, n_bytes, narrowest, recall, store
from lsf_jax.registry import Entry
from lsf_jax.settings import ConfigError, nearest, setting
from lsf_jax.types import Env, EnvSpec, Observation, PRNGKey, TimeStep

Game: TypeAlias = Any
"""A `jumanji.env.Environment`; the package may be missing."""
REMEDY = "run `pip install 'lsf-jax[jumanji]'`, or choose another env"
_OURS = {"self", "generator", "viewer", "time_limit"}
"""Parameters of constructors that are not the user's to give; the limit is `env.episode_limit`."""


@dataclass(frozen=True)
class JumanjiConfig:
    """Settings of `jumanji`."""

    game: str = setting("RobotWarehouse-v0", doc="Jumanji's name of a game whose agents have views of their own")
    arguments: Mapping | None = setting(
        None, doc="of the game and its generator, for example {num_agents: 2, sensor_range: 2}; null: as registered"
    )
    team_reward: str = setting("sum", choices=tuple(TEAM_REWARDS), doc=TEAM_REWARD_DOC)
    episode_limit: int | None = setting(
        None, low=1, high=100_000, doc="steps of an episode at most; null: the game's own limit"
    )
    success_return: float | None = setting(None, doc="an episode that returns so much counts as won; null: none does")

    def __hash__(self) -> int:
        """Of what distinguishes most: a mapping has no hash."""
        return hash((self.game, *sorted(self.arguments or ())))


class State(NamedTuple):
    """A game under way."""

    game: Any
    seen: StoredObservation
    time: Int[Array, ""]  # steps since reset


class Rules(NamedTuple):
    """How a game of Jumanji's is played and kept."""

    game: Game
    limit: int
    dtype: np.dtype  # of stored views
    team_reward: TeamReward


def make_jumanji(cfg: JumanjiConfig) -> Env:
    """A game of Jumanji's.

    Raises:
      ConfigError: Jumanji is not installed, has no such game, cannot make it of these arguments, or its agents have no
        views, masks and actions of their own. One line.
    """
    check_settings(cfg)
    game, limit = _open(cfg)
    views, counts = _check_playable(cfg.game, game)
    n, width = views.shape[0], int(np.prod(views.shape[1:]))
    rules = Rules(game=game, limit=limit, dtype=_dtype(game, views), team_reward=TEAM_REWARDS[cfg.team_reward])
    spec = EnvSpec(n_agents=n, n_actions=counts[0], obs_dim=width, state_dim=n * width, episode_limit=limit)
    observe = partial(recall, widths=Widths(obs=(width,) * n, actions=counts))
    state, _ = jax.eval_shape(partial(_reset, rules=rules, observe=observe), jax.random.key(0))
    has_own = len(game.reward_spec.shape) == 1
    reward = f"{cfg.team_reward} of {n} agents' rewards" if has_own else "one reward for all"
    best = float("inf") if cfg.success_return is None else cfg.success_return
    return Env(
        spec=check_spec(spec),
        reset=partial(_reset, rules=rules, observe=observe),
        step=partial(_step, rules=rules, observe=observe),
        snapshot=lambda state: state.seen,
        observe=observe,
        render=fields_text,
        success=partial(reached, best=best),
        max_return=float("inf"),
        ends_early=True,
        version=f"1, jumanji {importlib.metadata.version('jumanji')}",
        notes=(
            ("team reward", reward),
            ("state", "all observations side by side"),
            ("replay", f"the observations themselves; {n_bytes(state.seen):,} bytes a moment"),
        ),
    )


def load_jumanji() -> ModuleType:
    """Imports `jumanji`, which takes seconds.

    Raises:
      ConfigError: it is not installed, or cannot be imported.
    """
    try:
        with silence():
            return importlib.import_module("jumanji")
    except ImportError as error:
        raise ConfigError(f"Jumanji's games need the package jumanji: {error}; {REMEDY}") from None


def _open(cfg: JumanjiConfig) -> tuple[Game, int]:
    """The game, whose own limit lies behind ours, and our limit."""
    module = load_jumanji()
    names = sorted(module.registered_environments())
    if cfg.game not in names:
        raise ConfigError(f"env.game is {cfg.game!r}{nearest(cfg.game, names)}")
    try:
        with silence(), lenient():
            game = module.make(cfg.game)
    except Exception as error:  # somebody else's constructor; some of them fetch data
        raise ConfigError(f"env.game is {cfg.game!r}, which cannot be made: {one_line(error)}") from None
    limit = cfg.episode_limit or getattr(game, "time_limit", None)
    if limit is None:
        raise ConfigError(f"env.episode_limit is null; expected a number: {cfg.game} has no limit itself.")
    of_game, of_generator = _arguments(cfg.game, game, cfg.arguments or {})
    if "time_limit" in inspect.signature(type(game)).parameters:
        of_game["time_limit"] = limit + 1
    try:
        with silence(), lenient():
            if of_generator:
                of_game["generator"] = type(game._generator)(**of_generator)
            return module.make(cfg.game, **of_game), limit
    except Exception as error:  # somebody else's constructor, given a user's arguments: anything may come
        problem = f"env.arguments is {cfg.arguments!r}, of which {cfg.game} cannot be made: {one_line(error)}"
        raise ConfigError(problem) from None


def _arguments(name: str, game: Game, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes to the game's constructor, and to that of its generator: there the rest of what it was made with too.

    Generators need all their parameters, and keep them as attributes of that name, or of that name with a low line.
    """
    generator = getattr(game, "_generator", None)
    of_game = set(inspect.signature(type(game)).parameters) - _OURS
    of_generator = set(inspect.signature(type(generator)).parameters) if generator is not None else set()
    for key in given:
        if key not in of_game | of_generator:
            known = sorted(of_game | of_generator)
            raise ConfigError(f"env.arguments.{key} is no argument of {name}{nearest(key, known)}")
    kept = {key: getattr(generator, key, getattr(generator, f"_{key}", None)) for key in of_generator}
    changed = {key: value for key, value in given.items() if key in of_generator}
    return (
        {key: value for key, value in given.items() if key in of_game},
        {key: value for key, value in kept.items() if value is not None} | changed if changed else {},
    )


def _check_playable(name: str, game: Game) -> tuple[Any, tuple[int, ...]]:
    """The spec of the agents' views, and how many actions each has."""
    seen = game.observation_spec
    views, mask = getattr(seen, "agents_view", None), getattr(seen, "action_mask", None)
    counts = getattr(game.action_spec, "num_values", None)
    lacking = [what for what, value in (("agents_view", views), ("action_mask", mask)) if value is None]
    lacking += ["a number for each agent as its action"] if counts is None or np.ndim(counts) != 1 else []
    if views is None or mask is None or lacking:
        raise ConfigError(f"env.game is {name!r}, which is not played by agents here: it lacks {', '.join(lacking)}")
    counts = tuple(int(count) for count in np.asarray(counts))
    require(len(counts) > 1, "game", name, "a game of two agents or more; with these arguments it has one")
    if mask.shape != (len(counts), max(counts)) or views.shape[0] != len(counts):
        raise ConfigError(f"env.game is {name!r}; expected a view and a mask for each of {len(counts)} agents")
    return views, counts


def _dtype(game: Game, views: Any) -> np.dtype:
    """The narrowest for views that are whole numbers of a known range."""
    if np.dtype(views.dtype).kind not in "iu":
        return np.dtype(views.dtype)
    if hasattr(views, "minimum"):
        return narrowest(int(np.min(views.minimum)), int(np.max(views.maximum)))
    if type(game).__name__ == "RobotWarehouse":  # places on the grid, and truth values
        return narrowest(0, max(game.grid_size))
    return np.dtype(views.dtype)


def _see(rules: Rules, observation: Any) -> StoredObservation:
    views = observation.agents_view.astype(rules.dtype)
    return store(list(views), avail=list(observation.action_mask))


def _reset(key: PRNGKey, *, rules: Rules, observe: Any) -> tuple[State, Observation]:
    with lenient():
        game, timestep = rules.game.reset(key)
    seen = _see(rules, timestep.observation)
    return State(game=game, seen=seen, time=jnp.int32(0)), observe(seen)


def _step(
    key: PRNGKey, state: State, actions: Integer[Array, "agents"], *, rules: Rules, observe: Any
) -> tuple[State, TimeStep]:
    del key  # the game's state carries its own
    with lenient():
        game, timestep = rules.game.step(state.game, actions.astype(jnp.int32))
    seen, time = _see(rules, timestep.observation), state.time + 1
    reward = timestep.reward.astype(jnp.float32)
    terminal = timestep.last()
    return State(game=game, seen=seen, time=time), TimeStep(
        observation=observe(seen),
        reward=rules.team_reward(reward) if reward.ndim else reward,
        terminal=terminal,
        done=terminal | (time >= rules.limit),
        info={},
    )


ENTRIES = (
    Entry(
        name="jumanji",
        config=JumanjiConfig,
        factory=make_jumanji,
        doc="Jumanji's RobotWarehouse and Level-Based Foraging (env.game=...): team reward is the sum over agents, the "
        "state all their views",
    ),
)
