"""COMA: counterfactual multi-agent policy gradients.

One critic estimates for every agent i what each of its actions would have been worth, the others' actions as they
were: Qᵢ(s, (a, u₋ᵢ)). The advantage of uᵢ is against the policy's own mean over a, a baseline that costs one pass.
On-policy. Read it as: the critic, the losses and targets, the update, and the binding.

Foerster et al. (2018); code oxwhirl/pymarl `coma_learner.py`. As there, the critic takes an optimiser step for every
time step, from the last to the first, and the ε floor is part of the policy that learns (`algo.epsilon_floor`). There
softmax and floor are taken over all actions, here over the available ones (`algo.floor_over`; preset `pymarl` has all).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from lsf_jax import types
from lsf_jax.algorithms import base, configs, q_learning, stepwise
from lsf_jax.engine import distributions, exploration, learner, packing
from lsf_jax.networks import agents
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class ComaConfig(configs.LearnedFloorConfig, configs.TargetConfig, configs.TraceConfig, configs.CommonConfig):
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

    actor: agents.AgentNetwork
    critic: agents.Mlp


class CriticView(NamedTuple):
    """What the critic reads of some rows."""

    state: Float[Array, "*lead state"]
    obs: Float[Array, "*lead agents obs"]
    action: Int[Array, "*lead agents"]  # of all agents now
    last_action: Int[Array, "*lead agents"]  # of all agents before; -1 before the first step


class Forward(NamedTuple):
    """What actor and critic make of one trajectory, both as they are: in an update the critic moves at every step."""

    log_pi: Float[Array, "rows agents actions"]  # without the ε floor
    q: Float[Array, "time agents actions"]  # Qᵢ(s, (a, u₋ᵢ)): i's own actions beside what the others did


class CriticBatch(NamedTuple):
    """What the critic is trained on, one trajectory or many."""

    view: CriticView  # of t = 0..T-1
    target: Float[Array, "*lead agents"]


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


def q_values(net: Networks, params: types.Params, view: CriticView) -> Float[Array, "*lead agents actions"]:
    """Qᵢ(s, (a, u₋ᵢ)) for every agent i and each of its actions a."""
    return agents.run(net.critic, params, *critic_inputs(view, net.critic.widths[-1]))


def forward(
    params: dict, targets: dict, trajectory: types.Trajectory, keys: Key[Array, "rows"], *, net: Networks
) -> Forward:
    """Run actor and critic once over a trajectory. For people: the update's critic differs from step to step."""
    del targets, keys  # the target critic makes targets alone; nothing is drawn
    obs, state, avail = trajectory.observation
    logits = agents.unroll(net.actor, params["actor"], trajectory.layout, agents.trajectory_inputs(trajectory))
    before = agents.last_actions(trajectory.action, trajectory.layout.first)[:-1]
    view = CriticView(state=state[:-1], obs=obs[:-1], action=trajectory.action, last_action=before)
    return Forward(log_pi=distributions.masked_log_softmax(logits, avail), q=q_values(net, params["critic"], view))


def insight(agent: types.AgentState, t: types.Trajectory, f: Forward) -> types.Insight:
    """Policies and counterfactual values. There is no joint value: all agents' Qᵢ(s, u) estimate the same return."""
    del agent, t
    return types.Insight(q=f.q, log_pi=f.log_pi[:-1], record=f)


def critic_batch(
    net: Networks,
    target: types.Params,
    pi: Float[Array, "rows agents actions"],
    t: types.Trajectory,
    keys: Key[Array, "rows"],
    hyper: types.Hyper,
) -> CriticBatch:
    """Inputs of the critic and its targets: each agent's TD(λ) return of the target critic's values of the actions
    taken, Sarsa(λ).

    No action is stored for the row after an episode's last step, which bootstraps where time ran out: one is drawn from
    π there, as the released code does while acting.
    """
    obs, state, avail = t.observation
    drawn = distributions.sample_rows(distributions.log_of(pi, avail), avail, keys)
    action = jnp.concatenate([jnp.where(t.valid[:, None], t.action, drawn[:-1]), drawn[-1:]])
    rows = CriticView(state=state, obs=obs, action=action, last_action=agents.last_actions(t.action, t.layout.first))
    taken = distributions.take_actions(q_values(net, target, rows), action)
    view = jax.tree.map(lambda leaf: leaf[:-1], rows)
    return CriticBatch(view=view, target=q_learning.td_target(taken[1:], t, hyper))


def critic_error(
    params: types.Params, batch: CriticBatch, *, net: Networks
) -> tuple[Float[Array, "episodes"], Float[Array, "episodes agents actions"]]:
    """meanᵢ (Qᵢ(s, u) - yᵢ)² of one time step of every episode, and the values of all actions."""
    q = q_values(net, params, batch.view)
    return jnp.square(distributions.take_actions(q, batch.view.action) - batch.target).mean(axis=-1), q


def advantages(
    pi: Float[Array, "time agents actions"], q: Float[Array, "time agents actions"], action: Int[Array, "time agents"]
) -> Float[Array, "time agents"]:
    """Aᵢ = Qᵢ(s, u) - Σ_a πᵢ(a) Qᵢ(s, (a, u₋ᵢ)), without gradient: uᵢ against i's mean, the others held fixed."""
    return jax.lax.stop_gradient(distributions.take_actions(q, action) - distributions.expectation(pi, q))


def policy_loss(
    pi: Float[Array, "time agents actions"],
    q: Float[Array, "time agents actions"],
    t: types.Trajectory,
    hyper: types.Hyper,
) -> learner.Terms:
    """-meanᵢ Aᵢ log πᵢ(uᵢ) - w_H meanᵢ H(πᵢ), π the policy that learns, over all agents: the dead add zeros to both."""
    avail = t.observation.avail[:-1]
    log_pi = distributions.log_of(pi, avail)
    gain = advantages(pi, q, t.action) * distributions.take_actions(log_pi, t.action)
    bonus = hyper.entropy_weight * distributions.entropy(pi, log_pi).mean(axis=-1)
    return {"policy": -gain.mean(axis=-1), "entropy_bonus": -bonus}


def diagnose(
    pi: Float[Array, "time agents actions"], q: Float[Array, "time agents actions"], t: types.Trajectory
) -> learner.Terms:
    """Per-step quantities for people, averaged over valid steps."""
    avail = t.observation.avail[:-1]
    return {
        "entropy": distributions.entropy_of_choices(pi, distributions.log_of(pi, avail), avail),
        **base.utility_metrics(q, avail, t.action),
        "reward": t.reward,
    }


def batch_policy_loss(
    pi: Float[Array, "rows episodes agents actions"],
    q: Float[Array, "time episodes agents actions"],
    trajectories: types.Trajectory,
    hyper: types.Hyper,
) -> tuple[Float[Array, ""], types.Metrics]:
    """Mean policy loss over a batch's valid steps, and the means of its terms and of what is logged."""

    def one(pi: Array, q: Array, t: types.Trajectory) -> tuple[learner.Terms, learner.Terms]:
        return policy_loss(pi[:-1], q, t, hyper), diagnose(jax.lax.stop_gradient(pi[:-1]), q, t)

    terms, logged = jax.vmap(one, in_axes=(1, 1, packing.PER_TRAJECTORY))(pi, q, trajectories)
    per_step = 1.0 / jnp.maximum(trajectories.valid.sum(), 1).astype(jnp.float32)
    means = {
        name: learner.sum_over_valid(value.T, trajectories.valid) * per_step
        for name, value in {**terms, **logged}.items()
    }
    return means["policy"] + means["entropy_bonus"], means


def make_coma_update(
    net: Networks,
    policy: exploration.Policy,
    optimizers: dict[str, optax.GradientTransformation],
    observe: packing.ObserveFn,
    batch_size: int,
    limit: int,
) -> types.Update:
    """Build `update`: the critic's pass over the time steps, then one actor step with the values met on the way.

    Those values are the critic's just before its own step at that time. The actor runs forward once: the targets need
    its policy first; once the pass has given the advantages, the gradient is pulled back through that run.

    Args:
      net: actor and critic.
      policy: of the actor's logits, what learns.
      optimizers: by group, up to, not including, the learning rate.
      observe: turns stored rows into trajectories.
      batch_size: episodes in a batch.
      limit: steps of the longest possible episode.
    """

    def update(
        agent: types.AgentState,
        episodes: types.Batch,
        key: types.PRNGKey,
        clock: types.Clock,
        hyper: types.Hyper,
        micro_batch: int = 0,
    ) -> tuple[types.AgentState, types.Metrics]:
        del micro_batch  # every step of the critic needs the whole batch, and the batch is small
        params, opt_state = agent.params, agent.opt_state
        rows = packing.as_rows(episodes)
        trajectories, keys = observe(rows), packing.row_keys(key, rows)
        moments = packing.moments_of(rows, batch_size, limit)
        row_policies = jax.vmap(
            partial(base.row_policies, net.actor, policy), (None, packing.PER_TRAJECTORY, None, None), out_axes=1
        )
        pi, pull_back = jax.vjp(lambda actor: row_policies(actor, trajectories, clock, hyper), params["actor"])
        batch = jax.vmap(partial(critic_batch, net), (None, 1, packing.PER_TRAJECTORY, 1, None), out_axes=1)(
            agent.targets["critic"], pi, trajectories, keys, hyper
        )
        steps = stepwise.critic_steps(
            partial(critic_error, net=net),
            optimizers["critic"],
            hyper.lr,
            params["critic"],
            opt_state["critic"],
            jax.tree.map(moments.of_rows, batch),
            stepwise.TimeSteps(moments.valid, moments.longest),
            reverse=True,
        )
        q = packing.by_row(rows, steps.outputs)
        slopes, means = jax.grad(batch_policy_loss, has_aux=True)(pi, q, trajectories, hyper)
        (gradients,) = pull_back(slopes)
        actor, actor_state = learner.optimizer_step(
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
                stepwise.SINCE_COPY: opt_state[stepwise.SINCE_COPY] + steps.taken,
            },
        )
        return after, metrics

    return update


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: Networks
) -> types.JointTable:
    """Qᵢ(s, (a, u₋ᵢ)) in one first observation, where the others are greedy, as utilities; their policies.

    COMA has no Q_tot: what stands in its place is the mean over agents of Qᵢ(s, u), which all estimate the same return.
    """
    outputs = partial(base.network_outputs, net.actor)
    pi = base.first_policy(outputs, agent.params["actor"], net.actor.hidden, observation, key)

    def q_of(action: Int[Array, "agents"]) -> Float[Array, "agents actions"]:
        before = jnp.full_like(action, -1)
        view = CriticView(state=observation.state, obs=observation.obs, action=action, last_action=before)
        return q_values(net, agent.params["critic"], view)

    utilities = q_of(distributions.greedy(pi, observation.avail))
    return base.tabulate(utilities, pi, lambda action: distributions.take_actions(q_of(action), action).mean())


def init_params(net: Networks, spec: types.EnvSpec, key: types.PRNGKey) -> dict[str, types.Params]:
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
    return {"critic": critic, "actor": base.init_network(net.actor, key_actor, spec)}


def make_coma(spec: types.EnvSpec, cfg: ComaConfig, observe: packing.ObserveFn) -> types.Algorithm:
    """Bind COMA for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns stored rows into trajectories.
    """
    net = Networks(
        actor=agents.AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat),
        critic=agents.Mlp((cfg.critic_hidden, cfg.critic_hidden, spec.n_actions)),
    )
    rules = base.make_optimizers(cfg, "critic", "actor")

    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        del hyper
        return stepwise.counting(base.init_agent(init_params(net, spec, key), rules, ("critic",)))

    outputs, behave = partial(base.network_outputs, net.actor), exploration.FLOORS[cfg.floor_over].behave
    return types.Algorithm(
        name="coma",
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=lambda agent: agent.params["actor"],
        replay=base.on_policy(cfg.batch_size),
        update=make_coma_update(net, base.learned_policy(cfg), rules, observe, cfg.batch_size, spec.episode_limit),
        refresh=stepwise.copy_after_steps(cfg.target_interval),
        joint_table=partial(joint_table, net=net),
        forward=partial(forward, net=net),
        insight=insight,
        **base.agent_acting(spec, cfg.hidden, outputs, behave)._asdict(),
    )


ENTRIES = (
    Entry(
        name="coma",
        config=ComaConfig,
        factory=make_coma,
        doc="COMA: on-policy actor-critic, each agent's advantage against what its other actions would have been worth",
    ),
)
