"""Weighted QMIX: QMIX whose error counts less where it does not matter which action is best.

Beside QMIX's branch learns a central one, Q*: utilities of its own and a mixer without sign constraint. Q* gives the
targets of both, at the joint action that QMIX's branch would take. A step counts in full where by the rule QMIX
must be right, else α times: `optimistic` (OW-QMIX) or `centrally_weighted` (CW-QMIX). Read it as: `Forward` and
`forward`, the two rules, the loss, the binding; the rest is `q_mixing`'s.

Rashid et al. (2020), "Weighted QMIX"; code oxwhirl/wqmix `max_q_learner.py`, hijkzzz/pymarl2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lsf_jax import types
from lsf_jax.algorithms import configs, q_learning
from lsf_jax.engine import distributions, learner, packing
from lsf_jax.networks import agents, mixers
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class WeightedQmixConfig(configs.MixedValueConfig):
    """Settings of weighted QMIX: QMIX's and its own."""

    weight: float = number(0.1, low=0.0, high=1.0, doc="α of steps that count in part; WQMIX 0.1, on SMAC OW 0.5")
    central_weight: float = number(1.0, low=0.0, doc="weight of the central loss; WQMIX 1, pymarl2 0.5")
    central_hidden: int = setting(256, low=1, doc="width of the hidden layers of the central mixer; WQMIX")


class Networks(NamedTuple):
    """What learns: QMIX, and the central branch."""

    monotonic: q_learning.Networks
    central: q_learning.Networks


class Forward(NamedTuple):
    """The networks' outputs for one trajectory. G is 1; ū are QMIX's own best available actions."""

    q: Float[Array, "rows agents actions"]  # QMIX's utilities
    q_total: Float[Array, "time groups"]  # Q_tot(τ, u) of the actions taken
    central_total: Float[Array, "time groups"]  # Q*(τ, u)
    best_action: Int[Array, "rows agents"]  # ū
    best_total: Float[Array, "rows groups"]  # Q*(τ, ū) by the target network


OWNED = ("q", "q_total", "central_total")

Rule = Callable[[Forward, types.Trajectory, Float[Array, "time groups"]], Bool[Array, "time groups"]]
"""`(outputs, trajectory, target y) -> which steps count in full`."""


def init_params(net: Networks, spec: types.EnvSpec, key: types.PRNGKey) -> dict[str, types.Params]:
    """Parameters of QMIX's agents and mixer, and under "central" those of the other branch."""
    key_monotonic, key_central = jax.random.split(key)
    central = q_learning.init_params(net.central, spec, key_central)
    return {**q_learning.init_params(net.monotonic, spec, key_monotonic), "central": central}


def total(
    net: q_learning.Networks,
    params: types.Params,
    layout: types.Layout,
    q: Float[Array, "time agents actions"],
    seen: types.Observation,
    action: Int[Array, "time agents"],
) -> Float[Array, "time groups"]:
    """The value that one branch gives a joint action at every step."""
    return q_learning.mixed(net, params, layout, q, distributions.best_value(q, seen.avail), action, seen.state)


def forward(
    params: dict, targets: dict, trajectory: types.Trajectory, keys: Key[Array, "rows"], *, net: Networks
) -> Forward:
    """Run every network once over a trajectory, from a zero hidden state at t = 0."""
    del keys  # deterministic
    online, target = params["q"], targets["q"]["central"]
    inputs, seen, layout = agents.trajectory_inputs(trajectory), trajectory.observation, trajectory.layout
    now = jax.tree.map(lambda leaf: leaf[:-1], seen)
    q = agents.unroll(net.monotonic.agent, online["agent"], layout, inputs)
    central_q = agents.unroll(net.central.agent, online["central"]["agent"], layout, inputs)
    target_q = agents.unroll(net.central.agent, target["agent"], layout, inputs)
    best_action = distributions.greedy(jax.lax.stop_gradient(q), seen.avail)
    return Forward(
        q=q,
        q_total=total(net.monotonic, online, layout, q[:-1], now, trajectory.action),
        central_total=total(net.central, online["central"], layout, central_q[:-1], now, trajectory.action),
        best_action=best_action,
        best_total=total(net.central, target, layout, target_q, seen, best_action),
    )


def optimistic(f: Forward, t: types.Trajectory, y: Float[Array, "time groups"]) -> Bool[Array, "time groups"]:
    """OW: where Q_tot underestimates, Q_tot(τ, u) < y."""
    del t
    return f.q_total < y


def centrally_weighted(f: Forward, t: types.Trajectory, y: Float[Array, "time groups"]) -> Bool[Array, "time groups"]:
    """CW: where u = ū, or where u may be better than ū, y > Q*(τ, ū) of the target network."""
    is_best = (t.action == f.best_action[:-1]).all(axis=-1, keepdims=True)
    return is_best | (y > f.best_total[:-1])


def targets_and_weights(
    f: Forward, t: types.Trajectory, hyper: types.Hyper, rule: Rule
) -> tuple[Float[Array, "time groups"], Float[Array, "time groups"]]:
    """y, the TD(λ) return of Q*(τ', ū') by the target network, and w; nothing learns through either."""
    y = q_learning.td_target(f.best_total[1:], t, hyper)
    return y, jnp.where(rule(f, t, y), 1.0, hyper.weight)


def loss(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, rule: Rule) -> learner.Terms:
    """½ w (Q_tot(τ, u) - y)² and ½ c (Q*(τ, u) - y)², c the central weight.

    WQMIX has λ = 0 and halves neither square, pymarl2 the central one alone (c = 0.5 here). The branches share the
    target and no parameters, so c and the halves matter to clipping and the optimiser's ε alone; in preset `pymarl`
    both are halved too.
    """
    del clock
    y, weight = targets_and_weights(f, t, hyper, rule)
    return {
        "td": 0.5 * (weight * jnp.square(f.q_total - y)).mean(axis=-1),
        "central_td": 0.5 * hyper.central_weight * jnp.square(f.central_total - y).mean(axis=-1),
    }


def diagnose(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, rule: Rule) -> learner.Terms:
    """Per-step quantities for people, averaged over valid steps."""
    return {
        **q_learning.diagnose(f, t, clock, hyper),
        "q_central": f.central_total.mean(axis=-1),
        "weight": targets_and_weights(f, t, hyper, rule)[1].mean(axis=-1),
    }


def make_weighted_qmix(
    spec: types.EnvSpec, cfg: WeightedQmixConfig, observe: packing.ObserveFn, *, name: str, rule: Rule
) -> types.Algorithm:
    """Bind weighted QMIX for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns stored rows into trajectories.
      name: registered name.
      rule: `optimistic` or `centrally_weighted`.
    """
    agent = q_learning.make_agent(spec, cfg)
    net = Networks(
        monotonic=q_learning.Networks(agent=agent, mixer=q_learning.qmix_mixer(spec, cfg)),
        central=q_learning.Networks(agent=agent, mixer=mixers.free_mixer(spec, hidden=cfg.central_hidden)),
    )
    parts = q_learning.Parts(
        agent=agent,
        init=partial(init_params, net, spec),
        forward=partial(forward, net=net),
        loss=partial(loss, rule=rule),
        owned=OWNED,
        diagnose=partial(diagnose, rule=rule),
        joint_table=partial(q_learning.joint_table, net=net.monotonic),
        insight=partial(q_learning.insight, net=net.monotonic),
    )
    return q_learning.value_based(spec, cfg, observe, name=name, parts=parts)


ENTRIES = (
    Entry(
        name="ow_qmix",
        config=WeightedQmixConfig,
        factory=partial(make_weighted_qmix, name="ow_qmix", rule=optimistic),
        doc="OW-QMIX (the paper's WQMIX): QMIX that counts a step in full where it underestimates, with targets of a "
        "free central Q*",
        acts="values",
    ),
    Entry(
        name="cw_qmix",
        config=WeightedQmixConfig,
        factory=partial(make_weighted_qmix, name="cw_qmix", rule=centrally_weighted),
        doc="CW-QMIX: as OW-QMIX, but a step counts in full where the joint action is QMIX's best or may be better "
        "than it",
        acts="values",
    ),
)
