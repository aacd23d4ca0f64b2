"""The two ends of a scale for returns: what uniformly random agents reach, and the best that any could."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.analysis.naming import tasks_of
from lsf_jax.analysis.records import RunRecord
from lsf_jax.config.composition import make_env, make_hosted
from lsf_jax.runs.folder import read_run
from lsf_jax.settings import ConfigError
from lsf_jax.types import Env, PRNGKey

EPISODES = 1024


class Bounds(NamedTuple):
    """For each task, by the names that `scores_of` gives them; `normalized(scores, *bounds)` takes both."""

    random: dict[str, float]  # mean return of uniformly random agents
    best: dict[str, float]  # the largest return of any joint policy, as the environment declares it


def bounds_of(runs: Sequence[RunRecord], episodes: int = EPISODES, seed: int = 0) -> Bounds:
    """Random and best return on every environment of some runs; random agents play `episodes` episodes on each.

    Args:
      runs: loaded runs; their settings must be those of today's code.
      episodes: of random play.
      seed: root of its randomness.

    Raises:
      ConfigError: an environment whose games are played on the host, or settings that today's code does not know.
    """
    random: dict[str, float] = {}
    best: dict[str, float] = {}
    for run, task in zip(runs, tasks_of(runs), strict=True):
        if task in random:
            continue
        config = read_run(run.path)[0]
        if make_hosted(config) is not None:
            raise ConfigError(
                f"{task} is played on the host; expected an environment in JAX: measure random play there"
            )
        env = make_env(config)
        random[task], best[task] = random_return(env, episodes, seed), float(env.max_return)
    return Bounds(random, best)


def random_return(env: Env, episodes: int = EPISODES, seed: int = 0) -> float:
    """The mean undiscounted return of agents that choose uniformly among their available actions.

    Args:
      env: an environment in JAX.
      episodes: how many are played.
      seed: root of the randomness.

    Returns:
      The mean over episodes.
    """
    keys = jax.random.split(jax.random.key(seed), episodes)
    return float(jax.jit(jax.vmap(partial(_play, env)))(keys).mean())


def _play(env: Env, key: PRNGKey) -> Array:
    key_start, key_steps = jax.random.split(key)
    state, seen = env.reset(key_start)

    def step(carry: tuple, key_step: PRNGKey) -> tuple[tuple, Array]:
        state, avail, over = carry
        key_action, key_env = jax.random.split(key_step)
        action = jax.random.categorical(key_action, jnp.where(avail, 0.0, -jnp.inf), axis=-1)
        state, moment = env.step(key_env, state, action)
        return (state, moment.observation.avail, over | moment.done), jnp.where(over, 0.0, moment.reward)

    keys = jax.random.split(key_steps, env.spec.episode_limit)
    _, reward = jax.lax.scan(step, (state, seen.avail, jnp.bool_(False)), keys)
    return reward.sum()
