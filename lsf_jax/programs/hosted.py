"""Training on games that are played on the host: the same fused step, its episodes handed in.

The device learns from one batch while the host already collects the next (`Hosted.overlap`), so episodes are at most
one update old; on-policy algorithms always wait for the newest policy.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.engine.host_replay import HostReplay, hand_over, split_replay
from lsf_jax.engine.host_rollout import GREEDY, SAMPLED, Behaviour, HostCollector
from lsf_jax.engine.lengths import SEEDS_AXIS
from lsf_jax.engine.training import AXES, Chunk, ChunkLog, IterationKeys, iteration_keys, loop_chunk, make_train_step
from lsf_jax.envs.host import HostError
from lsf_jax.programs.compiled import Evaluation
from lsf_jax.programs.parts import Program
from lsf_jax.programs.runtime import jit_program
from lsf_jax.types import Algorithm, Episode, EpisodeStats, PRNGKey, TrainState

Learn = Callable[[TrainState, Episode, Array], tuple[TrainState, ChunkLog]]
"""One iteration on episodes that are here already: state, episodes `[K, B, T, ...]`, budget."""
KeyOf = Callable[[IterationKeys], PRNGKey]
COLLECT, EVALUATE = attrgetter("collect"), attrgetter("evaluate")
"""What games are played for, by the key of the coming iteration that decides them."""


class HostPrograms(NamedTuple):
    """What a session calls instead of the compiled programs of a device environment."""

    chunk: Chunk
    evaluate: Evaluation
    evaluate_sampled: Evaluation
    collector: HostCollector
    behaviour: Callable[[TrainState], Behaviour]  # how the next batch is played; launches the games


def behaviour_of(algorithm: Algorithm, state: TrainState, params: Any, key_of: KeyOf) -> Behaviour:
    """What decides how the games of all seeds are played with the given parameters; copies, since states are donated.

    Args:
      algorithm: of the run.
      state: of a block, replay left out or not.
      params: full parameter dicts `[K, ...]`, by group.
      key_of: `COLLECT` or `EVALUATE`.
    """

    def one_seed(params: Any, state: TrainState) -> tuple[Any, Any, Array]:
        policy = algorithm.policy_params(state.agent._replace(params=params))
        return policy, state.hyper, key_of(iteration_keys(state))

    axes = (0, AXES._replace(buffer=None))
    policy, hyper, keys = jax.vmap(one_seed, in_axes=axes)(params, state._replace(buffer=()))
    return jax.tree.map(jnp.copy, Behaviour(params=policy, clock=state.clock, hyper=hyper, key=keys))


class HostSizes(NamedTuple):
    """How much is collected, learned and evaluated at a time."""

    seeds: int  # K
    n_envs: int  # episodes of each seed in one iteration, and workers of each seed
    log_every: int  # a log row is written after every so-many-th iteration
    eval_episodes: int  # of one evaluation, per seed
    host_replay: bool = False  # replay is kept in the host's memory


def make_host_programs(program: Program, sizes: HostSizes, root_seed: int) -> HostPrograms:
    """Bind collection on the host and learning on the device for one block of seeds.

    Args:
      program: parts of the run; `program.hosted` says how to open its games.
      sizes: how much at a time.
      root_seed: of the games.

    Raises:
      ValueError: the environment is not on the host.
    """
    if program.hosted is None:
        raise ValueError("the environment lives on the device; use jit_chunk.")
    collector = HostCollector(program.env, program.hosted, program.algorithm, sizes.seeds, sizes.n_envs)
    replay = split_replay(program.buffer, sizes.n_envs, program.updates) if sizes.host_replay else None
    learner = program if replay is None else program._replace(buffer=replay.on_device)
    learn = jit_program(partial(_learn, program=learner, log_every=sizes.log_every), donate=(0,))
    behave = jax.jit(partial(behaviour_of, program.algorithm), static_argnums=2)
    overlap = program.hosted.overlap and not program.buffer.on_policy
    n_envs = sizes.n_envs
    pending: list[Episode | HostError] = []

    def behaviour(state: TrainState, params: Any, key_of: KeyOf) -> Behaviour:
        collector.open(root_seed)
        return behave(state._replace(buffer=()), params, key_of)

    def chunk(state: TrainState, n: Array, budget: Array) -> tuple[TrainState, ChunkLog]:
        if int(n) != 1:
            raise ValueError(f"a chunk on the host is one iteration; got {int(n)}.")
        now = behaviour(state, state.agent.params, COLLECT)
        fresh = pending.pop() if pending else collector.collect(now, n_envs, n_envs if overlap else 0)
        if isinstance(fresh, HostError):
            raise fresh
        after, log = _iterate(learn, replay, state, fresh, budget)  # returns at once; the device computes
        if overlap:
            try:
                pending.append(collector.collect(now, n_envs, n_envs))
            except HostError as error:  # what was learned must not be lost: the next chunk raises it
                pending.append(error)
        return after, log

    def evaluate(how: str, params: Any, state: TrainState) -> EpisodeStats:
        return collector.evaluate(behaviour(state, params, EVALUATE), sizes.eval_episodes, how)

    return HostPrograms(
        chunk=chunk,
        evaluate=partial(evaluate, GREEDY),
        evaluate_sampled=partial(evaluate, SAMPLED),
        collector=collector,
        behaviour=lambda state: behaviour(state, state.agent.params, COLLECT),
    )


def _iterate(
    learn: Learn, replay: HostReplay | None, state: TrainState, fresh: Episode, budget: Array
) -> tuple[TrainState, ChunkLog]:
    if replay is None:
        return learn(state, fresh, budget)
    given, rings = hand_over(replay, state, fresh)
    after, log = learn(given, fresh, budget)
    return after._replace(buffer=rings), log


def _learn(
    state: TrainState, fresh: Episode, budget: Array, *, program: Program, log_every: int
) -> tuple[TrainState, ChunkLog]:
    """One iteration of all seeds on episodes `[K, B, T, ...]` that are here already."""

    def one_seed(state: TrainState, fresh: Episode, budget: Array) -> tuple[TrainState, dict[str, Array]]:
        step = make_train_step(
            program.algorithm, program.buffer, lambda *_: fresh, program.updates, program.sizes, program.micro_batch
        )
        return step(state, budget)

    def all_seeds(state: TrainState, budget: Array) -> tuple[TrainState, dict[str, Array]]:
        batched = jax.vmap(one_seed, in_axes=(AXES, 0, None), out_axes=(AXES, 0), axis_name=SEEDS_AXIS)
        return batched(state, fresh, budget)

    return loop_chunk(all_seeds, rows=1, log_every=log_every)(state, jnp.int32(1), budget)
