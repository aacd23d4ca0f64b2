"""DOP: decomposed off-policy policy gradients.

Q_tot = Σ kᵢ(s) Qᵢ is a convex combination of local critics, so what one agent's action is worth does not depend on the
others' and every actor has a gradient of its own. The critic learns from recent episodes (Sarsa(λ)) and from old ones
(tree backup) side by side, the actor from the newest alone. Read it as: the two targets, the two losses, the update,
and the binding; the networks are in `dop_networks`.

Wang et al. (2021), "DOP: Off-Policy Multi-Agent Decomposed Policy Gradients"; code TonghanWang/DOP `offpg_learner.py`.
As there, the critic takes an optimiser step for every time step, from the first to the last, on targets computed once,
and the ε floor is part of the policy that learns; there softmax and floor are taken over all actions, here over the
available ones (`algo.floor_over`; preset `pymarl` has all). The code's term that would draw each Qᵢ to Q_tot is left
out, as its authors do.

A trap of the method: nothing but the ε floor keeps actors from settling before the critic is right, and a settled
softmax has no slope to come back by. In the additive game (`linear_game`, one run of 16 seeds) all seeds found the best
joint action with the default widths and rates, and a single one with a critic of width 32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lsf_jax import types
from lsf_jax.algorithms import base, configs, dop_networks, q_learning, stepwise
from lsf_jax.engine import buffers, distributions, exploration, learner, packing, returns
from lsf_jax.networks import agents
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class DopConfig(configs.FloorConfig, configs.TargetConfig, configs.TraceConfig, configs.CommonConfig):
    """Settings of DOP: the shared ones with its own optimiser, ε floor and critic, and what it replays.

    DOP lowers the floor over 500,000 env steps; `epsilon_anneal` is everyone's 100,000 unless a preset sets it.
    """

    batch_size: int = setting(8, low=1, doc="newest episodes, all in an actor step; a multiple of train.n_envs; DOP 16")
    updates: int = setting(1, low=1, high=100_000, doc="updates after each collection; after the first, data are stale")
    lr: float = number(1e-4, low=0.0, doc="critic's optimiser step, one for each time step of an update; DOP")
    actor_lr: float = number(5e-4, low=0.0, doc="actor's optimiser step, one for each update; DOP")
    epsilon_start: float = number(0.5, low=0.0, high=1.0, doc="ε floor of the policy at env step 0; DOP")
    optimizer: str = setting("rmsprop", choices=("adam", "rmsprop"), doc="rmsprop, to which the rates belong; DOP")
    grad_clip: float = setting(20.0, low=0.0, doc="global norm of a group's gradient, 0: no clipping; DOP")
    target_interval: int = setting(600, low=1, doc="critic steps, one for each time step, between target copies; DOP")
    tree_trace: float = number(0.93, low=0.0, high=1.0, doc="λ of the tree backup; DOP")

    tree_steps: int = setting(5, low=1, doc="n, corrections that the tree backup sums; DOP")
    on_batch: int = setting(8, low=1, doc="recent episodes in an update of the critic; DOP 16")
    on_capacity: int = setting(16, low=1, doc="episodes that count as recent; a multiple of train.n_envs; DOP 32")
    off_batch: int = setting(16, low=1, doc="episodes from all of train.buffer_capacity beside them; DOP 32")
    critic_hidden: int = setting(256, low=1, doc="width of the critic's two hidden layers; DOP")
    mixer: str = setting(
        "linear", choices=("linear", "nonlinear"), doc="convex combination (DOP), or QMIX's mixer as in pymarl2's port"
    )
    mixer_embed: int = setting(32, low=1, doc="width of the product from which the mixer's weights come; DOP")


Policies: TypeAlias = Callable[[types.Params, types.Trajectory], Array]
"""`(actor's parameters, trajectory) -> π in every row [T+1, N, A]`."""


class TargetValues(NamedTuple):
    """What the target networks make of one trajectory."""

    taken: Float[Array, "time"]  # Q_tot of the actions taken
    next_expected: Float[Array, "time"]  # Q_tot of E_π[Qᵢ] at t+1


class CriticBatch(NamedTuple):
    """Inputs of the critic and its targets; leading axes [T, B], or [B] in one time step."""

    state: Float[Array, "*lead state"]
    obs: Float[Array, "*lead agents obs"]
    action: Int[Array, "*lead agents"]
    target: Float[Array, "*lead"]


def make_networks(spec: types.EnvSpec, cfg: DopConfig) -> dop_networks.Networks:
    """The networks that a config asks for."""
    return dop_networks.Networks(
        actor=agents.AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat),
        critic=dop_networks.LocalCritic(cfg.critic_hidden, spec.n_actions),
        mixer=dop_networks.MIXERS[cfg.mixer](spec, embed=cfg.mixer_embed),
    )


def target_values(
    net: dop_networks.Networks, target: types.Params, pi: Float[Array, "rows agents actions"], t: types.Trajectory
) -> TargetValues:
    """Q_tot by the target networks of the actions taken, and of π's expectations a step later.

    For the linear mixer the latter is E_π[Q_tot] exactly, by linearity.
    """
    obs, state, _ = t.observation
    q = dop_networks.local_values(net, target, state, obs)
    return TargetValues(
        taken=dop_networks.mixed(net, target, distributions.take_actions(q[:-1], t.action), state[:-1]),
        next_expected=dop_networks.mixed(net, target, distributions.expectation(pi[1:], q[1:]), state[1:]),
    )


def sarsa_target(values: TargetValues, t: types.Trajectory, hyper: types.Hyper) -> Float[Array, "time"]:
    """Sarsa(λ), for data close to the policy: the TD(λ) return of Q_tot of the actions taken.

    No action is stored for the row after an episode's last step, which bootstraps where time ran out: the policy's
    expectation stands for it (DOP's code has one that was drawn).
    """
    next_valid = jnp.append(t.valid[1:], False)
    next_value = jnp.where(next_valid, jnp.append(values.taken[1:], 0.0), values.next_expected)
    return q_learning.td_target(next_value[:, None], t, hyper)[:, 0]


def tree_target(
    values: TargetValues,
    pi: Float[Array, "rows agents actions"],
    t: types.Trajectory,
    hyper: types.Hyper,
    *,
    n_steps: int,
) -> Float[Array, "time"]:
    """Tree backup, for data of any policy: corrections count as far as π, all agents together, would do the same."""
    alike = distributions.take_actions(pi[:-1], t.action).prod(axis=-1)
    return returns.tree_backup(
        hyper.reward_scale * t.reward,
        returns.discounts(t.terminal, hyper.discount),
        values.taken,
        values.next_expected,
        jnp.where(t.valid, hyper.tree_trace * alike, 0.0),
        n_steps=n_steps,
    )


def make_critic_batch(
    net: dop_networks.Networks,
    agent: types.AgentState,
    data: dict[str, types.Trajectory],
    moments: dict[str, packing.Moments],
    policies: Policies,
    hyper: types.Hyper,
    *,
    n_steps: int,
) -> tuple[CriticBatch, stepwise.TimeSteps]:
    """What the critic is trained on, recent and old episodes in one batch, and which of its steps count."""

    def one(t: types.Trajectory, target: Callable[..., Array]) -> CriticBatch:
        pi = policies(agent.params["actor"], t)
        values = target_values(net, agent.targets["critic"], pi, t)
        seen = jax.tree.map(lambda leaf: leaf[:-1], t.observation)
        return CriticBatch(state=seen.state, obs=seen.obs, action=t.action, target=target(values, pi, t))

    lift = partial(jax.vmap, in_axes=(packing.PER_TRAJECTORY,), out_axes=1)
    targets = {
        "on": lambda values, pi, t: sarsa_target(values, t, hyper),
        "off": partial(tree_target, hyper=hyper, n_steps=n_steps),
    }
    by_moment = {
        name: (jax.tree.map(moments[name].of_rows, lift(partial(one, target=target))(data[name])), moments[name].valid)
        for name, target in targets.items()
    }
    inputs, valid = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), by_moment["on"], by_moment["off"])
    longest = [each.longest for each in moments.values() if each.longest is not None]
    return inputs, stepwise.TimeSteps(valid, jnp.stack(longest).max() if longest else None)


def critic_error(
    params: types.Params, batch: CriticBatch, *, net: dop_networks.Networks
) -> tuple[Float[Array, "episodes"], tuple]:
    """(Q_tot(s, u) - y)² of one time step of every episode."""
    chosen = distributions.take_actions(dop_networks.local_values(net, params, batch.state, batch.obs), batch.action)
    return jnp.square(dop_networks.mixed(net, params, chosen, batch.state) - batch.target), ()


def policy_loss(
    pi: Float[Array, "time agents actions"],
    q: Float[Array, "time agents actions"],
    weights: Float[Array, "time agents"],
    t: types.Trajectory,
) -> Float[Array, "time"]:
    """-meanᵢ kᵢ(s) (Qᵢ(uᵢ) - E_π[Qᵢ]) log πᵢ(uᵢ), the critic's part without gradient."""
    advantage = jax.lax.stop_gradient(
        weights * (distributions.take_actions(q, t.action) - distributions.expectation(pi, q))
    )
    chosen = jnp.where(t.valid[:, None], distributions.take_actions(pi, t.action), 1.0)
    return -(advantage * jnp.log(jnp.maximum(chosen, distributions.TINY))).mean(axis=-1)


def actor_objective(
    actor: types.Params,
    critic: types.Params,
    newest: types.Trajectory,
    *,
    net: dop_networks.Networks,
    policies: Policies,
) -> tuple[Float[Array, ""], types.Metrics]:
    """The policy loss of a batch, a mean over its valid steps, and what is logged."""

    def one(t: types.Trajectory) -> types.Metrics:
        obs, state, avail = jax.tree.map(lambda leaf: leaf[:-1], t.observation)
        pi = policies(actor, t)[:-1]
        q = dop_networks.local_values(net, critic, state, obs)
        log_pi = distributions.log_of(jax.lax.stop_gradient(pi), avail)
        terms = {
            "policy": policy_loss(pi, q, net.mixer.weights(critic["mixer"], state), t),
            "entropy": distributions.entropy_of_choices(jax.lax.stop_gradient(pi), log_pi, avail),
            "q_total": dop_networks.mixed(net, critic, distributions.take_actions(q, t.action), state),
            **base.utility_metrics(q, avail, t.action),
            "reward": t.reward,
        }
        return {name: learner.sum_over_valid(value, t.valid) for name, value in terms.items()}

    per_step = 1.0 / jnp.maximum(newest.valid.sum(), 1).astype(jnp.float32)
    means = {
        name: value.sum() * per_step for name, value in jax.vmap(one, in_axes=(packing.PER_TRAJECTORY,))(newest).items()
    }
    return means["policy"], means


def make_dop_update(
    net: dop_networks.Networks,
    policy: exploration.Policy,
    optimizers: dict[str, optax.GradientTransformation],
    observe: packing.ObserveFn,
    cfg: DopConfig,
    limit: int,
) -> types.Update:
    """Build `update`: the critic's pass over the time steps of recent and old data, then an actor step on the newest.

    The actor's advantages are those of the critic that the pass has led to. All data is processed whole.

    Args:
      net: actor and critic.
      policy: of the actor's logits, what learns.
      optimizers: by group, up to, not including, the learning rate.
      observe: turns stored rows into trajectories.
      cfg: settings.
      limit: steps of the longest possible episode.
    """
    batch_sizes = {"on": cfg.on_batch, "off": cfg.off_batch}
    error = partial(critic_error, net=net)

    def update(
        agent: types.AgentState,
        batch: types.Batch,
        key: types.PRNGKey,
        clock: types.Clock,
        hyper: types.Hyper,
        micro_batch: int = 0,
    ) -> tuple[types.AgentState, types.Metrics]:
        del key, micro_batch  # nothing is drawn; every step of the critic needs the whole batch, old episodes included
        rows = {name: packing.as_rows(episodes) for name, episodes in batch.items()}
        data = {name: observe(each) for name, each in rows.items()}
        moments = {name: packing.moments_of(rows[name], size, limit) for name, size in batch_sizes.items()}
        policies = partial(base.row_policies, net.actor, policy, clock=clock, hyper=hyper)
        inputs = make_critic_batch(net, agent, data, moments, policies, hyper, n_steps=cfg.tree_steps)
        critic = agent.params["critic"], agent.opt_state["critic"]
        steps = stepwise.critic_steps(error, optimizers["critic"], hyper.lr, *critic, *inputs, reverse=False)
        slopes = jax.grad(partial(actor_objective, net=net, policies=policies), has_aux=True)
        gradients, means = slopes(agent.params["actor"], steps.params, data["latest"])
        actor, actor_state = learner.optimizer_step(
            optimizers["actor"], hyper.actor_lr, agent.params["actor"], agent.opt_state["actor"], gradients
        )
        params = {"critic": steps.params, "actor": actor}
        metrics = {
            "td": steps.loss,
            **means,
            "critic_gradient_norm": steps.gradient_norm,
            "actor_gradient_norm": optax.tree.norm(gradients),
            **{f"{group}_parameter_norm": optax.tree.norm(tree) for group, tree in params.items()},
        }
        since_copy = agent.opt_state[stepwise.SINCE_COPY] + steps.taken
        opt_state = {"critic": steps.opt_state, "actor": actor_state, stepwise.SINCE_COPY: since_copy}
        return agent._replace(params=params, opt_state=opt_state), metrics

    return update


def three_replays(cfg: DopConfig) -> base.Replay:
    """The newest episodes for the actor, a draw from the recent and one from all that is stored for the critic."""

    def replay(example: types.Episode, capacity: int, n_envs: int) -> types.Buffer:
        if cfg.on_capacity % n_envs:
            raise ValueError(f"algo.on_capacity {cfg.on_capacity} is not a multiple of train.n_envs {n_envs}.")
        for batch, size, key, stored in (
            ("on_batch", cfg.on_batch, "algo.on_capacity", cfg.on_capacity),
            ("off_batch", cfg.off_batch, "train.buffer_capacity", capacity),
        ):
            if size > stored:
                raise ValueError(f"algo.{batch} {size} exceeds {key} {stored}.")
        return buffers.bundle(
            latest=buffers.latest(example, batch_size=cfg.batch_size, n_envs=n_envs),
            on=buffers.uniform(example, capacity=cfg.on_capacity, batch_size=cfg.on_batch, n_envs=n_envs),
            off=buffers.uniform(example, capacity=capacity, batch_size=cfg.off_batch, n_envs=n_envs),
        )

    return replay


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: dop_networks.Networks
) -> types.JointTable:
    """Qᵢ, Q_tot of every joint action, and π without its ε floor in one first observation."""
    del key  # deterministic
    params, state = agent.params["critic"], observation.state[None]
    q = dop_networks.local_values(net, params, state, observation.obs[None])
    logits = agents.unroll(net.actor, agent.params["actor"], agents.one_row(), base.first_inputs(observation))[0]
    policy = distributions.probabilities(distributions.masked_log_softmax(logits, observation.avail), observation.avail)
    return base.tabulate(
        q[0],
        policy,
        lambda action: dop_networks.mixed(net, params, distributions.take_actions(q, action[None]), state)[0],
    )


def make_dop(spec: types.EnvSpec, cfg: DopConfig, observe: packing.ObserveFn) -> types.Algorithm:
    """Bind DOP for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns stored rows into trajectories.
    """
    net = make_networks(spec, cfg)
    rules = base.make_optimizers(cfg, "critic", "actor")

    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        del hyper
        return stepwise.counting(base.init_agent(dop_networks.init_params(net, spec, key), rules, ("critic",)))

    outputs, floor = partial(base.network_outputs, net.actor), exploration.FLOORS[cfg.floor_over]
    return types.Algorithm(
        name="dop",
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=lambda agent: agent.params["actor"],
        replay=three_replays(cfg),
        update=make_dop_update(net, floor.policy, rules, observe, cfg, spec.episode_limit),
        refresh=stepwise.copy_after_steps(cfg.target_interval),
        joint_table=partial(joint_table, net=net),
        forward=partial(dop_networks.forward, net=net),
        insight=partial(dop_networks.insight, net=net),
        **base.agent_acting(spec, cfg.hidden, outputs, floor.behave)._asdict(),
    )


ENTRIES = (
    Entry(
        name="dop",
        config=DopConfig,
        factory=make_dop,
        doc="DOP: local critics in a convex combination, trained on recent and old episodes; actors on the newest",
    ),
)
