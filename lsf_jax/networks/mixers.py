"""Mixers: how Q_tot is made of per-agent values, one after another, each a `Mixer` of pure functions.

VDN sums the values, QMIX mixes them monotonically, QPLEX and FOP weigh their advantages with positive importances that
may depend on the joint action, WQMIX's central branch maps them freely, DOP takes a convex combination.

In most of them a hypernetwork turns the state into weights, and mixing is arithmetic on these. An algorithm that mixes
several values of one state calls the two apart (`MonotonicHypernetwork`, then `mix`): one pass of the hypernetwork then
serves every loss of an update, the weights are a field of `Forward` on which a loss may `stop_gradient`, and mixing
other values costs a few multiplications.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lsf_jax.networks.agents import Linear, Mlp, run
from lsf_jax.types import EnvSpec, Params, PRNGKey

TINY = 1e-10
"""Keeps weights above zero where an absolute value is zero (QPLEX's, FOP's, DOP's)."""


class Mixer(NamedTuple):
    """How per-agent values become Q_tot: one call shape for every factorisation, so that algorithms differ in a name.

    Every row (a time step, or a joint action of a small game) is mixed apart from the others. `chosen` holds qᵢ(uᵢ),
    `value` the agents' state values (maxₐ qᵢ(a), or FOP's soft value), `action` the joint action one-hot.
    """

    init: Callable[[PRNGKey], Params]
    mix: Callable[[Params, Array, Array, Array, Array], Array]  # chosen, value [T, N], action [T, N, A], state [T, S]
    slopes: Callable[[Params, Array, Array, Array, Array], Array] | None = None
    """∂Q_tot/∂chosen `[T, N]` for a mixer whose gradient, by design, is another."""


def slopes(
    mixer: "Mixer | ConvexMixer",
    params: Params,
    chosen: Float[Array, "rows agents"],
    value: Float[Array, "rows agents"],
    action: Float[Array, "rows agents actions"],
    state: Float[Array, "rows state"],
) -> Float[Array, "rows agents"]:
    """∂Q_tot/∂qᵢ(uᵢ) in every row, all else held fixed: how much each agent's value counts. For people, not losses."""
    if isinstance(mixer, Mixer) and mixer.slopes is not None:
        return mixer.slopes(params, chosen, value, action, state)
    return jax.grad(lambda values: mixer.mix(params, values, value, action, state).sum())(chosen)


def sum_mixer(spec: EnvSpec) -> Mixer:
    """VDN: Q_tot = Σᵢ qᵢ, no parameters. Reference: Sunehag et al. (2018); oxwhirl/pymarl `vdn.py`."""
    del spec  # a sum has no sizes
    return Mixer(init=lambda key: {}, mix=_mix_sum)


def _mix_sum(params: Params, chosen: Array, value: Array, action: Array, state: Array) -> Array:
    del params, value, action, state
    return chosen.sum(axis=-1)


class Mixing(NamedTuple):
    """Weights of the monotonic mixer for each row: non-negative kernels, free biases."""

    kernel_1: Float[Array, "*lead agents embed"]
    bias_1: Float[Array, "*lead embed"]
    kernel_2: Float[Array, "*lead embed"]
    bias_2: Float[Array, "*lead"]


class MonotonicHypernetwork(nn.Module):
    """QMIX's hypernetwork: state to mixing weights, the kernels through an absolute value (eq. 4: ∂Q_tot/∂q_i ≥ 0).

    Args (fields): as in `monotonic_mixer`.
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


class Summing(NamedTuple):
    """What stands in the place of `Mixing` where Q_tot is the sum of the agents' values: nothing but the rows."""

    rows: Float[Array, "*lead"]


class SumNetwork(nn.Module):
    """VDN in the place of `MonotonicHypernetwork`: no parameters."""

    @nn.compact
    def __call__(self, state: Float[Array, "*lead state"]) -> Summing:
        """As many rows as there are states."""
        return Summing(rows=jnp.zeros(state.shape[:-1]))


def mix(mixing: Mixing | Summing, values: Float[Array, "*lead agents"]) -> Float[Array, "*lead"]:
    """Q_tot = |w₂| · ELU(|W₁| q + b₁) + b₂, eq. (1); of `Summing` the sum.

    Written as products and sums, not as batched matrix products: each row has its own weights, so a matrix unit has
    nothing to reuse, and an elementwise product fuses.
    """
    if isinstance(mixing, Summing):
        return mixing.rows + values.sum(axis=-1)
    hidden = nn.elu((values[..., None] * mixing.kernel_1).sum(axis=-2) + mixing.bias_1)
    return (hidden * mixing.kernel_2).sum(axis=-1) + mixing.bias_2


def monotonic_mixer(spec: EnvSpec, *, embed: int = 32, hyper_hidden: int = 64) -> Mixer:
    """QMIX: Q_tot = `mix` with the weights of `MonotonicHypernetwork`.

    Args:
      spec: sizes of the environment.
      embed: width of the mixer's hidden layer.
      hyper_hidden: width of the hypernetworks' hidden layer; 0 makes them single linear layers.
    Reference: Rashid et al. (2018); oxwhirl/pymarl `qmix.py`.
    """
    network = MonotonicHypernetwork(spec.n_agents, embed, hyper_hidden)
    return Mixer(init=partial(_init, network, ((spec.state_dim,),)), mix=partial(_mix_monotonic, network))


def _mix_monotonic(
    network: nn.Module, params: Params, chosen: Array, value: Array, action: Array, state: Array
) -> Array:
    del value, action
    return mix(run(network, params, state), chosen)


class Duplexing(NamedTuple):
    """Weights of the duplex mixer for each row: w > 0 and b of the affine map, importance λ > 0 of the advantages."""

    scale: Float[Array, "*lead agents"]
    shift: Float[Array, "*lead agents"]
    importance: Float[Array, "*lead agents"]


def mix_duplex(
    duplexing: Duplexing, chosen: Float[Array, "*lead agents"], value: Float[Array, "*lead agents"]
) -> Float[Array, "*lead"]:
    """Q_tot = Σᵢ q̃ᵢ + Σᵢ (λᵢ - 1) sg(q̃ᵢ - ṽᵢ) with q̃ = w q + b and ṽ = w v + b, where sg stops the gradient.

    In value this is Σ ṽᵢ + Σ λᵢ (q̃ᵢ - ṽᵢ), QPLEX's V_tot + A_tot. In gradient it is not: the agents, w and b learn
    through Σ q̃ᵢ alone, v learns nothing, and λ learns through the advantages alone. The released codes do so.
    """
    advantage = jax.lax.stop_gradient(duplexing.scale * (chosen - value))  # q̃ - ṽ: the shift cancels
    transformed = duplexing.scale * chosen + duplexing.shift
    return (transformed + (duplexing.importance - 1.0) * advantage).sum(axis=-1)


class ImportanceHead(nn.Module):
    """One term of λ: |key(s)| · σ(agents(s)) · σ(actions(s, u)), each factor an MLP."""

    n_agents: int
    layers: int
    hidden: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "*lead state"], joint: Float[Array, "*lead joint"]
    ) -> Float[Array, "*lead agents"]:
        """Positive weights of all agents; 1e-10 keeps them so where the key is zero."""
        widths = (self.hidden,) * (self.layers - 1)
        key = jnp.abs(Mlp((*widths, 1), name="key")(state)) + TINY
        agents = nn.sigmoid(Mlp((*widths, self.n_agents), name="agents")(state))
        return key * agents * nn.sigmoid(Mlp((*widths, self.n_agents), name="actions")(state, joint))


class Importance(nn.Module):
    """λᵢ(s, u) = Σₖ keyₖ(s) agentsₖᵢ(s) actionsₖᵢ(s, u) > 0, in QPLEX and FOP alike.

    Parameters of the heads lie on a leading axis of length K, so that a layer of all heads is one product.
    """

    n_agents: int
    heads: int
    layers: int
    hidden: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "*lead state"], action: Float[Array, "*lead agents actions"]
    ) -> Float[Array, "*lead agents"]:
        """Sum of the heads, for each row of states and one-hot joint actions."""
        axes: dict[str, Any] = {"variable_axes": {"params": 0}, "in_axes": None, "axis_size": self.heads}
        stacked = nn.vmap(ImportanceHead, split_rngs={"params": True}, **axes)
        joint = action.reshape(*action.shape[:-2], -1)
        return stacked(self.n_agents, self.layers, self.hidden, name="heads")(state, joint).sum(axis=0)


class DuplexHypernetwork(nn.Module):
    """QPLEX's w(s) = |MLP(s)| + 1e-10, b(s) = MLP(s) with one hidden layer each, and λ(s, u).

    Args (fields): as in `duplex_mixer`.
    """

    n_agents: int
    heads: int
    layers: int
    hidden: int

    @nn.compact
    def __call__(self, state: Float[Array, "*lead state"], action: Float[Array, "*lead agents actions"]) -> Duplexing:
        """Map states `[..., S]` and one-hot joint actions `[..., N, A]` to the weights of each row."""
        widths = (self.hidden, self.n_agents)
        importance = Importance(self.n_agents, self.heads, self.layers, self.hidden, name="importance")
        return Duplexing(
            scale=jnp.abs(Mlp(widths, name="scale")(state)) + TINY,
            shift=Mlp(widths, name="shift")(state),
            importance=importance(state, action),
        )


def duplex_mixer(spec: EnvSpec, *, heads: int = 4, layers: int = 2, hidden: int = 64) -> Mixer:
    """QPLEX: a state-dependent affine map of every utility, then dueling with weights of the joint action.

    The defaults are pymarl2's for SMAC; QPLEX's own are 4 heads of 1 layer there, 10 heads of 3 layers in matrix games.

    Args:
      spec: sizes of the environment.
      heads: K, terms of λ.
      layers: linear layers of each head's three networks; 1 is a single linear layer.
      hidden: width of all hidden layers.

    Raises:
      ValueError: a size is below 1; unlike QMIX's, the affine map always has a hidden layer.
    Reference: Wang et al. (2021), QPLEX; wjh720/QPLEX `dmaq_general.py`, with all its switches on.
    """
    for name, size in {"heads": heads, "layers": layers, "hidden": hidden}.items():
        if size < 1:
            raise ValueError(f"{name} {size} of the duplex mixer: expected an integer of at least 1.")
    return _duplex(DuplexHypernetwork(spec.n_agents, heads, layers, hidden), spec)


class SoftDuplexHypernetwork(nn.Module):
    """FOP's V(s), an equal share of it for every agent, and λ(s, u); w = 1.

    Args (fields): as in `soft_duplex_mixer`.
    """

    n_agents: int
    heads: int
    embed: int

    @nn.compact
    def __call__(self, state: Float[Array, "*lead state"], action: Float[Array, "*lead agents actions"]) -> Duplexing:
        """Map states `[..., S]` and one-hot joint actions `[..., N, A]` to the weights of each row."""
        importance = Importance(self.n_agents, self.heads, layers=1, hidden=0, name="importance")(state, action)
        share = Mlp((self.embed, 1), name="state_value")(state) / self.n_agents
        ones = jnp.ones_like(importance)
        return Duplexing(scale=ones, shift=share * ones, importance=importance)


def soft_duplex_mixer(spec: EnvSpec, *, heads: int = 4, embed: int = 32) -> Mixer:
    """FOP: Q_tot = V(s) + Σᵢ qᵢ + Σᵢ (λᵢ - 1) sg(qᵢ - vᵢ); λ as in QPLEX, from single linear layers.

    Each advantage qᵢ - vᵢ counts λᵢ(s, u) > 0 times, so its sign survives. The best joint action need not consist of
    the agents' own best ones, because λ depends on u and the soft value vᵢ is not maxₐ qᵢ.

    Args:
      spec: sizes of the environment.
      heads: K, terms of λ.
      embed: width of V's hidden layer.
    Reference: Zhang et al. (2021); liyheng/FOP `fop.py`.
    """
    return _duplex(SoftDuplexHypernetwork(spec.n_agents, heads, embed), spec)


def _duplex(network: nn.Module, spec: EnvSpec) -> Mixer:
    shapes = (spec.state_dim,), (spec.n_agents, spec.n_actions)
    return Mixer(
        init=partial(_init, network, shapes),
        mix=partial(_mix_duplex, network),
        slopes=partial(_slopes_duplex, network),
    )


def _mix_duplex(network: nn.Module, params: Params, chosen: Array, value: Array, action: Array, state: Array) -> Array:
    return mix_duplex(run(network, params, state, action), chosen, value)


def _slopes_duplex(
    network: nn.Module, params: Params, chosen: Array, value: Array, action: Array, state: Array
) -> Array:
    """λᵢ wᵢ; the gradient of `mix_duplex`, through which agents learn, is wᵢ alone."""
    del chosen, value
    duplexing: Duplexing = run(network, params, state, action)
    return duplexing.importance * duplexing.scale


class FreeNetwork(nn.Module):
    """Q_tot = MLP([s, q]) + V(s) with three hidden layers and one: any function of the values."""

    hidden: int

    @nn.compact
    def __call__(
        self, chosen: Float[Array, "*lead agents"], state: Float[Array, "*lead state"]
    ) -> Float[Array, "*lead"]:
        """Q_tot of each row."""
        widths = (self.hidden, self.hidden, self.hidden, 1)
        joint = Mlp(widths, name="joint")(state, chosen)
        return (joint + Mlp((self.hidden, 1), name="state_value")(state))[..., 0]


def free_mixer(spec: EnvSpec, *, hidden: int = 256) -> Mixer:
    """WQMIX's central mixer Q*: `FreeNetwork`, of the state and all values, with no sign constraint.

    Args:
      spec: sizes of the environment.
      hidden: width of all hidden layers.
    Reference: Rashid et al. (2020), WQMIX; oxwhirl/wqmix `qmix_central_no_hyper.py` with one value for each agent.
    """
    network = FreeNetwork(hidden)
    return Mixer(init=partial(_init, network, ((spec.n_agents,), (spec.state_dim,))), mix=partial(_mix_free, network))


def _mix_free(network: nn.Module, params: Params, chosen: Array, value: Array, action: Array, state: Array) -> Array:
    del value, action
    return run(network, params, chosen, state)


class ConvexMixer(NamedTuple):
    """A `Mixer` that also tells its weights, which DOP's actor needs."""

    init: Callable[[PRNGKey], Params]
    mix: Callable[[Params, Array, Array, Array, Array], Array]  # as in Mixer
    weights: Callable[[Params, Array], Array]  # k(s): [T, S] to [T, N], non-negative, rows sum to 1


class ConvexHypernetwork(nn.Module):
    """DOP's k(s) = |W₁(s)| |W₂(s)|, divided by its sum; both factors are single linear layers.

    The released code also computes a bias b(s) but never adds it; it is left out here. An added 1e-10 makes the weights
    uniform where the product vanishes, in place of 0/0.

    Args (fields): as in `convex_mixer`.
    """

    n_agents: int
    embed: int = 32

    @nn.compact
    def __call__(self, state: Float[Array, "*lead state"]) -> Float[Array, "*lead agents"]:
        """Map states `[..., S]` to convex weights of the agents."""
        kernel_1 = jnp.abs(Linear(self.n_agents * self.embed, name="kernel_1")(state))
        kernel_2 = jnp.abs(Linear(self.embed, name="kernel_2")(state))
        kernel_1 = kernel_1.reshape(*state.shape[:-1], self.n_agents, self.embed)
        weights = (kernel_1 * kernel_2[..., None, :]).sum(axis=-1) + TINY
        return weights / weights.sum(axis=-1, keepdims=True)


def convex_mixer(spec: EnvSpec, *, embed: int = 32) -> ConvexMixer:
    """DOP: Q_tot = Σᵢ kᵢ(s) qᵢ, a convex combination with the weights of `ConvexHypernetwork`.

    Args:
      spec: sizes of the environment.
      embed: width of the product from which the weights come.
    Reference: Wang et al. (2021), DOP; TonghanWang/DOP `qmix.py`.
    """
    network = ConvexHypernetwork(spec.n_agents, embed)
    return ConvexMixer(
        init=partial(_init, network, ((spec.state_dim,),)),
        mix=partial(_mix_convex, network),
        weights=partial(run, network),
    )


def _mix_convex(network: nn.Module, params: Params, chosen: Array, value: Array, action: Array, state: Array) -> Array:
    del value, action
    return (run(network, params, state) * chosen).sum(axis=-1)


def _init(network: nn.Module, shapes: tuple[tuple[int, ...], ...], key: PRNGKey) -> Params:
    """Parameters of a network for one row of inputs with the given shapes."""
    return network.init(key, *(jnp.zeros(shape) for shape in shapes))["params"]
