"""What people see of LSF-SAC: metrics of an update, and the table of what was learned about a small game."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lsf_jax import types
from lsf_jax.algorithms import base
from lsf_jax.algorithms.lsf_sac import networks, readings
from lsf_jax.algorithms.lsf_sac.losses import chosen_total
from lsf_jax.engine import distributions
from lsf_jax.engine.learner import Terms
from lsf_jax.networks import agents, messages, mixers

TABLE_DRAWS = 256  # message samples averaged in `joint_table`


def diagnose(
    f: networks.Forward,
    t: types.Trajectory,
    clock: types.Clock,
    hyper: types.Hyper,
    *,
    temperature: readings.Temperature,
) -> Terms:
    """Per-step quantities for people, averaged over valid steps; means over critics where there are twins."""
    log_pi, avail = f.log_pi[:-1], t.observation.avail[:-1]
    return {
        "alpha": jnp.full(t.reward.shape, temperature(f.log_alpha, clock, hyper)),
        "entropy": distributions.entropy_of_choices(distributions.probabilities(log_pi, avail), log_pi, avail),
        "q_total": chosen_total(f, t).mean(axis=0),
        **base.utility_metrics(f.q[:, :-1].mean(axis=0), avail, t.action),
        "reward": t.reward,
    }


def message_metrics(
    f: networks.Forward,
    t: types.Trajectory,
    clock: types.Clock,
    hyper: types.Hyper,
    *,
    message_dim: int,
    label: readings.Label,
    decoder_logits: readings.DecoderLogits,
) -> Terms:
    """How informative messages are and how well they are decoded, without the weights λ1 and β of the loss terms.

    Raises:
      ValueError: there are no messages.
    """
    del clock, hyper
    decoded, avail, target = networks.decoded_of(f), t.observation.avail[:-1], label(f, t)
    mean, logits = decoded.message_mean[:-1], decoder_logits(decoded, t)
    n_messages = mean.shape[1] * mean.shape[2] // message_dim
    return {
        "kl_per_message": messages.kl_to_standard_normal(mean) / n_messages,
        "decoder_cross_entropy": messages.label_cross_entropy(logits, target) / avail.shape[1],
        "decoder_accuracy": messages.decoder_hits(logits, distributions.greedy(target, avail), avail),
    }


def insight(agent: types.AgentState, t: types.Trajectory, f: networks.Forward) -> types.Insight:
    """Policies, utilities, messages, Q_tot of what was done (of twins the smaller) and what each utility counts in it.

    Of twins, utilities and what they count are means.
    """
    del agent
    chosen = jax.vmap(distributions.take_actions, in_axes=(0, None))(f.q[:, :-1], t.action)
    return types.Insight(
        q=f.q[:, :-1].mean(axis=0),
        log_pi=f.log_pi[:-1],
        messages=None if f.decoded is None else f.decoded.message_mean[:-1],
        total=chosen_total(f, t).min(axis=0),
        weights=jax.grad(lambda values: mixers.mix(f.mixing, values).sum())(chosen).mean(axis=0),
        decoded=None if f.decoded is None else f.decoded.logits[:-1],
        record=f,
    )


def hear(
    agent: types.AgentState,
    t: types.Trajectory,
    sent: Float[Array, "rows agents sent"],
    *,
    net: networks.Networks,
    messenger: networks.Messenger,
) -> types.Insight:
    """What critics and decoder, and actors where they listen, make of a trajectory had agents sent something else."""
    params, layout, inputs = agent.params["critic"], t.layout, agents.trajectory_inputs(t)
    received = messenger.route(sent)
    to_actor = (received,) if messenger.to_actor else ()
    heard = networks.Messages(mean=sent, received=received, to_critic=(received,), to_actor=to_actor)
    q = networks.utilities(net, params, layout, inputs, heard)[:, :-1]
    chosen = jax.vmap(distributions.take_actions, in_axes=(0, None))(q, t.action)
    mixing = networks.mixings(net, params, layout, t.observation.state[:-1])
    decoded = networks.decode(net, params, layout, inputs, heard)
    found = types.Insight(
        q=q.mean(axis=0),
        total=mixers.mix(mixing, chosen).min(axis=0),
        decoded=None if decoded is None else decoded.logits[:-1],
    )
    if not to_actor:
        return found
    logits = net.bound(agents.unroll(net.actor, agent.params["actor"], layout, inputs, received))
    return found._replace(log_pi=distributions.masked_log_softmax(logits, t.observation.avail)[:-1])


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: networks.Networks
) -> types.JointTable:
    """Utilities, Q_tot of every joint action and π in one first observation, averaged over message noise.

    Of twins, the mean utilities and the smaller Q_tot, which is what learning believes.

    Raises:
      ValueError: if there are more than 4,096 joint actions.
    """
    joint, inputs = base.joint_actions(*observation.avail.shape), base.first_inputs(observation)
    params, policy_params = agent.params["critic"], networks.policy_params(net, agent)
    outputs = networks.acting_outputs(net)
    mixing = networks.mixings(net, params, agents.one_row(), observation.state[None])
    keys = jax.random.split(key, TABLE_DRAWS if net.messenger else 1)

    def value(q: Float[Array, "critics agents actions"], action: Int[Array, "agents"]) -> Float[Array, ""]:
        chosen = jax.vmap(distributions.take_actions, in_axes=(0, None))(q, action)
        return mixers.mix(mixing, chosen[:, None])[:, 0].min()

    def values(key_draw: types.PRNGKey) -> tuple[Array, Array]:
        received = networks.exchange(net, params, agents.one_row(), inputs, key_draw[None])
        q = networks.utilities(net, params, agents.one_row(), inputs, received)[:, 0]
        return q.mean(axis=0), jax.vmap(partial(value, q))(joint)

    def policy(key_draw: types.PRNGKey) -> Float[Array, "agents actions"]:
        hidden = agents.zero_hidden(observation.avail.shape[0], net.actor.hidden)
        _, logits = outputs(policy_params, hidden, jax.tree.map(lambda part: part[0], inputs), key_draw)
        log_pi = distributions.masked_log_softmax(logits, observation.avail)
        return distributions.probabilities(log_pi, observation.avail)

    utilities, q_total = jax.vmap(values)(keys)
    drawn = jax.vmap(policy)(keys if networks.communicates(net) else keys[:1])
    total = q_total.mean(axis=0)
    return types.JointTable(utilities.mean(axis=0), total, drawn.mean(axis=0), joint_value=total)
