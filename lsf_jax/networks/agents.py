"""Agent networks: inputs of an agent, and the recurrent or feed-forward trunk that reads them over time."""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lsf_jax.networks.gru import gru_cell, gru_over_time
from lsf_jax.networks.recurrence import UNROLL, each_row, over_blocks, over_rows, recur, recur_keeping
from lsf_jax.platforms import is_cpu
from lsf_jax.types import Layout, Params, Trajectory

Initializer = Callable[..., Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/√fan_in, 1/√fan_in), PyTorch's default for linear and recurrent layers, weights and biases alike.

    The published curves come from PyTorch, so parity wants its distribution. It also keeps the QR of an orthogonal
    initialiser out of functions vmapped over seeds, which can hang for ever on few CPU cores (jaxlib 0.10.2).
    """
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def run(module: nn.Module, params: Params, *inputs: Any) -> Any:
    """What a module computes from its inputs with the given parameters; modules are used in no other way."""
    return module.apply({"params": params}, *inputs)


class AgentInputs(NamedTuple):
    """What an agent reads, part by part: as one array, XLA would observe anew wherever it is read.

    Reference: pymarl's basic controller, which concatenates them.
    """

    obs: Float[Array, "*lead agents obs"]
    last_action: Float[Array, "*lead agents actions"]  # one-hot; zeros before the first step
    agent_id: Float[Array, "*one agents agents"]  # one-hot; one row for all that lead


def agent_inputs(
    obs: Float[Array, "*lead agents obs"], last_action: Int[Array, "*lead agents"], n_actions: int
) -> AgentInputs:
    """Inputs of all agents from their observations and last actions, -1 before the first step."""
    n_agents = obs.shape[-2]
    ids = jnp.eye(n_agents).reshape((1,) * (obs.ndim - 2) + (n_agents, n_agents))
    return AgentInputs(obs=obs, last_action=jax.nn.one_hot(last_action, n_actions), agent_id=ids)


class Linear(nn.Module):
    """Affine layer with PyTorch's default initialisation: `[..., in] -> [..., features]`."""

    features: int

    @nn.compact
    def __call__(self, *inputs: Array | AgentInputs) -> Array:
        """Map the last axis of the inputs' concatenation, which is never made: each input meets its rows of the kernel.

        So an input that needs no gradient costs none, and one that is common to all agents (`[T, 1, ...]` beside
        `[T, N, ...]`) is multiplied once.
        """
        parts: list[Array] = jax.tree.leaves(inputs)
        widths = [part.shape[-1] for part in parts]
        init = fan_in_uniform(sum(widths))
        kernel = self.param("kernel", init, (sum(widths), self.features))
        bias = self.param("bias", init, (self.features,))
        kernels = [kernel[stop - part.shape[-1] : stop] for part, stop in zip(parts, accumulate(widths), strict=True)]
        lead = max((part.shape[:-1] for part in parts), key=math.prod)
        # All leading axes as one, so that gradients too are single products of plain matrices and sums over one axis.
        own = [(part.reshape(-1, part.shape[-1]), k) for part, k in zip(parts, kernels) if part.shape[:-1] == lead]
        outputs = shifted(sum(product(part, k) for part, k in own), bias).reshape(*lead, -1)
        return sum((part @ k for part, k in zip(parts, kernels) if part.shape[:-1] != lead), outputs)


@jax.custom_vjp
def product(rows: Float[Array, "rows in"], kernel: Float[Array, "in out"]) -> Float[Array, "rows out"]:
    """`rows @ kernel`, with the kernel's gradient as it lies in memory; JAX's own is the transpose of that."""
    return rows @ kernel


product.defvjp(
    lambda rows, kernel: (rows @ kernel, (rows, kernel)),
    lambda kept, slope: (slope @ kept[1].T, kept[0].T @ slope),
)


@jax.custom_vjp
def shifted(rows: Float[Array, "rows out"], bias: Float[Array, "out"]) -> Float[Array, "rows out"]:
    """`rows + bias`, whose gradient is summed over the rows by a product; XLA's sum is several times slower on CPUs."""
    return rows + bias[None]


shifted.defvjp(
    lambda rows, bias: (rows + bias[None], None),
    lambda kept, slope: (slope, (jnp.ones((1, slope.shape[0])) @ slope)[0]),
)


class Mlp(nn.Module):
    """Linear layers with ReLU between them: `[..., in] -> [..., widths[-1]]`."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, *inputs: Array | AgentInputs) -> Array:
        """Apply every layer to the inputs' concatenation; no activation after the last."""
        for width in self.widths[:-1]:
            inputs = (nn.relu(Linear(width)(*inputs)),)
        return Linear(self.widths[-1])(*inputs)


def last_actions(action: Int[Array, "time agents"], first: Bool[Array, "rows"]) -> Int[Array, "rows agents"]:
    """Last action seen at each of the T+1 rows: that of the row before, and -1 where an episode begins."""
    before = jnp.concatenate([jnp.full((1, action.shape[1]), -1, jnp.int32), action.astype(jnp.int32)])
    return jnp.where(first[:, None], -1, before)


class AgentNetwork(nn.Module):
    """Linear, ReLU, GRU (or a second linear layer with ReLU), linear: one set of weights for all agents.

    The module is one step of the network; `unroll` reads a trajectory with it.

    Args (fields):
      hidden: width H of both hidden layers.
      outputs: size of the last layer (A for utilities and logits).
      recurrent: False replaces the GRU by a linear layer with ReLU, for games whose observation is the state.
      remat: keep nothing of a step but the hidden state, and compute it again in the backward pass (see `recur`).
    Reference: pymarl `rnn_agent.py` (oxwhirl/pymarl).
    """

    hidden: int
    outputs: int
    recurrent: bool = True
    remat: bool = True

    def __call__(
        self, hidden: Float[Array, "*lead agents hidden"], *inputs: Array | AgentInputs
    ) -> tuple[Float[Array, "*lead agents hidden"], Float[Array, "*lead agents outputs"]]:
        """One step from the given hidden state; several inputs count as their concatenation (see `Linear`).

        Returns:
          The hidden state afterwards, and the outputs.
        """
        hidden, (_, outputs) = self.with_features(hidden, *inputs)
        return hidden, outputs

    @nn.compact
    def with_features(
        self, hidden: Float[Array, "*lead agents hidden"], *inputs: Array | AgentInputs
    ) -> tuple[Array, tuple[Float[Array, "*lead agents hidden"], Float[Array, "*lead agents outputs"]]]:
        """As `__call__`, with what the last layer reads: the hidden state afterwards, if there is a GRU.

        Returns:
          The hidden state afterwards, and features and outputs.
        """
        features = nn.relu(Linear(self.hidden, name="input_layer")(*inputs))
        if self.recurrent:
            flat = lambda leaf: leaf.reshape(-1, self.hidden)
            hidden = features = gru_cell(self._weights(), flat(hidden), flat(features)).reshape(features.shape)
        else:
            features = nn.relu(Linear(self.hidden, name="hidden_layer")(features))
        return hidden, (features, Linear(self.outputs, name="output_layer")(features))

    def _weights(self) -> dict[str, Array]:
        init = fan_in_uniform(self.hidden)
        shapes = {"kernel": (self.hidden, 3 * self.hidden), "bias": (3 * self.hidden,)}
        return {
            f"{source}_{kind}": self.param(f"gru_{source}_{kind}", init, shapes[kind])
            for source in ("input", "hidden")
            for kind in ("kernel", "bias")
        }


def trajectory_inputs(trajectory: Trajectory) -> AgentInputs:
    """What every agent reads at each of the T+1 rows."""
    obs, _, avail = trajectory.observation
    return agent_inputs(obs, last_actions(trajectory.action, trajectory.layout.first), avail.shape[-1])


def unroll(
    network: AgentNetwork, params: Params, layout: Layout, *inputs: Array | AgentInputs
) -> Float[Array, "rows agents outputs"]:
    """Outputs of an agent network over a trajectory, from a zero hidden state wherever an episode begins.

    Args:
      network: whose weights `params` are.
      params: of the network.
      layout: where episodes begin among the T+1 rows.
      inputs: `[T+1, N, X]`, or of length 1 where all rows or all agents share them; they count as their concatenation.
    """
    return _over_time(network, "__call__", params, layout, inputs)


def unroll_features(
    network: AgentNetwork, params: Params, layout: Layout, *inputs: Array | AgentInputs
) -> tuple[Float[Array, "rows agents hidden"], Float[Array, "rows agents outputs"]]:
    """As `unroll`, with what the last layer reads before the outputs: features of every agent's history."""
    return _over_time(network, "with_features", params, layout, inputs)


def _over_time(network: AgentNetwork, method: str, params: Params, layout: Layout, inputs: Any) -> Any:
    def step(params: Params, hidden: Array, row: tuple[Array | AgentInputs, ...]) -> tuple[Array, Any]:
        return network.apply({"params": params}, hidden, *row, method=method)  # pyright: ignore[reportReturnType]

    parts = tuple(jax.tree.leaves(inputs))
    if not network.recurrent:
        return each_row(lambda p, *rows: step(p, jnp.zeros(()), rows)[1], params, layout, *parts)
    n_agents = max(part.shape[-2] for part in parts)

    def rows(params: Params, layout: Layout, inputs: tuple[Array, ...]) -> Any:
        hidden = jnp.zeros((layout.first.shape[1], n_agents, network.hidden))
        return (recur if network.remat else recur_keeping)(step, params, hidden, layout, inputs)

    def blocks(params: Params, layout: Layout, inputs: tuple[Array, ...]) -> Any:
        return _in_blocks(network, method, params, layout, inputs)

    if network.remat and not is_cpu():
        return over_rows(blocks)(params, layout, parts)
    return over_rows(rows)(params, layout, parts)


def _in_blocks(network: AgentNetwork, method: str, params: Params, layout: Layout, inputs: tuple[Array, ...]) -> Any:
    """The form for accelerators: every layer for all rows of a block of time at once, block after block.

    Backward, a block's layers are computed again from its inputs and its hidden states, and so what they fill is as
    long as a block.
    """
    n_agents = max(part.shape[-2] for part in inputs)
    weights = {name.removeprefix("gru_"): leaf for name, leaf in params.items() if name.startswith("gru_")}

    def block(hidden: Array, rows: tuple[Array, tuple[Array, ...]]) -> tuple[Array, Any]:
        first, inputs = rows
        features = nn.relu(run(Linear(network.hidden), params["input_layer"], *inputs))
        lead = (*first.shape, n_agents)
        flat = jnp.broadcast_to(features, (*lead, network.hidden)).reshape(first.shape[0], -1, network.hidden)
        flat: Array = gru_over_time(UNROLL, weights, jnp.repeat(first, n_agents, axis=1), hidden, flat)
        features = flat.reshape(*lead, -1)
        outputs = run(Linear(network.outputs), params["output_layer"], features)
        return flat[-1], (features, outputs) if method == "with_features" else outputs

    start = jnp.zeros((layout.first.shape[1] * n_agents, network.hidden))
    return over_blocks(block, start, layout.first, inputs)


def one_row() -> Layout:
    """The layout of a single row, in which an episode begins."""
    return Layout(first=jnp.ones((1,), bool))


def zero_hidden(n_agents: int, hidden: int) -> Float[Array, "agents hidden"]:
    """Hidden state at the first step of every episode."""
    return jnp.zeros((n_agents, hidden))


def one_step(
    network: AgentNetwork, params: Params, hidden: Float[Array, "agents hidden"], *inputs: Array | AgentInputs
) -> tuple[Float[Array, "agents hidden"], Float[Array, "agents outputs"]]:
    """What acting takes of a network: the hidden state after a single step, and the outputs.

    On accelerators the inputs are concatenated after all: of so few rows every product, and every slice of a kernel,
    costs its launch and no more.
    """
    if is_cpu():
        return run(network, params, hidden, *inputs)
    parts: list[Array] = jax.tree.leaves(inputs)
    lead = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    together = [jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in parts]
    return run(network, params, hidden, jnp.concatenate(together, axis=-1))
