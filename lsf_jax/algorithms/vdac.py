"""VDAC: actor-critic whose state value is factored over agents, by a sum or by QMIX's mixer; and the paper's MAA2C.

On-policy: the advantage of a joint action is its TD(λ) return minus V_tot, the mixture of the agents' own state values,
and every agent's policy gradient uses that one number. In VDAC one network says policy and value, in MAA2C (Ablation 3
of the LSF-SAC paper) two do. Read it as: `Forward` and the two forward passes, the losses, and the binding.

Su, Adams, Beling (2021); code hahayonghuming/VDACs, hijkzzz/pymarl2 (vmix). Acting takes a uniform action with
probability ε. In the latter code what learns knows nothing of it, in the former it is part of π: see `learned_policy`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lsf_jax.algorithms.base import (
    Outputs,
    agent_acting,
    first_policy,
    hyper_of,
    init_agent,
    init_network,
    make_optimizers,
    network_outputs,
    on_policy,
    tabulate,
)
from lsf_jax.algorithms.configs import CommonConfig, FloorConfig, MonotonicConfig, TraceConfig
from lsf_jax.algorithms.q_learning import qmix_mixer, td_target
from lsf_jax.engine.buffers import ObserveFn
from lsf_jax.engine.distributions import (
    entropy,
    entropy_of_choices,
    log_of,
    masked_log_softmax,
    mix_uniform,
    probabilities,
    take_actions,
)
from lsf_jax.engine.exploration import behave_epsilon_sample, epsilon_of
from lsf_jax.engine.learner import Learner, Terms, make_update
from lsf_jax.networks.agents import AgentNetwork, run, trajectory_inputs, unroll
from lsf_jax.networks.mixers import Mixer, sum_mixer
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting
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
class VdacConfig(FloorConfig, TraceConfig, CommonConfig):
    """Settings of VDAC: the shared ones with on-policy defaults, and the weights of its loss."""

    batch_size: int = setting(8, low=1, doc="newest episodes, all in one update; train.n_envs or a multiple of it")
    updates: int = setting(1, low=1, high=100_000, doc="updates after each collection; after the first, data are stale")
    epsilon_start: float = number(0.5, low=0.0, high=1.0, doc="ε floor of acting at env step 0; pymarl2")
    epsilon_finish: float = number(0.0, low=0.0, high=1.0, doc="ε floor of acting at the end; pymarl2 0, original 0.01")

    value_weight: float = number(0.1, low=0.0, doc="weight of the squared error of V_tot")
    entropy_weight: float = number(0.01, low=0.0, doc="weight of the policies' entropy; pymarl2 0.01, original 0")


@dataclass(frozen=True)
class VdacMixConfig(MonotonicConfig, VdacConfig):
    """Settings of VDAC with QMIX's mixer."""


@dataclass(frozen=True)
class Maa2cConfig(VdacMixConfig):
    """Settings of MAA2C: VDAC-mix with networks and optimisers apart."""

    actor_lr: float = number(5e-4, low=0.0, doc="optimiser step of the actor; lr is the critic's")


class Forward(NamedTuple):
    """What the networks say about one trajectory."""

    log_pi: Float[Array, "time agents actions"]
    value_total: Float[Array, "rows"]  # V_tot, also of the row after the last step


def forward_shared(
    params: dict, targets: dict, trajectory: Trajectory, key: PRNGKey, *, agent: AgentNetwork, mixer: Mixer
) -> Forward:
    """VDAC: one network, its first A outputs the logits of πᵢ, its last one Vᵢ."""
    del targets, key  # no target network; deterministic
    group = params["actor_critic"]
    outputs = unroll(agent, group["agent"], trajectory_inputs(trajectory))
    return Forward(
        log_pi=masked_log_softmax(outputs[:-1, :, :-1], trajectory.observation.avail[:-1]),
        value_total=mixed_values(mixer, group["mixer"], outputs[..., -1], trajectory.observation.state),
    )


def forward_apart(
    params: dict,
    targets: dict,
    trajectory: Trajectory,
    key: PRNGKey,
    *,
    actor: AgentNetwork,
    critic: AgentNetwork,
    mixer: Mixer,
) -> Forward:
    """MAA2C: an actor, and a critic of the same inputs with the single output Vᵢ."""
    del targets, key  # no target network; deterministic
    inputs, group = trajectory_inputs(trajectory), params["critic"]
    values = unroll(critic, group["agent"], inputs)[..., 0]
    return Forward(
        log_pi=masked_log_softmax(unroll(actor, params["actor"], inputs)[:-1], trajectory.observation.avail[:-1]),
        value_total=mixed_values(mixer, group["mixer"], values, trajectory.observation.state),
    )


def mixed_values(
    mixer: Mixer, params: Params, values: Float[Array, "rows agents"], state: Float[Array, "rows state"]
) -> Float[Array, "rows"]:
    """V_tot of V₁..V_N by a mixer that needs no actions."""
    no_action = jnp.zeros((*values.shape, 0))
    return mixer.mix(params, values, values, no_action, state)


def value_target(f: Forward, t: Trajectory, hyper: Hyper) -> Float[Array, "time"]:
    """y: the TD(λ) return of V_tot, from the network that learns it, without gradient."""
    return td_target(f.value_total[1:, None], t, hyper)[:, 0]


def value_loss(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper) -> Terms:
    """w_V (V_tot(s) - y)²; w_V only matters beside the policy loss of a shared network."""
    del clock
    return {"td": hyper.value_weight * jnp.square(f.value_total[:-1] - value_target(f, t, hyper))}


def policy_loss(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: VdacConfig) -> Terms:
    """-A meanᵢ log πᵢ(uᵢ) - w_H meanᵢ H(πᵢ), A = y - V_tot(s) the same for all agents and without gradient.

    Both means are over all agents, as in pymarl2; one with a single available action has log π = 0 and adds nothing to
    either. The original's entropy takes probabilities for logits; ours does not.
    """
    avail = t.observation.avail[:-1]
    pi, log_pi = learned_policy(f.log_pi, avail, clock, hyper, cfg)
    advantage = jax.lax.stop_gradient(value_target(f, t, hyper) - f.value_total[:-1])
    bonus = hyper.entropy_weight * entropy(pi, log_pi).mean(axis=-1)
    return {"policy": -advantage * take_actions(log_pi, t.action).mean(axis=-1), "entropy_bonus": -bonus}


def actor_critic_loss(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: VdacConfig) -> Terms:
    """Both losses, for a network that says both."""
    return {**policy_loss(f, t, clock, hyper, cfg=cfg), **value_loss(f, t, clock, hyper)}


def learned_policy(
    log_pi: Float[Array, "time agents actions"],
    avail: Bool[Array, "time agents actions"],
    clock: Clock,
    hyper: Hyper,
    cfg: VdacConfig,
) -> tuple[Float[Array, "time agents actions"], Float[Array, "time agents actions"]]:
    """π of which the loss takes the gradient, and log π.

    With the floor inside it is the policy that acted. Outside, a uniform action counts as if π had chosen it: while ε
    is large, the gradient favours what π does often already over what is best.
    """
    pi = probabilities(log_pi, avail)
    if cfg.epsilon_floor == "outside":
        return pi, log_pi
    pi = mix_uniform(pi, avail, epsilon_of(clock, hyper))
    return pi, log_of(pi, avail)


def diagnose(f: Forward, t: Trajectory, clock: Clock, hyper: Hyper, *, cfg: VdacConfig) -> Terms:
    """Per-step quantities for people, averaged over valid steps."""
    avail = t.observation.avail[:-1]
    return {
        "value_total": f.value_total[:-1],
        "entropy": entropy_of_choices(*learned_policy(f.log_pi, avail, clock, hyper, cfg), avail),
        "reward": t.reward,
    }


def joint_table(
    agent: AgentState, observation: Observation, key: PRNGKey, *, policy: Callable[..., Array]
) -> JointTable:
    """π in one first observation. State values say nothing about actions: utilities and Q_tot are NaN."""
    pi = policy(agent, observation, key)
    return tabulate(jnp.full(pi.shape, jnp.nan), pi, lambda action: jnp.full((), jnp.nan))


class Parts(NamedTuple):
    """Where VDAC and MAA2C differ."""

    learner: Learner
    init_params: Callable[[PRNGKey], dict[str, Params]]
    policy_params: Callable[[AgentState], Params]
    outputs: Outputs


def vdac(
    spec: EnvSpec,
    cfg: Any,
    observe: ObserveFn,
    *,
    name: str,
    mixer: Callable[[EnvSpec, Any], Mixer],
) -> Algorithm:
    """Bind VDAC for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings, the config class of `name`'s registry entry.
      observe: turns a stored episode into a trajectory.
      name: registered name.
      mixer: makes the mixer from spec and settings.
    """
    agent, mixing = _network(cfg, spec.n_actions + 1), mixer(spec, cfg)
    learner = Learner(
        forward=partial(forward_shared, agent=agent, mixer=mixing),
        losses={"actor_critic": partial(actor_critic_loss, cfg=cfg)},
        owns={"actor_critic": ("log_pi", "value_total")},
        diagnose=partial(diagnose, cfg=cfg),
        optimizers=make_optimizers(cfg, "actor_critic"),
        learning_rates=lambda hyper: {"actor_critic": hyper.lr},
    )

    def logits(params: Params, hidden: Array, inputs: Array, key: PRNGKey) -> tuple[Array, Array]:
        del key  # deterministic
        hidden, outputs = run(agent, params, hidden, inputs)
        return hidden, outputs[..., :-1]

    parts = Parts(
        learner=learner,
        init_params=lambda key: {"actor_critic": _init_valued(agent, mixing, spec, key)},
        policy_params=lambda agent: agent.params["actor_critic"]["agent"],
        outputs=logits,
    )
    return _bind(name, spec, cfg, observe, parts)


def maa2c(spec: EnvSpec, cfg: Maa2cConfig, observe: ObserveFn) -> Algorithm:
    """Bind MAA2C for an environment; arguments as in `vdac`. Another algorithm than epymarl's of the same name."""
    actor, critic, mixing = _network(cfg, spec.n_actions), _network(cfg, 1), qmix_mixer(spec, cfg)
    learner = Learner(
        forward=partial(forward_apart, actor=actor, critic=critic, mixer=mixing),
        losses={"critic": value_loss, "actor": partial(policy_loss, cfg=cfg)},
        owns={"critic": ("value_total",), "actor": ("log_pi",)},
        diagnose=partial(diagnose, cfg=cfg),
        optimizers=make_optimizers(cfg, "critic", "actor"),
        learning_rates=lambda hyper: {"critic": hyper.lr, "actor": hyper.actor_lr},
    )

    def init_params(key: PRNGKey) -> dict[str, Params]:
        key_critic, key_actor = jax.random.split(key)
        valued = _init_valued(critic, mixing, spec, key_critic)
        return {"critic": valued, "actor": init_network(actor, key_actor, spec)}

    parts = Parts(
        learner=learner,
        init_params=init_params,
        policy_params=lambda agent: agent.params["actor"],
        outputs=partial(network_outputs, actor),
    )
    return _bind("maa2c", spec, cfg, observe, parts)


def _network(cfg: VdacConfig, outputs: int) -> AgentNetwork:
    return AgentNetwork(cfg.hidden, outputs, recurrent=cfg.recurrent, remat=cfg.remat)


def _init_valued(agent: AgentNetwork, mixer: Mixer, spec: EnvSpec, key: PRNGKey) -> Params:
    """Parameters of a network that says state values, and of what mixes them."""
    key_agent, key_mixer = jax.random.split(key)
    return {"agent": init_network(agent, key_agent, spec), "mixer": mixer.init(key_mixer)}


def _bind(name: str, spec: EnvSpec, cfg: VdacConfig, observe: ObserveFn, parts: Parts) -> Algorithm:
    def init(key: PRNGKey, hyper: Hyper) -> AgentState:
        del hyper
        return init_agent(parts.init_params(key), parts.learner.optimizers, ())

    def refresh(agent: AgentState, clock: Clock, previous: Clock) -> AgentState:
        del clock, previous  # no targets
        return agent

    def policy(agent: AgentState, observation: Observation, key: PRNGKey) -> Array:
        return first_policy(parts.outputs, parts.policy_params(agent), cfg.hidden, observation, key)

    acting = agent_acting(spec, cfg.hidden, parts.outputs, behave_epsilon_sample)
    return Algorithm(
        name=name,
        hyper=hyper_of(cfg),
        init=init,
        policy_params=parts.policy_params,
        replay=on_policy(cfg.batch_size),
        update=make_update(parts.learner, observe),
        refresh=refresh,
        joint_table=partial(joint_table, policy=policy),
        **acting._asdict(),
    )


ENTRIES = (
    Entry(
        name="vdac_sum",
        config=VdacConfig,
        factory=partial(vdac, name="vdac_sum", mixer=lambda spec, cfg: sum_mixer(spec)),
        doc="VDAC-sum: on-policy actor-critic with a value summed over agents; one network says policy and value",
    ),
    Entry(
        name="vdac_mix",
        config=VdacMixConfig,
        factory=partial(vdac, name="vdac_mix", mixer=qmix_mixer),
        doc="VDAC-mix: on-policy actor-critic whose agents' values QMIX's mixer mixes; one network says policy "
        "and value",
    ),
    Entry(
        name="maa2c",
        config=Maa2cConfig,
        factory=maa2c,
        doc="MAA2C of the paper's Ablation 3: VDAC-mix with an actor and a critic apart",
    ),
)
