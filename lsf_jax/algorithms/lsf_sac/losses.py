"""The losses of LSF-SAC: equations (16), (12), (14) and (15) of the paper, weighted as in its eq. (8).

Zhou, Lan, Aggarwal, "Value Functions Factorization with Latent State Information Sharing in Decentralized Multi-Agent
Policy Gradients"; released code hanhanAnderson/LSF-SAC. Each loss is arithmetic on `Forward`, the outputs of the
networks over one trajectory, and takes as functions what may be read in more than one way (`readings`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lsf_jax.algorithms.lsf_sac import readings
from lsf_jax.algorithms.lsf_sac.networks import Forward, decoded_of
from lsf_jax.engine.distributions import entropy, expectation, mean_over_choosing, probabilities, take_actions
from lsf_jax.engine.learner import Terms
from lsf_jax.engine.returns import discounts, td_lambda, traces
from lsf_jax.networks.messages import kl_to_standard_normal, label_cross_entropy
from lsf_jax.networks.mixers import mix
from lsf_jax.types import Clock, Hyper, Trajectory


def td_loss(
    f: Forward,
    t: Trajectory,
    clock: Clock,
    hyper: Hyper,
    *,
    td_target: readings.TdTarget,
    temperature: readings.Temperature,
) -> Terms:
    """L_TD, eq. (16): ½ (Q_tot(τ, a, m) - y)², y the TD(λ) return of the target mixer's value.

    The online side takes the replayed action, for an expectation over π there (as printed) would leave joint actions
    apart in reward alone indistinguishable. Twins both learn the y of the smaller target, and their losses are added:
    each gets the gradient it had alone, up to the clipping of their common norm (mSAC clips each alone).
    `overestimate_weight` is an extension: OW-QMIX's weighting of these errors (Rashid et al. 2020, eq. 8).
    """
    value, bonus = td_target(f, t, temperature(f.log_alpha, clock, hyper))
    reward, discount = hyper.reward_scale * t.reward, discounts(t.terminal, hyper.discount)
    y = td_lambda(reward, discount, value, traces(t.valid, hyper.trace), bonus)
    error = chosen_total(f, t) - jax.lax.stop_gradient(y)[None]
    weight = jnp.where(error < 0.0, 1.0, hyper.overestimate_weight)
    return {"td": 0.5 * (weight * jnp.square(error)).sum(axis=0)}


def chosen_total(f: Forward, t: Trajectory) -> Float[Array, "critics time"]:
    """Every critic's Q_tot of the actions taken."""
    return mix(f.mixing, jax.vmap(take_actions, in_axes=(0, None))(f.q[:, :-1], t.action))


def message_loss(
    f: Forward,
    t: Trajectory,
    clock: Clock,
    hyper: Hyper,
    *,
    label: readings.Label,
    decoder_logits: readings.DecoderLogits,
    padding: readings.Padding,
) -> Terms:
    """λ1 L_m, eq. (12): cross-entropy of the decoder, and β times the KL of the messages.

    The cross-entropy has the sign of Lemma 1, which eq. (12) prints turned. The release adds an entropy of the
    messages, weighted 1e-9 in all, which is left out here.

    Raises:
      ValueError: there are no messages.
    """
    del clock
    decoded = decoded_of(f)
    cross_entropy = padding(label_cross_entropy(decoder_logits(decoded, t), label(f, t)), t.valid)
    kl = padding(kl_to_standard_normal(decoded.message_mean[:-1]), t.valid)
    return {"message_ce": hyper.lambda_1 * cross_entropy, "message_kl": hyper.lambda_1 * hyper.beta * kl}


def policy_loss(
    f: Forward,
    t: Trajectory,
    clock: Clock,
    hyper: Hyper,
    *,
    f_mix: readings.MixFn,
    temperature: readings.Temperature,
) -> Terms:
    """λ2 L_LP, eq. (14): -f_mix(s, E_π[q - α log π]), its expectation exact over the discrete actions.

    Of twins, each step climbs the smaller of the two mixed soft values, as SAC does; mSAC's code climbs the first
    critic's, so that the other one never counts against an overestimate.
    """
    log_pi, alpha = f.log_pi[:-1], temperature(f.log_alpha, clock, hyper)
    pi = probabilities(log_pi, t.observation.avail[:-1])
    soft_value = jax.vmap(lambda q: expectation(pi, q - alpha * log_pi))(f.q[:, :-1])
    return {"policy": -hyper.lambda_2 * f_mix(f.mixing, soft_value).min(axis=0)}


def temperature_loss(
    f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, target_entropy: readings.TargetEntropy
) -> Terms:
    """J(α), eq. (15): α-weighted H(π) - H0, on log α as in the released code, so that its gradient is H(π) - H0.

    A mean over the agents that have a choice, where the release sums over all: those with a single available action
    (the dead, the frozen) have no entropy to steer.
    """
    del clock
    log_pi, avail = f.log_pi[:-1], t.observation.avail[:-1]
    excess = entropy(probabilities(log_pi, avail), log_pi) - target_entropy(avail, hyper)
    return {"temperature": f.log_alpha * jax.lax.stop_gradient(mean_over_choosing(excess, avail))}
