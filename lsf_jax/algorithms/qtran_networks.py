"""QTRAN's central networks: what a joint action is worth, and the state value that corrects the sum of utilities.

They read the state and features hᵢ of every agent's history (its GRU's hidden state after the step).
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lsf_jax.networks import agents


class JointCritic(nn.Module):
    """QTRAN-base's Q_jt(s, τ, u) = MLP([s, Σᵢ e(hᵢ, uᵢ)]), e with one hidden layer, all of it as wide as its input.

    Args (fields):
      hidden: width of the hidden layers.
      layers: how many; pymarl's "small" network has 2, its "big" one 3.
    Reference: Son et al. (2019); oxwhirl/pymarl `qtran.py`, architecture `qtran_paper`.
    """

    hidden: int
    layers: int

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "*lead state"],
        features: Float[Array, "*lead agents hidden"],
        action: Float[Array, "*lead agents actions"],
    ) -> Float[Array, "*lead"]:
        """Value of one joint action (one-hot) in each row."""
        width = features.shape[-1] + action.shape[-1]
        pair = agents.Mlp((width, width), name="pair")(features, action).sum(axis=-2)
        return agents.Mlp((self.hidden,) * self.layers + (1,), name="joint")(state, pair)[..., 0]


class StateValue(nn.Module):
    """QTRAN-base's V(s) = MLP(s): what partial observability takes from the sum of utilities.

    Args (fields): as in `JointCritic`.
    """

    hidden: int
    layers: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "*lead state"], features: Float[Array, "*lead agents hidden"]
    ) -> Float[Array, "*lead"]:
        """Value of each row."""
        del features  # in pymarl V sees the state alone
        return agents.Mlp((self.hidden,) * self.layers + (1,))(state)[..., 0]


class CounterfactualCritic(nn.Module):
    """QTRAN-alt's Q_jt(s, τ, ·, u₋ᵢ) = MLP([s, i, Σⱼ e(hⱼ), Σ_{j≠i} d(uⱼ)]): for every agent a row of its own actions.

    The row of agent i does not depend on uᵢ; e and d have one hidden layer, all of it as wide as its input.

    Args (fields): as in `JointCritic`.
    Reference: Son et al. (2019); starry-sky6688/MARL-Algorithms `qtran_net.py`.
    """

    hidden: int
    layers: int

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "*lead state"],
        features: Float[Array, "*lead agents hidden"],
        action: Float[Array, "*lead agents actions"],
    ) -> Float[Array, "*lead agents actions"]:
        """Values of every agent's actions beside the others' actions (one-hot) in each row."""
        n_agents, n_actions = action.shape[-2:]
        history = _encode(features, "history").sum(axis=-2, keepdims=True)
        ids = jnp.broadcast_to(jnp.eye(n_agents), (*action.shape[:-1], n_agents))
        others = jnp.einsum("ij,...jd->...id", 1.0 - jnp.eye(n_agents), _encode(action, "action"))
        widths = (self.hidden,) * self.layers + (n_actions,)
        return agents.Mlp(widths, name="joint")(state[..., None, :], history, ids, others)


class HistoryValue(nn.Module):
    """QTRAN-alt's V(s, τ) = MLP([s, Σⱼ e(hⱼ)]), with an encoder of its own.

    Args (fields): as in `JointCritic`.
    """

    hidden: int
    layers: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "*lead state"], features: Float[Array, "*lead agents hidden"]
    ) -> Float[Array, "*lead"]:
        """Value of each row."""
        history = _encode(features, "history").sum(axis=-2)
        return agents.Mlp((self.hidden,) * self.layers + (1,), name="value")(state, history)[..., 0]


def _encode(inputs: Array, name: str) -> Array:
    """A layer with ReLU and one without, both as wide as the input."""
    return agents.Mlp((inputs.shape[-1],) * 2, name=name)(inputs)
