"""LSF-SAC: value factorisation with latent state information sharing, as a multi-agent discrete soft actor-critic.

Zhou, Lan, Aggarwal, "Value Functions Factorization with Latent State Information Sharing in Decentralized Multi-Agent
Policy Gradients"; released code hanhanAnderson/LSF-SAC. Where the two disagree a setting chooses; the presets `paper`
and `release` (configs/preset) hold each side. The paper's ablations are the same code with other settings: `masac`
(no messages), `masac_double_q` (twin critics besides), `lsf_sac_fixed_alpha`.

Read it as: what the networks say (`Forward` in `lsf_sac_networks`), the four losses (eqs 16, 12, 14, 15), what people
see, and the binding (`lsf_sac`). The actor alone acts and messages exist in the critic only, which is CTDE; the setting
`communicate` breaks that on purpose.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.algorithms.base import (
    agent_acting,
    first_inputs,
    hyper_of,
    init_agent,
    joint_actions,
    off_policy,
    utility_metrics,
)
from lsf_jax.algorithms.lsf_sac.config import DoubleSoftConfig, FixedAlphaConfig, LsfSacConfig, SoftConfig
from lsf_jax.algorithms.lsf_sac.networks import (
    OWNS,
    Decoded,
    Forward,
    Networks,
    acting_outputs,
    communicates,
    criticise,
    exchange,
    forward,
    init_params,
    make_networks,
    mixings,
    policy_params,
)
from lsf_jax.engine.buffers import ObserveFn
from lsf_jax.engine.distributions import (
    NEVER,
    entropy,
    expectation,
    greedy,
    masked_log_softmax,
    mean_over_choosing,
    probabilities,
    take_actions,
)
from lsf_jax.engine.exploration import BEHAVIOURS
from lsf_jax.engine.learner import Learner, Terms, hard_copy, make_update
from lsf_jax.engine.optimizers import adam, make_optimizer
from lsf_jax.engine.returns import discounts, td_lambda, traces
from lsf_jax.networks.agents import zero_hidden
from lsf_jax.networks.messages import decoder_hits, kl_to_standard_normal, label_cross_entropy
from lsf_jax.networks.mixers import mix
from lsf_jax.registry import Entry
from lsf_jax.types import AgentState, Algorithm, Clock, EnvSpec, Hyper, JointTable, Observation, PRNGKey, Trajectory

CEILING, CEILING_UNTIL = 0.999, 2_000_000  # release max_q_learner.py: α at most this while env steps are below
FLOOR, FLOOR_FROM = 0.19, 3_000_000  # α at least this once env steps are past
TABLE_DRAWS = 256  # message samples averaged in `joint_table`


def temperature(log_alpha: Array, clock: Clock, hyper: Hyper, cfg: SoftConfig) -> Float[Array, ""]:
    """α: learned or fixed, with the release's clamps on request."""
    alpha = jnp.exp(log_alpha) if cfg.learn_temperature else hyper.alpha
    if cfg.alpha_clamps:
        alpha = jnp.where(clock.env_steps < CEILING_UNTIL, jnp.minimum(alpha, CEILING), alpha)
        alpha = jnp.where(clock.env_steps > FLOOR_FROM, jnp.maximum(alpha, FLOOR), alpha)
    return alpha


def bootstrap_values(
    target_q: Float[Array, "time agents actions"],
    q: Float[Array, "time agents actions"],
    f: Forward,
    t: Trajectory,
    alpha: Array,
    cfg: SoftConfig,
) -> Float[Array, "time agents"]:
    """Each agent's value at t+1 that one target mixer mixes, in the modes of reference 3.4.

    The paper's max over a* and expectation over π cannot both hold. `greedy_actor` takes a* = argmax π, as the released
    code does; `critic_max` and `double_q` take the maximum over the target's or the online critic's values; `expected`
    takes the expectation; `soft_expected` adds the entropy that eq. (13) would imply; `sampled` takes a' ~ π, one draw
    for both twins (Ablation 4).

    Args:
      target_q: one critic's target utilities at t+1.
      q: its online utilities at t+1.
      f: for the policy and its sample.
      t: for what is available.
      alpha: temperature.
      cfg: settings.
    """
    avail, log_pi = t.observation.avail[1:], f.log_pi[1:]
    if cfg.td_target in ("expected", "soft_expected"):
        bonus = alpha * log_pi if cfg.td_target == "soft_expected" else jnp.zeros_like(log_pi)
        return expectation(probabilities(log_pi, avail), target_q - bonus)
    if cfg.td_target == "sampled":
        return take_actions(target_q, f.next_action)
    judge = {"greedy_actor": log_pi, "critic_max": target_q, "double_q": q}[cfg.td_target]
    return take_actions(target_q, greedy(judge, avail))


def next_values(f: Forward, t: Trajectory, alpha: Array, cfg: SoftConfig) -> Float[Array, "time"]:
    """v(t+1): what the target mixer makes of it, the smaller of two where there are twins."""
    one = jax.vmap(lambda target_q, q: bootstrap_values(target_q, q, f, t, alpha, cfg))
    return mix(f.next_mixing, one(f.target_q[:, 1:], f.q[:, 1:])).min(axis=0)


def chosen_total(f: Forward, t: Trajectory) -> Float[Array, "critics time"]:
    """Every critic's Q_tot of the actions taken."""
    return mix(f.mixing, jax.vmap(take_actions, in_axes=(0, None))(f.q[:, :-1], t.action))


def critic_loss(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: SoftConfig) -> Terms:
    """TD loss of the factored critic, eq. (16), and the message loss λ1 · eq. (12) where there are messages.

    ½ (Q_tot(τ, a, m) - y)², y the TD(λ) return of the target mixer's value; the online side takes the replayed action,
    for an expectation over π there (as printed) would leave joint actions apart in reward alone indistinguishable.
    There is no entropy in the target unless td_target is soft_expected: the critic is an ordinary Q-function. There,
    what entropy adds to the mixed value is the return's bonus, so that it counts whole for any λ.
    Twins both learn the y of the smaller target, and their losses are added: each gets the gradient it had alone, up
    to the clipping of their common norm (mSAC clips each alone).
    `overestimate_weight` is an extension: OW-QMIX's weighting of these errors (Rashid et al. 2020, eq. 8).
    """
    alpha = temperature(f.log_alpha, clock, hyper, cfg)
    value, bonus = next_values(f, t, alpha, cfg), None
    if cfg.td_target == "soft_expected":
        soft, value = value, next_values(f, t, jnp.zeros_like(alpha), cfg)
        bonus = soft - value
    target = td_lambda(
        hyper.reward_scale * t.reward,
        discounts(t.terminal, hyper.discount),
        value,
        traces(t.valid, hyper.trace),
        bonus,
    )
    error = chosen_total(f, t) - jax.lax.stop_gradient(target)[None]
    weight = jnp.where(error < 0.0, 1.0, hyper.overestimate_weight)
    return {"td": 0.5 * (weight * jnp.square(error)).sum(axis=0), **message_loss(f, t, hyper, cfg)}


def message_loss(f: Forward, t: Trajectory, hyper: Hyper, cfg: SoftConfig) -> Terms:
    """λ1 · eq. (12): cross-entropy of the decoder and KL of the messages; nothing where there are no messages."""
    if f.decoded is None or not isinstance(cfg, LsfSacConfig):
        return {}
    cross_entropy = label_cross_entropy(decoder_log_odds(f.decoded, t, cfg), message_label(f, t, cfg))
    kl = kl_to_standard_normal(f.decoded.message_mean[:-1])
    if not cfg.mask_messages:
        cross_entropy, kl = include_padding(cross_entropy, t.valid), include_padding(kl, t.valid)
    return {"message_ce": hyper.lambda_1 * cross_entropy, "message_kl": hyper.lambda_1 * hyper.beta * kl}


def message_label(f: Forward, t: Trajectory, cfg: LsfSacConfig) -> Float[Array, "time agents actions"]:
    """p(A_j|T) of eq. (12) as probabilities; it never carries a gradient. Of twins, the first critic is asked."""
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    if cfg.label == "actor_soft":
        return jax.lax.stop_gradient(probabilities(log_pi, avail))
    judge = f.target_q[0, :-1] if cfg.label == "critic_greedy" else log_pi
    return jax.nn.one_hot(greedy(judge, avail), avail.shape[-1])


def decoder_log_odds(decoded: Decoded, t: Trajectory, cfg: LsfSacConfig) -> Float[Array, "time agents actions"]:
    """Logits of q_ψ at t = 0..T-1, without unavailable actions if the config says so."""
    logits = decoded.logits[:-1]
    return jnp.where(t.observation.avail[:-1], logits, NEVER) if cfg.decoder_mask else logits


def include_padding(term: Float[Array, "time"], valid: Bool[Array, "time"]) -> Float[Array, "time"]:
    """Moves what padded steps contribute into the first step, which is always valid: the release's unmasked sums.

    Close to the release, not equal: its batches are cut to their longest episode and ours are padded to the limit (one
    length of time, or padding would depend on the other seeds of the block), and a padded row shows it no available
    action where ours shows all.
    """
    return term.at[0].add(jnp.where(valid, 0.0, term).sum())


def policy_loss(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: SoftConfig) -> Terms:
    """Soft policy loss, eq. (14): -f_mix(s, E_π[q - α log π]), its expectation exact over the discrete actions.

    `policy_sign: release` is +f_mix(s, E_π[α log π - q]), which differs where f_mix is not linear: its slope is taken
    at the mirrored point. Of twins, each step climbs the smaller of the two mixed soft values, as SAC does; mSAC's code
    climbs the first critic's, so that the other one never speaks against an overestimate.
    """
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    pi, alpha = probabilities(log_pi, avail), temperature(f.log_alpha, clock, hyper, cfg)
    soft_value = jax.vmap(lambda q: expectation(pi, q - alpha * log_pi))(f.q[:, :-1])
    mixed = -mix(f.mixing, -soft_value) if cfg.policy_sign == "release" else mix(f.mixing, soft_value)
    return {"policy": -hyper.lambda_2 * mixed.min(axis=0)}


def temperature_loss(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: SoftConfig) -> Terms:
    """J(α) = α-weighted H(π) - H0, eq. (15), on log α: its gradient is H(π) - H0.

    Agents with a single available action (the dead, the frozen) have no entropy to steer and are left out. With
    H0 = -A, the release's recipe from continuous control, H - H0 is always positive and α only ever falls.
    """
    del clock
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    if cfg.target_entropy == "minus_n_actions":
        goal = jnp.full(avail.shape[:-1], -float(avail.shape[-1]))
    else:
        goal = hyper.target_entropy_fraction * jnp.log(avail.sum(axis=-1).astype(jnp.float32))
    excess = mean_over_choosing(entropy(probabilities(log_pi, avail), log_pi) - goal, avail)
    return {"temperature": f.log_alpha * jax.lax.stop_gradient(excess)}


def diagnose(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: SoftConfig) -> Terms:
    """Per-step quantities for people, averaged over valid steps; without the weights λ1, β, λ2 of the loss terms.

    Means over critics where there are twins.
    """
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    return {
        "alpha": jnp.full(t.reward.shape, temperature(f.log_alpha, clock, hyper, cfg)),
        "entropy": mean_over_choosing(entropy(probabilities(log_pi, avail), log_pi), avail),
        "q_total": chosen_total(f, t).mean(axis=0),
        **utility_metrics(f.q[:, :-1].mean(axis=0), avail, t.action),
        **message_metrics(f, t, cfg),
        "reward": t.reward,
    }


def message_metrics(f: Forward, t: Trajectory, cfg: SoftConfig) -> Terms:
    """How much messages say and how well they are decoded; nothing where there are none."""
    if f.decoded is None or not isinstance(cfg, LsfSacConfig):
        return {}
    avail, mean, logits = t.observation.avail[:-1], f.decoded.message_mean[:-1], decoder_log_odds(f.decoded, t, cfg)
    label = message_label(f, t, cfg)
    n_messages = mean.shape[1] * mean.shape[2] // cfg.message_dim
    return {
        "kl_per_message": kl_to_standard_normal(mean) / n_messages,
        "decoder_cross_entropy": label_cross_entropy(logits, label) / avail.shape[1],
        "decoder_accuracy": decoder_hits(logits, greedy(label, avail), avail),
    }


def joint_table(
    agent: AgentState, observation: Observation, key: PRNGKey, *, net: Networks, cfg: SoftConfig
) -> JointTable:
    """Utilities, Q_tot of every joint action and π in one first observation, averaged over message noise.

    Of twins, the mean utilities and the smaller Q_tot, which is what learning believes.

    Raises:
      ValueError: if there are more than 4,096 joint actions.
    """
    joint, inputs = joint_actions(*observation.avail.shape), first_inputs(observation)
    params, say = agent.params["critic"], acting_outputs(net, cfg)
    mixing = mixings(net, params, observation.state[None])
    keys = jax.random.split(key, TABLE_DRAWS if net.messenger else 1)

    def value(q: Float[Array, "critics agents actions"], action: Int[Array, "agents"]) -> Float[Array, ""]:
        chosen = jax.vmap(take_actions, in_axes=(0, None))(q, action)
        return mix(mixing, chosen[:, None])[:, 0].min()

    def criticism(key_draw: PRNGKey) -> tuple[Array, Array]:
        q = criticise(net, params, inputs, exchange(net, params, inputs, key_draw))[:, 0]
        return q.mean(axis=0), jax.vmap(partial(value, q))(joint)

    def policy(key_draw: PRNGKey) -> Float[Array, "agents actions"]:
        hidden = zero_hidden(inputs.shape[1], cfg.hidden)
        _, logits = say(policy_params(net, agent), hidden, inputs[0], key_draw)
        return probabilities(masked_log_softmax(logits, observation.avail), observation.avail)

    utilities, q_total = jax.vmap(criticism)(keys)
    drawn = jax.vmap(policy)(keys if communicates(net) else keys[:1])
    total = q_total.mean(axis=0)
    return JointTable(utilities.mean(axis=0), total, drawn.mean(axis=0), joint_value=total)


def learning_rates(hyper: Hyper) -> dict[str, Array]:
    """Step sizes by parameter group."""
    return {"critic": hyper.lr, "actor": hyper.actor_lr, "temperature": hyper.alpha_lr}


def lsf_sac(spec: EnvSpec, cfg: SoftConfig, observe: ObserveFn, *, name: str = "lsf_sac") -> Algorithm:
    """Bind LSF-SAC or one of its ablations for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings; a `LsfSacConfig` has messages, a `SoftConfig` that is none has not.
      observe: turns a stored episode into a trajectory.
      name: registered name.

    Raises:
      ConfigError: if actors shall read messages of an encoder with history.
    """
    net = make_networks(spec, cfg)
    optimizers = {
        "critic": make_optimizer(cfg.optimizer, cfg.grad_clip, cfg.optimizer_epsilon),
        "actor": make_optimizer(cfg.optimizer, cfg.actor_clip, cfg.optimizer_epsilon),
        "temperature": adam(0.0) if cfg.learn_temperature else optax.set_to_zero(),
    }
    learner = Learner(
        forward=partial(forward, net=net, cfg=cfg),
        losses={
            "critic": partial(critic_loss, cfg=cfg),
            "actor": partial(policy_loss, cfg=cfg),
            "temperature": partial(temperature_loss, cfg=cfg),
        },
        owns=OWNS,
        diagnose=partial(diagnose, cfg=cfg),
        optimizers=optimizers,
        learning_rates=learning_rates,
    )

    def init(key: PRNGKey, hyper: Hyper) -> AgentState:
        return init_agent(init_params(net, spec, key, hyper.alpha), optimizers, ("critic",))

    acting = agent_acting(spec, cfg.hidden, acting_outputs(net, cfg), BEHAVIOURS[cfg.behaviour])
    return Algorithm(
        name=name,
        hyper=hyper_of(cfg),
        init=init,
        policy_params=partial(policy_params, net),
        replay=off_policy(cfg.batch_size),
        update=make_update(learner, observe),
        refresh=hard_copy(cfg.target_interval, ("critic",)),
        joint_table=partial(joint_table, net=net, cfg=cfg),
        reads_padding=isinstance(cfg, LsfSacConfig) and not cfg.mask_messages,
        **acting._asdict(),
    )


ENTRIES = (
    Entry(
        name="lsf_sac",
        config=LsfSacConfig,
        factory=partial(lsf_sac, name="lsf_sac"),
        doc="LSF-SAC: soft actor-critic with a monotone critic that reads messages; tuned for predator-prey on a CPU",
    ),
    Entry(
        name="lsf_sac_fixed_alpha",
        config=FixedAlphaConfig,
        factory=partial(lsf_sac, name="lsf_sac_fixed_alpha"),
        doc="LSF-SAC_Fixed_alpha (Ablation 2): LSF-SAC whose temperature stays 1",
    ),
    Entry(
        name="masac",
        config=SoftConfig,
        factory=partial(lsf_sac, name="masac"),
        doc="MASAC (Ablations 1 and 3): LSF-SAC without messages, the same protocol",
    ),
    Entry(
        name="masac_double_q",
        config=DoubleSoftConfig,
        factory=partial(lsf_sac, name="masac_double_q"),
        doc="MASAC_DoubleQ (Ablation 4): MASAC with twin critics, targets of sampled actions and the smaller Q_tot",
    ),
)
