"""What algorithms share: the registry entry, the stochastic-policy acting shell, and small helpers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lsf_jax.buffers import ObserveFn
from lsf_jax.networks.agents import agent_inputs, zero_hidden
from lsf_jax.policies import epsilon_greedy, greedy, linear_schedule, masked_log_softmax, sample
from lsf_jax.types import Algorithm, Carry, Clock, EnvSpec, Hyper, Observation, Params, PRNGKey


class Entry(NamedTuple):
    """One row of the registry of algorithms."""

    config: type  # frozen dataclass of every setting
    hyper: type  # NamedTuple of the settings that are traced numbers, and so can be swept
    factory: Callable[[EnvSpec, Any, ObserveFn, int], Algorithm]  # (spec, config, observe, micro_batch)


class AgentCarry(NamedTuple):
    """What a recurrent agent remembers between steps."""

    hidden: Float[Array, "agents hidden"]
    last_action: Int[Array, "agents"]  # -1 before the first step


class Acting(NamedTuple):
    """The acting functions of an `Algorithm`."""

    start: Callable[[], Carry]
    act: Callable[..., tuple[Carry, Array]]
    act_greedy: Callable[..., tuple[Carry, Array]]
    act_sampled: Callable[..., tuple[Carry, Array]]


def hyper_of(hyper_class: type, config: Any) -> Hyper:
    """The traced numbers of a config as float32 scalars."""
    return hyper_class(**{name: jnp.float32(getattr(config, name)) for name in hyper_class._fields})


def behave_sample(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """A ~ π (Algorithm 1)."""
    del clock, hyper  # explores by its entropy alone
    return sample(masked_log_softmax(logits, observation.avail), observation.avail, key)


def behave_epsilon_greedy(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """ε-greedy on the argmax of π (the released code)."""
    epsilon = linear_schedule(hyper.epsilon_start, hyper.epsilon_finish, hyper.epsilon_anneal, clock.env_steps)
    return epsilon_greedy(logits, observation.avail, epsilon, key)


def behave_epsilon_sample(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """With probability ε, drawn for each agent apart, a uniform available action; otherwise a ~ π."""
    key_epsilon, key_pi = jax.random.split(key)
    action = sample(masked_log_softmax(logits, observation.avail), observation.avail, key_pi)
    chosen = jax.nn.one_hot(action, logits.shape[-1])
    epsilon = linear_schedule(hyper.epsilon_start, hyper.epsilon_finish, hyper.epsilon_anneal, clock.env_steps)
    return epsilon_greedy(chosen, observation.avail, epsilon, key_epsilon)


def behave_greedy(logits: Array, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper) -> Array:
    """The most probable available action."""
    del key, clock, hyper  # deterministic
    return greedy(logits, observation.avail)


BEHAVIOURS = {
    "sample": behave_sample,
    "epsilon_greedy": behave_epsilon_greedy,
    "epsilon_sample": behave_epsilon_sample,
}


def agent_acting(
    spec: EnvSpec, hidden: int, outputs: Callable[[Params, Array, Array], tuple[Array, Array]], behaviour: str
) -> Acting:
    """Acting shell of an agent network whose outputs, one for each action, choose an action.

    Args:
      spec: sizes of the environment.
      hidden: H.
      outputs: `(params, hidden [N, H], inputs [N, X]) -> (hidden, logits [N, A])`; nothing else ever acts.
      behaviour: how training explores, a key of `BEHAVIOURS`.
    """

    def start() -> AgentCarry:
        last_action = jnp.full((spec.n_agents,), -1, jnp.int32)
        return AgentCarry(hidden=zero_hidden(spec.n_agents, hidden), last_action=last_action)

    def acting(choose: Callable[..., Array]) -> Callable[..., tuple[AgentCarry, Array]]:
        def act(
            params: Params, carry: AgentCarry, observation: Observation, key: PRNGKey, clock: Clock, hyper: Hyper
        ) -> tuple[AgentCarry, Array]:
            inputs = agent_inputs(observation.obs, carry.last_action, spec.n_actions)
            next_hidden, logits = outputs(params, carry.hidden, inputs)
            action = choose(logits, observation, key, clock, hyper)
            return AgentCarry(hidden=next_hidden, last_action=action), action

        return act

    return Acting(
        start=start,
        act=acting(BEHAVIOURS[behaviour]),
        act_greedy=acting(behave_greedy),
        act_sampled=acting(behave_sample),
    )
