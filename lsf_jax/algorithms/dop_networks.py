"""Networks of DOP: the actor, the local critics of all agents, and the mixers that weigh them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lsf_jax import types
from lsf_jax.algorithms import base
from lsf_jax.networks import agents, mixers


class LocalCritic(nn.Module):
    """Qᵢ = aᵢ + vᵢ, two heads on two hidden layers; their sum is not centred.

    Args (fields):
      hidden: width of the hidden layers.
      n_actions: A.
    """

    hidden: int
    n_actions: int

    @nn.compact
    def __call__(self, *inputs: Float[Array, "..."]) -> Float[Array, "*lead agents actions"]:
        """Values of all actions from the inputs' concatenation."""
        features = nn.relu(agents.Mlp((self.hidden, self.hidden), name="trunk")(*inputs))
        return agents.Linear(self.n_actions, name="advantage")(features) + agents.Linear(1, name="value")(features)


class Networks(NamedTuple):
    """What learns: the actor, and the local critics with their mixer."""

    actor: agents.AgentNetwork
    critic: LocalCritic
    mixer: mixers.ConvexMixer


def nonlinear_mixer(spec: types.EnvSpec, *, embed: int = 32) -> mixers.ConvexMixer:
    """The mixer of pymarl2's port: Q_tot by QMIX with single linear hypernetworks, the actor's weights not its slopes.

    Those are what the linear mixer would make of the same kernels, k(s) = |W₁(s)| |W₂(s)| divided by its sum.
    """
    network = mixers.MonotonicHypernetwork(spec.n_agents, embed, 0)

    def weights(params: types.Params, state: Float[Array, "*lead state"]) -> Float[Array, "*lead agents"]:
        mixing: mixers.Mixing = agents.run(network, params, state)
        products = (mixing.kernel_1 * mixing.kernel_2[..., None, :]).sum(axis=-1) + mixers.TINY
        return products / products.sum(axis=-1, keepdims=True)

    bent = mixers.monotonic_mixer(spec, embed=embed, hyper_hidden=0)
    return mixers.ConvexMixer(init=bent.init, mix=bent.mix, weights=weights)


MIXERS: dict[str, Callable[..., mixers.ConvexMixer]] = {"linear": mixers.convex_mixer, "nonlinear": nonlinear_mixer}


def init_params(net: Networks, spec: types.EnvSpec, key: types.PRNGKey) -> dict[str, types.Params]:
    """Parameters by group: critic {critic, mixer}, actor."""
    key_critic, key_mixer, key_actor = jax.random.split(key, 3)
    sizes = (spec.state_dim, spec.obs_dim, spec.n_agents)
    critic = net.critic.init(key_critic, *(jnp.zeros((1, spec.n_agents, size)) for size in sizes))["params"]
    return {
        "critic": {"critic": critic, "mixer": net.mixer.init(key_mixer)},
        "actor": base.init_network(net.actor, key_actor, spec),
    }


def local_values(
    net: Networks, params: types.Params, state: Float[Array, "rows state"], obs: Float[Array, "rows agents obs"]
) -> Float[Array, "rows agents actions"]:
    """Qᵢ(s, oᵢ, ·), of no history and no other agent's action."""
    return agents.run(net.critic, params["critic"], state[:, None], obs, jnp.eye(obs.shape[1])[None])


def mixed(
    net: Networks, params: types.Params, values: Float[Array, "rows agents"], state: Float[Array, "rows state"]
) -> Float[Array, "rows"]:
    """Q_tot of one value of each agent; DOP's mixers read neither state values nor actions, whose places it fills."""
    return net.mixer.mix(params["mixer"], values, values, values[..., None], state)
