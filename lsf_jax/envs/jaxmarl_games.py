"""JaxMARL's games by its own names: `env.game=` takes whatever it registers with discrete actions.

What JaxMARL leaves open is decided by settings, and the run's card says how:

- the team's reward is the mean of the agents' own (`env.team_reward`);
- critics see the state that the game itself makes for them (`get_world_state`), else all observations side by side
  (`env.state`);
- replay keeps the game's whole state where JaxMARL recomputes observations from it (`get_obs`), else the observations
  (`env.view`);
- the game's own limit truncates (`env.episode_limit` for an earlier one), and what ends before it is terminal. What
  ends in the very step of the limit is taken for the limit's: JaxMARL does not tell them apart.

An episode lasts until all agents are done; those that are done before stay, with what the game shows them and takes
from them. Agents with narrower observations or fewer actions are padded.

Reference: Rutherford et al. (2024), JaxMARL; version 0.2.0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.envs.base import check_settings, require
from lsf_jax.envs.guests import TEAM_REWARD_DOC, TEAM_REWARDS, lenient, reached
from lsf_jax.envs.jaxmarl import Game, GameState, Rules, Transition, View, from_jaxmarl, full_view
from lsf_jax.envs.jaxmarl_registry import open_game, own_limit
from lsf_jax.envs.jaxmarl_stored import stored_view
from lsf_jax.envs.stored import n_bytes
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import Env, EpisodeStats


@dataclass(frozen=True)
class JaxmarlConfig:
    """Settings of `jaxmarl`."""

    game: str = setting("MPE_simple_spread_v3", doc="JaxMARL's name of a game with discrete actions")
    arguments: Mapping | None = setting(
        None, doc="what JaxMARL makes the game with, for example {max_steps: 50}; layouts and scenarios by name"
    )
    team_reward: str = setting("mean", choices=tuple(TEAM_REWARDS), doc=TEAM_REWARD_DOC)
    state: str = setting(
        "auto",
        choices=("auto", "game", "observations"),
        doc="what critics see: a state of the game's own making, or all observations; auto: the game's, if it has one",
    )
    view: str = setting(
        "auto",
        choices=("auto", "recomputed", "stored"),
        doc="replay keeps the game's state, or observations; auto: the state where that is enough to recompute them",
    )
    episode_limit: int | None = setting(
        None, low=1, high=100_000, doc="steps of an episode at most; null: the game's own limit"
    )
    success_return: float | None = setting(
        None, doc="an episode that returns so much counts as won; null: what the game is known for, else none does"
    )

    def __hash__(self) -> int:
        """Of what distinguishes most: a mapping has no hash."""
        return hash((self.game, *sorted(self.arguments or ())))


def side_by_side(obs: dict[str, Array], game_state: GameState, *, agents: tuple) -> Array:
    """All agents' observations in one row, as the state for critics, in the order in which the game lists them."""
    del game_state
    return jnp.concatenate([each.reshape(-1) for agent, each in obs.items() if agent in agents])


def team_reward(transition: Transition, *, agents: tuple, how: str) -> Array:
    """One reward of all agents'; `how` is a key of `TEAM_REWARDS`."""
    return TEAM_REWARDS[how](jnp.stack([transition.reward[agent] for agent in agents]))


def ends_before(transition: Transition, *, limit: int | None) -> Array:
    """Whether the game has ended by itself: it says so, and its own limit is not the reason."""
    return transition.done if limit is None else transition.done & (transition.time < limit)


def make_jaxmarl_game(cfg: JaxmarlConfig) -> Env:
    """A game of JaxMARL's.

    Raises:
      ConfigError: JaxMARL is not installed, has no such game, cannot make it of these arguments, or the game is not
        to be played here; a setting asks for what the game has not.
    """
    check_settings(cfg)
    game = open_game(cfg.game, cfg.arguments or {})
    limit, own = _episode_limit(cfg, game)
    agents = tuple(game.agents)
    rules = Rules(
        episode_limit=limit,
        reward=partial(team_reward, agents=agents, how=cfg.team_reward),
        terminal=partial(ends_before, limit=own),
    )
    rules = rules._replace(**KNOWN.get(cfg.game, lambda game: {})(game))
    if cfg.team_reward == "sum":
        rules = rules._replace(max_return=rules.max_return * len(agents))
    if cfg.success_return is not None:
        rules = rules._replace(success=partial(reached, best=cfg.success_return))
    state = _state_of(cfg, game)
    played, view, kept = _view_of(cfg, game, state)
    env = from_jaxmarl(played, view, rules)
    snapshot = jax.eval_shape(lambda key: env.snapshot(env.reset(key)[0]), jax.random.key(0))
    return env._replace(
        ends_early=cfg.game in ENDS_EARLY,
        notes=(
            ("team reward", f"{cfg.team_reward} of {len(agents)} agents' rewards"),
            ("state", "all observations side by side" if state is None else "the game's own, get_world_state"),
            ("replay", f"{kept}; {n_bytes(snapshot):,} bytes a moment"),
        ),
    )


def _episode_limit(cfg: JaxmarlConfig, game: Game) -> tuple[int, int | None]:
    """Steps of an episode at most, and those after which the game itself ends it."""
    own, wanted = own_limit(game), cfg.episode_limit
    require(wanted is not None or own is not None, "episode_limit", None, f"a number: {cfg.game} has no limit itself")
    advice = f"at most {own}, where {cfg.game} ends by itself; give that another limit with env.arguments"
    require(wanted is None or own is None or wanted <= own, "episode_limit", wanted, advice)
    return wanted or own or 0, own


def _state_of(cfg: JaxmarlConfig, game: Game) -> Callable[[GameState], Array] | None:
    """What critics see of the game's state; None: all observations."""
    has_one = hasattr(game, "get_world_state")
    require(cfg.state != "game" or has_one, "state", cfg.state, f"auto or observations: {cfg.game} makes no state")
    if not has_one or cfg.state == "observations":
        return None
    return lambda state: jnp.asarray(game.get_world_state(state)).reshape(-1)


def _view_of(cfg: JaxmarlConfig, game: Game, state: Callable[[GameState], Array] | None) -> tuple[Game, View, str]:
    """What is played, how it is seen, and what replay keeps of that in words."""
    can_recompute = _recomputes(game)
    problem = f"auto or stored: {cfg.game} does not make observations of its state alone"
    require(cfg.view != "recomputed" or can_recompute, "view", cfg.view, problem)
    if cfg.view == "stored" or not can_recompute:
        return *stored_view(game, state), "the observations themselves"
    if state is None:
        seen = partial(side_by_side, agents=tuple(game.agents))
    else:
        seen = lambda obs, game_state: state(game_state)
    return game, full_view(game, state=seen), "the game's state, observations recomputed"


def _recomputes(game: Game) -> bool:
    """Whether `get_obs` makes of a state alone what `reset` returns."""
    with lenient():
        obs, state = jax.eval_shape(game.reset, jax.random.key(0))
        try:
            again = jax.eval_shape(game.get_obs, state)
        except (AttributeError, NotImplementedError, TypeError):
            return False
    wanted = {agent: (obs[agent].shape, obs[agent].dtype) for agent in game.agents}
    return wanted == {agent: (again[agent].shape, again[agent].dtype) for agent in game.agents if agent in again}


def _costs(game: Game) -> dict[str, Any]:
    """Particle worlds where distance costs: no start allows to reach 0, so that no episode is a success."""
    del game
    return {"max_return": 0.0}


def _riddle(game: Game) -> dict[str, Any]:
    """Only telling earns or costs something, and it ends the game."""
    told = partial(team_reward, agents=tuple(game.agents), how="mean")
    return {"terminal": lambda transition: told(transition) != 0, "max_return": float(game.reward_all_live)}


def _fireworks(game: Game) -> dict[str, Any]:
    return {"max_return": float(game.num_colors * game.num_ranks)}


def _battle(game: Game) -> dict[str, Any]:
    """SMAX against enemies: won is who has somebody alive when all enemies are dead."""
    n = game.num_allies

    def sides(transition: Transition) -> tuple[Array, Array]:
        alive = transition.after.state.unit_alive
        return ~alive[:n].any(), ~alive[n:].any()

    def won(stats: EpisodeStats) -> Array:
        return jnp.asarray(stats.info["win"]) > 0

    return {
        "terminal": lambda transition: sides(transition)[0] | sides(transition)[1],
        "info": lambda transition: {"win": (~sides(transition)[0] & sides(transition)[1]).astype(jnp.float32)},
        "success": won,
        "max_return": 1.0 + float(game.won_battle_bonus),
    }


KNOWN: dict[str, Callable[[Game], dict[str, Any]]] = {
    "MPE_simple_spread_v3": _costs,
    "MPE_simple_speaker_listener_v4": _costs,
    "MPE_simple_reference_v3": _costs,
    "switch_riddle": _riddle,
    "hanabi": _fireworks,
    "HeuristicEnemySMAX": _battle,
    "LearnedPolicyEnemySMAX": _battle,
}
"""What is known of some of JaxMARL's games beyond their interface: fields of `Rules`."""
ENDS_EARLY = ("hanabi", "HeuristicEnemySMAX", "LearnedPolicyEnemySMAX", "SMAX")
"""Whose episodes mostly end long before their limit."""

ENTRIES = (
    Entry(
        name="jaxmarl",
        config=JaxmarlConfig,
        factory=make_jaxmarl_game,
        doc="JaxMARL's games with discrete actions (env.game=...): team reward is the mean over agents, the state the "
        "game's own or all observations",
    ),
)
