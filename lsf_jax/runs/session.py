"""A run in progress: blocks of rows trained to their budget, chunk after chunk, with all that people see of it."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.config.composition import Config, grid_points
from lsf_jax.config.documents import to_yaml
from lsf_jax.engine.training import ChunkLog
from lsf_jax.envs.host import HostError
from lsf_jax.programs.compiled import LOG_ROWS
from lsf_jax.programs.parts import Program, evaluation_interval, make_rows, take_rows
from lsf_jax.programs.planner import Plan
from lsf_jax.programs.shared import Shared
from lsf_jax.runs import checkpoint, folder, sinks, tables, timing, warm_start
from lsf_jax.runs.columns import Columns, evaluation_columns, joint_columns, stats_columns, train_columns
from lsf_jax.runs.params_file import save_params
from lsf_jax.runs.policy_files import policy_path
from lsf_jax.runs.progress import Display
from lsf_jax.runs.safe_files import file_inside
from lsf_jax.runs.schemas import BlockMeta, Layout, conform
from lsf_jax.runs.setting_values import setting_columns
from lsf_jax.runs.watching import Evaluation, OnEvaluation, scalars
from lsf_jax.types import TrainState

FLUSH_SECONDS = 20.0  # between parts of the metrics tables
SECONDS = ("compile_seconds", "train_seconds", "evaluate_seconds", "save_seconds", "total_seconds")


class Counts(NamedTuple):
    """What has been done, summed over rows."""

    env_steps: int  # within the budget
    updates: int


class Session:
    """A run in progress: everything the loop over blocks shares. Host state, hence a class."""

    def __init__(
        self, config: Config, path: Path, plan: Plan, program: Program, progress: Display, shared: Shared | None = None
    ) -> None:
        """Bind a run folder to its programs; nothing is compiled before the first block.

        Args:
          config: checked configuration.
          path: the run folder.
          plan: block width and micro-batch, fixed for the whole run.
          program: the parts of the run.
          progress: where to show what happens.
          shared: the programs, where other runs have the same; None makes them for this run.
        """
        self.config, self.path, self.plan, self.progress = config, path, plan, progress
        shared = shared or Shared()
        self.programs = shared.programs_of(config, plan, program)
        self.rows = make_rows(config, program.algorithm)
        self.trouble: list[dict[str, int]] = folder.read_documents(path).card.get("nonfinite", [])
        self.timing: dict[str, float] = dict.fromkeys(SECONDS, 0.0)
        self.counts = {"env_steps": 0, "updates": 0}
        self.done_before = Counts(0, 0)  # of finished blocks
        self.started = time.monotonic()
        self.warm = shared.warm
        self.seconds_per_iteration = 0.0
        self.sinks: tuple[sinks.Sink, ...] = ()
        self.on_evaluation: OnEvaluation | None = None
        self.keeps_card = True  # False: another process does, and is told

    def open_sinks(self) -> None:
        """Open the live views that the run asks for."""
        if self.config.train.sinks:
            plain = json.loads(json.dumps(plain_settings(self.config)))
            self.sinks = sinks.make_sinks(self.config.train.sinks, self.path, plain, self.config.algo_name)

    def close(self) -> None:
        """End games on the host, if there are any."""
        if self.programs.host is not None:
            self.programs.host.collector.close()

    def timed(self, what: str, kind: str, call: Callable[[], Any]) -> Any:
        """Run device work to its end; the first call of each kind counts as compilation."""
        start = time.monotonic()
        if what not in self.warm:
            with self.progress.compiling(what):
                result = jax.block_until_ready(call())
            self.warm.add(what)
            self.timing["compile_seconds"] += time.monotonic() - start
            return result
        result = jax.block_until_ready(call())
        self.timing[kind] += time.monotonic() - start
        return result


def plain_settings(config: Config) -> dict[str, Any]:
    """The settings of a run by section, as sinks show them."""
    return {"algo": vars(config.algo), "env": vars(config.env), "train": vars(config.train)}


def layout_of(plan: Plan) -> dict[str, int]:
    """What of a plan decides a run's bits, for its card and its checkpoints."""
    return {key: getattr(plan, key) for key in Layout.__struct_fields__}


def write_timing(session: Session) -> dict[str, float]:
    """Add this process's seconds to the card and return the run's totals with rates."""
    if not session.keeps_card:
        return {}
    card = folder.read_documents(session.path).card
    session.timing["total_seconds"] = time.monotonic() - session.started
    session.started = time.monotonic()
    totals = timing.summed(card.get("timing", {}), session.timing, session.counts)
    report = host_report(session)
    more = {} if session.programs.host is None else {"host": timing.host_summed(card.get("host", {}), report)}
    target = file_inside(session.path, folder.CARD)
    folder.write_json_atomic(target, card | {"timing": totals, "nonfinite": session.trouble} | more)
    session.timing = dict.fromkeys(session.timing, 0.0)
    session.counts = dict.fromkeys(session.counts, 0)
    return totals


def host_report(session: Session) -> dict[str, Any]:
    """What the games on the host did since the last report; empty without such."""
    return {} if session.programs.host is None else session.programs.host.collector.take_report()


STAYING = {"train": 1, "eval": 0}
"""The tables of a run -> from how far past its checkpoint's iteration a block's rows are written again."""


class Block:
    """One block of rows being trained: its state on the device and the rows not yet written."""

    def __init__(self, session: Session, index: int) -> None:
        """Start the block, or restore its last checkpoint and drop what lies past it."""
        width = session.plan.width * session.plan.n_devices
        self.index, self.first_row = index, index * width
        self.rows = take_rows(session.rows, self.first_row, width)
        self.n_rows = min(width, len(session.rows.seed) - self.first_row)
        self.folder = checkpoint.block_folder(session.path, index)
        self.pending: dict[str, list[Columns]] = {"train": [], "eval": []}
        self.saved_at = self.flushed_at = time.monotonic()
        self.finished_budget = 0
        self.milestone = -1  # evaluations due before the last chunk, see `milestone_of`
        if checkpoint.latest(self.folder) is None:
            fresh = session.timed("initialisation", "train_seconds", lambda: session.programs.init(self.rows))
            self.state = warm_start.begin(session.path, session.config, fresh, self.first_row)
        else:
            self.state, plain = checkpoint.restore(self.folder, session.programs.shapes(self.rows))
            meta = conform(plain, BlockMeta, self.folder)
            self.finished_budget, self.milestone = meta.finished_budget, meta.milestone
        iteration = int(self.state.iteration)
        if self.finished_budget != session.config.train.env_steps:
            drop_tables(session.path, index, iteration)

    def steps(self) -> np.ndarray:
        """Env steps of each row so far, padding left out."""
        return np.asarray(self.state.clock.env_steps)[: self.n_rows].astype(np.int64)


def drop_tables(path: Path, index: int, iteration: int) -> None:
    """Remove a block's rows that are about to be written again."""
    for table, more in STAYING.items():
        tables.drop_from(path, table, index, iteration + more)


def run_block(session: Session, index: int, stopping: Callable[[], bool]) -> bool:
    """Train one block to its budget; False if a stop was asked for first (everything is saved then)."""
    if finished := _finished(session, index):
        session.done_before = _add(session.done_before, finished)
        return True
    block = Block(session, index)
    try:
        return _train_block(session, block, stopping)
    except HostError:  # games on the host cannot go on: what was learned is saved first
        save_block(session, block)
        raise


def _train_block(session: Session, block: Block, stopping: Callable[[], bool]) -> bool:
    budget = session.config.train.env_steps
    interval = evaluation_interval(session.config, session.programs.parts)
    session.progress.begin(*progress_of(session, block))
    evaluated = -1
    while (steps := block.steps()).min() < budget:
        iteration, milestone = int(block.state.iteration), milestone_of(session, block, interval)
        if iteration % interval == 0 and evaluated != iteration and milestone > block.milestone:
            evaluate_block(session, block, final=False)
            evaluated = iteration
        if stopping():
            save_block(session, block)
            return False
        if time.monotonic() - block.saved_at > 60.0 * session.config.train.checkpoint_minutes:
            save_block(session, block)
        if evaluated == iteration:  # a checkpoint before this repeats the evaluation
            block.milestone = milestone
        advance(session, block, _iterations(session, iteration, int(steps.min()), interval))
    evaluate_block(session, block, final=True)
    block.finished_budget = budget
    save_policies(session, block)
    save_block(session, block)
    session.done_before = progress_of(session, block)
    return True


def milestone_of(session: Session, block: Block, interval: int) -> int:
    """How many evaluations are due by now; one is made at a point of the common grid that finds this grown.

    The grid counts full episodes, so that a seed's evaluations do not hang on its neighbours. Where episodes end long
    before their limit that would be several times as often as asked: there the block's median of env steps decides.
    """
    if session.programs.parts.env.ends_early:
        return int(np.median(block.steps())) // session.config.train.evaluate_every
    return int(block.state.iteration) // interval


def progress_of(session: Session, block: Block) -> Counts:
    """Env steps (within the budget) and updates so far, over all rows of this block and those before it."""
    steps = block.steps().clip(max=session.config.train.env_steps)
    updates = int(block.state.clock.updates) * block.n_rows
    return _add(session.done_before, Counts(env_steps=int(steps.sum()), updates=updates))


def _add(first: Counts, second: Counts) -> Counts:
    return Counts(env_steps=first.env_steps + second.env_steps, updates=first.updates + second.updates)


def _finished(session: Session, index: int) -> Counts | None:
    """Counts of a block that an earlier process brought to this budget, if one did."""
    meta, budget = checkpoint.read_block(session.path, index), session.config.train.env_steps
    if meta is None or meta.finished_budget != budget:
        return None
    n_rows = len(meta.env_steps)
    return Counts(env_steps=budget * n_rows, updates=meta.updates * n_rows)


def _iterations(session: Session, iteration: int, steps: int, interval: int) -> int:
    """Length of the next chunk: until the next evaluation, no further than every seed needs, a few seconds long."""
    if session.programs.host is not None:
        return 1
    train, limit = session.config.train, session.programs.parts.env.spec.episode_limit
    until_evaluation = interval - iteration % interval
    surely_needed = math.ceil((train.env_steps - steps) / (train.n_envs * limit))
    pace = session.seconds_per_iteration
    patience = max(1, int(train.chunk_seconds / pace)) if pace else 1
    room = LOG_ROWS * train.log_every - iteration % train.log_every
    return max(1, min(until_evaluation, surely_needed, patience, room))


def advance(session: Session, block: Block, n: int) -> None:
    """Run one chunk, keep its log, show progress."""
    budget = jnp.int32(session.config.train.env_steps)
    before, updates = block.steps(), int(block.state.clock.updates)
    iteration = int(block.state.iteration)
    warm = "training chunk" in session.warm
    start = time.monotonic()
    chunk = session.programs.chunk
    block.state, log = session.timed(
        "training chunk", "train_seconds", lambda: chunk(block.state, jnp.int32(n), budget)
    )
    if warm:
        session.counts["env_steps"] += int((block.steps() - before).sum())
        session.counts["updates"] += (int(block.state.clock.updates) - updates) * block.n_rows
        learned = int(block.state.clock.updates) > updates
        session.seconds_per_iteration = (time.monotonic() - start) / n if learned else session.seconds_per_iteration
    every = session.config.train.log_every
    written = (iteration + n) // every - iteration // every
    columns = train_columns(log, block.rows, block.first_row, block.n_rows, written)
    block.pending["train"].append(columns)
    report_trouble(session, block, log)
    latest = np.asarray(log.metrics["episode_return"])[written - 1, : block.n_rows] if written else None
    done = progress_of(session, block)
    if not warm:  # the first chunk ran inside its compilation, whose time no rate counts
        session.progress.begin(*done)
    session.progress.update(env_steps=done.env_steps, updates=done.updates, returns=latest)
    if session.sinks and written:
        _tell_sinks(session, block, {name: values[-block.n_rows :] for name, values in columns.items()})
    if time.monotonic() - block.flushed_at > FLUSH_SECONDS:
        flush(session, block)


def _tell_sinks(session: Session, block: Block, columns: Columns, prefix: str = "") -> None:
    labels = [", ".join(f"{key}={value:g}" for key, value in point.items()) for point in grid_points(session.config)]
    told = scalars(columns, block.rows.grid[: block.n_rows], labels, prefix)
    sinks.write_all(session.sinks, int(block.steps().mean()), told)


def report_trouble(session: Session, block: Block, log: ChunkLog) -> None:
    """Name each row whose loss is not finite, once; the others go on."""
    for offset, iteration in enumerate(np.asarray(log.nonfinite_at)[: block.n_rows]):
        row = block.first_row + offset
        if iteration < 0 or any(entry["row"] == row for entry in session.trouble):
            continue
        entry = {"row": row, "seed": int(block.rows.seed[offset]), "iteration": int(iteration)}
        session.trouble.append(entry)
        session.progress.note(
            f"seed {entry['seed']} (row {row}): loss not finite at iteration {entry['iteration']}, "
            f"about env step {int(block.steps()[offset]):,}; the other seeds go on"
        )


def evaluate_block(session: Session, block: Block, *, final: bool) -> None:
    """Evaluate current parameters, or for the final evaluation those kept at the budget."""
    state, programs = block.state, session.programs
    params, env_steps = (
        (state.kept.params, state.kept.env_steps) if final else (state.agent.params, state.clock.env_steps)
    )
    seen = _final_state(state, session.config.train.env_steps) if final else state
    stats = session.timed("evaluation", "evaluate_seconds", lambda: programs.evaluate(params, seen))
    columns = evaluation_columns(state, block.rows, block.first_row, block.n_rows, env_steps, final)
    columns |= stats_columns(programs.parts, stats, block.n_rows)
    if programs.evaluate_sampled is not None:
        sampled = programs.evaluate_sampled
        stochastic = session.timed("stochastic evaluation", "evaluate_seconds", lambda: sampled(params, seen))
        columns |= stats_columns(programs.parts, stochastic, block.n_rows, "sampled_")
    payoff, joint_table = programs.parts.env.payoff, programs.joint_table
    if payoff is not None and joint_table is not None:
        table = session.timed("Q table", "evaluate_seconds", lambda: joint_table(params, seen))
        columns |= joint_columns(table, payoff.table, block.n_rows)
    block.pending["eval"].append(columns)
    session.progress.evaluated(columns["row"], columns["env_steps"], columns["return"])
    done = progress_of(session, block)
    session.progress.update(env_steps=done.env_steps, updates=done.updates)
    if session.sinks:
        _tell_sinks(session, block, columns, "eval/")
    if session.on_evaluation is not None:
        try:
            session.on_evaluation(Evaluation(session.path, int(block.state.iteration), final, columns.copy()))
        except BaseException:  # whatever it is, and an impatient Ctrl-C: what was learned is saved first
            save_block(session, block)
            raise


def _final_state(state: TrainState, budget: int) -> TrainState:
    """The state as the final evaluation may see it: without how long the seed had to wait for its neighbours.

    Its keys are those of iteration `budget`, which no regular evaluation reaches.
    """
    iteration = jax.device_put(jnp.int32(budget), state.iteration.sharding)
    return state._replace(iteration=iteration, clock=state.clock._replace(env_steps=state.kept.env_steps))


def flush(session: Session, block: Block) -> None:
    """Write pending rows as parts of the tables."""
    for table, waiting in block.pending.items():
        if waiting:
            columns = {name: np.concatenate([part[name] for part in waiting]) for name in waiting[0]}
            if len(columns["row"]):
                columns |= setting_columns(session.config, columns["grid"])
                tables.write_part(session.path, table, block.index, int(columns["iteration"].min()), columns)
            block.pending[table] = []
    block.flushed_at = time.monotonic()


def save_block(session: Session, block: Block) -> None:
    """Write tables, then the checkpoint that makes them count."""
    start = time.monotonic()
    flush(session, block)
    meta = {
        "block": block.index,
        "finished_budget": block.finished_budget,
        "env_steps": block.steps().tolist(),
        "updates": int(block.state.clock.updates),
        "milestone": block.milestone,
        "config": to_yaml(session.config),
        "layout": layout_of(session.plan),
    }
    checkpoint.save(block.folder, int(block.state.iteration), block.state, meta, filled=int(block.state.clock.episodes))
    session.timing["save_seconds"] += time.monotonic() - start
    block.saved_at = time.monotonic()
    write_timing(session)


def save_policies(session: Session, block: Block) -> None:
    """Parameters of the block's rows at the budget, `[rows, ...]`, as one safetensors file."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[: block.n_rows], block.state.kept.params)
    metadata = {
        "algorithm": session.config.algo_name,
        "environment": session.config.env_name,
        "rows": json.dumps(list(range(block.first_row, block.first_row + block.n_rows))),
        "config": to_yaml(session.config),
    }
    path = policy_path(session.path, block.index)
    path.parent.mkdir(exist_ok=True)
    save_params(path, params, metadata)
