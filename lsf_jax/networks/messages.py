"""Latent state messages: encoder, sampling, routing, decoder, and the information-bottleneck terms of eq. (12)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from lsf_jax.networks.agents import AgentInputs, AgentNetwork, Mlp, run, unroll
from lsf_jax.networks.recurrence import each_row
from lsf_jax.types import Layout, Params

HISTORY = "history"
"""Name of the encoder's network with memory."""

Route = Callable[[Float[Array, "time agents out"]], Float[Array, "time receivers received"]]
"""Who reads what: `[T, N, out]` sent to `[T, N, received]`, or `[T, 1, received]` where all receive alike."""


class Routing(NamedTuple):
    """A route, and how many messages of D numbers an agent sends for it, of the number of agents."""

    route: Route
    blocks: Callable[[int], int]


class MessageEncoder(nn.Module):
    """f_m: the mean of every sender's messages; their covariance is the identity (paper V.A). See `encode`.

    Args (fields):
      hidden: width of the hidden layers.
      outputs: D for broadcast routing, N·D for one block per receiver.
      history: read the agent's history with its own GRU; False reads the current input only (the released code).
      remat: as in `AgentNetwork`, for the GRU.
    Reference: TonghanWang/NDQ `information_bottleneck_comm_full.py`; hanhanAnderson/LSF-SAC.
    """

    hidden: int
    outputs: int
    history: bool = False
    remat: bool = True

    @nn.compact
    def __call__(self, inputs: AgentInputs) -> Float[Array, "*lead agents outputs"]:
        """Message means of every agent at every step; with `history`, where every step is the first of its episode."""
        if self.history:
            hidden = jnp.zeros((*inputs.obs.shape[:-1], self.hidden))
            return AgentNetwork(self.hidden, self.outputs, remat=self.remat, name=HISTORY)(hidden, inputs)[1]
        return Mlp((self.hidden, self.hidden, self.outputs), name="current")(inputs)


def encode(
    encoder: MessageEncoder, params: Params, layout: Layout, inputs: AgentInputs
) -> Float[Array, "rows agents outputs"]:
    """Message means of every agent along a trajectory."""
    if encoder.history:
        network = AgentNetwork(encoder.hidden, encoder.outputs, remat=encoder.remat)
        return unroll(network, params[HISTORY], layout, inputs)
    return each_row(lambda p, *own: run(encoder, p, AgentInputs(*own)), params, layout, *inputs)


class MessageDecoder(nn.Module):
    """q_ψ: logits of the receiver's action from its own input and all it received (Lemma 1).

    Categorical, where the paper prints "variational Gaussian": the action is discrete (reference 3.3).
    Widths 4·D·N as in NDQ. Reference: TonghanWang/NDQ.
    """

    hidden: int
    n_actions: int

    @nn.compact
    def __call__(
        self, inputs: Array | AgentInputs, received: Float[Array, "*lead receivers received"]
    ) -> Float[Array, "*lead agents actions"]:
        """Unnormalised log-probabilities from [x_i, M_i]."""
        return Mlp((self.hidden, self.hidden, self.n_actions))(inputs, received)


def decode(
    decoder: MessageDecoder,
    params: Params,
    layout: Layout,
    inputs: AgentInputs,
    received: Float[Array, "rows receivers received"],
) -> Float[Array, "rows agents actions"]:
    """The decoder's logits along a trajectory."""

    def of_rows(params: Params, received: Array, *own: Array) -> Array:
        return run(decoder, params, AgentInputs(*own), received)

    return each_row(of_rows, params, layout, received, *inputs)


def sample_messages(
    mean: Float[Array, "rows agents out"], keys: Key[Array, "rows"], noise: float = 1.0
) -> Float[Array, "rows agents out"]:
    """M ~ N(mean, noise² I) by reparameterisation, so that gradients reach the encoder; noise is 1 in the paper."""
    return mean + noise * jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)


def route_broadcast(sent: Float[Array, "time agents message"]) -> Float[Array, "time 1 received"]:
    """Every receiver gets the whole pool ⟨m_1, ..., m_n⟩, itself included (paper: "all-to-all", V.A).

    One row stands for all receivers, so that the layers that read it multiply it once.
    """
    return sent.reshape(sent.shape[0], 1, -1)


def route_per_receiver(sent: Float[Array, "time agents blocks"]) -> Float[Array, "time agents received"]:
    """Sender j emits one block per receiver; receiver i gets block i of every sender, itself included (release)."""
    time, n_agents, width = sent.shape
    blocks = sent.reshape(time, n_agents, n_agents, width // n_agents)  # [T, sender, receiver, D]
    return jnp.swapaxes(blocks, 1, 2).reshape(time, n_agents, width)


ROUTINGS = {
    "broadcast": Routing(route_broadcast, blocks=lambda n_agents: 1),
    "per_receiver": Routing(route_per_receiver, blocks=lambda n_agents: n_agents),
}


def kl_to_standard_normal(mean: Float[Array, "time agents out"]) -> Float[Array, "time"]:
    """Σ over messages of KL(N(μ, I) ‖ N(0, I)) = ½‖μ‖², in nats per step: eq. (11) with q_φ = N(0, I).

    Messages with another noise differ by a constant, which nothing learns from.
    """
    return 0.5 * jnp.square(mean).sum(axis=(-2, -1))


def label_cross_entropy(
    logits: Float[Array, "time agents actions"], label: Float[Array, "time agents actions"]
) -> Float[Array, "time"]:
    """Σ over agents of H[p(A_j|T), q_ψ(A_j|T_j, M)], in nats per step: eq. (12) with the sign of Lemma 1.

    The paper prints a minus sign, which would train the decoder to be wrong without bound; Lemma 1's bound is -H, to be
    maximised, so the loss needs +H (reference 3.3). The floor 1e-6 inside the logarithm is the released code's, written
    in log space so that its gradient stays finite.

    Args:
      logits: of q_ψ; unavailable actions may already carry a large negative number.
      label: probabilities p, one-hot for greedy labels.
    """
    log_q = jnp.logaddexp(jax.nn.log_softmax(logits, axis=-1), jnp.log(1e-6))
    return -(label * log_q).sum(axis=(-2, -1))


def decoder_hits(
    logits: Float[Array, "time agents actions"],
    label: Int[Array, "time agents"],
    avail: Bool[Array, "time agents actions"],
) -> Float[Array, "time"]:
    """Fraction of agents whose label is the decoder's most likely available action."""
    guess = jnp.where(avail, logits, -jnp.inf).argmax(axis=-1).astype(label.dtype)
    return (guess == label).mean(axis=-1)
