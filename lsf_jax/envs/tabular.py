"""Games given by tables: the engine of the matrix games and of the probes.

A `Game` is a handful of NumPy tables over nodes (the states of the game) and joint actions; `table_env` plays it, and
`optimal_values` solves it exactly. Joint actions are numbered in C order of (a₁, ..., a_N), as in payoff tables.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lsf_jax.envs.base import check_spec
from lsf_jax.types import Env, EnvSpec, EpisodeStats, Observation, Payoff, PRNGKey, TimeStep


class Game(NamedTuple):
    """A game as tables over nodes (M of them) and joint actions; build it with keywords."""

    start: tuple[int, ...]  # nodes that an episode may start in, equally likely
    reward: np.ndarray  # [M, A, ..., A] one action axis per agent
    next_node: np.ndarray  # [M, A, ..., A]
    ends: np.ndarray  # [M] bool: entering the node ends the game
    obs: np.ndarray  # [M, N, O]
    state: np.ndarray  # [M, S]
    labels: tuple[str, ...]  # [M] names for people
    episode_limit: int


class GameState(NamedTuple):
    """Where the game is."""

    node: Int[Array, "*lead"]
    time: Int[Array, "*lead"]  # steps since reset


def table_env(game: Game) -> Env:
    """Plays a `Game`. All actions are always available; `success` is a return of `max_return` (to rounding)."""
    n_agents = game.reward.ndim - 1
    spec = EnvSpec(
        n_agents=n_agents,
        n_actions=game.reward.shape[-1],
        obs_dim=game.obs.shape[-1],
        state_dim=game.state.shape[-1],
        episode_limit=game.episode_limit,
    )
    best = float(optimal_values(game)[list(game.start)].reshape(len(game.start), -1).max(1).mean())
    return Env(
        spec=check_spec(spec),
        reset=partial(_reset, game=game),
        step=partial(_step, game=game),
        snapshot=partial(_snapshot, game=game),
        observe=partial(_observe, game=game),
        render=partial(_render, game=game),
        success=partial(_success, best=best),
        max_return=best,
    )


def optimal_values(game: Game) -> np.ndarray:
    """Best undiscounted return of an episode that starts in each node with each joint action, by backward induction.

    Returns:
      `[M, A, ..., A]` float64: for a one-step game, its payoff.
    """
    reward = np.asarray(game.reward, np.float64)
    value = np.zeros(reward.shape[0])
    q = reward
    for _ in range(game.episode_limit):
        q = reward + np.where(game.ends, 0.0, value)[game.next_node]
        value = q.reshape(len(q), -1).max(1)
    return q


def start_payoff(game: Game) -> Payoff:
    """What each joint action is worth in each node that an episode may start in.

    For one-step games and repeated games this is the payoff of one round; for games of several different steps the
    best undiscounted return after each joint action.
    """
    best = optimal_values(game)
    repeats = [bool((game.next_node[node] == node).all()) for node in game.start]
    tables = [game.reward[node] if again else best[node] for node, again in zip(game.start, repeats)]
    return Payoff(starts=tuple(game.start), table=np.stack(tables).astype(np.float32))


def for_all(n_agents: int, obs: Float[np.ndarray, "nodes obs"]) -> Float[np.ndarray, "nodes agents obs"]:
    """The same observation for every agent: `[M, O]` to `[M, N, O]`."""
    return np.repeat(obs[:, None, :], n_agents, axis=1)


def _reset(key: PRNGKey, *, game: Game) -> tuple[GameState, Observation]:
    which = jax.random.randint(key, (), 0, len(game.start))
    state = GameState(node=jnp.asarray(game.start, jnp.int32)[which], time=jnp.int32(0))
    return state, _observe(_snapshot(state, game=game), game=game)


def _step(key: PRNGKey, state: GameState, actions: Array, *, game: Game) -> tuple[GameState, TimeStep]:
    del key  # nothing is left to chance after the start
    n_agents, n_actions = game.reward.ndim - 1, game.reward.shape[-1]
    place = np.array([n_actions**power for power in reversed(range(n_agents))], np.int32)
    joint = (actions.astype(jnp.int32) * place).sum(dtype=jnp.int32)
    n_nodes = len(game.reward)
    reward = jnp.asarray(game.reward.reshape(n_nodes, -1), jnp.float32)[state.node, joint]
    node = jnp.asarray(game.next_node.reshape(n_nodes, -1), jnp.int32)[state.node, joint]
    next_state = GameState(node=node, time=state.time + 1)
    terminal = jnp.asarray(game.ends)[node]
    return next_state, TimeStep(
        observation=_observe(_snapshot(next_state, game=game), game=game),
        reward=reward,
        terminal=terminal,
        done=terminal | (next_state.time >= game.episode_limit),
        info={},
    )


def _snapshot(state: GameState, *, game: Game) -> Array:
    return state.node.astype(jnp.uint8 if len(game.reward) <= 256 else jnp.uint16)


def _observe(snapshot: Array, *, game: Game) -> Observation:
    node = snapshot.astype(jnp.int32)
    return Observation(
        obs=jnp.asarray(game.obs, jnp.float32)[node],
        state=jnp.asarray(game.state, jnp.float32)[node],
        avail=jnp.ones((game.reward.ndim - 1, game.reward.shape[-1]), bool),
    )


def _render(snapshot: np.ndarray, *, game: Game) -> str:
    node = int(snapshot)
    if game.ends[node]:
        return game.labels[node]
    shape = "x".join(str(side) for side in game.reward.shape[1:])
    return f"{game.labels[node]}: {shape} payoff\n{np.array2string(game.reward[node], precision=4)}"


def _success(stats: EpisodeStats, *, best: float) -> Array:
    return jnp.asarray(stats.episode_return) >= best - 1e-6 * max(1.0, abs(best))  # float32 sums
