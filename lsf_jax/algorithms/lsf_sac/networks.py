"""The networks of LSF-SAC and its ablations, and their outputs over a trajectory.

Order: the records, parameters, messages (`exchange`), actor, critics, decoder and mixers, all of them together
(`forward`), and acting. MASAC is this without a messenger: no encoder, no decoder, no further inputs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lsf_jax.algorithms import base
from lsf_jax.engine.distributions import masked_log_softmax, sample_rows, split_rows
from lsf_jax.networks.agents import AgentInputs, AgentNetwork, one_row, one_step, run, trajectory_inputs, unroll
from lsf_jax.networks.messages import MessageDecoder, MessageEncoder, Route, encode, sample_messages
from lsf_jax.networks.messages import decode as decode_messages
from lsf_jax.networks.mixers import Mixing, MonotonicHypernetwork, Summing, SumNetwork
from lsf_jax.networks.recurrence import each_row
from lsf_jax.types import AgentState, EnvSpec, Layout, Params, PRNGKey, Trajectory

MixingNetwork: TypeAlias = MonotonicHypernetwork | SumNetwork
Weights: TypeAlias = Mixing | Summing
MIXERS: dict[str, Callable[[EnvSpec, int, int], MixingNetwork]] = {
    "monotonic": lambda spec, embed, hyper_hidden: MonotonicHypernetwork(spec.n_agents, embed, hyper_hidden),
    "sum": lambda spec, embed, hyper_hidden: SumNetwork(),
}
"""What turns a state into the weights of f_mix, by name, as configurations choose."""

LOGIT_RANGE = (-5.0, 2.0)  # release rnn_agent.py


class Messenger(NamedTuple):
    """Modules that make and decode messages, and who reads them."""

    encoder: MessageEncoder
    decoder: MessageDecoder
    route: Route
    received: int  # numbers that one agent receives
    noise: float  # standard deviation of a message around its mean
    to_critic: Callable[[Array], Array]  # what the critic reads of a message; `stop_gradient` keeps L_TD from encoders
    to_actor: bool  # actors read messages too: not CTDE


class Networks(NamedTuple):
    """Modules; twin critics and mixers are one module each, with parameters on a leading axis."""

    actor: AgentNetwork
    bound: Callable[[Array], Array]  # what the actor's logits are put through
    critic: AgentNetwork
    mixer: MixingNetwork
    messenger: Messenger | None
    twin: bool
    mixer_init: float  # factor on the mixer's first weights


class Messages(NamedTuple):
    """The messages of a trajectory, and the inputs that critic and actor get of them beside their own."""

    mean: Float[Array, "rows agents sent"]
    received: Float[Array, "rows receivers received"]  # one receiver stands for all where all receive alike
    to_critic: tuple[Array, ...]
    to_actor: tuple[Array, ...]


class Decoded(NamedTuple):
    """What the message loss needs."""

    message_mean: Float[Array, "rows agents sent"]
    logits: Float[Array, "rows agents actions"]


class Forward(NamedTuple):
    """Outputs of every network, each run once, over one trajectory; T+1 rows, T steps, one critic or two."""

    log_pi: Float[Array, "rows agents actions"]
    q: Float[Array, "critics rows agents actions"]
    decoded: Decoded | None
    mixing: Weights  # [critics, T], of s_t
    target_q: Float[Array, "critics rows agents actions"]
    next_mixing: Weights  # target network, of s_{t+1}: eq. (16) prints s_t, which no code uses
    next_action: Int[Array, "time agents"]  # a' ~ π at t+1, for td_target "sampled"
    log_alpha: Float[Array, ""]


# Which gradient trains what: the fields of Forward through which each group's parameters may learn (reference 3.7).
OWNS = {"critic": ("q", "decoded", "mixing"), "actor": ("log_pi",), "temperature": ("log_alpha",)}


def unchanged(values: Array) -> Array:
    """The values themselves."""
    return values


def clamp_logits(logits: Float[Array, "*lead actions"]) -> Float[Array, "*lead actions"]:
    """Logits in [-5, 2], as in the released code."""
    return jnp.clip(logits, *LOGIT_RANGE)


def init_params(net: Networks, spec: EnvSpec, key: PRNGKey, alpha: Float[Array, ""]) -> dict[str, Params]:
    """Parameters by group: critic {critic, mixer, and with messages encoder, decoder}, actor, temperature."""
    keys = jax.random.split(key, 5)
    inputs = base.empty_inputs(spec)
    received = () if net.messenger is None else (net.messenger.received,)
    mixer = _init_each(net, lambda key_one: _init_mixer(net, spec, key_one), keys[3])
    critic = {
        "critic": _init_each(net, lambda key_one: base.init_network(net.critic, key_one, spec, *received), keys[0]),
        "mixer": jax.tree.map(lambda leaf: net.mixer_init * leaf, mixer),
    }
    if net.messenger is not None:
        message = jnp.zeros((1, spec.n_agents, net.messenger.received))
        critic["encoder"] = net.messenger.encoder.init(keys[1], inputs)["params"]
        critic["decoder"] = net.messenger.decoder.init(keys[2], inputs, message)["params"]
    actor = base.init_network(net.actor, keys[4], spec, *(received if communicates(net) else ()))
    return {"critic": critic, "actor": actor, "temperature": jnp.log(alpha)}


def communicates(net: Networks) -> bool:
    """Whether actors read messages, so that agents must send them while they act."""
    return net.messenger is not None and net.messenger.to_actor


def exchange(
    net: Networks, params: Params, layout: Layout, inputs: AgentInputs, keys: Key[Array, "rows"]
) -> Messages | None:
    """Encode, sample and route messages (paper V.A, V.B); None where there are none.

    The actor's loss does not train the encoder, which belongs to the critic's group.
    """
    if net.messenger is None:
        return None
    mean = encode(net.messenger.encoder, params["encoder"], layout, inputs)
    received = net.messenger.route(sample_messages(mean, keys, net.messenger.noise))
    return Messages(
        mean=mean,
        received=received,
        to_critic=(net.messenger.to_critic(received),),
        to_actor=(jax.lax.stop_gradient(received),) if net.messenger.to_actor else (),
    )


def actor_logits(
    net: Networks, params: Params, hidden: Array, *inputs: Array | AgentInputs
) -> tuple[Float[Array, "agents hidden"], Float[Array, "*lead agents actions"]]:
    """The actor's next hidden state and logits in one step.

    It reads an agent's own observation and action history only, unless the setting `communicate` is on.
    """
    hidden, logits = one_step(net.actor, params, hidden, *inputs)
    return hidden, net.bound(logits)


def utilities(
    net: Networks,
    params: Params,
    layout: Layout,
    inputs: AgentInputs,
    messages: Messages | None,
) -> Float[Array, "critics rows agents actions"]:
    """Every critic's qᵢ along a trajectory, from [x, M] or from x alone."""
    further = messages.to_critic if messages else ()
    return _each(net, lambda one: unroll(net.critic, one, layout, inputs, *further), params["critic"])


def decode(
    net: Networks, params: Params, layout: Layout, inputs: AgentInputs, messages: Messages | None
) -> Decoded | None:
    """The decoder's logits from [x, M] along a trajectory; None where there are no messages."""
    if net.messenger is None or messages is None:
        return None
    logits = decode_messages(net.messenger.decoder, params["decoder"], layout, inputs, messages.received)
    return Decoded(message_mean=messages.mean, logits=logits)


def mixings(net: Networks, params: Params, layout: Layout, state: Float[Array, "rows state"]) -> Weights:
    """Every mixer's weights `[critics, rows]`."""
    return _each(net, lambda one: each_row(partial(run, net.mixer), one, layout, state), params["mixer"])


def forward(params: dict, targets: dict, trajectory: Trajectory, keys: Key[Array, "rows"], *, net: Networks) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0."""
    _, state, avail = trajectory.observation
    inputs, layout = trajectory_inputs(trajectory), trajectory.layout
    of_online, of_target, of_action = split_rows(keys, 3)
    messages = exchange(net, params["critic"], layout, inputs, of_online)
    logits = unroll(net.actor, params["actor"], layout, inputs, *(messages.to_actor if messages else ()))
    target_messages = exchange(net, targets["critic"], layout, inputs, of_target)
    log_pi = masked_log_softmax(net.bound(logits), avail)
    return Forward(
        log_pi=log_pi,
        q=utilities(net, params["critic"], layout, inputs, messages),
        decoded=decode(net, params["critic"], layout, inputs, messages),
        mixing=mixings(net, params["critic"], layout, state[:-1]),
        target_q=utilities(net, targets["critic"], layout, inputs, target_messages),
        next_mixing=mixings(net, targets["critic"], layout, state[1:]),
        next_action=sample_rows(log_pi[1:], avail[1:], of_action[1:]),
        log_alpha=params["temperature"],
    )


def decoded_of(f: Forward) -> Decoded:
    """What the decoder made of messages.

    Raises:
      ValueError: there are no messages.
    """
    if f.decoded is None:
        raise ValueError("there are no messages to decode: these networks have no messenger.")
    return f.decoded


def policy_params(net: Networks, agent: AgentState) -> Params:
    """All that acting may see: the actor, and the encoder only where actors read messages."""
    actor = agent.params["actor"]
    return {"actor": actor, "encoder": agent.params["critic"]["encoder"]} if communicates(net) else actor


def acting_outputs(net: Networks) -> base.Outputs:
    """What acts, given `policy_params`."""
    return partial(_outputs_with_messages if communicates(net) else _outputs_alone, net)


def _outputs_alone(
    net: Networks, params: Params, hidden: Array, inputs: AgentInputs, key: PRNGKey
) -> tuple[Array, Array]:
    del key  # nothing here is drawn
    return actor_logits(net, params, hidden, inputs)


def _outputs_with_messages(
    net: Networks, params: Params, hidden: Array, inputs: AgentInputs, key: PRNGKey
) -> tuple[Array, Array]:
    """One step of agents that send each other messages, noise included, as in training (NDQ keeps it on, too)."""
    messages = exchange(net, params, one_row(), jax.tree.map(lambda part: part[None], inputs), key[None])
    further = [message[0] for message in messages.to_actor] if messages else []
    return actor_logits(net, params["actor"], hidden, inputs, *further)


def _each(net: Networks, function: Callable[[Params], Any], params: Params) -> Any:
    """A function of one critic's parameters, for every critic on a leading axis.

    A lone critic's parameters have no such axis and its products no batch; its results get one of length 1.
    """
    if net.twin:
        return jax.vmap(function, axis_size=2)(params)  # said, for a sum has no parameters to show it
    return jax.tree.map(lambda leaf: leaf[None], function(params))


def _init_each(net: Networks, init: Callable[[PRNGKey], Params], key: PRNGKey) -> Params:
    """Parameters for `_each`; twins start apart."""
    return jax.vmap(init)(jax.random.split(key, 2)) if net.twin else init(key)


def _init_mixer(net: Networks, spec: EnvSpec, key: PRNGKey) -> Params:
    """One mixer's parameters; a sum has none."""
    return net.mixer.init(key, jnp.zeros((1, spec.state_dim))).get("params", {})
