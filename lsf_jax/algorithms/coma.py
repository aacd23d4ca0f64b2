"""COMA: counterfactual multi-agent policy gradients.

One critic says for every agent i what each of its actions would have been worth, the others' actions as they were:
Qᵢ(s, (a, u₋ᵢ)). The advantage of uᵢ is against the policy's own mean over a, a baseline that costs one pass. On-policy.
Read it as: the critic, the losses and targets, the update, and the binding.

Foerster et al. (2018); code oxwhirl/pymarl `coma_learner.py`. As there, the critic takes an optimiser step for every
time step, from the last to the first, and the ε floor is part of the policy that learns (`algo.epsilon_floor`).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lsf_jax.algorithms.base import (
    agent_acting,
    first_policy,
    floored_policy,
    hyper_of,
    init_agent,
    init_network,
    make_optimizers,
    network_outputs,
    on_policy,
    tabulate,
    utility_metrics,
)
from lsf_jax.algorithms.configs import CommonConfig, FloorConfig, TargetConfig, TraceConfig
from lsf_jax.algorithms.q_learning import td_target
from lsf_jax.algorithms.stepwise import SINCE_COPY, copy_after_steps, counting, critic_steps
from lsf_jax.engine.buffers import ObserveFn
from lsf_jax.engine.distributions import entropy, entropy_of_choices, expectation, greedy, log_of, sample, take_actions
from lsf_jax.engine.exploration import behave_epsilon_sample, epsilon_of
from lsf_jax.engine.learner import Terms, optimizer_step, sum_over_valid
from lsf_jax.networks.agents import AgentNetwork, Mlp, run, shift_actions
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting
from lsf_jax.types import (
    AgentState,
    Algorithm,
    Batch,
    Clock,
    EnvSpec,
    Hyper,
    JointTable,
    Metrics,
    Observation,
    Params,
    PRNGKey,
    Trajectory,
    Update,
)


@dataclass(frozen=True)
class ComaConfig(FloorConfig, TargetConfig, TraceConfig, CommonConfig):
    """Settings of COMA: the shared ones with on-policy defaults, and its critic's."""

    batch_size: int = setting(8, low=1, doc="newest episodes, all in one update; train.n_envs or a multiple of it")
    updates: int = setting(1, low=1, high=100_000, doc="passes of the critic, each with an actor step, a collection")
    actor_lr: float = number(5e-4, low=0.0, doc="optimiser step of the actor; lr is the critic's")
    epsilon_start: float = number(0.5, low=0.0, high=1.0, doc="ε floor of the policy at env step 0")
    epsilon_finish: float = number(0.01, low=0.0, high=1.0, doc="ε floor of the policy at the end")
    entropy_weight: float = number(0.0, low=0.0, doc="weight of the policies' entropy; pymarl 0, pymarl2 0.09")
    target_interval: int = setting(200, low=1, doc="critic steps, one for each time step, between hard target copies")
    critic_hidden: int = setting(128, low=1, doc="width of the critic's two hidden layers")


class Networks(NamedTuple):
    """What learns: the actor, and the critic of all agents."""

    actor: AgentNetwork
    critic: Mlp


class CriticView(NamedTuple):
    """What the critic is told about some rows."""

    state: Float[Array, "*lead state"]
    obs: Float[Array, "*lead agents obs"]
    action: Int[Array, "*lead agents"]  # of all agents now
    last_action: Int[Array, "*lead agents"]  # of all agents before; -1 before the first step


class Judged(NamedTuple):
    """What the critic is trained on in one trajectory."""

    view: CriticView  # of t = 0..T-1
    target: Float[Array, "time agents"]


def critic_inputs(view: CriticView, n_actions: int) -> tuple[Array, ...]:
    """Inputs of Qᵢ(s, (·, u₋ᵢ)): state, oᵢ, the others' actions (zeros for i's own), everyone's last actions, and i.

    What all agents share has an agent axis of length 1 (see `Linear`).
    """
    n_agents = view.obs.shape[-2]
    joint = (*view.action.shape[:-1], 1, n_agents * n_actions)
    taken = jax.nn.one_hot(view.action, n_actions)[..., None, :, :]
    is_other = (1.0 - jnp.eye(n_agents)).reshape((1,) * (taken.ndim - 3) + (n_agents, n_agents, 1))
    return (
        view.state[..., None, :],
        view.obs,
        (taken * is_other).reshape(*joint[:-2], n_agents, -1),
        jax.nn.one_hot(view.last_action, n_actions).reshape(joint),
        jnp.eye(n_agents).reshape((1,) * (taken.ndim - 3) + (n_agents, n_agents)),
    )


def q_values(net: Networks, params: Params, view: CriticView) -> Float[Array, "*lead agents actions"]:
    """Qᵢ(s, (a, u₋ᵢ)) for every agent i and each of its actions a."""
    return run(net.critic, params, *critic_inputs(view, net.critic.widths[-1]))


def judge(
    net: Networks, target: Params, pi: Float[Array, "rows agents actions"], t: Trajectory, key: PRNGKey, hyper: Hyper
) -> Judged:
    """Targets: each agent's TD(λ) return of the target critic's values of the actions taken, Sarsa(λ).

    No action is stored for the row after an episode's last step, which bootstraps where time ran out: one is drawn from
    π there, as the released code does while acting.
    """
    obs, state, avail = t.observation
    drawn = sample(log_of(pi, avail), avail, key)
    action = jnp.concatenate([jnp.where(t.valid[:, None], t.action, drawn[:-1]), drawn[-1:]])
    rows = CriticView(state=state, obs=obs, action=action, last_action=shift_actions(t.action))
    taken = take_actions(q_values(net, target, rows), action)
    return Judged(view=jax.tree.map(lambda leaf: leaf[:-1], rows), target=td_target(taken[1:], t, hyper))


def critic_error(
    params: Params, judged: Judged, *, net: Networks
) -> tuple[Float[Array, "episodes"], Float[Array, "episodes agents actions"]]:
    """meanᵢ (Qᵢ(s, u) - yᵢ)² of one time step of every episode, and the values of all actions."""
    q = q_values(net, params, judged.view)
    return jnp.square(take_actions(q, judged.view.action) - judged.target).mean(axis=-1), q


def advantages(
    pi: Float[Array, "time agents actions"], q: Float[Array, "time agents actions"], action: Int[Array, "time agents"]
) -> Float[Array, "time agents"]:
    """Aᵢ = Qᵢ(s, u) - Σ_a πᵢ(a) Qᵢ(s, (a, u₋ᵢ)), without gradient: uᵢ against i's mean, the others held fixed."""
    return jax.lax.stop_gradient(take_actions(q, action) - expectation(pi, q))


def policy_loss(
    pi: Float[Array, "time agents actions"], q: Float[Array, "time agents actions"], t: Trajectory, hyper: Hyper
) -> Terms:
    """-meanᵢ Aᵢ log πᵢ(uᵢ) - w_H meanᵢ H(πᵢ), π the policy that learns, over all agents: the dead add zeros to both."""
    avail = t.observation.avail[:-1]
    log_pi = log_of(pi, avail)
    gain = advantages(pi, q, t.action) * take_actions(log_pi, t.action)
    bonus = hyper.entropy_weight * entropy(pi, log_pi).mean(axis=-1)
    return {"policy": -gain.mean(axis=-1), "entropy_bonus": -bonus}


def diagnose(pi: Float[Array, "time agents actions"], q: Float[Array, "time agents actions"], t: Trajectory) -> Terms:
    """Per-step quantities for people, averaged over valid steps."""
    avail = t.observation.avail[:-1]
    return {
        "entropy": entropy_of_choices(pi, log_of(pi, avail), avail),
        **utility_metrics(q, avail, t.action),
        "reward": t.reward,
    }


def batch_policy_loss(
    pi: Float[Array, "episodes rows agents actions"],
    q: Float[Array, "episodes time agents actions"],
    trajectories: Trajectory,
    hyper: Hyper,
) -> tuple[Float[Array, ""], Metrics]:
    """Mean policy loss over a batch's valid steps, and the means of its terms and of what is logged."""

    def one(pi: Array, q: Array, t: Trajectory) -> tuple[Terms, Terms]:
        return policy_loss(pi[:-1], q, t, hyper), diagnose(jax.lax.stop_gradient(pi[:-1]), q, t)

    terms, logged = jax.vmap(one)(pi, q, trajectories)
    per_step = 1.0 / jnp.maximum(trajectories.valid.sum(), 1).astype(jnp.float32)
    means = {
        name: jax.vmap(sum_over_valid)(value, trajectories.valid).sum() * per_step
        for name, value in {**terms, **logged}.items()
    }
    return means["policy"] + means["entropy_bonus"], means


def make_coma_update(
    net: Networks, optimizers: dict[str, optax.GradientTransformation], observe: ObserveFn, floor_learns: bool
) -> Update:
    """Build `update`: the critic's pass over the time steps, then one actor step with the values seen on the way.

    Those values are the critic's just before its own step at that time. The actor runs forward once: the targets need
    its policy first; when the pass has said the advantages, the gradient is pulled back through that run.

    Args:
      net: actor and critic.
      optimizers: by group, up to, not including, the learning rate.
      observe: turns a stored episode into a trajectory.
      floor_learns: the ε floor is part of the policy that is learned; otherwise only acting knows it.
    """

    def update(
        agent: AgentState, episodes: Batch, key: PRNGKey, clock: Clock, hyper: Hyper, micro_batch: int = 0
    ) -> tuple[AgentState, Metrics]:
        del micro_batch  # every step of the critic needs the whole batch, and the batch is small
        params, opt_state = agent.params, agent.opt_state
        trajectories = jax.vmap(observe)(episodes)
        epsilon = epsilon_of(clock, hyper) if floor_learns else jnp.zeros(())
        policies = jax.vmap(partial(floored_policy, net.actor), in_axes=(None, 0, None))
        pi, pull_back = jax.vjp(lambda actor: policies(actor, trajectories, epsilon), params["actor"])
        judged = jax.vmap(partial(judge, net), in_axes=(None, 0, 0, 0, None))(
            agent.targets["critic"], pi, trajectories, jax.random.split(key, episodes.reward.shape[0]), hyper
        )
        steps = critic_steps(
            partial(critic_error, net=net),
            optimizers["critic"],
            hyper.lr,
            params["critic"],
            opt_state["critic"],
            judged,
            trajectories.valid,
            reverse=True,
        )
        slopes, means = jax.grad(batch_policy_loss, has_aux=True)(pi, steps.outputs, trajectories, hyper)
        (gradients,) = pull_back(slopes)
        actor, actor_state = optimizer_step(
            optimizers["actor"], hyper.actor_lr, params["actor"], opt_state["actor"], gradients
        )
        metrics = {
            "td": steps.loss,
            **means,
            "critic_gradient_norm": steps.gradient_norm,
            "critic_parameter_norm": optax.tree.norm(steps.params),
            "actor_gradient_norm": optax.tree.norm(gradients),
            "actor_parameter_norm": optax.tree.norm(actor),
        }
        after = agent._replace(
            params={"critic": steps.params, "actor": actor},
            opt_state={
                "critic": steps.opt_state,
                "actor": actor_state,
                SINCE_COPY: opt_state[SINCE_COPY] + steps.taken,
            },
        )
        return after, metrics

    return update


def joint_table(agent: AgentState, observation: Observation, key: PRNGKey, *, net: Networks) -> JointTable:
    """Qᵢ(s, (a, u₋ᵢ)) in one first observation, where the others are greedy, as utilities; their policies.

    COMA has no Q_tot: what stands in its place is the mean over agents of Qᵢ(s, u), which all estimate the same return.
    """
    outputs = partial(network_outputs, net.actor)
    pi = first_policy(outputs, agent.params["actor"], net.actor.hidden, observation, key)

    def q_of(action: Int[Array, "agents"]) -> Float[Array, "agents actions"]:
        before = jnp.full_like(action, -1)
        view = CriticView(state=observation.state, obs=observation.obs, action=action, last_action=before)
        return q_values(net, agent.params["critic"], view)

    utilities = q_of(greedy(pi, observation.avail))
    return tabulate(utilities, pi, lambda action: take_actions(q_of(action), action).mean())


def init_params(net: Networks, spec: EnvSpec, key: PRNGKey) -> dict[str, Params]:
    """Parameters by group."""
    key_critic, key_actor = jax.random.split(key)
    nobody = jnp.zeros((spec.n_agents,), jnp.int32)
    view = CriticView(
        state=jnp.zeros((spec.state_dim,)),
        obs=jnp.zeros((spec.n_agents, spec.obs_dim)),
        action=nobody,
        last_action=nobody,
    )
    critic = net.critic.init(key_critic, *critic_inputs(view, spec.n_actions))["params"]
    return {"critic": critic, "actor": init_network(net.actor, key_actor, spec)}


def coma(spec: EnvSpec, cfg: ComaConfig, observe: ObserveFn) -> Algorithm:
    """Bind COMA for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns a stored episode into a trajectory.
    """
    net = Networks(
        actor=AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat),
        critic=Mlp((cfg.critic_hidden, cfg.critic_hidden, spec.n_actions)),
    )
    optimizers = make_optimizers(cfg, "critic", "actor")

    def init(key: PRNGKey, hyper: Hyper) -> AgentState:
        del hyper
        return counting(init_agent(init_params(net, spec, key), optimizers, ("critic",)))

    acting = agent_acting(spec, cfg.hidden, partial(network_outputs, net.actor), behave_epsilon_sample)
    return Algorithm(
        name="coma",
        hyper=hyper_of(cfg),
        init=init,
        policy_params=lambda agent: agent.params["actor"],
        replay=on_policy(cfg.batch_size),
        update=make_coma_update(net, optimizers, observe, floor_learns=cfg.epsilon_floor == "inside"),
        refresh=copy_after_steps(cfg.target_interval),
        joint_table=partial(joint_table, net=net),
        **acting._asdict(),
    )


ENTRIES = (
    Entry(
        name="coma",
        config=ComaConfig,
        factory=coma,
        doc="COMA: on-policy actor-critic, each agent's advantage against what its other actions would have been worth",
    ),
)
