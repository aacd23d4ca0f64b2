"""How agents explore: schedules, and the ways in which the outputs of their network choose actions."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.engine import distributions
from lsf_jax.envs import chance
from lsf_jax.types import Clock, Hyper, Observation, PRNGKey

Behave: TypeAlias = Callable[[Array, Observation, PRNGKey, Clock, Hyper], Array]
"""`(logits or utilities [N, A], observation, key, clock, hyper) -> actions [N]`; who binds an algorithm chooses one."""
Policy: TypeAlias = Callable[[Array, Array, Clock, Hyper], tuple[Array, Array]]
"""`(logits [..., N, A], avail [..., N, A], clock, hyper) -> (π, log π)`: the policy that a loss learns."""


def epsilon_greedy(
    values: Float[Array, "agents actions"],
    avail: Bool[Array, "agents actions"],
    epsilon: Float[Array, ""],
    key: PRNGKey,
) -> Int[Array, "agents"]:
    """With probability ε, drawn for each agent apart, a uniform available action; otherwise the greedy one."""
    key_explore, key_action = chance.split(key)
    uniform = distributions.sample(jnp.zeros_like(values), avail, key_action)
    explore = chance.uniform(key_explore, *uniform.shape) < epsilon
    return jnp.where(explore, uniform, distributions.greedy(values, avail))


def linear_schedule(
    start: Float[Array, ""], finish: Float[Array, ""], anneal_steps: Float[Array, ""], env_steps: Int[Array, ""]
) -> Float[Array, ""]:
    """From `start` to `finish` over `anneal_steps` env steps, then constant (pymarl's ε schedule)."""
    progress = jnp.clip(env_steps.astype(jnp.float32) / jnp.maximum(anneal_steps, 1.0), 0.0, 1.0)
    return start + (finish - start) * progress


def epsilon_of(clock: Clock, hyper: Hyper) -> Float[Array, ""]:
    """ε at this moment."""
    return linear_schedule(hyper.epsilon_start, hyper.epsilon_finish, hyper.epsilon_anneal, clock.env_steps)


def behave_sample(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """A ~ π (Algorithm 1)."""
    del clock, hyper  # explores by its entropy alone
    log_pi = distributions.masked_log_softmax(logits, observation.avail)
    return distributions.sample(log_pi, observation.avail, key)


def behave_epsilon_greedy(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """ε-greedy on the best utility, or on the argmax of π (the released code)."""
    return epsilon_greedy(logits, observation.avail, epsilon_of(clock, hyper), key)


def behave_epsilon_sample(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """With probability ε, drawn for each agent apart, a uniform available action; otherwise a ~ π."""
    key_epsilon, key_pi = chance.split(key)
    log_pi = distributions.masked_log_softmax(logits, observation.avail)
    chosen = jax.nn.one_hot(distributions.sample(log_pi, observation.avail, key_pi), logits.shape[-1])
    return epsilon_greedy(chosen, observation.avail, epsilon_of(clock, hyper), key_epsilon)


def behave_greedy(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """The most probable available action."""
    del key, clock, hyper  # deterministic
    return distributions.greedy(logits, observation.avail)


BEHAVIOURS: dict[str, Behave] = {
    "sample": behave_sample,
    "epsilon_greedy": behave_epsilon_greedy,
    "epsilon_sample": behave_epsilon_sample,
}
"""By name, as configurations choose."""


def without_floor(logits: Array, avail: Array, clock: Clock, hyper: Hyper) -> tuple[Array, Array]:
    """π = softmax over available actions, whatever ε acting has, as in pymarl2.

    A uniform action then counts as if π had chosen it: while ε is large, the gradient favours what π does often already
    over what is best.
    """
    del clock, hyper
    log_pi = distributions.masked_log_softmax(logits, avail)
    return distributions.probabilities(log_pi, avail), log_pi


def floor_over_available(logits: Array, avail: Array, clock: Clock, hyper: Hyper) -> tuple[Array, Array]:
    """π = (1 - ε) softmax + ε uniform, both over available actions: ours."""
    pi, _ = without_floor(logits, avail, clock, hyper)
    pi = distributions.mix_uniform(pi, avail, epsilon_of(clock, hyper))
    return pi, distributions.log_of(pi, avail)


def floor_over_all(logits: Array, avail: Array, clock: Clock, hyper: Hyper) -> tuple[Array, Array]:
    """π = (1 - ε) softmax + ε uniform, both over all actions, what is available then renormalised: pymarl's.

    pymarl's COMA has it so (`mask_before_softmax: False`), and with it the releases of VDAC and DOP.
    """
    pi, _ = without_floor(logits, avail, clock, hyper)
    epsilon = distributions.epsilon_over_available(logits, avail, epsilon_of(clock, hyper))
    pi = distributions.mix_uniform(pi, avail, epsilon)
    return pi, distributions.log_of(pi, avail)


def behave_floor_over_all(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """A ~ π, the policy of `floor_over_all`."""
    _, log_pi = floor_over_all(logits, observation.avail, clock, hyper)
    return distributions.sample(log_pi, observation.avail, key)


class Floor(NamedTuple):
    """A policy with its ε floor, and how to act by it."""

    policy: Policy
    behave: Behave


FLOORS = {
    "available": Floor(policy=floor_over_available, behave=behave_epsilon_sample),
    "all": Floor(policy=floor_over_all, behave=behave_floor_over_all),
}
"""By the actions over which the floor is taken, as configurations choose."""
