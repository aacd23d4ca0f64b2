"""Evaluation: exactly n finished episodes, greedy or sampled, in a compiled function of its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from lsf_jax.engine.rollouts import over_slots, play, slots_of
from lsf_jax.types import Algorithm, Carry, Clock, Env, EpisodeStats, Hyper, Observation, Params, PRNGKey

Evaluate = Callable[[Params, Clock, Hyper, PRNGKey], EpisodeStats]


def make_evaluate(
    env: Env, algorithm: Algorithm, n_episodes: int, *, stochastic: bool = False, parts: int = 1
) -> Evaluate:
    """Evaluates one seed's policy over exactly `n_episodes` whole episodes, each played to its own end.

    Who plays which episode is fixed before the first step and every one counts, so short ones are not over-represented.
    Nothing reaches replay or the clock.

    Args:
      env: the environment.
      algorithm: how to act.
      n_episodes: E.
      stochastic: sample from the policy; otherwise act greedily.
      parts: see `play`.
    """
    policy = algorithm.act_sampled if stochastic else algorithm.act_greedy

    def evaluate(params: Params, clock: Clock, hyper: Hyper, key: PRNGKey) -> EpisodeStats:
        def act(carry: Carry, observation: Observation, key_act: PRNGKey) -> tuple[Carry, Array]:
            return policy(params, carry, observation, key_act, clock, hyper)

        def play_slot(keys: Key[Array, "episodes"]) -> EpisodeStats:
            episodes = play(env, act, algorithm.start(), keys, parts)
            return EpisodeStats(
                episode_return=episodes.reward.sum(axis=-1),
                length=episodes.valid.sum(axis=-1, dtype=jnp.int32),
                terminal=episodes.terminal.any(axis=-1),
                info={name: values.sum(axis=-1) for name, values in episodes.info.items()},
                first_action=episodes.action[:, 0].astype(jnp.int32),
            )

        return over_slots(play_slot, slots_of(env, n_episodes), jax.random.split(key, n_episodes))

    return evaluate
