"""LSF-SAC: value factorisation with latent state information sharing, as a multi-agent discrete soft actor-critic.

Zhou, Lan, Aggarwal, "Value Functions Factorization with Latent State Information Sharing in Decentralized Multi-Agent
Policy Gradients"; released code hanhanAnderson/LSF-SAC. Where the two disagree a setting chooses; the presets `paper`
and `release` (configs/preset) hold each side.

Read it as: what the networks say about a trajectory (`Forward`, `forward`), the four
losses (eqs 16, 12, 14, 15), and the binding (`lsf_sac`). The actor alone acts; messages exist in the critic only.
"""

from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from lsf_jax.algorithms.base import Entry, agent_acting, hyper_of
from lsf_jax.algorithms.lsf_sac_config import LsfSacConfig, LsfSacHyper
from lsf_jax.buffers import ObserveFn
from lsf_jax.learner import Learner, Terms, adam, hard_copy, make_update
from lsf_jax.networks.agents import AgentNetwork, agent_inputs, run, shift_actions, zero_hidden
from lsf_jax.networks.messages import (
    MessageDecoder,
    MessageEncoder,
    Route,
    decoder_hits,
    kl_to_standard_normal,
    label_cross_entropy,
    route_broadcast,
    route_per_receiver,
    sample_messages,
)
from lsf_jax.networks.mixers import Mixing, MonotonicHypernetwork, mix
from lsf_jax.policies import (
    NEVER,
    entropy,
    expectation,
    greedy,
    masked_log_softmax,
    probabilities,
    take_actions,
)
from lsf_jax.returns import discounts, td_lambda, traces
from lsf_jax.types import AgentState, Algorithm, Clock, EnvSpec, JointTable, Observation, Params, PRNGKey, Trajectory

LOGIT_RANGE = (-5.0, 2.0)  # release rnn_agent.py
CEILING, CEILING_UNTIL = 0.999, 2_000_000  # release max_q_learner.py: α at most this while env steps are below
FLOOR, FLOOR_FROM = 0.19, 3_000_000  # α at least this once env steps are past
TABLE_DRAWS = 256  # message samples averaged in `joint_table`
LARGEST_TABLE = 4096  # joint actions


class Networks(NamedTuple):
    """Modules of LSF-SAC and the routing of its messages."""

    actor: AgentNetwork
    critic: AgentNetwork
    encoder: MessageEncoder
    decoder: MessageDecoder
    mixer: MonotonicHypernetwork
    route: Route


class Critique(NamedTuple):
    """What the critic's side says about a trajectory."""

    q: Float[Array, "rows agents actions"]
    message_mean: Float[Array, "rows agents sent"]
    decoder_logits: Float[Array, "rows agents actions"]


class Forward(NamedTuple):
    """What the networks say about one trajectory, each run once. Rows are T+1, `mixing` and `next_mixing` T."""

    log_pi: Float[Array, "rows agents actions"]
    critique: Critique
    mixing: Mixing  # of s_t
    target_q: Float[Array, "rows agents actions"]
    next_mixing: Mixing  # target network, of s_{t+1}: eq. (16) prints s_t, which no code uses
    log_alpha: Float[Array, ""]


# Which gradient trains what: the fields of Forward through which each group's parameters may learn (reference 3.7).
OWNS = {"critic": ("critique", "mixing"), "actor": ("log_pi",), "temperature": ("log_alpha",)}


def make_networks(spec: EnvSpec, cfg: LsfSacConfig) -> Networks:
    """The modules that a config asks for."""
    per_receiver = cfg.message_routing == "per_receiver"
    agent = partial(AgentNetwork, cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat)
    sent = cfg.message_dim * (spec.n_agents if per_receiver else 1)
    return Networks(
        actor=agent(),
        critic=agent(),
        encoder=MessageEncoder(cfg.encoder_hidden, sent, history=cfg.encoder_input == "history", remat=cfg.remat),
        decoder=MessageDecoder(cfg.decoder_hidden or 4 * cfg.message_dim * spec.n_agents, spec.n_actions),
        mixer=MonotonicHypernetwork(spec.n_agents, cfg.mixer_embed, cfg.hyper_hidden),
        route=route_per_receiver if per_receiver else route_broadcast,
    )


def init_params(net: Networks, spec: EnvSpec, cfg: LsfSacConfig, key: PRNGKey, alpha: Array) -> dict[str, Params]:
    """Parameters by group: critic {critic, encoder, decoder, mixer}, actor, temperature."""
    keys = jax.random.split(key, 5)
    inputs = jnp.zeros((1, spec.n_agents, spec.obs_dim + spec.n_actions + spec.n_agents))
    received = jnp.zeros((1, spec.n_agents, spec.n_agents * cfg.message_dim))
    hidden = zero_hidden(spec.n_agents, cfg.hidden)
    return {
        "critic": {
            "critic": net.critic.init(keys[0], hidden, inputs, received)["params"],
            "encoder": net.encoder.init(keys[1], inputs)["params"],
            "decoder": net.decoder.init(keys[2], inputs, received)["params"],
            "mixer": net.mixer.init(keys[3], jnp.zeros((1, spec.state_dim)))["params"],
        },
        "actor": net.actor.init(keys[4], hidden, inputs)["params"],
        "temperature": jnp.log(alpha),
    }


def actor_logits(net: Networks, cfg: LsfSacConfig, params: Params, hidden: Array, inputs: Array) -> tuple[Array, Array]:
    """The actor's next hidden state and logits; it sees its own observation and action history only."""
    hidden, logits = run(net.actor, params, hidden, inputs)
    return hidden, jnp.clip(logits, *LOGIT_RANGE) if cfg.logit_clamp else logits


def criticise(net: Networks, cfg: LsfSacConfig, params: Params, inputs: Array, key: PRNGKey) -> Critique:
    """Encode, sample and route messages, then read [x, M] with critic and decoder (paper V.A, V.B)."""
    mean = run(net.encoder, params["encoder"], inputs)
    received = net.route(sample_messages(mean, key))
    critic_reads = received if cfg.td_gradient_to_encoder else jax.lax.stop_gradient(received)
    hidden = zero_hidden(inputs.shape[-2], cfg.hidden)
    _, q = run(net.critic, params["critic"], hidden, inputs, critic_reads)
    logits = run(net.decoder, params["decoder"], inputs, received)
    return Critique(q=q, message_mean=mean, decoder_logits=logits)


def forward(
    params: dict, targets: dict, trajectory: Trajectory, key: PRNGKey, *, net: Networks, cfg: LsfSacConfig
) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0."""
    obs, state, avail = trajectory.observation
    inputs = agent_inputs(obs, shift_actions(trajectory.action), avail.shape[-1])
    key_online, key_target = jax.random.split(key)
    hidden = zero_hidden(obs.shape[1], cfg.hidden)
    _, logits = actor_logits(net, cfg, params["actor"], hidden, inputs)
    return Forward(
        log_pi=masked_log_softmax(logits, avail),
        critique=criticise(net, cfg, params["critic"], inputs, key_online),
        mixing=run(net.mixer, params["critic"]["mixer"], state[:-1]),
        target_q=criticise(net, cfg, targets["critic"], inputs, key_target).q,
        next_mixing=run(net.mixer, targets["critic"]["mixer"], state[1:]),
        log_alpha=params["temperature"],
    )


def temperature(log_alpha: Array, clock: Clock, hyper: LsfSacHyper, cfg: LsfSacConfig) -> Float[Array, ""]:
    """α: learned or fixed, with the release's clamps on request."""
    alpha = jnp.exp(log_alpha) if cfg.learn_temperature else hyper.alpha
    if cfg.alpha_clamps:
        alpha = jnp.where(clock.env_steps < CEILING_UNTIL, jnp.minimum(alpha, CEILING), alpha)
        alpha = jnp.where(clock.env_steps > FLOOR_FROM, jnp.maximum(alpha, FLOOR), alpha)
    return alpha


def bootstrap_values(f: Forward, t: Trajectory, alpha: Array, cfg: LsfSacConfig) -> Float[Array, "time agents"]:
    """Each agent's value at t+1 that the target mixer mixes, in the modes of reference 3.4.

    The paper's max over a* and expectation over π cannot both hold. `greedy_actor` takes a* = argmax π, as the released
    code does; `critic_max` and `double_q` take the maximum over the target's or the online critic's values; `expected`
    takes the expectation; `soft_expected` adds the entropy that eq. (13) would imply.
    """
    avail, target_q, log_pi = t.observation.avail[1:], f.target_q[1:], f.log_pi[1:]
    if cfg.td_target in ("expected", "soft_expected"):
        bonus = alpha * log_pi if cfg.td_target == "soft_expected" else jnp.zeros_like(log_pi)
        return expectation(probabilities(log_pi, avail), target_q - bonus)
    judge = {"greedy_actor": log_pi, "critic_max": target_q, "double_q": f.critique.q[1:]}[cfg.td_target]
    return take_actions(target_q, greedy(judge, avail))


def message_label(f: Forward, t: Trajectory, cfg: LsfSacConfig) -> Float[Array, "time agents actions"]:
    """p(A_j|T) of eq. (12) as probabilities; it never carries a gradient."""
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    if cfg.label == "actor_soft":
        return jax.lax.stop_gradient(probabilities(log_pi, avail))
    judge = f.target_q[:-1] if cfg.label == "critic_greedy" else log_pi
    return jax.nn.one_hot(greedy(judge, avail), avail.shape[-1])


def decoder_log_odds(f: Forward, t: Trajectory, cfg: LsfSacConfig) -> Float[Array, "time agents actions"]:
    """Logits of q_ψ at t = 0..T-1, without unavailable actions if the config says so."""
    logits = f.critique.decoder_logits[:-1]
    return jnp.where(t.observation.avail[:-1], logits, NEVER) if cfg.decoder_mask else logits


def include_padding(term: Float[Array, "time"], valid: Bool[Array, "time"]) -> Float[Array, "time"]:
    """Moves what padded steps contribute into the first step, which is always valid: the release's unmasked sums.

    Close to the release, not equal: its batches are cut to their longest episode and ours are padded to the limit, and
    a padded row shows it no available action where ours shows all.
    """
    return term.at[0].add(jnp.where(valid, 0.0, term).sum())


def critic_loss(f: Forward, t: Trajectory, clock: Clock, hyper: LsfSacHyper, *, cfg: LsfSacConfig) -> Terms:
    """TD loss of the factored critic, eq. (16), and the message loss λ1 · eq. (12).

    ½ (Q_tot(τ, a, m) - y)², y the TD(λ) return of the target mixer's value; the online side takes the replayed action,
    for an expectation over π there (as printed) would leave joint actions apart in reward alone indistinguishable.
    There is no entropy in the target unless td_target is soft_expected: the critic is an ordinary Q-function.
    """
    alpha = temperature(f.log_alpha, clock, hyper, cfg)
    next_value = mix(f.next_mixing, bootstrap_values(f, t, alpha, cfg))
    target = td_lambda(
        hyper.reward_scale * t.reward, discounts(t.terminal, hyper.discount), next_value, traces(t.valid, hyper.trace)
    )
    q_total = mix(f.mixing, take_actions(f.critique.q[:-1], t.action))
    cross_entropy = label_cross_entropy(decoder_log_odds(f, t, cfg), message_label(f, t, cfg))
    kl = kl_to_standard_normal(f.critique.message_mean[:-1])
    if not cfg.mask_messages:
        cross_entropy, kl = include_padding(cross_entropy, t.valid), include_padding(kl, t.valid)
    return {
        "td": 0.5 * jnp.square(q_total - jax.lax.stop_gradient(target)),
        "message_ce": hyper.lambda_1 * cross_entropy,
        "message_kl": hyper.lambda_1 * hyper.beta * kl,
    }


def policy_loss(f: Forward, t: Trajectory, clock: Clock, hyper: LsfSacHyper, *, cfg: LsfSacConfig) -> Terms:
    """Soft policy loss, eq. (14): -f_mix(s, E_π[q - α log π]), its expectation exact over the discrete actions.

    `policy_sign: release` is +f_mix(s, E_π[α log π - q]), which differs where f_mix is not linear: its slope is taken
    at the mirrored point.
    """
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    alpha = temperature(f.log_alpha, clock, hyper, cfg)
    soft_value = expectation(probabilities(log_pi, avail), f.critique.q[:-1] - alpha * log_pi)
    mixed = mix(f.mixing, -soft_value) if cfg.policy_sign == "release" else -mix(f.mixing, soft_value)
    return {"policy": hyper.lambda_2 * mixed}


def temperature_loss(f: Forward, t: Trajectory, clock: Clock, hyper: LsfSacHyper, *, cfg: LsfSacConfig) -> Terms:
    """J(α) = α-weighted H(π) - H0, eq. (15), on log α: its gradient is H(π) - H0.

    Agents with a single available action (the dead, the frozen) have no entropy to steer and are left out. With
    H0 = -A, the release's recipe from continuous control, H - H0 is always positive and α only ever falls.
    """
    del clock
    avail, log_pi = t.observation.avail[:-1], f.log_pi[:-1]
    has_choice = avail.sum(axis=-1) > 1
    if cfg.target_entropy == "minus_n_actions":
        goal = jnp.full(has_choice.shape, -float(avail.shape[-1]))
    else:
        goal = hyper.target_entropy_fraction * jnp.log(avail.sum(axis=-1).astype(jnp.float32))
    excess = entropy(probabilities(log_pi, avail), log_pi) - goal
    per_step = jnp.where(has_choice, excess, 0.0).sum(axis=-1) / jnp.maximum(
        has_choice.sum(axis=-1).astype(jnp.float32), 1.0
    )
    return {"temperature": f.log_alpha * jax.lax.stop_gradient(per_step)}


def diagnose(f: Forward, t: Trajectory, clock: Clock, hyper: LsfSacHyper, *, cfg: LsfSacConfig, net: Networks) -> Terms:
    """Per-step quantities for people, averaged over valid steps; without the weights λ1, β, λ2 of the loss terms."""
    avail, log_pi, q = t.observation.avail[:-1], f.log_pi[:-1], f.critique.q[:-1]
    has_choice = avail.sum(axis=-1) > 1
    entropies = jnp.where(has_choice, entropy(probabilities(log_pi, avail), log_pi), 0.0)
    best = jnp.where(avail, q, -jnp.inf).max(axis=-1)
    worst = jnp.where(avail, q, jnp.inf).min(axis=-1)
    n_messages = f.critique.message_mean.shape[1] * f.critique.message_mean.shape[2] // cfg.message_dim
    label = greedy(message_label(f, t, cfg), avail)
    return {
        "alpha": jnp.full(t.reward.shape, temperature(f.log_alpha, clock, hyper, cfg)),
        "entropy": entropies.sum(axis=-1) / jnp.maximum(has_choice.sum(axis=-1).astype(jnp.float32), 1.0),
        "kl_per_message": kl_to_standard_normal(f.critique.message_mean[:-1]) / n_messages,
        "decoder_cross_entropy": label_cross_entropy(f.critique.decoder_logits[:-1], message_label(f, t, cfg))
        / q.shape[1],
        "decoder_accuracy": decoder_hits(f.critique.decoder_logits[:-1], label, avail),
        "q_total": mix(f.mixing, take_actions(q, t.action)),
        "q_utility": take_actions(q, t.action).mean(axis=-1),
        "q_gap": (best - worst).mean(axis=-1),
        "reward": t.reward,
    }


def joint_table(
    agent: AgentState, observation: Observation, key: PRNGKey, *, net: Networks, cfg: LsfSacConfig
) -> JointTable:
    """Utilities and Q_tot of every joint action in one first observation, averaged over message noise.

    Raises:
      ValueError: if there are more than 4,096 joint actions.
    """
    n_agents, n_actions = observation.avail.shape
    if n_actions**n_agents > LARGEST_TABLE:
        raise ValueError(f"a table of {n_actions}^{n_agents} joint actions is too large (limit {LARGEST_TABLE}).")
    joint = jnp.array(list(product(range(n_actions), repeat=n_agents)), jnp.int32)
    inputs = agent_inputs(observation.obs, jnp.full((n_agents,), -1, jnp.int32), n_actions)[None]
    params = agent.params["critic"]
    mixing = run(net.mixer, params["mixer"], observation.state[None])

    def draw(key_draw: PRNGKey) -> tuple[Array, Array]:
        q = criticise(net, cfg, params, inputs, key_draw).q[0]
        values = jax.vmap(take_actions, in_axes=(None, 0))(q, joint)
        return q, jax.vmap(lambda row: mix(mixing, row[None])[0])(values)

    utilities, q_total = jax.vmap(draw)(jax.random.split(key, TABLE_DRAWS))
    return JointTable(utilities=utilities.mean(axis=0), q_total=q_total.mean(axis=0))


def learning_rates(hyper: LsfSacHyper) -> dict[str, Array]:
    """Step sizes by parameter group."""
    return {"critic": hyper.lr, "actor": hyper.actor_lr, "temperature": hyper.alpha_lr}


def lsf_sac(spec: EnvSpec, cfg: LsfSacConfig, observe: ObserveFn, micro_batch: int = 0) -> Algorithm:
    """Bind LSF-SAC for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns a stored episode into a trajectory.
      micro_batch: episodes processed at a time (see `make_update`).
    """
    net = make_networks(spec, cfg)
    optimizers = {
        "critic": adam(cfg.grad_clip),
        "actor": adam(cfg.actor_clip),
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
        diagnose=partial(diagnose, cfg=cfg, net=net),
        optimizers=optimizers,
        learning_rates=learning_rates,
    )

    def init(key: PRNGKey, hyper: LsfSacHyper) -> AgentState:
        params = init_params(net, spec, cfg, key, hyper.alpha)
        opt_state = {group: optimizers[group].init(params[group]) for group in params}
        return AgentState(params=params, targets={"critic": params["critic"]}, opt_state=opt_state)

    acting = agent_acting(spec, cfg.hidden, partial(actor_logits, net, cfg), cfg.behaviour)
    return Algorithm(
        name="lsf_sac",
        hyper=hyper_of(LsfSacHyper, cfg),
        init=init,
        policy_params=lambda agent: agent.params["actor"],
        update=make_update(learner, observe, micro_batch=micro_batch),
        refresh=hard_copy(cfg.target_interval, ("critic",)),
        joint_table=partial(joint_table, net=net, cfg=cfg),
        **acting._asdict(),
    )


ENTRY = Entry(config=LsfSacConfig, hyper=LsfSacHyper, factory=lsf_sac)
