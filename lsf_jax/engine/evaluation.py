"""Evaluation: exactly n finished episodes, greedy or sampled, in a compiled function of its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.engine.lengths import EPISODES_AXIS
from lsf_jax.engine.rollouts import rollout
from lsf_jax.types import Algorithm, Carry, Clock, Env, EpisodeStats, Hyper, Observation, Params, PRNGKey

Evaluate = Callable[[Params, Clock, Hyper, PRNGKey], EpisodeStats]


def make_evaluate(
    env: Env, algorithm: Algorithm, n_episodes: int, *, stochastic: bool = False, parts: int = 1
) -> Evaluate:
    """Evaluates one seed's policy over exactly `n_episodes` whole episodes, each played to its own end.

    Every started episode counts, so short ones are not over-represented. Nothing reaches replay or the clock.

    Args:
      env: the environment.
      algorithm: how to act.
      n_episodes: E.
      stochastic: sample from the policy; otherwise act greedily.
      parts: see `rollout`.
    """
    policy = algorithm.act_sampled if stochastic else algorithm.act_greedy

    def evaluate(params: Params, clock: Clock, hyper: Hyper, key: PRNGKey) -> EpisodeStats:
        def act(carry: Carry, observation: Observation, key_act: PRNGKey) -> tuple[Carry, Array]:
            return policy(params, carry, observation, key_act, clock, hyper)

        def one(key_episode: PRNGKey) -> EpisodeStats:
            episode = rollout(env, act, algorithm.start(), key_episode, parts)
            return EpisodeStats(
                episode_return=episode.reward.sum(),
                length=episode.valid.sum(dtype=jnp.int32),
                terminal=episode.terminal.any(),
                info={name: values.sum() for name, values in episode.info.items()},
                first_action=episode.action[0].astype(jnp.int32),
            )

        return jax.vmap(one, axis_name=EPISODES_AXIS)(jax.random.split(key, n_episodes))

    return evaluate
