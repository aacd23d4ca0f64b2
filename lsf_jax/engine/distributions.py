"""Policies over discrete actions with availability: probabilities, sampling, greedy choice, entropy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lsf_jax.envs import chance
from lsf_jax.types import PRNGKey

TINY = 1e-10
"""Smallest probability of which a logarithm is taken."""
NEVER = -1e10
"""Logit of an unavailable action: finite, so that gradients of a row are finite; exp of it is exactly zero."""


def masked_log_softmax(
    logits: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"]
) -> Float[Array, "*lead actions"]:
    """Log π over available actions; unavailable ones get 0, not -inf, so that π log π never multiplies 0 by ∞.

    Pair it with `probabilities`, which zeroes them.
    """
    log_pi = jax.nn.log_softmax(jnp.where(avail, logits, NEVER), axis=-1)
    return jnp.where(avail, log_pi, 0.0)


def probabilities(
    log_pi: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"]
) -> Float[Array, "*lead actions"]:
    """π from `masked_log_softmax`, exactly zero where unavailable."""
    return jnp.where(avail, jnp.exp(log_pi), 0.0)


def mix_uniform(
    pi: Float[Array, "*lead actions"],
    avail: Bool[Array, "*lead actions"],
    epsilon: Float[Array, ""] | Float[Array, "*lead 1"],
) -> Float[Array, "*lead actions"]:
    """(1 - ε) π + ε · uniform over available actions, exactly zero elsewhere: exploration as part of the policy.

    Unlike ε that only acting knows, log π, its gradients and expectations see it. `pi` must sum to one over available
    actions.
    """
    n_available = jnp.maximum(avail.sum(axis=-1, keepdims=True), 1).astype(pi.dtype)
    return jnp.where(avail, (1.0 - epsilon) * pi + epsilon / n_available, 0.0)


def epsilon_over_available(
    logits: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"], epsilon: Float[Array, ""]
) -> Float[Array, "*lead 1"]:
    """The ε′ of a floor over available actions that equals a floor ε over all of them, the available renormalised.

        ε′ = ε u / ((1 - ε) p + ε u),   u = n / A the available share of the uniform policy,
                                        p = Σ_available softmax(logits) that of the policy over all actions

    So the agent explores the more, the more probability its logits put on what it cannot do. Written so that where both
    vanish (ε = 0, and p too small for a float32) nothing is divided by zero: ε′ = 0 there.
    """
    share = avail.sum(axis=-1, keepdims=True).astype(logits.dtype) * (1.0 / logits.shape[-1])
    likely = jnp.where(avail, jax.nn.softmax(logits, axis=-1), 0.0).sum(axis=-1, keepdims=True)
    return epsilon * share / jnp.maximum((1.0 - epsilon) * likely + epsilon * share, TINY)


def soft_value(
    q: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"], alpha: Float[Array, ""]
) -> Float[Array, "*lead"]:
    """V = α log Σ_a exp(q(a) / α) over available actions; at least their maximum, and at most α log A above it.

    Its gradient is the softmax of q / α, zero where unavailable.
    """
    return alpha * jax.nn.logsumexp(jnp.where(avail, q * (1.0 / alpha), NEVER), axis=-1)


def expectation(pi: Float[Array, "*lead actions"], values: Float[Array, "*lead actions"]) -> Float[Array, "*lead"]:
    """E_{a~π}[values], exact over the discrete actions."""
    return (pi * values).sum(axis=-1)


def greedy(values: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"]) -> Int[Array, "*lead"]:
    """Best available action; ties go to the lower index, and a row with none available gives 0."""
    return jnp.where(avail, values, -jnp.inf).argmax(axis=-1).astype(jnp.int32)


def take_actions(values: Float[Array, "*lead actions"], action: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
    """values[..., action] for every leading index.

    A one-hot product, not a gather: the gather's backward pass is a scatter-add, serial on CPUs and contended (and
    non-deterministic) on GPUs, and A is small. Only finite values may be passed.
    """
    return (values * jax.nn.one_hot(action, values.shape[-1])).sum(axis=-1)


def best_value(values: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"]) -> Float[Array, "*lead"]:
    """The largest value of an available action; finite also where none is available."""
    return take_actions(values, greedy(values, avail))


def sample_rows(
    log_pi: Float[Array, "rows agents actions"], avail: Bool[Array, "rows agents actions"], keys: Key[Array, "rows"]
) -> Int[Array, "rows agents"]:
    """`sample` with a key for each row."""
    return jax.vmap(sample)(log_pi, avail, keys)


def split_rows(keys: Key[Array, "rows"], n: int) -> tuple[Key[Array, "rows"], ...]:
    """`n` keys for each row, one after another."""
    return tuple(jnp.moveaxis(jax.vmap(lambda key: chance.split(key, n))(keys), 1, 0))


def sample(
    log_pi: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"], key: PRNGKey
) -> Int[Array, "*lead"]:
    """An available action a ~ π."""
    logits = jnp.where(avail, log_pi, -jnp.inf)
    return jnp.argmax(chance.gumbel(key, *logits.shape) + logits, axis=-1).astype(jnp.int32)


def entropy(pi: Float[Array, "*lead actions"], log_pi: Float[Array, "*lead actions"]) -> Float[Array, "*lead"]:
    """H(π) in nats."""
    return -(pi * log_pi).sum(axis=-1)


def log_of(
    pi: Float[Array, "*lead agents actions"], avail: Bool[Array, "*lead agents actions"]
) -> Float[Array, "*lead agents actions"]:
    """Log π of probabilities, zero where unavailable; finite, with its gradient, for any π."""
    return jnp.where(avail, jnp.log(jnp.maximum(pi, TINY)), 0.0)


def mean_over_choosing(
    values: Float[Array, "time agents"], avail: Bool[Array, "time agents actions"]
) -> Float[Array, "time"]:
    """Mean over the agents that have a choice (not the dead, not the frozen); 0 where nobody has."""
    has_choice = avail.sum(axis=-1) > 1
    count = jnp.maximum(has_choice.sum(axis=-1).astype(jnp.float32), 1.0)
    return jnp.where(has_choice, values, 0.0).sum(axis=-1) / count


def entropy_of_choices(
    pi: Float[Array, "time agents actions"],
    log_pi: Float[Array, "time agents actions"],
    avail: Bool[Array, "time agents actions"],
) -> Float[Array, "time"]:
    """Mean entropy, in nats, of the agents that have a choice."""
    return mean_over_choosing(entropy(pi, log_pi), avail)
