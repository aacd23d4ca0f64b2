"""What algorithms share: the acting shell, declarations of replay, and small helpers."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from lsf_jax import types
from lsf_jax.engine import buffers, distributions, exploration, optimizers
from lsf_jax.envs import chance
from lsf_jax.networks import agents
from lsf_jax.settings import hyper_class

LARGEST_TABLE = 4096  # joint actions

Outputs: TypeAlias = Callable[[types.Params, Array, agents.AgentInputs, types.PRNGKey], tuple[Array, Array]]
"""`(params, hidden [N, H], inputs, key) -> (hidden, logits or utilities [N, A])`."""
Replay: TypeAlias = Callable[[types.Episode, int, int], types.Buffer]
"""`(example episode, capacity, n_envs) -> buffer`: what data an update sees."""


class AgentCarry(NamedTuple):
    """What a recurrent agent remembers between steps."""

    hidden: Float[Array, "agents hidden"]
    last_action: Int[Array, "agents"]  # -1 before the first step


class Acting(NamedTuple):
    """The acting functions of an `Algorithm`."""

    start: Callable[[], types.Carry]
    act: Callable[..., tuple[types.Carry, Array]]
    act_greedy: Callable[..., tuple[types.Carry, Array]]
    act_sampled: Callable[..., tuple[types.Carry, Array]]
    scores: Callable[..., Array]


def hyper_of(config: Any) -> types.Hyper:
    """The traced numbers of a config as float32 scalars."""
    numbers = hyper_class(type(config))
    return numbers(*(jnp.float32(getattr(config, name)) for name in numbers._fields))


def init_network(network: agents.AgentNetwork, key: types.PRNGKey, spec: types.EnvSpec, *more: int) -> types.Params:
    """First parameters of an agent network that reads an agent's inputs and further ones of the given sizes."""
    hidden = jnp.zeros((1, spec.n_agents, network.hidden))
    further = [jnp.zeros((1, spec.n_agents, size)) for size in more]
    return network.init(key, hidden, empty_inputs(spec), *further)["params"]


def empty_inputs(spec: types.EnvSpec) -> agents.AgentInputs:
    """Inputs of one row, from which parameters get their shapes."""
    obs = jnp.zeros((1, spec.n_agents, spec.obs_dim))
    return agents.agent_inputs(obs, jnp.full((1, spec.n_agents), -1), spec.n_actions)


def network_outputs(
    network: agents.AgentNetwork, params: types.Params, hidden: Array, inputs: agents.AgentInputs, key: types.PRNGKey
) -> tuple[Array, Array]:
    """`Outputs` of a network that reads its own observation and action history only; bind the network."""
    del key  # deterministic
    return agents.one_step(network, params, hidden, inputs)


def init_agent(
    params: dict[str, types.Params], rules: Mapping[str, optax.GradientTransformation], targets: tuple[str, ...]
) -> types.AgentState:
    """The state before the first update: targets equal the parameters of the groups that have them."""
    return types.AgentState(
        params=params,
        targets={group: params[group] for group in targets},
        opt_state={group: rules[group].init(params[group]) for group in params},
    )


def make_optimizers(cfg: Any, *groups: str) -> dict[str, optax.GradientTransformation]:
    """For each parameter group an optimiser of its own, all as a config asks, up to, not including, the rate."""
    return {group: optimizers.make_optimizer(cfg.optimizer, cfg.grad_clip, cfg.optimizer_epsilon) for group in groups}


def off_policy(batch_size: int) -> Replay:
    """Learn from `batch_size` episodes drawn uniformly from everything that is stored."""

    def replay(example: types.Episode, capacity: int, n_envs: int) -> types.Buffer:
        return buffers.uniform(example, capacity=capacity, batch_size=batch_size, n_envs=n_envs)

    return replay


def on_policy(batch_size: int) -> Replay:
    """Learn from the newest `batch_size` episodes, all of them; train.buffer_capacity is not used."""

    def replay(example: types.Episode, capacity: int, n_envs: int) -> types.Buffer:
        del capacity
        return buffers.latest(example, batch_size=batch_size, n_envs=n_envs)

    return replay


def drawn_while_acting(
    n_agents: int, sent: int, split: Callable[[Array], Array] | None = None
) -> Callable[[types.PRNGKey], Array]:
    """The noise of the messages that the outputs of `agent_acting` exchange, as a function of the key it is given.

    Args:
      n_agents: N.
      sent: numbers that each sends.
      split: from the key of the outputs to that of the noise, where they are not one.
    """

    def drawn(key: types.PRNGKey) -> Float[Array, "agents sent"]:
        key_outputs, _ = chance.split(key)
        return jax.random.normal(split(key_outputs) if split else key_outputs, (n_agents, sent))

    return drawn


def agent_acting(
    spec: types.EnvSpec,
    hidden: int,
    outputs: Outputs,
    behave: exploration.Behave,
    test_outputs: Outputs | None = None,
    *,
    stochastic: bool = True,
) -> Acting:
    """Acting shell of an agent network whose outputs, one for each action, choose an action.

    Args:
      spec: sizes of the environment.
      hidden: H.
      outputs: the network's outputs; nothing else ever acts.
      behave: how training explores.
      test_outputs: its outputs in evaluations, where those differ.
      stochastic: the outputs are logits of a policy. Utilities are not: what they have learned is to act greedily, and
        a softmax over them would depend on the scale of rewards.
    """

    def start() -> AgentCarry:
        last_action = jnp.full((spec.n_agents,), -1, jnp.int32)
        return AgentCarry(hidden=agents.zero_hidden(spec.n_agents, hidden), last_action=last_action)

    def acting(choose: exploration.Behave, outputs: Outputs) -> Callable[..., tuple[AgentCarry, Array]]:
        def act(
            params: types.Params,
            carry: AgentCarry,
            observation: types.Observation,
            key: types.PRNGKey,
            clock: types.Clock,
            hyper: types.Hyper,
        ) -> tuple[AgentCarry, Array]:
            key_outputs, key_choose = chance.split(key)
            inputs = agents.agent_inputs(observation.obs, carry.last_action, spec.n_actions)
            next_hidden, logits = outputs(params, carry.hidden, inputs, key_outputs)
            action = choose(logits, observation, key_choose, clock, hyper)
            return AgentCarry(hidden=next_hidden, last_action=action), action

        return act

    tested = test_outputs or outputs

    def scores(
        params: types.Params, carry: AgentCarry, observation: types.Observation, key: types.PRNGKey
    ) -> Float[Array, "agents actions"]:
        key_outputs, _ = chance.split(key)  # as `act` does, so that what is drawn is the same
        inputs = agents.agent_inputs(observation.obs, carry.last_action, spec.n_actions)
        return tested(params, carry.hidden, inputs, key_outputs)[1]

    return Acting(
        start=start,
        act=acting(behave, outputs),
        act_greedy=acting(exploration.behave_greedy, tested),
        act_sampled=acting(exploration.behave_sample if stochastic else exploration.behave_greedy, tested),
        scores=scores,
    )


def learned_policy(cfg: Any) -> exploration.Policy:
    """The policy that a config with a floor has the loss learn: with its ε floor, or as if there were none."""
    inside = exploration.FLOORS[cfg.floor_over].policy
    return {"inside": inside, "outside": exploration.without_floor}[cfg.epsilon_floor]


def row_policies(
    actor: agents.AgentNetwork,
    policy: exploration.Policy,
    params: types.Params,
    t: types.Trajectory,
    clock: types.Clock,
    hyper: types.Hyper,
) -> Float[Array, "rows agents actions"]:
    """π in every row of a trajectory, as `policy` makes it of the actor's logits."""
    logits = agents.unroll(actor, params, t.layout, agents.trajectory_inputs(t))
    return policy(logits, t.observation.avail, clock, hyper)[0]


def first_policy(
    outputs: Outputs, params: types.Params, hidden: int, observation: types.Observation, key: types.PRNGKey
) -> Float[Array, "agents actions"]:
    """π of every agent in an episode's first step.

    Args:
      outputs: the acting network's outputs.
      params: its parameters.
      hidden: H.
      observation: of the first step.
      key: for outputs that draw something.
    """
    inputs = jax.tree.map(lambda part: part[0], first_inputs(observation))
    _, logits = outputs(params, agents.zero_hidden(observation.obs.shape[0], hidden), inputs, key)
    return distributions.probabilities(distributions.masked_log_softmax(logits, observation.avail), observation.avail)


def joint_actions(n_agents: int, n_actions: int) -> Int[Array, "joint agents"]:
    """Every joint action of a small game in C order.

    Raises:
      ValueError: if there are more than 4,096.
    """
    if n_actions**n_agents > LARGEST_TABLE:
        raise ValueError(f"a table of {n_actions}^{n_agents} joint actions is too large (limit {LARGEST_TABLE}).")
    return jnp.array(list(product(range(n_actions), repeat=n_agents)), jnp.int32)


def first_inputs(observation: types.Observation) -> agents.AgentInputs:
    """Agent inputs of an episode's first step, as a trajectory of one row."""
    n_agents, n_actions = observation.avail.shape
    return agents.agent_inputs(observation.obs[None], jnp.full((1, n_agents), -1, jnp.int32), n_actions)


def greedy_policy(values: Float[Array, "agents actions"], avail: Bool[Array, "agents actions"]) -> Array:
    """One-hot rows: the policy that always takes the best available action."""
    return jax.nn.one_hot(distributions.greedy(values, avail), values.shape[-1])


def tabulate(
    utilities: Float[Array, "agents actions"],
    policy: Float[Array, "agents actions"],
    value: Callable[[Int[Array, "agents"]], Float[Array, ""]],
    joint_value: Callable[[Int[Array, "agents"]], Float[Array, ""]] | None = None,
) -> types.JointTable:
    """The table of Q_tot, `value` of a joint action, over all joint actions, and of `joint_value` if that is another.

    Raises:
      ValueError: if there are more than 4,096.
    """
    joint = joint_actions(*policy.shape)
    q_total = jax.vmap(value)(joint)
    estimate = q_total if joint_value is None else jax.vmap(joint_value)(joint)
    return types.JointTable(utilities=utilities, q_total=q_total, policy=policy, joint_value=estimate)


def utility_metrics(
    q: Float[Array, "time agents actions"],
    avail: Bool[Array, "time agents actions"],
    action: Int[Array, "time agents"],
) -> dict[str, Float[Array, "time"]]:
    """For people: the mean utility of what was done, and the mean gap between best and worst available action."""
    best = jnp.where(avail, q, -jnp.inf).max(axis=-1)
    worst = jnp.where(avail, q, jnp.inf).min(axis=-1)
    return {"q_utility": distributions.take_actions(q, action).mean(axis=-1), "q_gap": (best - worst).mean(axis=-1)}
