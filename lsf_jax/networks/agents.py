"""Agent networks: inputs of an agent, and the recurrent or feed-forward trunk that reads them over time."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from lsf_jax.types import Params, Trajectory

Initializer = Callable[..., Array]

KEPT = "gru_from_hidden"
"""Name of the only intermediate value of a recurrence that rematerialisation keeps."""


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/√fan_in, 1/√fan_in), PyTorch's default for linear and recurrent layers, weights and biases alike.

    The published curves come from PyTorch, so parity wants its distribution. It also keeps the QR of an orthogonal
    initialiser out of functions vmapped over seeds, which can hang for ever on few CPU cores (jaxlib 0.10.2).
    """
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def run(module: nn.Module, params: Params, *inputs: Array) -> Any:
    """What a module computes from its inputs with the given parameters; modules are used in no other way."""
    return module.apply({"params": params}, *inputs)


class Linear(nn.Module):
    """Affine layer with PyTorch's default initialisation: `[..., in] -> [..., features]`."""

    features: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Map the last axis of the inputs' concatenation, which is never made: each input meets its rows of the kernel.

        So an input that needs no gradient costs none, and one that is common to all agents (`[T, 1, ...]` beside
        `[T, N, ...]`) is multiplied once.
        """
        widths = [part.shape[-1] for part in inputs]
        init = fan_in_uniform(sum(widths))
        kernel = self.param("kernel", init, (sum(widths), self.features))
        bias = self.param("bias", init, (self.features,))
        outputs = bias.reshape((1,) * (inputs[0].ndim - 1) + (-1,))
        for part, stop in zip(inputs, accumulate(widths), strict=True):
            outputs = outputs + part @ kernel[stop - part.shape[-1] : stop]
        return outputs


class Mlp(nn.Module):
    """Linear layers with ReLU between them: `[..., in] -> [..., widths[-1]]`."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Apply every layer to the inputs' concatenation; no activation after the last."""
        for width in self.widths[:-1]:
            inputs = (nn.relu(Linear(width)(*inputs)),)
        return Linear(self.widths[-1])(*inputs)


def agent_inputs(
    obs: Float[Array, "*lead agents obs"], last_action: Int[Array, "*lead agents"], n_actions: int
) -> Float[Array, "*lead agents inputs"]:
    """Concatenates observation, one-hot last action and one-hot agent id (reference: pymarl's basic controller).

    A last action of -1 (before the first step) becomes zeros.
    """
    n_agents = obs.shape[-2]
    ids = jnp.broadcast_to(jnp.eye(n_agents), (*obs.shape[:-1], n_agents))
    return jnp.concatenate([obs, jax.nn.one_hot(last_action, n_actions), ids], axis=-1)


def shift_actions(action: Int[Array, "time agents"]) -> Int[Array, "time_plus_1 agents"]:
    """Last action seen at each of the T+1 rows: -1 at t = 0, then the action of the row before."""
    first = jnp.full((1, action.shape[1]), -1, jnp.int32)
    return jnp.concatenate([first, action.astype(jnp.int32)], axis=0)


def gru_cell(
    weights: dict[str, Array], hidden: Float[Array, "agents hidden"], inputs: Float[Array, "agents inputs"]
) -> Float[Array, "agents hidden"]:
    """One step of a gated recurrent unit with PyTorch's equations (both bias vectors, reset gate inside tanh).

    r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r (U_n h)), h' = (1 - z) n + z h, biases in W and U.
    """
    from_input = inputs @ weights["input_kernel"] + weights["input_bias"][None]
    from_hidden = checkpoint_name(hidden @ weights["hidden_kernel"] + weights["hidden_bias"][None], KEPT)
    input_r, input_z, input_n = jnp.split(from_input, 3, axis=-1)
    hidden_r, hidden_z, hidden_n = jnp.split(from_hidden, 3, axis=-1)
    reset = nn.sigmoid(input_r + hidden_r)
    update = nn.sigmoid(input_z + hidden_z)
    candidate = jnp.tanh(input_n + reset * hidden_n)
    return (1.0 - update) * candidate + update * hidden


class AgentNetwork(nn.Module):
    """Linear, ReLU, GRU (or a second linear layer with ReLU), linear: one set of weights for all agents.

    Args (fields):
      hidden: width H of both hidden layers.
      outputs: size of the last layer (A for utilities and logits).
      recurrent: False replaces the GRU by a linear layer with ReLU, for games whose observation is the state.
      remat: keep one product of each step for the backward pass and recompute the other and the gates. Half the memory
        of keeping everything, and faster on CPUs, where residuals are memory traffic (gradient of 32 × 201 × 8 rows of
        width 64, in one run on two cores: 105 ms and 77 MiB, against 124 ms and 139 MiB).
    Reference: pymarl `rnn_agent.py` (oxwhirl/pymarl).
    """

    hidden: int
    outputs: int
    recurrent: bool = True
    remat: bool = True

    def __call__(
        self, hidden: Float[Array, "agents hidden"], *inputs: Float[Array, "..."]
    ) -> tuple[Float[Array, "agents hidden"], Float[Array, "*lead agents outputs"]]:
        """Read one step `[N, X]` or a whole trajectory `[T, N, X]` from the given hidden state.

        Several inputs count as their concatenation (see `Linear`).

        Returns:
          The hidden state after the last step, and the outputs of every step.
        """
        hidden, _, outputs = self.with_features(hidden, *inputs)
        return hidden, outputs

    @nn.compact
    def with_features(
        self, hidden: Float[Array, "agents hidden"], *inputs: Float[Array, "..."]
    ) -> tuple[Array, Float[Array, "*lead agents hidden"], Float[Array, "*lead agents outputs"]]:
        """As `__call__`, with what the last layer reads at every step: the hidden state after it, if there is a GRU.

        Returns:
          The hidden state after the last step, the features and the outputs of every step.
        """
        features = nn.relu(Linear(self.hidden, name="input_layer")(*inputs))
        if self.recurrent:
            hidden, features = self._recur(hidden, features)
        else:
            features = nn.relu(Linear(self.hidden, name="hidden_layer")(features))
        return hidden, features, Linear(self.outputs, name="output_layer")(features)

    def _recur(self, hidden: Array, features: Array) -> tuple[Array, Array]:
        init = fan_in_uniform(self.hidden)
        shapes = {"kernel": (self.hidden, 3 * self.hidden), "bias": (3 * self.hidden,)}
        weights = {
            f"{source}_{kind}": self.param(f"gru_{source}_{kind}", init, shapes[kind])
            for source in ("input", "hidden")
            for kind in ("kernel", "bias")
        }
        if features.ndim == 2:
            hidden = gru_cell(weights, hidden, features)
            return hidden, hidden

        def step(carry: Array, row: Array) -> tuple[Array, Array]:
            carry = gru_cell(weights, carry, row)
            return carry, carry

        keep = jax.checkpoint_policies.save_only_these_names(KEPT)
        return jax.lax.scan(jax.checkpoint(step, policy=keep) if self.remat else step, hidden, features)


def trajectory_inputs(trajectory: Trajectory) -> Float[Array, "rows agents inputs"]:
    """What every agent reads at each of the T+1 rows."""
    obs, _, avail = trajectory.observation
    return agent_inputs(obs, shift_actions(trajectory.action), avail.shape[-1])


def unroll(network: AgentNetwork, params: Params, *inputs: Array) -> Float[Array, "rows agents outputs"]:
    """Outputs of an agent network over a trajectory, from a zero hidden state at its first row."""
    return run(network, params, zero_hidden(inputs[0].shape[-2], network.hidden), *inputs)[1]


def unroll_features(
    network: AgentNetwork, params: Params, *inputs: Array
) -> tuple[Float[Array, "rows agents hidden"], Float[Array, "rows agents outputs"]]:
    """As `unroll`, with what the last layer reads before the outputs: features of every agent's history."""
    hidden = zero_hidden(inputs[0].shape[-2], network.hidden)
    return network.apply({"params": params}, hidden, *inputs, method="with_features")[1:]  # pyright: ignore[reportReturnType]


def zero_hidden(n_agents: int, hidden: int) -> Float[Array, "agents hidden"]:
    """Hidden state at the first step of every episode."""
    return jnp.zeros((n_agents, hidden))
