"""NDQ: QMIX whose agents communicate. Every agent's utility reads messages of the others, in execution too.

Each agent sends every agent (itself included) D numbers drawn around a mean that an encoder makes of its inputs. A
decoder that must predict the receiver's best action from what it received keeps messages expressive, a KL to N(0, I)
keeps them short, and entries that carry little can be cut in evaluations. Execution is not decentralised: an action
depends on what all agents see at this step. Read it as: cutting, networks and messages, the forward pass, the losses,
settings and binding; the TD part is `q_learning`'s.

Wang et al. (2020), "Learning Nearly Decomposable Value Functions via Communication Minimization"; code TonghanWang/NDQ
(`categorical_q_learner.py`, `cate_broadcast_comm_controller_full.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lsf_jax import types
from lsf_jax.algorithms import base, configs, q_learning
from lsf_jax.engine import distributions, exploration, learner, packing
from lsf_jax.networks import agents, messages
from lsf_jax.registry import Entry
from lsf_jax.settings import ConfigError, number, setting

TABLE_DRAWS = 256  # message samples averaged in `joint_table`

Cut: TypeAlias = Callable[[Array, types.PRNGKey], Array]
"""`(means [N, N·D] of the messages, key) -> [N, N·D] bool`: which entries do not arrive."""


def cut_nothing(
    mean: Float[Array, "agents sent"], key: types.PRNGKey, *, threshold: float, probability: float
) -> Bool[Array, "agents sent"]:
    """Every message arrives."""
    del key, threshold, probability
    return jnp.zeros(mean.shape, bool)


def cut_threshold(
    mean: Float[Array, "agents sent"], key: types.PRNGKey, *, threshold: float, probability: float
) -> Bool[Array, "agents sent"]:
    """Entries of messages to others whose |mean| is below the threshold, and others by chance; never one's own."""
    n_agents, width = mean.shape
    own = jnp.repeat(jnp.eye(n_agents, dtype=bool), width // n_agents, axis=1)  # [sender, receiver · D]
    lost = jax.random.uniform(key, mean.shape) < probability
    return ((jnp.abs(mean) < threshold) | lost) & ~own


def cut_rank(
    mean: Float[Array, "agents sent"], key: types.PRNGKey, *, threshold: float, probability: float
) -> Bool[Array, "agents sent"]:
    """The smallest |mean|s of this step's N·N·D, one's own blocks among them: `threshold` percent of them.

    The released code ranks all environments that play at once, so that a quiet one is cut more; a step here is cut as
    if it were alone, whoever plays beside it.
    """
    del key, probability
    rank = jnp.argsort(jnp.argsort(jnp.abs(mean).ravel())).reshape(mean.shape)
    return rank < math.ceil(threshold * mean.size / 100.0)


CUTS = {"none": cut_nothing, "threshold": cut_threshold, "rank": cut_rank}


class Networks(NamedTuple):
    """Modules of NDQ."""

    values: q_learning.Networks  # utilities, which read messages too, and their mixer
    encoder: messages.MessageEncoder
    decoder: messages.MessageDecoder


class Forward(NamedTuple):
    """Outputs of every network over one trajectory. G is 1."""

    q: Float[Array, "rows agents actions"]
    q_total: Float[Array, "time groups"]  # of the actions taken
    next_total: Float[Array, "time groups"]  # target networks, of the online greedy actions at t+1
    target_q: Float[Array, "rows agents actions"]  # labels of the decoder
    message_mean: Float[Array, "rows agents sent"]
    message: Float[Array, "rows agents sent"]
    decoder_logits: Float[Array, "rows agents actions"]


OWNS = {"q": ("q", "q_total", "message_mean", "message", "decoder_logits")}


class Messages(NamedTuple):
    """Messages of some steps, before and after they are routed."""

    mean: Float[Array, "time agents sent"]
    sent: Float[Array, "time agents sent"]
    received: Float[Array, "time agents received"]


def init_params(net: Networks, spec: types.EnvSpec, key: types.PRNGKey) -> dict:
    """Parameters of agents, mixer, encoder and decoder."""
    key_agent, key_mixer, key_encoder, key_decoder = jax.random.split(key, 4)
    inputs = base.empty_inputs(spec)
    received = jnp.zeros((1, spec.n_agents, net.encoder.outputs))
    return {
        "agent": base.init_network(net.values.agent, key_agent, spec, received.shape[-1]),
        "mixer": net.values.mixer.init(key_mixer) if net.values.mixer else {},
        "encoder": net.encoder.init(key_encoder, inputs)["params"],
        "decoder": net.decoder.init(key_decoder, inputs, received)["params"],
    }


def exchange(
    net: Networks, params: dict, layout: types.Layout, inputs: agents.AgentInputs, keys: Key[Array, "rows"]
) -> Messages:
    """Encode, sample and route: receiver i gets the block that every sender addressed to it, its own included."""
    mean = messages.encode(net.encoder, params["encoder"], layout, inputs)
    sent = messages.sample_messages(mean, keys)
    return Messages(mean=mean, sent=sent, received=messages.route_per_receiver(sent))


def acting_outputs(
    net: Networks,
    cut: Cut,
    params: dict,
    hidden: Float[Array, "agents hidden"],
    inputs: agents.AgentInputs,
    key: types.PRNGKey,
) -> tuple[Array, Array]:
    """All agents exchange messages, less what `cut` picks, then read [xᵢ, what i received]: hidden states, utilities.

    The noise stays on in evaluations, as in the released code.
    """
    key_noise, key_cut = jax.random.split(key)
    whole = exchange(net, params, agents.one_row(), jax.tree.map(lambda part: part[None], inputs), key_noise[None])
    sent = jnp.where(cut(whole.mean[0], key_cut), 0.0, whole.sent[0])
    received = messages.route_per_receiver(sent[None])[0]
    return agents.one_step(net.values.agent, params["agent"], hidden, inputs, received)


def forward(
    params: dict, targets: dict, trajectory: types.Trajectory, keys: Key[Array, "rows"], *, net: Networks
) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0; no message is ever cut here."""
    inputs, online, target = agents.trajectory_inputs(trajectory), params["q"], targets["q"]
    avail, state = trajectory.observation.avail[:-1], trajectory.observation.state[:-1]
    of_online, of_target = distributions.split_rows(keys, 2)
    online_messages = exchange(net, online, trajectory.layout, inputs, of_online)
    target_messages = exchange(net, target, trajectory.layout, inputs, of_target)
    q = agents.unroll(net.values.agent, online["agent"], trajectory.layout, inputs, online_messages.received)
    target_q = agents.unroll(net.values.agent, target["agent"], trajectory.layout, inputs, target_messages.received)
    best = distributions.best_value(jax.lax.stop_gradient(q[:-1]), avail)
    return Forward(
        q=q,
        q_total=q_learning.mixed(net.values, online, trajectory.layout, q[:-1], best, trajectory.action, state),
        next_total=q_learning.mixed_next(net.values, target, q, target_q, trajectory),
        target_q=target_q,
        message_mean=online_messages.mean,
        message=online_messages.sent,
        decoder_logits=messages.decode(
            net.decoder, online["decoder"], trajectory.layout, inputs, online_messages.received
        ),
    )


def label(f: Forward, t: types.Trajectory) -> Int[Array, "time agents"]:
    """Target of the decoder: every agent's best available action by the target network's own messages."""
    return distributions.greedy(f.target_q[:-1], t.observation.avail[:-1])


def td_loss(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """The TD error squared, which trains the encoder too; not halved as in `q_learning`."""
    del clock
    return {"td": q_learning.squared_error(f, t, hyper)}


def loss(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """TD error squared + c_beta [CE + comm_beta KL + comm_entropy_beta H], sums over agents, mean over valid steps.

        CE = -Σᵢ log(q_ψ(aᵢ* | xᵢ, received) + 1e-6),   KL = ½ Σ μ²,   H = -Σ log N(m; 0, 1)

    The TD error is not halved because the weights are NDQ's beside its square. NDQ leaves padded steps in the
    numerators of the message losses; here they are left out everywhere.
    """
    target = jax.nn.one_hot(label(f, t), f.q.shape[-1])
    negative_log_density = 0.5 * (jnp.square(f.message[:-1]) + math.log(2.0 * math.pi))
    return {
        **td_loss(f, t, clock, hyper),
        "message_ce": hyper.c_beta * messages.label_cross_entropy(f.decoder_logits[:-1], target),
        "message_kl": hyper.c_beta * hyper.comm_beta * messages.kl_to_standard_normal(f.message_mean[:-1]),
        "message_entropy": hyper.c_beta * hyper.comm_entropy_beta * negative_log_density.sum(axis=(-2, -1)),
    }


def diagnose(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """Per-step quantities for people, averaged over valid steps; without the weights of the loss terms."""
    del clock, hyper
    avail, n_agents = t.observation.avail[:-1], f.q.shape[1]
    target = label(f, t)
    cross_entropy = messages.label_cross_entropy(f.decoder_logits[:-1], jax.nn.one_hot(target, f.q.shape[-1]))
    return {
        "kl_per_message": messages.kl_to_standard_normal(f.message_mean[:-1]) / n_agents**2,
        "decoder_cross_entropy": cross_entropy / n_agents,
        "decoder_accuracy": messages.decoder_hits(f.decoder_logits[:-1], target, avail),
        "q_total": f.q_total.mean(axis=-1),
        **base.utility_metrics(f.q[:-1], avail, t.action),
        "reward": t.reward,
    }


def insight(agent: types.AgentState, t: types.Trajectory, f: Forward, *, net: Networks) -> types.Insight:
    """What `q_learning` gives, and the messages."""
    found = q_learning.insight(agent, t, f, net=net.values)
    return found._replace(messages=f.message_mean[:-1], decoded=f.decoder_logits[:-1])


def hear(
    agent: types.AgentState, t: types.Trajectory, sent: Float[Array, "rows agents sent"], *, net: Networks
) -> types.Insight:
    """Utilities, Q_tot and the decoder's logits along a trajectory had agents sent something else."""
    params, inputs, received = agent.params["q"], agents.trajectory_inputs(t), messages.route_per_receiver(sent)
    _, state, avail = jax.tree.map(lambda leaf: leaf[:-1], t.observation)
    q = agents.unroll(net.values.agent, params["agent"], t.layout, inputs, received)[:-1]
    best = distributions.best_value(q, avail)
    return types.Insight(
        q=q,
        total=q_learning.mixed(net.values, params, t.layout, q, best, t.action, state)[:, 0],
        decoded=messages.decode(net.decoder, params["decoder"], t.layout, inputs, received)[:-1],
    )


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: Networks
) -> types.JointTable:
    """Utilities, Q_tot and greedy policy in one first observation, averaged over message noise; messages uncut."""
    params, inputs, avail = agent.params["q"], base.first_inputs(observation), observation.avail
    joint = base.joint_actions(*avail.shape)

    def draw(key_draw: types.PRNGKey) -> types.JointTable:
        received = exchange(net, params, agents.one_row(), inputs, key_draw[None]).received
        q = agents.unroll(net.values.agent, params["agent"], agents.one_row(), inputs, received)
        best = distributions.best_value(q, avail[None])
        total = partial(q_learning.mixed, net.values, params, agents.one_row(), q, best)
        q_total = jax.vmap(lambda action: total(action[None], observation.state[None])[0, 0])(joint)
        return types.JointTable(q[0], q_total, base.greedy_policy(q[0], avail), joint_value=q_total)

    draws = jax.vmap(draw)(jax.random.split(key, TABLE_DRAWS))
    return jax.tree.map(lambda values: values.mean(axis=0), draws)


def acting_params(agent: types.AgentState) -> dict:
    """What acting needs: agents and encoder."""
    return {name: agent.params["q"][name] for name in ("agent", "encoder")}


@dataclass(frozen=True)
class NdqConfig(configs.MixedValueConfig):
    """Settings of NDQ: QMIX's, its own for messages, and how they are cut in evaluations."""

    hyper_hidden: int = setting(0, low=0, doc="width of the hypernetworks' hidden layer; 0 (NDQ): single linear layers")
    c_beta: float = number(0.1, low=0.0, doc="weight of all message losses; NDQ 0.1 on SMAC and hallway, its file 1")
    comm_beta: float = number(1e-4, low=0.0, doc="weight of the KL in it; NDQ 1e-4 on SMAC, 1e-2 on hallway, file 1e-3")
    comm_entropy_beta: float = number(0.0, low=0.0, doc="weight of the entropy in it; NDQ 0 on SMAC, its file 1e-6")

    message_dim: int = setting(3, low=1, doc="D, numbers from each agent to each; NDQ")
    encoder_hidden: int = setting(64, low=1, doc="width of the encoder's hidden layers; NDQ")
    decoder_hidden: int = setting(0, low=0, doc="width of the decoder's hidden layers; 0 is NDQ's 4·D·N")
    only_downstream: bool = setting(False, doc="train messages by TD alone, without the message losses")
    cut: str = setting("none", choices=tuple(CUTS), doc="cut messages in evaluations by |mean| or by its rank")
    cut_threshold: float = setting(0.0, low=0.0, doc="cut below this |mean|; rank: this percentage is cut")
    cut_probability: float = setting(0.0, low=0.0, high=1.0, doc="threshold: cut others with this probability as well")


def check_cutting(cfg: NdqConfig) -> None:
    """Refuse settings that ask for cutting and would cut nothing.

    Raises:
      ConfigError: for such settings, and for percentages above 100.
    """
    if cfg.cut == "rank" and not 0.0 < cfg.cut_threshold <= 100.0:
        raise ConfigError(
            f"algo.cut_threshold is {cfg.cut_threshold:g}; expected a percentage above 0 and up to 100 with "
            f"algo.cut=rank; for example algo.cut_threshold=80"
        )
    if cfg.cut == "threshold" and cfg.cut_threshold == 0.0 and cfg.cut_probability == 0.0:
        raise ConfigError(
            "algo.cut_threshold is 0, and no |mean| lies below it; expected a number above 0 with algo.cut=threshold, "
            "or algo.cut_probability above 0"
        )


def make_networks(spec: types.EnvSpec, cfg: NdqConfig) -> Networks:
    """The modules that a config asks for."""
    sent = cfg.message_dim * spec.n_agents
    agent = agents.AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat)
    return Networks(
        values=q_learning.Networks(agent=agent, mixer=q_learning.qmix_mixer(spec, cfg)),
        encoder=messages.MessageEncoder(cfg.encoder_hidden, sent),
        decoder=messages.MessageDecoder(cfg.decoder_hidden or 4 * sent, spec.n_actions),
    )


def make_channel(net: Networks, spec: types.EnvSpec, cfg: NdqConfig) -> types.Channel:
    """How messages reach utilities."""
    drawn = base.drawn_while_acting(spec.n_agents, net.encoder.outputs, lambda key: jax.random.split(key)[0])
    return types.Channel(dim=cfg.message_dim, noise=1.0, hear=partial(hear, net=net), drawn=drawn)


def make_ndq(spec: types.EnvSpec, cfg: NdqConfig, observe: packing.ObserveFn) -> types.Algorithm:
    """Bind NDQ for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns stored rows into trajectories.

    Raises:
      ConfigError: if the settings of cutting cut nothing, or more than there is.
    """
    check_cutting(cfg)
    net = make_networks(spec, cfg)
    optimizers = base.make_optimizers(cfg, "q")
    parts = learner.Learner(
        forward=partial(forward, net=net),
        losses={"q": td_loss if cfg.only_downstream else loss},
        owns=OWNS,
        diagnose=diagnose,
        optimizers=optimizers,
        learning_rates=q_learning.learning_rates,
    )

    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        del hyper
        return base.init_agent({"q": init_params(net, spec, key)}, optimizers, ("q",))

    amount = {"threshold": cfg.cut_threshold, "probability": cfg.cut_probability}
    free, tested = (partial(acting_outputs, net, partial(cut, **amount)) for cut in (cut_nothing, CUTS[cfg.cut]))
    behave = exploration.behave_epsilon_greedy
    return types.Algorithm(
        name="ndq",
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=acting_params,
        replay=base.off_policy(cfg.batch_size),
        update=learner.make_update(parts, observe),
        refresh=learner.hard_copy(cfg.target_interval, ("q",)),
        joint_table=partial(joint_table, net=net),
        forward=parts.forward,
        insight=partial(insight, net=net),
        channel=make_channel(net, spec, cfg),
        **base.agent_acting(spec, cfg.hidden, free, behave, tested, stochastic=False)._asdict(),
    )


ENTRIES = (
    Entry(
        name="ndq",
        config=NdqConfig,
        factory=make_ndq,
        doc="NDQ: QMIX whose agents send each other short messages, in execution too (not decentralised)",
        acts="values",
        communicates=True,
    ),
)
