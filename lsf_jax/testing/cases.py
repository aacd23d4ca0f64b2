"""Algorithms made small, three agents of each side by side, and a batch as their own replay gives it; compiled once."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.registry import Entry
from lsf_jax.testing import games
from lsf_jax.testing.comparison import in_numpy
from lsf_jax.types import AgentState, Algorithm, Episode, Metrics, Observation, PRNGKey

SMALL: dict[str, Any] = {
    "batch_size": games.BATCH,
    "hidden": 8,
    "mixer_embed": 4,
    "hyper_hidden": 4,
    "encoder_hidden": 4,
    "decoder_hidden": 4,
    "central_hidden": 8,
    "critic_hidden": 8,
    "joint_hidden": 8,
    "on_batch": games.BATCH,
    "off_batch": games.BATCH,
    "on_capacity": games.BATCH,
    "recurrent": False,
    "lr": 3e-3,
    "actor_lr": 3e-3,
}
"""Settings of narrow networks, where an algorithm has them."""
WIDE: dict[str, Any] = {
    **{key: 32 for key in ("hidden", "critic_hidden", "central_hidden", "joint_hidden")},
    **{key: 16 for key in ("mixer_embed", "hyper_hidden", "encoder_hidden", "decoder_hidden")},
    **{key: 16 for key in ("batch_size", "on_batch", "off_batch", "on_capacity")},
    "recurrent": False,
    "lr": 2e-3,
    "actor_lr": 2e-3,
    "trace": 0,
}
"""To learn with. Some of four seeds with narrower networks have units that never fire, and are stuck for long."""
KINDS = ("act", "act_greedy", "act_sampled")
"""The ways in which an algorithm acts."""
SEEDS = 3


Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""Keys and values of a config, laid over `SMALL`."""


class Case(NamedTuple):
    """An algorithm with what its tests share."""

    entry: Entry
    settings: Settings
    algorithm: Algorithm
    update: Any  # jitted, over three seeds
    agents: AgentState  # of three seeds, as they begin
    acts: Any  # jitted: (agent, observation, keys [64], ε) -> actions [64, kinds, N], and what the carry remembers
    batch: Any
    keys: Any  # of three seeds


def small_config(entry: Entry, settings: Settings, **changes: Any) -> Any:
    """An algorithm's config with narrow networks; of settings and changes those that it has."""
    known = vars(entry.config())
    chosen = {key: value for key, value in {**SMALL, **dict(settings), **changes}.items() if key in known}
    return replace(entry.config(), **chosen)


@cache
def make_case(entry: Entry, settings: Settings) -> Case:
    """The case of an algorithm; update and acts compile once."""
    algorithm = entry.factory(games.SPEC, small_config(entry, settings), games.observe)
    episodes = games.episodes_of(games.make_games())
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), episodes)
    buffer = algorithm.replay(example, games.BATCH, games.BATCH)
    before, after = (games.CLOCK._replace(episodes=jnp.int32(stored)) for stored in (0, games.BATCH))

    def stored_and_sampled(episodes: Episode, key: PRNGKey) -> Any:
        return buffer.sample(buffer.add(buffer.init(), before, episodes), after, key)

    keys = jax.random.split(jax.random.key(1), SEEDS)
    return Case(
        entry=entry,
        settings=settings,
        algorithm=algorithm,
        update=jax.jit(jax.vmap(algorithm.update, in_axes=(0, None, 0, None, None))),
        agents=jax.jit(jax.vmap(algorithm.init, in_axes=(0, None)))(keys, algorithm.hyper),
        acts=jax.jit(jax.vmap(partial(_acts, algorithm), in_axes=(None, None, 0, None))),
        batch=jax.jit(stored_and_sampled)(episodes, jax.random.key(5)),
        keys=keys,
    )


def _acts(
    algorithm: Algorithm, agent: AgentState, observation: Observation, key: PRNGKey, epsilon: Any
) -> tuple[Any, Any]:
    policy = algorithm.policy_params(agent)
    exploring = {name: epsilon for name in ("epsilon_start", "epsilon_finish") if name in algorithm.hyper._fields}
    hyper = algorithm.hyper._replace(**exploring)
    clock, start = games.CLOCK, algorithm.start()
    after = [getattr(algorithm, kind)(policy, start, observation, key, clock, hyper) for kind in KINDS]
    remembers = all(hasattr(carry, "last_action") for carry, _ in after)
    remembered = jnp.stack([carry.last_action for carry, _ in after]) if remembers else None
    return jnp.stack([chosen for _, chosen in after]), remembered


@cache
def _updated(entry: Entry, settings: Settings) -> tuple[AgentState, Metrics]:
    case = make_case(entry, settings)
    return case.update(case.agents, case.batch, case.keys, games.CLOCK, case.algorithm.hyper)


def updated(case: Case) -> tuple[AgentState, Metrics]:
    """Agents and metrics of three seeds after one update."""
    return _updated(case.entry, case.settings)


@cache
def _learnt_agent(entry: Entry, settings: Settings) -> AgentState:
    return in_numpy(lambda leaf: leaf[0], _updated(entry, settings)[0])


def learnt_agent(case: Case) -> AgentState:
    """The first of three agents after one update, on the host."""
    return _learnt_agent(case.entry, case.settings)


def acted(case: Case, observation: Observation, key: PRNGKey, epsilon: float = 0.5) -> tuple[np.ndarray, Any]:
    """`[64, kinds, N]` actions and what is remembered of them, None where a carry holds no last action."""
    keys = jax.random.split(key, 64)
    chosen, remembered = case.acts(learnt_agent(case), observation, keys, np.float32(epsilon))
    return np.asarray(chosen), None if remembered is None else np.asarray(remembered)


def actions(case: Case, kind: str, observation: Observation, key: PRNGKey, epsilon: float = 0.5) -> np.ndarray:
    """`[64, N]` actions of one of the `KINDS`."""
    return acted(case, observation, key, epsilon)[0][:, KINDS.index(kind)]
