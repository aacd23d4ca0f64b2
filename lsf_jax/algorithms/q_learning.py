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
from jaxtyping import Array, Float, Int

from lsf_jax.algorithms.base import (
    agent_acting,
    first_inputs,
    greedy_policy,
    hyper_of,
    init_agent,
    init_network,
    make_optimizers,
    network_outputs,
    off_policy,
    tabulate,
    utility_metrics,
)
from lsf_jax.algorithms.configs import MixedValueConfig, MonotonicConfig, ValueConfig
from lsf_jax.engine.buffers import ObserveFn
from lsf_jax.engine.distributions import best_value, greedy, take_actions
from lsf_jax.engine.exploration import behave_epsilon_greedy
from lsf_jax.engine.learner import ForwardFn, Learner, LossFn, Terms, hard_copy, make_update
from lsf_jax.engine.returns import discounts, td_lambda, traces
from lsf_jax.networks.agents import AgentNetwork, trajectory_inputs, unroll
from lsf_jax.networks.mixers import Mixer, duplex_mixer, monotonic_mixer, sum_mixer
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.types import (
    AgentState,
    Algorithm,
    Clock,
    EnvSpec,
    Hyper,
    JointTable,
    Observation,
    Params,
    PRNGKey,
    Trajectory,
)


@dataclass(frozen=True)
class QplexConfig(ValueConfig):
    """Settings of QPLEX."""

    heads: int = setting(4, low=1, doc="K, heads of the importance weights; QPLEX 4 on SMAC, 10 on matrix games")
    adv_layers: int = setting(2, low=1, doc="linear layers in a head; pymarl2 2, QPLEX 1 on SMAC, 3 on matrix games")
    hyper_hidden: int = setting(64, low=1, doc="width of the mixer's hidden layers")


class Networks(NamedTuple):
    """What learns: the agents' utilities and, unless every agent learns alone, how they are mixed."""

    agent: AgentNetwork
    mixer: Mixer | None


class Forward(NamedTuple):
    """What the networks say about one trajectory. G is 1, or N where every agent learns alone."""

    q: Float[Array, "rows agents actions"]
    q_total: Float[Array, "time groups"]  # of the actions taken
    next_total: Float[Array, "time groups"]  # target networks, of the online greedy actions at t+1


class Parts(NamedTuple):
    """What `value_based` binds: an algorithm with one group of parameters, "q", whose entry "agent" acts."""

    agent: AgentNetwork
    init: Callable[[PRNGKey], dict[str, Params]]
    forward: ForwardFn
    loss: LossFn
    owned: tuple[str, ...]  # fields of Forward through which the parameters may learn
    diagnose: LossFn
    joint_table: Callable[[AgentState, Observation, PRNGKey], JointTable]


OWNED = ("q", "q_total")


def init_params(net: Networks, spec: EnvSpec, key: PRNGKey) -> dict[str, Params]:
    """Parameters of agents and mixer."""
    key_agent, key_mixer = jax.random.split(key)
    mixer = net.mixer.init(key_mixer) if net.mixer else {}
    return {"agent": init_network(net.agent, key_agent, spec), "mixer": mixer}


def mixed(
    net: Networks,
    params: Params,
    q: Float[Array, "time agents actions"],
    best: Float[Array, "time agents"],
    action: Int[Array, "time agents"],
    state: Float[Array, "time state"],
) -> Float[Array, "time groups"]:
    """Q_tot of a joint action at every step, or without a mixer the agents' own values of it."""
    chosen = take_actions(q, action)
    if net.mixer is None:
        return chosen
    return net.mixer.mix(params["mixer"], chosen, best, jax.nn.one_hot(action, q.shape[-1]), state)[:, None]


def mixed_next(
    net: Networks,
    params: Params,
    q: Float[Array, "rows agents actions"],
    target_q: Float[Array, "rows agents actions"],
    t: Trajectory,
) -> Float[Array, "time groups"]:
    """The bootstrap of double Q-learning at t+1: chosen by the online utilities, valued by the target networks."""
    avail, state = t.observation.avail[1:], t.observation.state[1:]
    action = greedy(jax.lax.stop_gradient(q[1:]), avail)
    return mixed(net, params, target_q[1:], best_value(target_q[1:], avail), action, state)


def forward(params: dict, targets: dict, trajectory: Trajectory, key: PRNGKey, *, net: Networks) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0."""
    del key  # deterministic
    inputs = trajectory_inputs(trajectory)
    avail, state = trajectory.observation.avail[:-1], trajectory.observation.state[:-1]
    q = unroll(net.agent, params["q"]["agent"], inputs)
    target_q = unroll(net.agent, targets["q"]["agent"], inputs)
    best = best_value(jax.lax.stop_gradient(q[:-1]), avail)
    return Forward(
        q=q,
        q_total=mixed(net, params["q"], q[:-1], best, trajectory.action, state),
        next_total=mixed_next(net, targets["q"], q, target_q, trajectory),
    )


def td_target(
    next_total: Float[Array, "time groups"],
    t: Trajectory,
    hyper: Hyper,
    next_bonus: Float[Array, "time"] | None = None,
) -> Float[Array, "time groups"]:
    """y: the TD(λ) return of every group's bootstrap values, and of an entropy bonus common to all; no gradient."""
    reward, discount = hyper.reward_scale * t.reward, discounts(t.terminal, hyper.discount)
    trace = traces(t.valid, hyper.trace)
    returns = jax.vmap(lambda value: td_lambda(reward, discount, value, trace, next_bonus), in_axes=1, out_axes=1)
    return jax.lax.stop_gradient(returns(next_total))


def squared_error(f: Any, t: Trajectory, hyper: Hyper) -> Float[Array, "time"]:
    """(Q_tot(τ, u) - y)², y the TD(λ) return of the target networks' value of the online greedy joint action.

    With λ > 0 this is Peng's Q(λ), as in pymarl2; pymarl has λ = 0.
    """
    return jnp.square(f.q_total - td_target(f.next_total, t, hyper)).mean(axis=-1)


def td_loss(f: Any, t: Trajectory, clock: Clock, hyper: Hyper) -> Terms:
    """Half the squared error, as in pymarl2; pymarl does not halve it, which clipping and RMSprop's ε notice."""
    del clock
    return {"td": 0.5 * squared_error(f, t, hyper)}


def diagnose(f: Any, t: Trajectory, clock: Clock, hyper: Hyper) -> Terms:
    """Per-step quantities for people, averaged over valid steps."""
    del clock, hyper
    return {
        "q_total": f.q_total.mean(axis=-1),
        **utility_metrics(f.q[:-1], t.observation.avail[:-1], t.action),
        "reward": t.reward,
    }


def joint_table(agent: AgentState, observation: Observation, key: PRNGKey, *, net: Networks) -> JointTable:
    """Utilities and Q_tot of every joint action in one first observation; no Q_tot where every agent learns alone."""
    del key  # deterministic
    params = agent.params["q"]
    q = unroll(net.agent, params["agent"], first_inputs(observation))
    best = best_value(q, observation.avail[None])

    def value(action: Int[Array, "agents"]) -> Float[Array, ""]:
        total = mixed(net, params, q, best, action[None], observation.state[None])
        return total[0, 0] if net.mixer else jnp.full((), jnp.nan)

    return tabulate(q[0], greedy_policy(q[0], observation.avail), value)


def learning_rates(hyper: Hyper) -> dict[str, Array]:
    """Step sizes by parameter group."""
    return {"q": hyper.lr}


def make_agent(spec: EnvSpec, cfg: Any) -> AgentNetwork:
    """The network of the agents' utilities that a config asks for."""
    return AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat)


def q_mixing(
    spec: EnvSpec,
    cfg: Any,
    observe: ObserveFn,
    *,
    name: str,
    mixer: Callable[[EnvSpec, Any], Mixer | None],
) -> Algorithm:
    """Bind value factorisation for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings, the config class of `name`'s registry entry.
      observe: turns a stored episode into a trajectory.
      name: registered name.
      mixer: makes the mixer from spec and settings; None lets every agent learn alone.
    """
    net = Networks(agent=make_agent(spec, cfg), mixer=mixer(spec, cfg))
    parts = Parts(
        agent=net.agent,
        init=partial(init_params, net, spec),
        forward=partial(forward, net=net),
        loss=td_loss,
        owned=OWNED,
        diagnose=diagnose,
        joint_table=partial(joint_table, net=net),
    )
    return value_based(spec, cfg, observe, name=name, parts=parts)


def value_based(spec: EnvSpec, cfg: Any, observe: ObserveFn, *, name: str, parts: Parts) -> Algorithm:
    """Bind off-policy learning of values for an environment: ε-greedy acting, uniform replay, hard target copies.

    Args:
      spec: sizes of the environment.
      cfg: settings, the config class of `name`'s registry entry.
      observe: turns a stored episode into a trajectory.
      name: registered name.
      parts: networks and losses.
    """
    optimizers = make_optimizers(cfg, "q")
    learner = Learner(
        forward=parts.forward,
        losses={"q": parts.loss},
        owns={"q": parts.owned},
        diagnose=parts.diagnose,
        optimizers=optimizers,
        learning_rates=learning_rates,
    )

    def init(key: PRNGKey, hyper: Hyper) -> AgentState:
        del hyper
        return init_agent({"q": parts.init(key)}, optimizers, ("q",))

    acting = agent_acting(
        spec, cfg.hidden, partial(network_outputs, parts.agent), behave_epsilon_greedy, stochastic=False
    )
    return Algorithm(
        name=name,
        hyper=hyper_of(cfg),
        init=init,
        policy_params=lambda agent: agent.params["q"]["agent"],
        replay=off_policy(cfg.batch_size),
        update=make_update(learner, observe),
        refresh=hard_copy(cfg.target_interval, ("q",)),
        joint_table=parts.joint_table,
        **acting._asdict(),
    )


def qmix_mixer(spec: EnvSpec, cfg: MonotonicConfig) -> Mixer:
    """QMIX's mixer with the settings' widths."""
    return monotonic_mixer(spec, embed=cfg.mixer_embed, hyper_hidden=cfg.hyper_hidden)


def _qplex_mixer(spec: EnvSpec, cfg: QplexConfig) -> Mixer:
    return duplex_mixer(spec, heads=cfg.heads, layers=cfg.adv_layers, hidden=cfg.hyper_hidden)


ENTRIES = (
    Entry(
        name="iql",
        config=ValueConfig,
        factory=partial(q_mixing, name="iql", mixer=lambda spec, cfg: None),
        doc="IQL: every agent learns its own value of the team reward, as if the others were part of the environment",
        acts="values",
    ),
    Entry(
        name="vdn",
        config=ValueConfig,
        factory=partial(q_mixing, name="vdn", mixer=lambda spec, cfg: sum_mixer(spec)),
        doc="VDN: Q_tot is the sum of the agents' utilities",
        acts="values",
    ),
    Entry(
        name="qmix",
        config=MixedValueConfig,
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
