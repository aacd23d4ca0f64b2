"""QTRAN: learn the value of joint actions freely, and utilities whose own best actions are best for it.

Utilities factorise Q_jt where the slack Σᵢ qᵢ(uᵢ) - Q_jt(τ, u) + V is zero at ū, the agents' own best actions, and
nowhere negative. Q_jt learns by TD; the losses "opt" and "nopt" bring utilities and V into that shape around it. In
`qtran` (QTRAN-base) nopt looks at the joint action that was taken, in `qtran_alt` at every action of every agent
beside what the others did. Read it as: the table of what differs (`Variant`), the forward pass, the loss, the binding.

Son et al. (2019); code oxwhirl/pymarl `qtran_learner.py` (base), starry-sky6688/MARL-Algorithms `qtran_alt.py` (alt).
Hidden states are `[T, N, H]` throughout; pymarl2's learner takes agents for time steps when it reshapes them. Target
networks run from t = 0; those of MARL-Algorithms (alt) start one observation late, without the history of t = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lsf_jax import types
from lsf_jax.algorithms import base, configs, q_learning, qtran_networks
from lsf_jax.engine import distributions, learner, packing, returns
from lsf_jax.networks import agents, recurrence
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class QtranConfig(configs.TargetConfig, configs.CommonConfig):
    """Settings of QTRAN-base. There is no λ: Q_jt learns from one-step targets, as in every QTRAN."""

    opt_weight: float = number(1.0, low=0.0, doc="weight of the equality at the agents' own best actions; pymarl 1")
    nopt_weight: float = number(0.1, low=0.0, doc="weight of the inequality elsewhere; pymarl 0.1, DCG's stag hunt 10")
    joint_hidden: int = setting(64, low=1, doc="width of the hidden layers of Q_jt and V; pymarl")
    joint_layers: int = setting(2, low=1, doc="hidden layers of Q_jt and V: 2 (pymarl's small), 3 (its big, DCG)")


@dataclass(frozen=True)
class QtranAltConfig(QtranConfig):
    """Settings of QTRAN-alt."""

    nopt_weight: float = number(1.0, low=0.0, doc="weight of the tightened inequality; MARL-Algorithms 1")


class Networks(NamedTuple):
    """What learns: the agents' utilities, the joint value and the state value."""

    agent: agents.AgentNetwork
    joint: qtran_networks.JointCritic | qtran_networks.CounterfactualCritic
    value: qtran_networks.StateValue | qtran_networks.HistoryValue


class Forward(NamedTuple):
    """The networks' outputs for one trajectory. G estimates of Q_jt: 1 in base, in alt one by each agent."""

    q: Float[Array, "rows agents actions"]
    value: Float[Array, "time"]  # V
    joint: Float[Array, "time groups"]  # Q_jt(τ, u) of the actions taken: where TD trains it
    row: Float[Array, "time *row"]  # Q_jt(τ, u), in alt Q_jt(τ, ·, u₋ᵢ), for nopt, which trains it not
    best_joint: Float[Array, "time groups"]  # Q_jt(τ, ū), for opt
    next_joint: Float[Array, "time groups"]  # target networks, at t+1


OWNED = ("q", "value", "joint")


class Variant(NamedTuple):
    """What differs between QTRAN-base and QTRAN-alt."""

    joint: type[qtran_networks.JointCritic] | type[qtran_networks.CounterfactualCritic]
    value: type[qtran_networks.StateValue] | type[qtran_networks.HistoryValue]
    of_action: Callable[[Array, Array], Array]  # output of `joint_outputs`, action -> its values [T, G]
    chooser: Callable[[Array, Array], Array]  # online q, target q -> those whose argmax bootstraps
    nopt: Callable[[Forward, types.Trajectory], Array]  # unweighted loss [T]


def make_networks(spec: types.EnvSpec, cfg: QtranConfig, variant: Variant) -> Networks:
    """The modules that a config asks for."""
    return Networks(
        agent=agents.AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat),
        joint=variant.joint(cfg.joint_hidden, cfg.joint_layers),
        value=variant.value(cfg.joint_hidden, cfg.joint_layers),
    )


def init_params(net: Networks, spec: types.EnvSpec, key: types.PRNGKey) -> dict[str, types.Params]:
    """Parameters of agents, joint value and state value."""
    key_agent, key_joint, key_value = jax.random.split(key, 3)
    state, features = jnp.zeros((1, spec.state_dim)), jnp.zeros((1, spec.n_agents, net.agent.hidden))
    action = jnp.zeros((1, spec.n_agents, spec.n_actions))
    return {
        "agent": base.init_network(net.agent, key_agent, spec),
        "joint": net.joint.init(key_joint, state, features, action)["params"],
        "value": net.value.init(key_value, state, features)["params"],
    }


def joint_outputs(
    net: Networks,
    params: types.Params,
    layout: types.Layout,
    state: Float[Array, "time state"],
    features: Float[Array, "time agents hidden"],
    action: Int[Array, "time agents"],
) -> Float[Array, "time *row"]:
    """The joint critic's output for a joint action at every step: Q_jt `[T]`, or in alt the rows `[T, N, A]`."""
    taken = jax.nn.one_hot(action, net.agent.outputs)
    return recurrence.each_row(partial(agents.run, net.joint), params, layout, state, features, taken)


def forward(
    params: dict,
    targets: dict,
    trajectory: types.Trajectory,
    keys: Key[Array, "rows"],
    *,
    net: Networks,
    variant: Variant,
) -> Forward:
    """Run every network over a trajectory, agents once and from a zero hidden state at t = 0."""
    del keys  # deterministic
    online, target, action = params["q"], targets["q"], trajectory.action
    inputs, (_, state, avail) = agents.trajectory_inputs(trajectory), trajectory.observation
    features, q = agents.unroll_features(net.agent, online["agent"], trajectory.layout, inputs)
    target_features, target_q = agents.unroll_features(net.agent, target["agent"], trajectory.layout, inputs)
    best = distributions.greedy(jax.lax.stop_gradient(q[:-1]), avail[:-1])
    next_best = distributions.greedy(jax.lax.stop_gradient(variant.chooser(q, target_q)[1:]), avail[1:])
    layout, value = trajectory.layout, partial(agents.run, net.value)
    output = joint_outputs(net, online["joint"], layout, state[:-1], features[:-1], action)
    best_output = joint_outputs(net, online["joint"], layout, state[:-1], features[:-1], best)
    next_output = joint_outputs(net, target["joint"], layout, state[1:], target_features[1:], next_best)
    return Forward(
        q=q,
        value=recurrence.each_row(value, online["value"], layout, state[:-1], features[:-1]),
        joint=variant.of_action(output, action),
        row=output,
        best_joint=variant.of_action(best_output, best),
        next_joint=variant.of_action(next_output, next_best),
    )


def loss(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, variant: Variant) -> learner.Terms:
    """The three losses, errors squared and not halved, means over the estimates of the joint value.

        td   = (Q_jt(τ, u) - [r + γ Q_jt⁻(τ', ū')])²
        opt  = (Σ maxₐ qᵢ(a) - sg Q_jt(τ, ū) + V)²
        nopt = (min {0, Σ qᵢ(uᵢ) - sg Q_jt(τ, u) + V})², see `nopt_taken`; in alt see `nopt_counterfactual`

    td trains Q_jt and, through the features that it reads, the agents but for their last layer. The other two train
    utilities and V, for `best_joint` and `row` carry no gradient.
    """
    del clock
    discount = returns.discounts(t.terminal, hyper.discount)[:, None]
    target = hyper.reward_scale * t.reward[:, None] + discount * f.next_joint
    best = distributions.best_value(f.q[:-1], t.observation.avail[:-1]).sum(axis=-1)
    return {
        "td": jnp.square(f.joint - target).mean(axis=-1),
        "opt": hyper.opt_weight * jnp.square((best + f.value)[:, None] - f.best_joint).mean(axis=-1),
        "nopt": hyper.nopt_weight * variant.nopt(f, t),
    }


def nopt_taken(f: Forward, t: types.Trajectory) -> Float[Array, "time"]:
    """QTRAN-base: the squared slack of the joint action taken, where it is negative."""
    slack = distributions.take_actions(f.q[:-1], t.action).sum(axis=-1) - f.row + f.value
    return jnp.square(jnp.minimum(slack, 0.0))


def nopt_counterfactual(f: Forward, t: types.Trajectory) -> Float[Array, "time"]:
    """QTRAN-alt: the squared smallest slack of an agent's available actions beside what the others did; mean of agents.

        (minₐ {qᵢ(a) + Σ_{j≠i} qⱼ(uⱼ) - sg Q_jt(τ, a, u₋ᵢ) + V})²

    Positive slack costs too, so that some action of every agent meets the bound: tighter than base.
    """
    chosen = distributions.take_actions(f.q[:-1], t.action)
    others = chosen.sum(axis=-1, keepdims=True) - chosen
    slack = f.q[:-1] + others[..., None] - f.row + f.value[:, None, None]
    return jnp.square(distributions.best_value(-slack, t.observation.avail[:-1])).mean(axis=-1)


def diagnose(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """Per-step quantities for people: Q' = Σ qᵢ is "q_total", Q_jt "q_joint"; they differ by V at ū."""
    del clock, hyper
    return {
        "q_total": distributions.take_actions(f.q[:-1], t.action).sum(axis=-1),
        "q_joint": f.joint.mean(axis=-1),
        "state_value": f.value,
        **base.utility_metrics(f.q[:-1], t.observation.avail[:-1], t.action),
        "reward": t.reward,
    }


def insight(agent: types.AgentState, t: types.Trajectory, f: Forward) -> types.Insight:
    """Utilities, and Q_jt of what was done, in alt the mean of the agents' estimates; no mixer stands between them."""
    del agent, t
    return types.Insight(q=f.q[:-1], total=f.joint.mean(axis=-1), record=f)


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: Networks, variant: Variant
) -> types.JointTable:
    """Utilities and Q' = Σ qᵢ of every joint action in one first observation: what QTRAN's and the paper's tables show.

    Q' is no estimate: by construction Q' + V is Q_jt at the agents' own best actions, no less elsewhere. Q_jt, which
    nobody maximises, is the joint value; in alt the mean of the agents' estimates.
    """
    del key  # deterministic
    params = agent.params["q"]
    features, q = agents.unroll_features(net.agent, params["agent"], agents.one_row(), base.first_inputs(observation))

    def joint_value(action: Int[Array, "agents"]) -> Float[Array, ""]:
        output = joint_outputs(net, params["joint"], agents.one_row(), observation.state[None], features, action[None])
        return variant.of_action(output, action[None]).mean()

    policy = base.greedy_policy(q[0], observation.avail)
    return base.tabulate(q[0], policy, lambda action: distributions.take_actions(q[0], action).sum(), joint_value)


def make_qtran(
    spec: types.EnvSpec, cfg: QtranConfig, observe: packing.ObserveFn, *, name: str, variant: Variant
) -> types.Algorithm:
    """Bind QTRAN for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns stored rows into trajectories.
      name: registered name.
      variant: `BASE` or `ALT`.
    """
    net = make_networks(spec, cfg, variant)
    parts = q_learning.Parts(
        agent=net.agent,
        init=partial(init_params, net, spec),
        forward=partial(forward, net=net, variant=variant),
        loss=partial(loss, variant=variant),
        owned=OWNED,
        diagnose=diagnose,
        joint_table=partial(joint_table, net=net, variant=variant),
        insight=insight,
    )
    return q_learning.value_based(spec, cfg, observe, name=name, parts=parts)


BASE = Variant(
    joint=qtran_networks.JointCritic,
    value=qtran_networks.StateValue,
    of_action=lambda output, action: output[:, None],
    chooser=lambda q, target_q: q,  # double Q-learning
    nopt=nopt_taken,
)
ALT = Variant(
    joint=qtran_networks.CounterfactualCritic,
    value=qtran_networks.HistoryValue,
    of_action=distributions.take_actions,
    chooser=lambda q, target_q: target_q,  # MARL-Algorithms has no double Q-learning
    nopt=nopt_counterfactual,
)
ENTRIES = (
    Entry(
        name="qtran",
        config=QtranConfig,
        factory=partial(make_qtran, name="qtran", variant=BASE),
        doc="QTRAN-base: a free joint value, and utilities whose own best actions are best for it; one-step targets",
        acts="values",
    ),
    Entry(
        name="qtran_alt",
        config=QtranAltConfig,
        factory=partial(make_qtran, name="qtran_alt", variant=ALT),
        doc="QTRAN-alt: QTRAN with a counterfactual joint value for every agent and a tighter inequality",
        acts="values",
    ),
)
