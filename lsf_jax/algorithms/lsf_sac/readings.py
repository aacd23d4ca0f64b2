"""The readings of the paper's equations between which settings choose, each a function.

Paper and released code leave some things open and contradict each other in others. The binding looks a setting up in
its table here, once, and the losses call what it found; a table's keys are the values that its setting may have.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lsf_jax.algorithms.lsf_sac.networks import Decoded, Forward, Weights
from lsf_jax.engine.distributions import NEVER, best_value, expectation, greedy, probabilities, take_actions
from lsf_jax.networks.mixers import mix
from lsf_jax.types import Clock, Hyper, Trajectory

CEILING, CEILING_UNTIL = 0.999, 2_000_000  # release max_q_learner.py: α at most this while env steps are below
FLOOR, FLOOR_FROM = 0.19, 3_000_000  # α at least this once env steps are past

Temperature: TypeAlias = Callable[[Array, Clock, Hyper], Array]
"""`(log α, clock, hyper) -> α`."""


def learned_temperature(log_alpha: Array, clock: Clock, hyper: Hyper) -> Float[Array, ""]:
    """α of eq. (15). The release's very first update has α = 0.2 instead: its α is set after the losses."""
    del clock, hyper
    return jnp.exp(log_alpha)


def fixed_temperature(log_alpha: Array, clock: Clock, hyper: Hyper) -> Float[Array, ""]:
    """The setting `alpha`, throughout."""
    del log_alpha, clock
    return hyper.alpha


def clamped_temperature(temperature: Temperature, log_alpha: Array, clock: Clock, hyper: Hyper) -> Float[Array, ""]:
    """Another reading's α between the release's bounds, which depend on env steps."""
    alpha = temperature(log_alpha, clock, hyper)
    alpha = jnp.where(clock.env_steps < CEILING_UNTIL, jnp.minimum(alpha, CEILING), alpha)
    return jnp.where(clock.env_steps > FLOOR_FROM, jnp.maximum(alpha, FLOOR), alpha)


NextUtilities: TypeAlias = Callable[[Array, Array, Forward, Trajectory], Array]
"""`(target_q, q, f, t) -> [T, N]`: each agent's value at t+1, from one critic's utilities `[T, N, A]` there."""
TdTarget: TypeAlias = Callable[[Forward, Trajectory, Array], tuple[Array, Array | None]]
"""`(f, t, α) -> (v, b)`: the value that eq. (16) bootstraps from at t+1 `[T]`, and the entropy's part if it has one.

The paper's max over a* and expectation over π cannot both hold; what else it may mean is told in reference 3.4.
"""


def greedy_actor_values(target_q: Array, q: Array, f: Forward, t: Trajectory) -> Float[Array, "time agents"]:
    """a* = argmax π, as in the released code."""
    del q
    return take_actions(target_q, greedy(f.log_pi[1:], t.observation.avail[1:]))


def critic_max_values(target_q: Array, q: Array, f: Forward, t: Trajectory) -> Float[Array, "time agents"]:
    """a* = argmax of the target utilities themselves."""
    del q, f
    return best_value(target_q, t.observation.avail[1:])


def double_q_values(target_q: Array, q: Array, f: Forward, t: Trajectory) -> Float[Array, "time agents"]:
    """a* = argmax of the online utilities."""
    del f
    return take_actions(target_q, greedy(q, t.observation.avail[1:]))


def expected_values(target_q: Array, q: Array, f: Forward, t: Trajectory) -> Float[Array, "time agents"]:
    """E_π[q'], exact over the discrete actions."""
    del q
    return expectation(probabilities(f.log_pi[1:], t.observation.avail[1:]), target_q)


def soft_expected_values(
    target_q: Array, q: Array, f: Forward, t: Trajectory, *, alpha: Array
) -> Float[Array, "time agents"]:
    """E_π[q' - α log π]."""
    return expected_values(target_q - alpha * f.log_pi[1:], q, f, t)


def sampled_values(target_q: Array, q: Array, f: Forward, t: Trajectory) -> Float[Array, "time agents"]:
    """One draw a' ~ π, the same for both twins (Ablation 4)."""
    del q, t
    return take_actions(target_q, f.next_action)


def next_total(f: Forward, t: Trajectory, *, utilities: NextUtilities) -> Float[Array, "time"]:
    """v(t+1): the target mixer's value of the agents' values, the smaller of two where there are twins."""
    each = jax.vmap(lambda target_q, q: utilities(target_q, q, f, t))(f.target_q[:, 1:], f.q[:, 1:])
    return mix(f.next_mixing, each).min(axis=0)


def hard_target(
    f: Forward, t: Trajectory, alpha: Array, *, utilities: NextUtilities
) -> tuple[Float[Array, "time"], None]:
    """No entropy in the target: the critic is an ordinary Q-function."""
    del alpha
    return next_total(f, t, utilities=utilities), None


def soft_target(f: Forward, t: Trajectory, alpha: Array) -> tuple[Float[Array, "time"], Float[Array, "time"]]:
    """The entropy that eq. (13) would imply: what it adds to the mixed value is the return's bonus, whole for any λ."""
    soft = next_total(f, t, utilities=partial(soft_expected_values, alpha=alpha))
    value = next_total(f, t, utilities=expected_values)
    return value, soft - value


TD_TARGETS: dict[str, TdTarget] = {
    "greedy_actor": partial(hard_target, utilities=greedy_actor_values),
    "critic_max": partial(hard_target, utilities=critic_max_values),
    "double_q": partial(hard_target, utilities=double_q_values),
    "expected": partial(hard_target, utilities=expected_values),
    "soft_expected": soft_target,
    "sampled": partial(hard_target, utilities=sampled_values),
}

Label: TypeAlias = Callable[[Forward, Trajectory], Array]
"""`(f, t) -> [T, N, A]`: p(A_j|T) of eq. (12) as probabilities, without a gradient."""


def critic_greedy_label(f: Forward, t: Trajectory) -> Float[Array, "time agents actions"]:
    """The best action by the target critic, of twins the first."""
    avail = t.observation.avail[:-1]
    return jax.nn.one_hot(greedy(f.target_q[0, :-1], avail), avail.shape[-1])


def actor_greedy_label(f: Forward, t: Trajectory) -> Float[Array, "time agents actions"]:
    """The policy's most probable action."""
    avail = t.observation.avail[:-1]
    return jax.nn.one_hot(greedy(f.log_pi[:-1], avail), avail.shape[-1])


def actor_soft_label(f: Forward, t: Trajectory) -> Float[Array, "time agents actions"]:
    """The policy itself."""
    return jax.lax.stop_gradient(probabilities(f.log_pi[:-1], t.observation.avail[:-1]))


LABELS: dict[str, Label] = {
    "critic_greedy": critic_greedy_label,
    "actor_greedy": actor_greedy_label,
    "actor_soft": actor_soft_label,
}

DecoderLogits: TypeAlias = Callable[[Decoded, Trajectory], Array]
"""`(decoded, t) -> [T, N, A]`: logits of q_ψ at t = 0..T-1."""


def logits_of_all(decoded: Decoded, t: Trajectory) -> Float[Array, "time agents actions"]:
    """The decoder is told nothing of availability, as in the released code."""
    del t
    return decoded.logits[:-1]


def logits_of_available(decoded: Decoded, t: Trajectory) -> Float[Array, "time agents actions"]:
    """Unavailable actions are left out of the decoder's softmax."""
    return jnp.where(t.observation.avail[:-1], decoded.logits[:-1], NEVER)


Padding: TypeAlias = Callable[[Array, Array], Array]
"""`(term [T], valid [T]) -> [T]`: a term whose sum over valid steps is what shall be counted."""


def leave_out_padding(term: Float[Array, "time"], valid: Bool[Array, "time"]) -> Float[Array, "time"]:
    """The term as it is: the engine sums over valid steps alone."""
    del valid
    return term


def include_padding(term: Float[Array, "time"], valid: Bool[Array, "time"]) -> Float[Array, "time"]:
    """Moves what padded steps contribute into the first step, which is always valid: the release's unmasked sums.

    Close to the release, not equal: its batches are cut to their longest episode and ours are padded to the limit (one
    length of time, or padding would depend on the other seeds of the block); a padded row shows it no available action
    where ours shows all, and no last action where ours shows action 0.
    """
    return term.at[0].add(jnp.where(valid, 0.0, term).sum())


MixFn: TypeAlias = Callable[[Weights, Array], Array]
"""f_mix: `(weights, values [..., N]) -> [...]`."""


def mix_mirrored(mixing: Weights, values: Float[Array, "*lead agents"]) -> Float[Array, "*lead"]:
    """-f_mix(-x), the release's: equal to f_mix(x) where f_mix is linear; elsewhere the slope at the mirrored point."""
    return -mix(mixing, -values)


POLICY_SIGNS: dict[str, MixFn] = {"paper": mix, "release": mix_mirrored}

TargetEntropy: TypeAlias = Callable[[Array, Hyper], Array]
"""`(avail [T, N, A], hyper) -> [T, N]`: H0 of eq. (15)."""


def fraction_of_largest(avail: Bool[Array, "time agents actions"], hyper: Hyper) -> Float[Array, "time agents"]:
    """A share of log |available actions|, the entropy of the uniform policy."""
    return hyper.target_entropy_fraction * jnp.log(avail.sum(axis=-1).astype(jnp.float32))


def minus_n_actions(avail: Bool[Array, "time agents actions"], hyper: Hyper) -> Float[Array, "time agents"]:
    """-A, the release's recipe from continuous control: H - H0 is always positive and α only ever falls."""
    del hyper
    return jnp.full(avail.shape[:-1], -float(avail.shape[-1]))


TARGET_ENTROPIES: dict[str, TargetEntropy] = {"fraction": fraction_of_largest, "minus_n_actions": minus_n_actions}
