"""Networks of DOP: the actor, the local critics of all agents, the mixers that weigh them; and their outputs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from lsf_jax import types
from lsf_jax.algorithms import base
from lsf_jax.engine import distributions
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


class Forward(NamedTuple):
    """What actor and critic make of one trajectory, both as they are: in an update the critic moves at every step."""

    log_pi: Float[Array, "rows agents actions"]  # without the ε floor
    q: Float[Array, "time agents actions"]
    q_total: Float[Array, "time"]  # of the actions taken
    weights: Float[Array, "time agents"]  # kᵢ(s) of the actor's loss


def forward(
    params: dict,
    targets: dict,
    trajectory: types.Trajectory,
    keys: Key[Array, "rows"],
    *,
    net: Networks,
) -> Forward:
    """Run actor and critic once over a trajectory. For people: the update's critic differs from step to step."""
    del targets, keys  # the target critic makes targets alone; nothing is drawn
    logits = agents.unroll(net.actor, params["actor"], trajectory.layout, agents.trajectory_inputs(trajectory))
    obs, state, _ = jax.tree.map(lambda leaf: leaf[:-1], trajectory.observation)
    q = local_values(net, params["critic"], state, obs)
    chosen = distributions.take_actions(q, trajectory.action)
    return Forward(
        log_pi=distributions.masked_log_softmax(logits, trajectory.observation.avail),
        q=q,
        q_total=mixed(net, params["critic"], chosen, state),
        weights=net.mixer.weights(params["critic"]["mixer"], state),
    )


def insight(agent: types.AgentState, t: types.Trajectory, f: Forward, *, net: Networks) -> types.Insight:
    """Policies, local values, Q_tot of what was done, and what the mixer makes each local value count."""
    chosen, state = distributions.take_actions(f.q, t.action), t.observation.state[:-1]
    weights = mixers.slopes(net.mixer, agent.params["critic"]["mixer"], chosen, chosen, chosen[..., None], state)
    return types.Insight(q=f.q, log_pi=f.log_pi[:-1], total=f.q_total, weights=weights, record=f)
