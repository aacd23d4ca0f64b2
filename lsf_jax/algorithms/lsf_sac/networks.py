"""What the networks of LSF-SAC and its ablations say about a trajectory.

Read it as: the modules and their parameters, messages (`exchange`), what actor and critics make of their inputs, all of
it together (`forward`), and acting. MASAC is this without a messenger: no encoder, no decoder, nothing else to read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lsf_jax.algorithms.base import Outputs, init_network
from lsf_jax.algorithms.lsf_sac.config import LsfSacConfig, SoftConfig
from lsf_jax.engine.distributions import masked_log_softmax, sample
from lsf_jax.networks.agents import AgentNetwork, run, trajectory_inputs, unroll, zero_hidden
from lsf_jax.networks.messages import (
    MessageDecoder,
    MessageEncoder,
    Route,
    route_broadcast,
    route_per_receiver,
    sample_messages,
)
from lsf_jax.networks.mixers import Mixing, MonotonicHypernetwork
from lsf_jax.settings import ConfigError
from lsf_jax.types import AgentState, EnvSpec, Params, PRNGKey, Trajectory

LOGIT_RANGE = (-5.0, 2.0)  # release rnn_agent.py


class Messenger(NamedTuple):
    """Modules that make and decode messages, and who reads them."""

    encoder: MessageEncoder
    decoder: MessageDecoder
    route: Route
    received: int  # numbers that one agent receives
    noise: float  # standard deviation of a message around its mean
    td_gradient: bool  # L_TD trains the encoder
    to_actor: bool  # actors read messages too: not CTDE


class Networks(NamedTuple):
    """Modules; twin critics and mixers are one module each, with parameters on a leading axis."""

    actor: AgentNetwork
    critic: AgentNetwork
    mixer: MonotonicHypernetwork
    messenger: Messenger | None
    twin: bool
    mixer_init: float  # factor on the mixer's first weights


class Mail(NamedTuple):
    """The messages of a trajectory, and what actor and critic read of them beside their own inputs."""

    mean: Float[Array, "rows agents sent"]
    received: Float[Array, "rows receivers received"]  # one receiver stands for all where all receive alike
    critic_reads: tuple[Array, ...]
    actor_reads: tuple[Array, ...]


class Decoded(NamedTuple):
    """What the message loss needs."""

    message_mean: Float[Array, "rows agents sent"]
    logits: Float[Array, "rows agents actions"]


class Forward(NamedTuple):
    """What the networks say about one trajectory, each run once; T+1 rows, T steps, one critic or two."""

    log_pi: Float[Array, "rows agents actions"]
    q: Float[Array, "critics rows agents actions"]
    decoded: Decoded | None
    mixing: Mixing  # [critics, T], of s_t
    target_q: Float[Array, "critics rows agents actions"]
    next_mixing: Mixing  # target network, of s_{t+1}: eq. (16) prints s_t, which no code uses
    next_action: Int[Array, "time agents"]  # a' ~ π at t+1, for td_target "sampled"
    log_alpha: Float[Array, ""]


# Which gradient trains what: the fields of Forward through which each group's parameters may learn (reference 3.7).
OWNS = {"critic": ("q", "decoded", "mixing"), "actor": ("log_pi",), "temperature": ("log_alpha",)}


def make_networks(spec: EnvSpec, cfg: SoftConfig) -> Networks:
    """The modules that a config asks for.

    Raises:
      ConfigError: if actors shall read messages of an encoder with history, which acting has no memory for.
    """
    agent = partial(AgentNetwork, cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat)
    return Networks(
        actor=agent(),
        critic=agent(),
        mixer=MonotonicHypernetwork(spec.n_agents, cfg.mixer_embed, cfg.hyper_hidden),
        messenger=make_messenger(spec, cfg) if isinstance(cfg, LsfSacConfig) else None,
        twin=cfg.twin,
        mixer_init=cfg.mixer_init,
    )


def make_messenger(spec: EnvSpec, cfg: LsfSacConfig) -> Messenger:
    """The modules for messages; raises as `make_networks` does."""
    if cfg.communicate and cfg.encoder_input != "current":
        raise ConfigError(
            f"algo.encoder_input is {cfg.encoder_input}; expected current with algo.communicate=true, since acting "
            f"keeps no memory for an encoder; set algo.encoder_input=current or algo.communicate=false"
        )
    per_receiver = cfg.message_routing == "per_receiver"
    received = spec.n_agents * cfg.message_dim
    sent = received if per_receiver else cfg.message_dim
    return Messenger(
        encoder=MessageEncoder(cfg.encoder_hidden, sent, history=cfg.encoder_input == "history", remat=cfg.remat),
        decoder=MessageDecoder(cfg.decoder_hidden or 4 * received, spec.n_actions),
        route=route_per_receiver if per_receiver else route_broadcast,
        received=received,
        noise=cfg.message_noise,
        td_gradient=cfg.td_gradient_to_encoder,
        to_actor=cfg.communicate,
    )


def init_params(net: Networks, spec: EnvSpec, key: PRNGKey, alpha: Float[Array, ""]) -> dict[str, Params]:
    """Parameters by group: critic {critic, mixer, and with messages encoder, decoder}, actor, temperature."""
    keys = jax.random.split(key, 5)
    inputs = jnp.zeros((1, spec.n_agents, spec.obs_dim + spec.n_actions + spec.n_agents))
    heard = () if net.messenger is None else (net.messenger.received,)
    mixer = _init_each(net, lambda key_one: net.mixer.init(key_one, jnp.zeros((1, spec.state_dim)))["params"], keys[3])
    critic = {
        "critic": _init_each(net, lambda key_one: init_network(net.critic, key_one, spec, *heard), keys[0]),
        "mixer": jax.tree.map(lambda leaf: net.mixer_init * leaf, mixer),
    }
    if net.messenger is not None:
        received = jnp.zeros((1, spec.n_agents, net.messenger.received))
        critic["encoder"] = net.messenger.encoder.init(keys[1], inputs)["params"]
        critic["decoder"] = net.messenger.decoder.init(keys[2], inputs, received)["params"]
    actor = init_network(net.actor, keys[4], spec, *(heard if communicates(net) else ()))
    return {"critic": critic, "actor": actor, "temperature": jnp.log(alpha)}


def communicates(net: Networks) -> bool:
    """Whether actors read messages, so that agents must talk to each other while they act."""
    return net.messenger is not None and net.messenger.to_actor


def exchange(net: Networks, params: Params, inputs: Float[Array, "rows agents inputs"], key: PRNGKey) -> Mail | None:
    """Encode, sample and route messages (paper V.A, V.B); None where there are none.

    The actor's loss does not train the encoder, which belongs to the critic's group.
    """
    if net.messenger is None:
        return None
    mean = run(net.messenger.encoder, params["encoder"], inputs)
    received = net.messenger.route(sample_messages(mean, key, net.messenger.noise))
    fixed = jax.lax.stop_gradient(received)
    return Mail(
        mean=mean,
        received=received,
        critic_reads=(received if net.messenger.td_gradient else fixed,),
        actor_reads=(fixed,) if net.messenger.to_actor else (),
    )


def actor_logits(
    net: Networks, cfg: SoftConfig, params: Params, hidden: Array, *inputs: Array
) -> tuple[Float[Array, "agents hidden"], Float[Array, "*lead agents actions"]]:
    """The actor's next hidden state and logits, of one step or a trajectory.

    It reads an agent's own observation and action history only, unless the config says `communicate`.
    """
    hidden, logits = run(net.actor, params, hidden, *inputs)
    return hidden, jnp.clip(logits, *LOGIT_RANGE) if cfg.logit_clamp else logits


def criticise(
    net: Networks, params: Params, inputs: Float[Array, "rows agents inputs"], mail: Mail | None
) -> Float[Array, "critics rows agents actions"]:
    """Every critic's utilities of a trajectory, from [x, M] or from x alone."""
    reads = mail.critic_reads if mail else ()
    return _each(net, lambda one: unroll(net.critic, one, inputs, *reads), params["critic"])


def decode(
    net: Networks, params: Params, inputs: Float[Array, "rows agents inputs"], mail: Mail | None
) -> Decoded | None:
    """What the decoder makes of [x, M] along a trajectory; None where there are no messages."""
    if net.messenger is None or mail is None:
        return None
    logits = run(net.messenger.decoder, params["decoder"], inputs, mail.received)
    return Decoded(message_mean=mail.mean, logits=logits)


def mixings(net: Networks, params: Params, state: Float[Array, "rows state"]) -> Mixing:
    """Every mixer's weights `[critics, rows]`."""
    return _each(net, lambda one: run(net.mixer, one, state), params["mixer"])


def forward(
    params: dict, targets: dict, trajectory: Trajectory, key: PRNGKey, *, net: Networks, cfg: SoftConfig
) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0."""
    _, state, avail = trajectory.observation
    inputs = trajectory_inputs(trajectory)
    key_online, key_target, key_action = jax.random.split(key, 3)
    mail = exchange(net, params["critic"], inputs, key_online)
    hidden = zero_hidden(inputs.shape[1], cfg.hidden)
    _, logits = actor_logits(net, cfg, params["actor"], hidden, inputs, *(mail.actor_reads if mail else ()))
    log_pi = masked_log_softmax(logits, avail)
    return Forward(
        log_pi=log_pi,
        q=criticise(net, params["critic"], inputs, mail),
        decoded=decode(net, params["critic"], inputs, mail),
        mixing=mixings(net, params["critic"], state[:-1]),
        target_q=criticise(net, targets["critic"], inputs, exchange(net, targets["critic"], inputs, key_target)),
        next_mixing=mixings(net, targets["critic"], state[1:]),
        next_action=sample(log_pi[1:], avail[1:], key_action),
        log_alpha=params["temperature"],
    )


def policy_params(net: Networks, agent: AgentState) -> Params:
    """All that acting may see: the actor, and the encoder only where actors read messages."""
    actor = agent.params["actor"]
    return {"actor": actor, "encoder": agent.params["critic"]["encoder"]} if communicates(net) else actor


def acting_outputs(net: Networks, cfg: SoftConfig) -> Outputs:
    """What acts, given `policy_params`."""
    return partial(_talk if communicates(net) else _act_alone, net, cfg)


def _act_alone(
    net: Networks, cfg: SoftConfig, params: Params, hidden: Array, inputs: Array, key: PRNGKey
) -> tuple[Array, Array]:
    del key  # nothing here is drawn
    return actor_logits(net, cfg, params, hidden, inputs)


def _talk(
    net: Networks, cfg: SoftConfig, params: Params, hidden: Array, inputs: Array, key: PRNGKey
) -> tuple[Array, Array]:
    """One step of agents that send each other messages, noise included, as in training (NDQ keeps it on, too)."""
    mail = exchange(net, params, inputs[None], key)
    heard = [message[0] for message in mail.actor_reads] if mail else []
    return actor_logits(net, cfg, params["actor"], hidden, inputs, *heard)


def _each(net: Networks, function: Callable[[Params], Any], params: Params) -> Any:
    """A function of one critic's parameters, for every critic on a leading axis.

    A lone critic's parameters have no such axis and its products no batch; its results get one of length 1.
    """
    if net.twin:
        return jax.vmap(function)(params)
    return jax.tree.map(lambda leaf: leaf[None], function(params))


def _init_each(net: Networks, init: Callable[[PRNGKey], Params], key: PRNGKey) -> Params:
    """Parameters for `_each`; twins start apart."""
    return jax.vmap(init)(jax.random.split(key, 2)) if net.twin else init(key)
