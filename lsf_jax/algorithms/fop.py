"""FOP: factorises the soft-optimal joint policy, with local critics for the actors and a dueling mixer above them.

The critics read one observation each, neither history nor state; two of them with a mixer each guard against
overestimation. The temperature α follows a schedule. Read it as: `Forward` and `forward`, the targets and the two
losses, settings and binding.

Zhang et al. (2021), "FOP: Factorizing Optimal Joint Policy of Maximum-Entropy Multi-Agent Reinforcement Learning"; code
liyheng/FOP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from lsf_jax import types
from lsf_jax.algorithms import base, configs
from lsf_jax.algorithms.q_learning import td_target
from lsf_jax.engine import distributions, exploration, learner, packing
from lsf_jax.networks import agents, mixers, recurrence
from lsf_jax.registry import Entry
from lsf_jax.settings import number, setting

SoftValue: TypeAlias = Callable[[Array, Array, Array], Array]
"""`(q [T, N, A], avail [T, N, A], α) -> v [T, N]`."""


class Networks(NamedTuple):
    """The actor, one critic with its mixer (their parameters come in pairs), and how local soft values are taken."""

    actor: agents.AgentNetwork
    critic: agents.Mlp
    mixer: mixers.Mixer
    soft_value: SoftValue


class Forward(NamedTuple):
    """Outputs of every network over one trajectory. The first axis of length 2 is that of the critics."""

    log_pi: Float[Array, "rows agents actions"]
    q: Float[Array, "2 time agents actions"]
    q_total: Float[Array, "2 time"]  # of the actions taken
    next_action: Int[Array, "time agents"]  # u' ~ π at t+1
    next_total: Float[Array, "2 time"]  # target networks, of u'
    alpha: Float[Array, ""]


# The local values q train nothing by themselves: critics learn through Q_tot alone, the actor takes q as given.
OWNS = {"critic": ("q_total",), "actor": ("log_pi",)}

Target: TypeAlias = Callable[[Forward, types.Trajectory, types.Hyper], Float[Array, "time"]]


def soft_value_of_all(
    q: Float[Array, "*lead actions"], avail: Bool[Array, "*lead actions"], alpha: Float[Array, ""]
) -> Float[Array, "*lead"]:
    """The soft value of all actions, available or not, as in FOP's code."""
    return distributions.soft_value(q, jnp.ones_like(avail), alpha)


def init_params(
    net: Networks, spec: types.EnvSpec, key: types.PRNGKey, alpha: Float[Array, ""]
) -> dict[str, types.Params]:
    """Parameters by group: critic {critic, mixer} with two of each on a leading axis, actor, temperature (α itself)."""
    key_actor, key_critics = jax.random.split(key)

    def one(key_one: types.PRNGKey) -> dict[str, types.Params]:
        key_critic, key_mixer = jax.random.split(key_one)
        obs, ids = jnp.zeros((1, spec.n_agents, spec.obs_dim)), jnp.zeros((1, spec.n_agents, spec.n_agents))
        return {"critic": net.critic.init(key_critic, obs, ids)["params"], "mixer": net.mixer.init(key_mixer)}

    return {
        "critic": jax.vmap(one)(jax.random.split(key_critics)),
        "actor": base.init_network(net.actor, key_actor, spec),
        "temperature": alpha,
    }


def evaluate_one(
    net: Networks,
    params: types.Params,
    layout: types.Layout,
    seen: types.Observation,
    action: Int[Array, "time agents"],
    alpha: Float[Array, ""],
) -> tuple[Float[Array, "time agents actions"], Float[Array, "time"]]:
    """One critic's local values at every row, and what its mixer makes of those of a joint action."""
    critic = partial(agents.run, net.critic)
    q = recurrence.each_row(critic, params["critic"], layout, seen.obs, jnp.eye(seen.obs.shape[1])[None])
    value = net.soft_value(q, seen.avail, alpha)
    chosen = jax.nn.one_hot(action, q.shape[-1])
    of_action = distributions.take_actions(q, action)
    return q, recurrence.each_row(net.mixer.mix, params["mixer"], layout, of_action, value, chosen, seen.state)


def evaluate(
    net: Networks,
    params: types.Params,
    layout: types.Layout,
    seen: types.Observation,
    action: Int[Array, "time agents"],
    alpha: Float[Array, ""],
) -> tuple[Float[Array, "2 time agents actions"], Float[Array, "2 time"]]:
    """`evaluate_one` by both critics."""
    return jax.vmap(partial(evaluate_one, net), in_axes=(0, None, None, None, None))(
        params, layout, seen, action, alpha
    )


def forward(
    params: dict, targets: dict, trajectory: types.Trajectory, keys: Key[Array, "rows"], *, net: Networks
) -> Forward:
    """Run every network once over a trajectory; the next joint action is drawn from the current policy."""
    now = jax.tree.map(lambda leaf: leaf[:-1], trajectory.observation)
    following = jax.tree.map(lambda leaf: leaf[1:], trajectory.observation)
    alpha = params["temperature"]
    logits = agents.unroll(net.actor, params["actor"], trajectory.layout, agents.trajectory_inputs(trajectory))
    log_pi = distributions.masked_log_softmax(logits, trajectory.observation.avail)
    next_action = distributions.sample_rows(log_pi[1:], following.avail, keys[1:])
    q, q_total = evaluate(net, params["critic"], trajectory.layout, now, trajectory.action, alpha)
    return Forward(
        log_pi=log_pi,
        q=q,
        q_total=q_total,
        next_action=next_action,
        next_total=evaluate(net, targets["critic"], trajectory.layout, following, next_action, alpha)[1],
        alpha=alpha,
    )


def sampled_entropy(f: Forward) -> Float[Array, "time"]:
    """-log π(u') of the next joint action, a mean over agents as in FOP's code (the joint policy's would be a sum)."""
    return -distributions.take_actions(f.log_pi[1:], f.next_action).mean(axis=-1)


def target_with_entropy_inside(f: Forward, t: types.Trajectory, hyper: types.Hyper) -> Float[Array, "time"]:
    """The soft TD(λ) return: -α log π(u') is discounted, counts whole for any λ, and not where the game has ended."""
    return td_target(f.next_total.min(axis=0)[:, None], t, hyper, f.alpha * sampled_entropy(f))[:, 0]


def target_with_entropy_after(f: Forward, t: types.Trajectory, hyper: types.Hyper) -> Float[Array, "time"]:
    """As FOP's code has it: the return of min Q_tot(s', u'), then one undiscounted -α log π(u') at every step.

    Over many steps the target networks carry 1 - λ of the bonus on, so critics are less soft than α says.
    """
    return td_target(f.next_total.min(axis=0)[:, None], t, hyper)[:, 0] + f.alpha * sampled_entropy(f)


TARGETS: dict[str, Target] = {"inside": target_with_entropy_inside, "after": target_with_entropy_after}


def critic_loss(
    f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper, *, target: Target
) -> learner.Terms:
    """Σ (Q_tot - y)² over both critics, which share the target y."""
    del clock
    y = jax.lax.stop_gradient(target(f, t, hyper))
    return {"td": jnp.square(f.q_total - y[None]).sum(axis=0)}


def policy_loss(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """E_π[α log π - min(q₁, q₂)], a mean over agents: each learns from its own local values, not through the mixer."""
    del clock, hyper
    log_pi = f.log_pi[:-1]
    pi = distributions.probabilities(log_pi, t.observation.avail[:-1])
    return {"policy": distributions.expectation(pi, f.alpha * log_pi - f.q.min(axis=0)).mean(axis=-1)}


def diagnose(f: Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
    """Per-step quantities for people, averaged over valid steps."""
    del clock, hyper
    log_pi, avail = f.log_pi[:-1], t.observation.avail[:-1]
    return {
        "alpha": jnp.full(t.reward.shape, f.alpha),
        "entropy": distributions.entropy_of_choices(distributions.probabilities(log_pi, avail), log_pi, avail),
        "q_total": f.q_total.mean(axis=0),
        **base.utility_metrics(f.q.mean(axis=0), avail, t.action),
        "reward": t.reward,
    }


def temperature(clock: types.Clock, hyper: types.Hyper) -> Float[Array, ""]:
    """α at this moment."""
    return exploration.linear_schedule(hyper.alpha_start, hyper.alpha_finish, hyper.alpha_anneal, clock.env_steps)


def at_temperature(learn: types.Update) -> types.Update:
    """`learn` with α as it is due.

    α stands among the parameters, because Q_tot cannot be computed without it: it belongs to the mixers' soft values.
    """

    def update(
        agent: types.AgentState,
        batch: types.Batch,
        key: types.PRNGKey,
        clock: types.Clock,
        hyper: types.Hyper,
        micro_batch: int = 0,
    ) -> tuple[types.AgentState, types.Metrics]:
        params = {**agent.params, "temperature": temperature(clock, hyper)}
        return learn(agent._replace(params=params), batch, key, clock, hyper, micro_batch)

    return update


def insight(agent: types.AgentState, t: types.Trajectory, f: Forward, *, net: Networks) -> types.Insight:
    """Policies, local values, Q_tot of what was done and λ of the joint action: means over both critics."""
    _, state, avail = jax.tree.map(lambda leaf: leaf[:-1], t.observation)
    taken = jax.nn.one_hot(t.action, avail.shape[-1])

    def counts(params: types.Params, q: Array) -> Array:
        chosen, value = distributions.take_actions(q, t.action), net.soft_value(q, avail, f.alpha)
        return mixers.slopes(net.mixer, params, chosen, value, taken, state)

    return types.Insight(
        q=f.q.mean(axis=0),
        log_pi=f.log_pi[:-1],
        total=f.q_total.mean(axis=0),
        weights=jax.vmap(counts)(agent.params["critic"]["mixer"], f.q).mean(axis=0),
        record=f,
    )


def joint_table(
    agent: types.AgentState, observation: types.Observation, key: types.PRNGKey, *, net: Networks
) -> types.JointTable:
    """Local values, Q_tot of every joint action (means over both critics) and π in one first observation."""
    del key  # deterministic
    seen = jax.tree.map(lambda leaf: leaf[None], observation)
    evaluated = partial(evaluate, net, agent.params["critic"], agents.one_row(), seen)

    def value(action: Int[Array, "agents"]) -> Float[Array, ""]:
        return evaluated(action[None], agent.params["temperature"])[1].mean()

    q, _ = evaluated(jnp.zeros((1, observation.avail.shape[0]), jnp.int32), agent.params["temperature"])
    logits = agents.unroll(net.actor, agent.params["actor"], agents.one_row(), base.first_inputs(observation))[0]
    log_pi = distributions.masked_log_softmax(logits, observation.avail)
    policy = distributions.probabilities(log_pi, observation.avail)
    return base.tabulate(q[:, 0].mean(axis=0), policy, value)


@dataclass(frozen=True)
class FopConfig(configs.ValueConfig):
    """Settings of FOP."""

    actor_lr: float = number(5e-4, low=0.0, doc="optimiser step of the actor; FOP")
    alpha_start: float = number(0.5, above=0.0, doc="temperature α at env step 0; FOP")
    alpha_finish: float = number(0.05, above=0.0, doc="temperature α at the end; FOP")
    alpha_anneal: float = number(90_000.0, low=0.0, doc="env steps over which α falls linearly; FOP")

    soft_mask: bool = setting(True, doc="soft values count available actions only; FOP's code counts all: false")
    entropy_in_target: str = setting(
        "inside",
        choices=tuple(TARGETS),
        doc="-α log π' in the bootstrap, or (FOP's code) added to the finished return, also where the game has ended",
    )
    critic_hidden: int = setting(64, low=1, doc="width of the critics' two hidden layers; FOP")
    heads: int = setting(4, low=1, doc="K, heads of the mixers' importance weights; FOP")
    mixer_embed: int = setting(32, low=1, doc="width of the hidden layer of the mixers' state value; FOP")


def make_networks(spec: types.EnvSpec, cfg: FopConfig) -> Networks:
    """The networks that a config asks for."""
    return Networks(
        actor=agents.AgentNetwork(cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat),
        critic=agents.Mlp((cfg.critic_hidden, cfg.critic_hidden, spec.n_actions)),
        mixer=mixers.soft_duplex_mixer(spec, heads=cfg.heads, embed=cfg.mixer_embed),
        soft_value=distributions.soft_value if cfg.soft_mask else soft_value_of_all,
    )


def learning_rates(hyper: types.Hyper) -> dict[str, Array]:
    """Step sizes by parameter group; the temperature takes no steps."""
    return {"critic": hyper.lr, "actor": hyper.actor_lr, "temperature": jnp.zeros(())}


def make_fop(spec: types.EnvSpec, cfg: FopConfig, observe: packing.ObserveFn) -> types.Algorithm:
    """Bind FOP for an environment.

    Actor and critics step together, from one set of parameters; FOP's code moves the actor first, and clips the two
    critics' gradients apart.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      observe: turns stored rows into trajectories.
    """
    net = make_networks(spec, cfg)
    optimizers = base.make_optimizers(cfg, "critic", "actor")
    optimizers["temperature"] = optax.set_to_zero()
    parts = learner.Learner(
        forward=partial(forward, net=net),
        losses={"critic": partial(critic_loss, target=TARGETS[cfg.entropy_in_target]), "actor": policy_loss},
        owns=OWNS,
        diagnose=diagnose,
        optimizers=optimizers,
        learning_rates=learning_rates,
    )

    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        return base.init_agent(init_params(net, spec, key, hyper.alpha_start), optimizers, ("critic",))

    acting = base.agent_acting(
        spec, cfg.hidden, partial(base.network_outputs, net.actor), exploration.behave_epsilon_sample
    )
    return types.Algorithm(
        name="fop",
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=lambda agent: agent.params["actor"],
        replay=base.off_policy(cfg.batch_size),
        update=at_temperature(learner.make_update(parts, observe)),
        refresh=learner.hard_copy(cfg.target_interval, ("critic",)),
        joint_table=partial(joint_table, net=net),
        forward=parts.forward,
        insight=partial(insight, net=net),
        **acting._asdict(),
    )


ENTRIES = (
    Entry(
        name="fop",
        config=FopConfig,
        factory=make_fop,
        doc="FOP: factorises the soft-optimal joint policy; local critics train the actors, the temperature "
        "follows a schedule",
    ),
)
