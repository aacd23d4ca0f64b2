"""Value factorisation by a mixer: IQL, VDN, QMIX and QPLEX.

One loss for all: the TD(λ) error of double Q-learning on whatever the mixer makes of the agents' utilities. Read it as:
`Forward` and `forward`, the loss, and the binding; the mixers are in `lsf_jax.networks.mixers`.

Tampuu et al. (2017), Sunehag et al. (2018), Rashid et al. (2018), Wang et al. (2021, QPLEX); code oxwhirl/pymarl,
hijkzzz/pymarl2, wjh720/QPLEX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lsf_jax import types
from lsf_jax.algorithms import base, configs
from lsf_jax.engine import distributions, exploration, learner, packing, returns
from lsf_jax.networks import agents, mixers, recurrence
from lsf_jax.registry import Entry
from lsf_jax.settings import ConfigError, setting


@dataclass(frozen=True)
class QplexConfig(configs.ValueConfig):
    """Settings of QPLEX."""

    heads: int = setting(4, low=1, doc="K, heads of the importance weights; QPLEX 4 on SMAC, 10 on matrix games")
    adv_layers: int = setting(2, low=1, doc="linear layers in a head; pymarl2 2, QPLEX 1 on SMAC, 3 on matrix games")
    hyper_hidden: int = setting(64, low=1, doc="width of the mixer's hidden layers")


class Networks(NamedTuple):
    """What learns: the agents' utilities and, unless every agent learns alone, how they are mixed."""

    agent: agents.AgentNetwork
    mixer: mixers.Mixer | None


class Forward(NamedTuple):
    """The networks' outputs for one trajectory. G is 1, or N where every agent learns alone."""

    q: Float[Array, "rows agents actions"]
    q_total: Float[Array, "time groups"]  # of the actions taken
    next_total: Float[Array, "time groups"]  # target networks, of the online greedy actions at t+1


class Parts(NamedTuple):
    """What `value_based` binds: an algorithm with one group of parameters, "q", whose entry "agent" acts."""

    agent: agents.AgentNetwork
    init: Callable[[types.PRNGKey], dict[str, types.Params]]
    forward: learner.ForwardFn
    loss: learner.LossFn
    owned: tuple[str, ...]  # fields of Forward through which the parameters may learn
    diagnose: learner.LossFn
    joint_table: Callable[[types.AgentState, types.Observation, types.PRNGKey], types.JointTable]


OWNED = ("q", "q_total")


def init_params(net: Networks, spec: types.EnvSpec, key: types.PRNGKey) -> dict[str, types.Params]:
    """Parameters of agents and mixer."""
    key_agent, key_mixer = jax.random.split(key)
    mixer = net.mixer.init(key_mixer) if net.mixer else {}
    return {"agent": base.init_network(net.agent, key_agent, spec), "mixer": mixer}


def mixed(
    net: Networks,
    params: types.Params,
    layout: types.Layout,
    q: Float[Array, "time agents actions"],
    best: Float[Array, "time agents"],
    action: Int[Array, "time agents"],
    state: Float[Array, "time state"],
) -> Float[Array, "time groups"]:
    """Q_tot of a joint action at every step, or without a mixer the agents' own values of it."""
    chosen = distributions.take_actions(q, action)
    if net.mixer is None:
        return chosen
    taken = jax.nn.one_hot(action, q.shape[-1])
    return recurrence.each_row(net.mixer.mix, params["mixer"], layout, chosen, best, taken, state)[:, None]


def mixed_next(
    net: Networks,
    params: types.Params,
    q: Float[Array, "rows agents actions"],
    target_q: Float[Array, "rows agents actions"],
    t: types.Trajectory,
) -> Float[Array, "time groups"]:
    """The bootstrap of double Q-learning at t+1: chosen by the online utilities, valued by the target networks."""
    avail, state = t.observation.avail[1:], t.observation.state[1:]
    action = distributions.greedy(jax.lax.stop_gradient(q[1:]), avail)
    return mixed(net, params, t.layout, target_q[1:], distributions.best_value(target_q[1:], avail), action, state)


def forward(
    params: dict, targets: dict, trajectory: types.Trajectory, keys: Key[Array, "rows"], *, net: Networks
) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0."""
    del keys  # deterministic
    inputs = agents.trajectory_inputs(trajectory)
    avail, state = trajectory.observation.avail[:-1], trajectory.observation.state[:-1]
    q = agents.unroll(net.agent, params["q"]["agent"], trajectory.layout, inputs)
    target_q = agents.unroll(net.agent, targets["q"]["agent"], trajectory.layout, inputs)
    best = distributions.best_value(jax.lax.stop_gradient(q[:-1]), avail)
    return Forward(
        q=q,
        q_total=mixed(net, params["q"], trajectory.layout, q[:-1], best, trajectory.action, state),
        next_total=mixed_next(net, targets["q"], q, target_q, trajectory),
    )


def td_target(
    next_total: Float[Array, "time groups"],
    t: types.Trajectory,
    hyper: types.Hyper,
    next_bonus: Float[Array, "time"] | None = None,
) -> Float[Array, "time groups"]:
    """y: the TD(λ) return of every group's bootstrap values, and of an entropy bonus common to all; no gradient."""
    reward, discount = hyper.reward_scale * t.reward, returns.discounts(t.terminal, hyper.discount)
    trace = returns.traces(t.valid, hyper.trace)
    of_group = lambda value: returns.td_lambda(reward, discount, value, trace, next_bonus)
    return jax.lax.stop_gradient(jax.vmap(of_group, in_axes=1, out_axes=1)(next_total))


def squared_error(f: Any, t: types.Trajectory, hyper: types.Hyper) -> Float[Array, "time"]:
    """(Q_tot(τ, u) - y)², y the TD(λ) return of the target networks' value of the online greedy joint action.

    With λ > 0 this is Peng's Q(λ), as in pymarl2; pymarl has λ = 0.
    """
    return jnp.square(f.q_total - td_target(f.next_total, t, hyper)).mean(axis=-1)


def td_loss(f: Any, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """Half the squared error, as in pymarl2. pymarl does not halve it, hence half its norm and ε in preset `pymarl`."""
    del clock
    return {"td": 0.5 * squared_error(f, t, hyper)}


def diagnose(f: Any, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """Per-step quantities for people, averaged over valid steps."""
    del clock, hyper
    return {
        "q_total": f.q_total.mean(axis=-1),
        **base.utility_metrics(f.q[:-1], t.observation.avail[:-1], t.action),
        "reward": t.reward,
    }


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: Networks
) -> types.JointTable:
    """Utilities and Q_tot of every joint action in one first observation; no Q_tot where every agent learns alone."""
    del key  # deterministic
    params = agent.params["q"]
    q = agents.unroll(net.agent, params["agent"], agents.one_row(), base.first_inputs(observation))
    best = distributions.best_value(q, observation.avail[None])

    def value(action: Int[Array, "agents"]) -> Float[Array, ""]:
        total = mixed(net, params, agents.one_row(), q, best, action[None], observation.state[None])
        return total[0, 0] if net.mixer else jnp.full((), jnp.nan)

    return base.tabulate(q[0], base.greedy_policy(q[0], observation.avail), value)


def learning_rates(hyper: types.Hyper) -> dict[str, Array]:
    """Step sizes by parameter group."""
    return {"q": hyper.lr}


def make_agent(spec: types.EnvSpec, cfg: Any) -> agents.AgentNetwork:
    """The network of the agents' utilities that a config asks for."""
    return agents.AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat)


def q_mixing(
    spec: types.EnvSpec,
    cfg: Any,
    observe: packing.ObserveFn,
    *,
    name: str,
    mixer: Callable[[types.EnvSpec, Any], mixers.Mixer | None],
    loss: learner.LossFn = td_loss,
) -> types.Algorithm:
    """Bind value factorisation for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings, the config class of `name`'s registry entry.
      observe: turns stored rows into trajectories.
      name: registered name.
      mixer: makes the mixer from spec and settings; None lets every agent learn alone.
      loss: named per-step terms of a `Forward`.
    """
    net = Networks(agent=make_agent(spec, cfg), mixer=mixer(spec, cfg))
    parts = Parts(
        agent=net.agent,
        init=partial(init_params, net, spec),
        forward=partial(forward, net=net),
        loss=loss,
        owned=OWNED,
        diagnose=diagnose,
        joint_table=partial(joint_table, net=net),
    )
    return value_based(spec, cfg, observe, name=name, parts=parts)


def value_based(
    spec: types.EnvSpec, cfg: Any, observe: packing.ObserveFn, *, name: str, parts: Parts
) -> types.Algorithm:
    """Bind off-policy learning of values for an environment: ε-greedy acting, uniform replay, hard target copies.

    Args:
      spec: sizes of the environment.
      cfg: settings, the config class of `name`'s registry entry.
      observe: turns stored rows into trajectories.
      name: registered name.
      parts: networks and losses.
    """
    rules = base.make_optimizers(cfg, "q")
    learning = learner.Learner(
        forward=parts.forward,
        losses={"q": parts.loss},
        owns={"q": parts.owned},
        diagnose=parts.diagnose,
        optimizers=rules,
        learning_rates=learning_rates,
    )

    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        del hyper
        return base.init_agent({"q": parts.init(key)}, rules, ("q",))

    outputs, behave = partial(base.network_outputs, parts.agent), exploration.behave_epsilon_greedy
    return types.Algorithm(
        name=name,
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=lambda agent: agent.params["q"]["agent"],
        replay=base.off_policy(cfg.batch_size),
        update=learner.make_update(learning, observe),
        refresh=learner.hard_copy(cfg.target_interval, ("q",)),
        joint_table=parts.joint_table,
        **base.agent_acting(spec, cfg.hidden, outputs, behave, stochastic=False)._asdict(),
    )


def mixing_entry(entry: Entry) -> Entry:
    """The algorithm of a mixer: value factorisation by it.

    Args:
      entry: of a mixer, with a factory `(spec, config) -> Mixer`.

    Raises:
      ConfigError: its settings are not those that value factorisation needs.
    """
    if not issubclass(entry.config, configs.ValueConfig):
        name = entry.config.__name__
        raise ConfigError(f"mixer {entry.name!r}: config {name} does not inherit lsf_jax.ValueConfig")
    factory = partial(q_mixing, name=entry.name, mixer=entry.factory)
    return entry._replace(factory=factory, acts="values")


def qmix_mixer(spec: types.EnvSpec, cfg: configs.MonotonicConfig) -> mixers.Mixer:
    """QMIX's mixer with the settings' widths."""
    return mixers.monotonic_mixer(spec, embed=cfg.mixer_embed, hyper_hidden=cfg.hyper_hidden)


def _qplex_mixer(spec: types.EnvSpec, cfg: QplexConfig) -> mixers.Mixer:
    return mixers.duplex_mixer(spec, heads=cfg.heads, layers=cfg.adv_layers, hidden=cfg.hyper_hidden)


ENTRIES = (
    Entry(
        name="iql",
        config=configs.ValueConfig,
        factory=partial(q_mixing, name="iql", mixer=lambda spec, cfg: None),
        doc="IQL: every agent learns its own value of the team reward, as if the others were part of the environment",
        acts="values",
    ),
    Entry(
        name="vdn",
        config=configs.ValueConfig,
        factory=partial(q_mixing, name="vdn", mixer=lambda spec, cfg: mixers.sum_mixer(spec)),
        doc="VDN: Q_tot is the sum of the agents' utilities",
        acts="values",
    ),
    Entry(
        name="qmix",
        config=configs.MixedValueConfig,
        factory=partial(q_mixing, name="qmix", mixer=qmix_mixer),
        doc="QMIX: Q_tot is a monotone mixture of the agents' utilities, with weights of the state",
        acts="values",
    ),
    Entry(
        name="qplex",
        config=QplexConfig,
        factory=partial(q_mixing, name="qplex", mixer=_qplex_mixer),
        doc="QPLEX: dueling mixture of the agents' utilities, every value whose best joint action is that of the "
        "agents' own",
        acts="values",
    ),
)
