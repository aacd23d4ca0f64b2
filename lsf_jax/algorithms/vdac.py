"""VDAC: actor-critic whose state value is factored over agents, by a sum or by QMIX's mixer; and the paper's MAA2C.

On-policy: the advantage of a joint action is its TD(λ) return minus V_tot, the mixture of the agents' own state values,
and every agent's policy gradient uses that one number. In VDAC one network gives policy and value, in MAA2C (Ablation 3
of the LSF-SAC paper) two do. Read it as: `Forward` and the two forward passes, the losses, and the binding.

Su, Adams, Beling (2021); code hahayonghuming/VDACs, hijkzzz/pymarl2 (vmix). Acting takes a uniform action with
probability ε. In the latter code what learns knows nothing of it (`algo.epsilon_floor=outside`), in the former it is
part of π, over all actions (`algo.floor_over=all`, in preset `pymarl`); ours is part of π, over the available ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lsf_jax import types
from lsf_jax.algorithms import base, configs, q_learning
from lsf_jax.engine import distributions, exploration, learner, packing
from lsf_jax.networks import agents, mixers, recurrence
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class VdacConfig(configs.LearnedFloorConfig, configs.TraceConfig, configs.CommonConfig):
    """Settings of VDAC: the shared ones with on-policy defaults, and the weights of its loss."""

    batch_size: int = setting(8, low=1, doc="newest episodes, all in one update; train.n_envs or a multiple of it")
    updates: int = setting(1, low=1, high=100_000, doc="updates after each collection; after the first, data are stale")
    epsilon_start: float = number(0.5, low=0.0, high=1.0, doc="ε floor of acting at env step 0; pymarl2")
    epsilon_finish: float = number(0.0, low=0.0, high=1.0, doc="ε floor of acting at the end; pymarl2 0, original 0.01")

    value_weight: float = number(0.1, low=0.0, doc="weight of the squared error of V_tot")
    entropy_weight: float = number(0.01, low=0.0, doc="weight of the policies' entropy; pymarl2 0.01, original 0")


@dataclass(frozen=True)
class VdacMixConfig(configs.MonotonicConfig, VdacConfig):
    """Settings of VDAC with QMIX's mixer."""


@dataclass(frozen=True)
class Maa2cConfig(VdacMixConfig):
    """Settings of MAA2C: VDAC-mix with networks and optimisers apart."""

    actor_lr: float = number(5e-4, low=0.0, doc="optimiser step of the actor; lr is the critic's")


class Forward(NamedTuple):
    """The networks' outputs for one trajectory."""

    logits: Float[Array, "time agents actions"]
    value_total: Float[Array, "rows"]  # V_tot, also of the row after the last step


def forward_shared(
    params: dict,
    targets: dict,
    trajectory: types.Trajectory,
    keys: Key[Array, "rows"],
    *,
    agent: agents.AgentNetwork,
    mixer: mixers.Mixer,
) -> Forward:
    """VDAC: one network, its first A outputs the logits of πᵢ, its last one Vᵢ."""
    del targets, keys  # no target network; deterministic
    group = params["actor_critic"]
    outputs = agents.unroll(agent, group["agent"], trajectory.layout, agents.trajectory_inputs(trajectory))
    return Forward(
        logits=outputs[:-1, :, :-1],
        value_total=mixed_values(mixer, group["mixer"], outputs[..., -1], trajectory),
    )


def forward_apart(
    params: dict,
    targets: dict,
    trajectory: types.Trajectory,
    keys: Key[Array, "rows"],
    *,
    actor: agents.AgentNetwork,
    critic: agents.AgentNetwork,
    mixer: mixers.Mixer,
) -> Forward:
    """MAA2C: an actor, and a critic of the same inputs with the single output Vᵢ."""
    del targets, keys  # no target network; deterministic
    inputs, group = agents.trajectory_inputs(trajectory), params["critic"]
    values = agents.unroll(critic, group["agent"], trajectory.layout, inputs)[..., 0]
    return Forward(
        logits=agents.unroll(actor, params["actor"], trajectory.layout, inputs)[:-1],
        value_total=mixed_values(mixer, group["mixer"], values, trajectory),
    )


def mixed_values(
    mixer: mixers.Mixer, params: types.Params, values: Float[Array, "rows agents"], t: types.Trajectory
) -> Float[Array, "rows"]:
    """V_tot of V₁..V_N by a mixer that needs no actions."""
    no_action = jnp.zeros((*values.shape, 0))
    return recurrence.each_row(mixer.mix, params, t.layout, values, values, no_action, t.observation.state)


def insight(
    agent: types.AgentState,
    t: types.Trajectory,
    f: Forward,
    *,
    group: str,
    network: agents.AgentNetwork,
    mixer: mixers.Mixer,
) -> types.Insight:
    """Policies, the agents' state values, V_tot and what the mixer makes each of them count in it.

    Args:
      agent: whose parameters gave `f`.
      t: the trajectory.
      f: its record.
      group: the parameter group with the values' network and the mixer.
      network: its last output is Vᵢ.
      mixer: of V₁..V_N.
    """
    params, state = agent.params[group], t.observation.state[:-1]
    values = agents.unroll(network, params["agent"], t.layout, agents.trajectory_inputs(t))[:-1, :, -1]
    no_action = jnp.zeros((*values.shape, 0))
    return types.Insight(
        value=values,
        log_pi=distributions.masked_log_softmax(f.logits, t.observation.avail[:-1]),
        total=f.value_total[:-1],
        weights=mixers.slopes(mixer, params["mixer"], values, values, no_action, state),
        record=f,
    )


def value_target(f: Forward, t: types.Trajectory, hyper: types.Hyper) -> Float[Array, "time"]:
    """y: the TD(λ) return of V_tot, from the network that learns it, without gradient."""
    return q_learning.td_target(f.value_total[1:, None], t, hyper)[:, 0]


def value_loss(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """w_V (V_tot(s) - y)²; w_V only matters beside the policy loss of a shared network."""
    del clock
    return {"td": hyper.value_weight * jnp.square(f.value_total[:-1] - value_target(f, t, hyper))}


def policy_loss(
    f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, policy: exploration.Policy
) -> learner.Terms:
    """-A meanᵢ log πᵢ(uᵢ) - w_H meanᵢ H(πᵢ), A = y - V_tot(s) the same for all agents and without gradient.

    Both means are over all agents, as in pymarl2; one with a single available action has log π = 0 and adds nothing to
    either. The original's entropy takes probabilities for logits; ours does not.
    """
    avail = t.observation.avail[:-1]
    pi, log_pi = policy(f.logits, avail, clock, hyper)
    advantage = jax.lax.stop_gradient(value_target(f, t, hyper) - f.value_total[:-1])
    bonus = hyper.entropy_weight * distributions.entropy(pi, log_pi).mean(axis=-1)
    return {"policy": -advantage * distributions.take_actions(log_pi, t.action).mean(axis=-1), "entropy_bonus": -bonus}


def actor_critic_loss(
    f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, policy: exploration.Policy
) -> learner.Terms:
    """Both losses, for a network that gives both."""
    return {**policy_loss(f, t, clock, hyper, policy=policy), **value_loss(f, t, clock, hyper)}


def diagnose(
    f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, policy: exploration.Policy
) -> learner.Terms:
    """Per-step quantities for people, averaged over valid steps."""
    avail = t.observation.avail[:-1]
    return {
        "value_total": f.value_total[:-1],
        "entropy": distributions.entropy_of_choices(*policy(f.logits, avail, clock, hyper), avail),
        "reward": t.reward,
    }


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, policy: Callable[..., Array]
) -> types.JointTable:
    """π in one first observation. State values rank no actions: utilities and Q_tot are NaN."""
    pi = policy(agent, observation, key)
    return base.tabulate(jnp.full(pi.shape, jnp.nan), pi, lambda action: jnp.full((), jnp.nan))


class Parts(NamedTuple):
    """Where VDAC and MAA2C differ."""

    learning: learner.Learner
    init_params: Callable[[types.PRNGKey], dict[str, types.Params]]
    policy_params: Callable[[types.AgentState], types.Params]
    outputs: base.Outputs
    insight: Callable[[types.AgentState, types.Trajectory, Any], types.Insight]


def make_vdac(
    spec: types.EnvSpec,
    cfg: Any,
    observe: packing.ObserveFn,
    *,
    name: str,
    mixer: Callable[[types.EnvSpec, Any], mixers.Mixer],
) -> types.Algorithm:
    """Bind VDAC for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings, the config class of `name`'s registry entry.
      observe: turns stored rows into trajectories.
      name: registered name.
      mixer: makes the mixer from spec and settings.
    """
    agent, mixing, policy = _network(cfg, spec.n_actions + 1), mixer(spec, cfg), base.learned_policy(cfg)
    learning = learner.Learner(
        forward=partial(forward_shared, agent=agent, mixer=mixing),
        losses={"actor_critic": partial(actor_critic_loss, policy=policy)},
        owns={"actor_critic": ("logits", "value_total")},
        diagnose=partial(diagnose, policy=policy),
        optimizers=base.make_optimizers(cfg, "actor_critic"),
        learning_rates=lambda hyper: {"actor_critic": hyper.lr},
    )

    def logits(
        params: types.Params, hidden: Array, inputs: agents.AgentInputs, key: types.PRNGKey
    ) -> tuple[Array, Array]:
        del key  # deterministic
        hidden, outputs = agents.one_step(agent, params, hidden, inputs)
        return hidden, outputs[..., :-1]

    parts = Parts(
        learning=learning,
        init_params=lambda key: {"actor_critic": _init_valued(agent, mixing, spec, key)},
        policy_params=lambda agent: agent.params["actor_critic"]["agent"],
        outputs=logits,
        insight=partial(insight, group="actor_critic", network=agent, mixer=mixing),
    )
    return _bind(name, spec, cfg, observe, parts)


def make_maa2c(spec: types.EnvSpec, cfg: Maa2cConfig, observe: packing.ObserveFn) -> types.Algorithm:
    """Bind MAA2C for an environment; arguments as in `make_vdac`. Another algorithm than epymarl's of the same name."""
    actor, critic, mixing = _network(cfg, spec.n_actions), _network(cfg, 1), q_learning.qmix_mixer(spec, cfg)
    policy = base.learned_policy(cfg)
    learning = learner.Learner(
        forward=partial(forward_apart, actor=actor, critic=critic, mixer=mixing),
        losses={"critic": value_loss, "actor": partial(policy_loss, policy=policy)},
        owns={"critic": ("value_total",), "actor": ("logits",)},
        diagnose=partial(diagnose, policy=policy),
        optimizers=base.make_optimizers(cfg, "critic", "actor"),
        learning_rates=lambda hyper: {"critic": hyper.lr, "actor": hyper.actor_lr},
    )

    def init_params(key: types.PRNGKey) -> dict[str, types.Params]:
        key_critic, key_actor = jax.random.split(key)
        valued = _init_valued(critic, mixing, spec, key_critic)
        return {"critic": valued, "actor": base.init_network(actor, key_actor, spec)}

    parts = Parts(
        learning=learning,
        init_params=init_params,
        policy_params=lambda agent: agent.params["actor"],
        outputs=partial(base.network_outputs, actor),
        insight=partial(insight, group="critic", network=critic, mixer=mixing),
    )
    return _bind("maa2c", spec, cfg, observe, parts)


def _network(cfg: VdacConfig, outputs: int) -> agents.AgentNetwork:
    return agents.AgentNetwork(cfg.hidden, outputs, recurrent=cfg.recurrent, remat=cfg.remat)


def _init_valued(
    agent: agents.AgentNetwork, mixer: mixers.Mixer, spec: types.EnvSpec, key: types.PRNGKey
) -> types.Params:
    """Parameters of a network that gives state values, and of what mixes them."""
    key_agent, key_mixer = jax.random.split(key)
    return {"agent": base.init_network(agent, key_agent, spec), "mixer": mixer.init(key_mixer)}


def _bind(name: str, spec: types.EnvSpec, cfg: VdacConfig, observe: packing.ObserveFn, parts: Parts) -> types.Algorithm:
    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        del hyper
        return base.init_agent(parts.init_params(key), parts.learning.optimizers, ())

    def refresh(agent: types.AgentState, clock: types.Clock, previous: types.Clock) -> types.AgentState:
        del clock, previous  # no targets
        return agent

    def policy(agent: types.AgentState, observation: types.Observation, key: types.PRNGKey) -> Array:
        return base.first_policy(parts.outputs, parts.policy_params(agent), cfg.hidden, observation, key)

    behave = exploration.FLOORS[cfg.floor_over].behave
    return types.Algorithm(
        name=name,
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=parts.policy_params,
        replay=base.on_policy(cfg.batch_size),
        update=learner.make_update(parts.learning, observe),
        refresh=refresh,
        joint_table=partial(joint_table, policy=policy),
        forward=parts.learning.forward,
        insight=parts.insight,
        **base.agent_acting(spec, cfg.hidden, parts.outputs, behave)._asdict(),
    )


ENTRIES = (
    Entry(
        name="vdac_sum",
        config=VdacConfig,
        factory=partial(make_vdac, name="vdac_sum", mixer=lambda spec, cfg: mixers.sum_mixer(spec)),
        doc="VDAC-sum: on-policy actor-critic with a value summed over agents; one network for policy and value",
    ),
    Entry(
        name="vdac_mix",
        config=VdacMixConfig,
        factory=partial(make_vdac, name="vdac_mix", mixer=q_learning.qmix_mixer),
        doc="VDAC-mix: on-policy actor-critic whose agents' values QMIX's mixer mixes; one network for policy "
        "and value",
    ),
    Entry(
        name="maa2c",
        config=Maa2cConfig,
        factory=make_maa2c,
        doc="MAA2C of the paper's Ablation 3: VDAC-mix with an actor and a critic apart",
    ),
)
