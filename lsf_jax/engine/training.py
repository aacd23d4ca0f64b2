"""The fused train step and the compiled chunk: collect, store, learn, for many seeds at once, without the host.

`make_train_step` is written for one seed. `make_chunk` vmaps it over a block of seeds and loops it a traced number of
times; nothing inside a chunk touches the host.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lsf_jax.engine.lengths import SEEDS_AXIS, only_if, traced_once
from lsf_jax.engine.packing import choices_of, fitted_rows, valid_fraction
from lsf_jax.engine.rollouts import played_steps
from lsf_jax.types import (
    AgentState,
    Algorithm,
    Batch,
    Buffer,
    Clock,
    Collect,
    Episode,
    Hyper,
    Kept,
    Metrics,
    PRNGKey,
    TrainState,
    Update,
)


def per_leaf(mapped: Any, common: Any) -> TrainState:
    """A prefix of `TrainState` that says `mapped` where leaves carry the seed axis and `common` where they do not.

    Counters are common to all seeds: so what is periodic stays a choice under `vmap`.
    """
    clock: Any = Clock(**{"env_steps": mapped, "episodes": common, "updates": common})
    fields = {name: mapped for name in TrainState._fields}
    return TrainState(**{**fields, "clock": clock, "iteration": common})


AXES = per_leaf(0, None)
"""The seed axis of every part of the state, for `in_axes` and `out_axes`."""

TrainStep = Callable[[TrainState, Array], tuple[TrainState, Metrics]]


class ChunkLog(NamedTuple):
    """What a chunk reports: `[rows]` common to all seeds, `[rows, K]` metrics, `[K]` first trouble."""

    iteration: Int[Array, "rows"]  # iterations done when the row was written
    episodes: Int[Array, "rows"]
    updates: Int[Array, "rows"]
    metrics: dict[str, Array]  # [rows, K]
    nonfinite_at: Int[Array, "seeds"]  # first iteration with a non-finite loss in this chunk, or -1


Chunk = Callable[[TrainState, Array, Array], tuple[TrainState, ChunkLog]]


class Sizes(NamedTuple):
    """How much a rollout and an update may compute: a few choices, one of which is taken as the program runs."""

    lengths: tuple[int, ...] = ()  # steps of an episode, ascending, the last one the limit; fewer than two: no choice
    packs: bool = False  # updates learn from packed rows; False: from episodes as they are stored, padding and all
    slots: int = 0  # games of a collection side by side; 0: one for each episode


class IterationKeys(NamedTuple):
    """Keys of one iteration of one seed."""

    collect: PRNGKey
    update: PRNGKey
    evaluate: PRNGKey  # the state as it is before the iteration


def init_train_state(algorithm: Algorithm, buffer: Buffer, hyper: Hyper, key: PRNGKey) -> TrainState:
    """State of one seed before anything happened; `key` is the seed's own."""
    key_init, key_train = jax.random.split(key)
    agent = algorithm.init(key_init, hyper)
    zero = jnp.int32(0)
    return TrainState(
        agent=agent,
        kept=Kept(params=agent.params, env_steps=zero),
        hyper=hyper,
        buffer=buffer.init(),
        clock=Clock(env_steps=zero, episodes=zero, updates=zero),
        iteration=zero,
        key=key_train,
    )


def iteration_keys(state: TrainState) -> IterationKeys:
    """Keys of the coming iteration."""
    key_collect, key_update, key_evaluate = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)
    return IterationKeys(collect=key_collect, update=key_update, evaluate=key_evaluate)


def episode_metrics(episodes: Episode, sizes: Sizes) -> Metrics:
    """Means over the fresh episodes `[B, T]`: undiscounted return, length, what the environment reports.

    `valid_fraction` is that of the steps which were computed.
    """
    steps = episodes.valid.sum(axis=-1).astype(jnp.float32)
    played = played_steps(episodes, sizes.slots, sizes.lengths).astype(jnp.float32)
    summed = {name: values.sum(axis=-1).mean() for name, values in episodes.info.items()}
    return {
        "episode_return": episodes.reward.sum(axis=-1).mean(),
        "episode_length": steps.mean(),
        "episode_terminal": episodes.terminal.any(axis=-1).astype(jnp.float32).mean(),
        "valid_fraction": steps.sum() / played,
        **{f"episode_{name}": value for name, value in summed.items()},
    }


def make_train_step(
    algorithm: Algorithm,
    buffer: Buffer,
    collect: Collect,
    updates: int = 1,
    sizes: Sizes | None = None,
    micro_batch: int = 0,
) -> TrainStep:
    """One iteration of one seed: collect → store → sample → update → target copy.

    Until `buffer.prefill` episodes are stored the update is skipped; the predicate reads a counter common to all seeds.

    Args:
      algorithm: how to act and to learn.
      buffer: replay.
      collect: fresh episodes.
      updates: updates after each collection.
      sizes: what rollouts and updates may compute; None pads every episode to the limit.
      micro_batch: episodes for each gradient pass, a divisor of the batch; 0 takes it whole.

    Returns:
      `step(state, budget) -> (state, metrics)`, metrics NaN where nothing was learned. `budget` (env steps) decides
      only until when `state.kept` follows the parameters; the seed itself goes on.
    """
    learn_from, sizes = partial(algorithm.update, micro_batch=micro_batch), sizes or Sizes()

    @traced_once
    def learn(agent: AgentState, stored: Any, key: PRNGKey, clock: Clock, hyper: Hyper) -> tuple[AgentState, Metrics]:
        def once(carry: tuple[AgentState, Clock], key_once: PRNGKey) -> tuple[tuple[AgentState, Clock], Metrics]:
            agent, clock = carry
            key_sample, key_update = jax.random.split(key_once)
            batch = buffer.sample(stored, clock, key_sample)
            agent, metrics = fitted_update(learn_from, sizes, agent, batch, (key_update, clock, hyper))
            return (agent, clock._replace(updates=clock.updates + 1)), metrics

        (agent, _), metrics = jax.lax.scan(once, (agent, clock), jax.random.split(key, updates))
        return agent, jax.tree.map(lambda value: value.mean(axis=0), metrics)

    def nothing(*arguments: Any) -> Metrics:
        shapes = jax.eval_shape(learn, *arguments)[1]
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)

    def step(state: TrainState, budget: Array) -> tuple[TrainState, Metrics]:
        keys = iteration_keys(state)
        fresh = collect(algorithm.policy_params(state.agent), state.clock, state.hyper, keys.collect)
        stored = buffer.add(state.buffer, state.clock, fresh)
        clock = Clock(
            env_steps=state.clock.env_steps + fresh.valid.sum(dtype=jnp.int32),
            episodes=state.clock.episodes + fresh.valid.shape[0],
            updates=state.clock.updates,
        )
        ready = clock.episodes >= buffer.prefill
        # Schedules stand still until the next collection: ε of the policy that learns is ε of the policy that acted.
        acted = clock._replace(env_steps=state.clock.env_steps)
        rest = stored, keys.update, acted, state.hyper
        before = state.agent, nothing(state.agent, *rest)
        agent, learned = only_if(ready, lambda loop: learn(loop[0], *rest), before)
        clock = clock._replace(updates=clock.updates + updates * ready.astype(jnp.int32))
        agent = algorithm.refresh(agent, clock, state.clock)
        after = TrainState(
            agent=agent,
            kept=_keep(state, agent, clock, budget),
            hyper=state.hyper,
            buffer=stored,
            clock=clock,
            iteration=state.iteration + 1,
            key=state.key,
        )
        return after, {"env_steps": clock.env_steps, **episode_metrics(fresh, sizes), **learned}

    return step


def fitted_update(
    learn_from: Update, sizes: Sizes, agent: AgentState, batch: Batch, rest: tuple
) -> tuple[AgentState, Metrics]:
    """One update on a batch without the padding that no episode of the block needs.

    Args:
      learn_from: the algorithm's update.
      sizes: what it may compute.
      agent: before the update.
      batch: as replay gives it.
      rest: what else the update takes: key, clock and hyper.
    """
    if not sizes.packs:
        return learn_from(agent, batch, *rest)

    choices = choices_of(sizes.lengths, batch)

    def update(rows: Batch) -> tuple[AgentState, Metrics]:
        after, metrics = learn_from(agent, rows, *rest)
        if len(choices) > 1:  # of a single one no metric may tell of the block's other seeds
            metrics = {**metrics, "update_valid_fraction": valid_fraction(rows)}
        return after, metrics

    return fitted_rows(choices, batch, update)


def _keep(state: TrainState, agent: AgentState, clock: Clock, budget: Array) -> Kept:
    """Follow the parameters until the first iteration boundary at or past the budget, then hold them."""
    current = Kept(params=agent.params, env_steps=clock.env_steps)
    running = state.clock.env_steps < budget
    return jax.tree.map(lambda new, held: jnp.where(running, new, held), current, state.kept)


def make_chunk(step: TrainStep, *, rows: int, log_every: int = 1) -> Chunk:
    """`chunk(state, n, budget)`: n iterations of a block of seeds, as one program (see `loop_chunk`)."""
    batched = jax.vmap(step, in_axes=(AXES, None), out_axes=(AXES, 0), axis_name=SEEDS_AXIS)
    return loop_chunk(batched, rows=rows, log_every=log_every)


def loop_chunk(batched: TrainStep, *, rows: int, log_every: int = 1) -> Chunk:
    """`chunk(state, n, budget)`: n iterations of a block of seeds, as one program.

    The number of iterations is traced, so a shorter chunk compiles nothing; cutting a run into other chunks changes no
    bit. Donate the state when jitting.

    Args:
      batched: one iteration of all seeds.
      rows: log rows that a chunk has room for; n must be at most `rows · log_every`.
      log_every: a row is written after every `log_every`-th iteration, counted from the start of the run.
    """

    def body(_: Array, carry: tuple) -> tuple:
        state, log, written, budget = carry
        updates = state.clock.updates
        state, metrics = batched(state, budget)
        bad = _nonfinite(metrics) & (state.clock.updates > updates)
        trouble = jnp.where((log.nonfinite_at < 0) & bad, state.iteration, log.nonfinite_at)
        due = state.iteration % log_every == 0
        log = _write(log, state, metrics, jnp.where(due, written, rows))._replace(nonfinite_at=trouble)
        return state, log, written + due.astype(jnp.int32), budget

    batched = traced_once(batched)

    def chunk(state: TrainState, n: Array, budget: Array) -> tuple[TrainState, ChunkLog]:
        shapes = jax.eval_shape(batched, state, budget)[1]
        carry = (state, _empty_log(shapes, rows), jnp.int32(0), budget)
        state, log, _, _ = jax.lax.fori_loop(0, n, body, carry)
        return state, jax.tree.map(lambda leaf: leaf[:rows] if leaf.shape[0] == rows + 1 else leaf, log)

    return chunk


def _nonfinite(metrics: Metrics) -> Array:
    """`[K]`: whether any norm is not finite, of the gradients or of the parameters that they led to."""
    norms = [jnp.isfinite(value) for name, value in metrics.items() if name.endswith("_norm")]
    if not norms:
        return jnp.zeros(metrics["env_steps"].shape, bool)
    return ~jnp.stack(norms).all(axis=0)


def _empty_log(shapes: dict[str, jax.ShapeDtypeStruct], rows: int) -> ChunkLog:
    """Room for `rows` rows and one more that swallows rows not asked for."""
    counters = jnp.zeros((rows + 1,), jnp.int32)
    metrics = {name: jnp.zeros((rows + 1, *leaf.shape), leaf.dtype) for name, leaf in shapes.items()}
    n_seeds = shapes["env_steps"].shape[0]
    return ChunkLog(counters, counters, counters, metrics, jnp.full((n_seeds,), -1, jnp.int32))


def _write(log: ChunkLog, state: TrainState, metrics: Metrics, row: Array) -> ChunkLog:
    """Write one row of the log in place."""
    return log._replace(
        iteration=log.iteration.at[row].set(state.iteration),
        episodes=log.episodes.at[row].set(state.clock.episodes),
        updates=log.updates.at[row].set(state.clock.updates),
        metrics={name: log.metrics[name].at[row].set(value) for name, value in metrics.items()},
    )
