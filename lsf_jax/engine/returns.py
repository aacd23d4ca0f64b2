"""Returns and targets of one trajectory: numbers in, numbers out. Lift with `vmap`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lsf_jax.platforms import is_cpu


def td_lambda(
    reward: Float[Array, "time"],
    discount: Float[Array, "time"],
    next_value: Float[Array, "time"],
    trace: Float[Array, "time"],
    next_bonus: Float[Array, "time"] | None = None,
) -> Float[Array, "time"]:
    """λ-return of one trajectory, computed backwards.

        Gₜ = rₜ + γₜ [bₜ₊₁ + (1 - λₜ) vₜ₊₁ + λₜ Gₜ₊₁],   G_T = v_T

    With `next_value` the greedy value this is Peng's Q(λ); with the value of the action taken, Sarsa(λ). With the
    entropy bonus of soft values as b, v and G are values of actions and b + v, b + G those of the policy there: added
    to v alone, the bonus would count for 1 - λ of its size.

    Args:
      reward: rₜ, received after the action of step t.
      discount: γₜ, zero where the game ended at step t (a time limit does not end it).
      next_value: v of the observation after step t.
      trace: λₜ in [0, 1]; 0 is the one-step target. Zero at the episode's last step, so that a time limit bootstraps
        from v and nothing from the padding leaks in (see `traces`).
      next_bonus: b of the observation after step t, in whatever way its value is estimated; none if left out.

    Returns:
      Gₜ for t = 0..T-1. Not detached: the caller decides.

    Reference: Sutton & Barto (2018), §12.1. Differs from pymarl2's `build_td_lambda_targets`, which starts the
      recursion at the end of the padded batch and is right only where every truncated episode fills it.
    """
    if next_bonus is not None:
        reward = reward + jnp.where(discount > 0.0, discount * next_bonus, 0.0)
    # Products with zero are left out, not taken: what follows an episode's end may be anything, NaN included.
    one_step = jnp.where(trace < 1.0, (1.0 - trace) * next_value, 0.0)
    own = reward + jnp.where(discount > 0.0, discount * one_step, 0.0)
    weight = discount * trace  # of what follows
    return (_sums_in_a_loop if is_cpu() else _sums_by_doubling)(own, weight, next_value[-1])


def _sums_in_a_loop(own: Array, weight: Array, last: Array) -> Array:
    """Gₜ = ownₜ + weightₜ Gₜ₊₁, one after another, from G_T = `last`."""

    def step(following: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        present = row[0] + jnp.where(row[1] > 0.0, row[1] * following, 0.0)
        return present, present

    return jax.lax.scan(step, last, (own, weight), reverse=True)[1]


def _sums_by_doubling(own: Array, weight: Array, last: Array) -> Array:
    """As `_sums_in_a_loop`, in as many steps as T has binary digits: on accelerators a step costs, not its width.

    After a step with distance d every sum has 2d terms, and its weight is that of what follows these.
    """
    total = jnp.append(own, last)
    weight = jnp.append(weight, 0.0)
    distance = 1
    while distance < total.shape[0]:
        later = lambda values, by=distance: jnp.pad(values[by:], (0, by))
        total = total + jnp.where(weight > 0.0, weight * later(total), 0.0)
        weight = weight * later(weight)
        distance *= 2
    return total[:-1]


def tree_backup(
    reward: Float[Array, "time"],
    discount: Float[Array, "time"],
    q: Float[Array, "time"],
    next_value: Float[Array, "time"],
    trace: Float[Array, "time"],
    *,
    n_steps: int,
) -> Float[Array, "time"]:
    """n-step tree backup of one trajectory: off-policy, without importance ratios.

        δₜ = rₜ + γₜ vₜ₊₁ - qₜ,   Gₜ = qₜ + Σ_{l=0}^{n-1} (Π_{j=1}^{l} γₜ₊ⱼ₋₁ cₜ₊ⱼ) δₜ₊ₗ

    Unlike in `td_lambda` the trace of a step belongs to the action taken *there*: cₜ₊₁ says how much of step t+1's
    correction reaches step t; c₀ is not used.

    Args:
      reward: rₜ, received after the action of step t.
      discount: γₜ, zero where the game ended at step t (a time limit does not end it).
      q: value of the action taken at step t.
      next_value: E_π[q] of the observation after step t.
      trace: cₜ = λ π(uₜ), for several agents λ Πᵢ πᵢ(uᵢₜ). Zero in the padding, so that a time limit bootstraps from
        vₜ₊₁ and nothing from the padding leaks in.
      n_steps: n, corrections that are summed; 1 is expected Sarsa.

    Returns:
      Gₜ for t = 0..T-1. Not detached: the caller decides.

    Reference: Precup, Sutton, Singh (2000); Munos et al. (2016), Tree-backup(λ) of table 1. DOP (Wang et al., 2021) has
      n = 5.
    """
    error = reward + jnp.where(discount > 0.0, discount * next_value, 0.0) - q
    next_trace = jnp.append(trace[1:], 0.0)
    weight = jnp.where((discount > 0.0) & (next_trace > 0.0), discount * next_trace, 0.0)  # γₜ cₜ₊₁
    total = error
    for _ in range(n_steps - 1):
        # What has no weight is left out, not multiplied by 0: after an episode's end it may be anything, NaN included.
        total = error + weight * jnp.where(weight > 0.0, jnp.append(total[1:], 0.0), 0.0)
    return q + total


def discounts(terminal: Bool[Array, "time"], discount: Float[Array, ""]) -> Float[Array, "time"]:
    """γₜ: the discount, zero where the game ended."""
    return jnp.where(terminal, 0.0, discount)


def traces(valid: Bool[Array, "time"], trace: Float[Array, ""]) -> Float[Array, "time"]:
    """λₜ: the trace, zero at the last valid step and after it."""
    next_valid = jnp.append(valid[1:], False)
    return jnp.where(next_valid, trace, 0.0)
