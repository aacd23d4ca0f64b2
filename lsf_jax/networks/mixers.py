"""Mixers: a hypernetwork turns the state into weights once, and `mix` is arithmetic on them.

Splitting the two lets one pass of the hypernetwork serve every loss of an update: the weights are a field of `Forward`
that a loss may `stop_gradient`, and mixing other values (for the policy loss) costs a few multiplications.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lsf_jax.networks.agents import Linear, Mlp


class Mixing(NamedTuple):
    """Weights of the monotonic mixer for each row: non-negative kernels, free biases."""

    kernel_1: Float[Array, "*lead agents embed"]
    bias_1: Float[Array, "*lead embed"]
    kernel_2: Float[Array, "*lead embed"]
    bias_2: Float[Array, "*lead"]


class MonotonicHypernetwork(nn.Module):
    """QMIX's hypernetwork: state to mixing weights, the kernels through an absolute value (eq. 4: ∂Q_tot/∂q_i ≥ 0).

    Args (fields):
      n_agents: N.
      embed: width of the mixer's hidden layer.
      hyper_hidden: width of the hypernetworks' hidden layer; 0 makes them single linear layers.
    Reference: oxwhirl/pymarl `qmix.py`; Rashid et al. (2018).
    """

    n_agents: int
    embed: int = 32
    hyper_hidden: int = 64

    @nn.compact
    def __call__(self, state: Float[Array, "*lead state"]) -> Mixing:
        """Map states `[..., S]` to the weights of each row."""
        widths = (self.hyper_hidden,) if self.hyper_hidden else ()
        kernel_1 = Mlp((*widths, self.n_agents * self.embed), name="kernel_1")(state)
        kernel_2 = Mlp((*widths, self.embed), name="kernel_2")(state)
        return Mixing(
            kernel_1=jnp.abs(kernel_1).reshape(*state.shape[:-1], self.n_agents, self.embed),
            bias_1=Linear(self.embed, name="bias_1")(state),
            kernel_2=jnp.abs(kernel_2),
            bias_2=Mlp((self.embed, 1), name="bias_2")(state)[..., 0],
        )


def mix(mixing: Mixing, values: Float[Array, "*lead agents"]) -> Float[Array, "*lead"]:
    """Q_tot = |w₂| · ELU(|W₁| q + b₁) + b₂, eq. (1).

    Written as products and sums, not as batched matrix products: each row has its own weights, so a matrix unit has
    nothing to reuse, and an elementwise product fuses.
    """
    hidden = nn.elu((values[..., None] * mixing.kernel_1).sum(axis=-2) + mixing.bias_1)
    return (hidden * mixing.kernel_2).sum(axis=-1) + mixing.bias_2
