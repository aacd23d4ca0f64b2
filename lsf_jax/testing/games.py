"""A batch of random episodes and what learning sees of it; small sizes, all of them different."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.types import Clock, EnvSpec, Episode, Layout, Observation, PackedRows, PRNGKey, Trajectory

T, N, A, OBS, S = 5, 3, 4, 6, 7
SPEC = EnvSpec(n_agents=N, n_actions=A, obs_dim=OBS, state_dim=S, episode_limit=T)
ENDINGS = ((5, False), (3, True), (2, False), (4, True), (1, True), (5, True))
"""Length and whether the game ended: full and cut, terminated early, cut early, terminated, at once, at T."""
BATCH = len(ENDINGS)
CLOCK = Clock(env_steps=jnp.int32(40), episodes=jnp.int32(8), updates=jnp.int32(1))


class Game(NamedTuple):
    """One padded episode of L valid steps: arrays of T rows (actions, ...) and T+1 rows (obs, state, avail)."""

    obs: np.ndarray
    state: np.ndarray
    avail: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    length: int


def make_games(seed: int = 0) -> list[Game]:
    """Random episodes with unavailable actions and dead agents; rows after the end look as `observe` leaves them."""
    rng = np.random.default_rng(seed)
    games = []
    for length, terminal in ENDINGS:
        real = np.arange(T + 1) <= length
        valid = np.arange(T) < length
        avail = rng.random((T + 1, N, A)) < 0.6
        avail[np.arange(T + 1)[:, None], np.arange(N), rng.integers(A, size=(T + 1, N))] = True
        for t, i in zip(range(1, T + 1), rng.integers(N, size=T)):
            avail[t, i] = np.arange(A) == 2  # dead: a single action is left
        avail |= ~real[:, None, None]
        action = np.array([[rng.choice(np.flatnonzero(row)) for row in rows] for rows in avail[:T]])
        games.append(
            Game(
                obs=rng.normal(size=(T + 1, N, OBS)) * real[:, None, None],
                state=rng.normal(size=(T + 1, S)) * real[:, None],
                avail=avail,
                action=action * valid[:, None],
                reward=rng.normal(size=T) * 2.0 * valid,
                terminal=(np.arange(T) == length - 1) & terminal,
                length=length,
            )
        )
    return games


def episodes_of(games: Sequence[Game]) -> Episode:
    """The batch as the code under test takes it; `world` is already an observation."""
    stack = {name: np.stack([getattr(game, name) for game in games]) for name in Game._fields[:-1]}
    observation = Observation(
        obs=jnp.asarray(stack["obs"], jnp.float32),
        state=jnp.asarray(stack["state"], jnp.float32),
        avail=jnp.asarray(stack["avail"]),
    )
    return Episode(
        world=observation,
        action=jnp.asarray(stack["action"], jnp.uint8),
        reward=jnp.asarray(stack["reward"], jnp.float32),
        terminal=jnp.asarray(stack["terminal"]),
        valid=jnp.asarray(np.stack([np.arange(T) < game.length for game in games])),
        info={},
    )


def observe(rows: PackedRows) -> Trajectory:
    """What learning sees of rows `[R, T+1, ...]`, time first; `world` is already an observation."""
    fields = (rows.world, rows.action.astype(jnp.int32), rows.reward, rows.terminal, rows.valid)
    by_time = lambda leaf: jnp.swapaxes(leaf, 0, 1)
    return Trajectory(*jax.tree.map(by_time, fields), layout=Layout(first=by_time(rows.first), steps=rows.steps))


def trajectory_of(episode: Episode) -> Trajectory:
    """One episode `[T, ...]` as a trajectory of its own."""
    return Trajectory(
        observation=episode.world,
        action=episode.action.astype(jnp.int32),
        reward=episode.reward,
        terminal=episode.terminal,
        valid=episode.valid,
        layout=Layout(first=jnp.arange(episode.valid.shape[0] + 1) == 0),
    )


def keys_of(key: PRNGKey, episodes: int = BATCH, time: int = T) -> Any:
    """Keys `[B, T+1]` of an update's rows, as the engine makes them: of the episode, then of the moment in it."""
    of_row = lambda episode, moment: jax.random.fold_in(jax.random.fold_in(key, episode), moment)
    return jax.vmap(jax.vmap(of_row, (None, 0)), (0, None))(jnp.arange(episodes), jnp.arange(time + 1))


def random_observation(seed: int = 0) -> Observation:
    """One moment in which about half of all actions are available, and at least one for everybody."""
    rng = np.random.default_rng(seed)
    avail = rng.random((N, A)) < 0.5
    avail[np.arange(N), rng.integers(A, size=N)] = True
    obs = rng.normal(size=(N, OBS)) * 3
    return Observation(obs=jnp.asarray(obs, jnp.float32), state=jnp.zeros((S,)), avail=jnp.asarray(avail))
