"""Train, resume and read runs: from a configuration to a run folder and its result.

The host acts between chunks only. What it decides (when to look, save or stop) never changes a bit of a result.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.config.composition import Config, check, differences, from_yaml, grid_points, make_hosted
from lsf_jax.config.documents import to_yaml
from lsf_jax.programs import runtime
from lsf_jax.programs.parts import Program, bind
from lsf_jax.programs.planner import Plan, make_plan, plan_text, size_text
from lsf_jax.runs import checkpoint, folder, tables, warm_start
from lsf_jax.runs.card import write_card
from lsf_jax.runs.machine import describe_machine
from lsf_jax.runs.progress import Progress
from lsf_jax.runs.session import Session, run_block, write_timing
from lsf_jax.runs.signals import stop_requested
from lsf_jax.settings import ConfigError


class Result(NamedTuple):
    """What a run came to. `final` has one entry per row: grid points × seeds."""

    path: Path
    config: Config
    finished: bool  # False after Ctrl-C: continue with `resume(path)`
    stopped: bool  # Ctrl-C or SIGTERM was asked for, be it too late to stop this run before its end
    final: dict[str, np.ndarray]  # columns of the final evaluations, sorted by row; empty unless finished
    timing: dict[str, float]  # seconds and rates
    trouble: list[dict[str, int]]  # rows whose loss became non-finite: row, seed, iteration

    def __repr__(self) -> str:
        returns = self.final.get("return")
        end = "stopped; continue with `resume`" if returns is None else f"final return {_spread(returns)}"
        trouble = f"; loss not finite in {len(self.trouble)} of the rows" if self.trouble else ""
        return (
            f"Result({self.path}: {self.config.algo_name} on {self.config.where}, {self.config.size}; {end}{trouble})"
        )


def train(config: Config, *, init_from: str | Path | None = None, progress: Progress | None = None) -> Result:
    """Train a configuration in a new run folder.

    Args:
      config: from `compose`; checked again here.
      init_from: a finished run whose parameters, where names and shapes match, this one starts from: row i from row i,
        or all from a single one. Targets are copied from them, optimiser and clock are fresh. It stands for the setting
        `train.init_from`; None leaves that as it is.
      progress: a display of your own; None makes one on standard output.

    Returns:
      The result; `finished` is False if Ctrl-C or SIGTERM ended it early, after saving.

    Raises:
      ConfigError: a setting is wrong, or the run does not fit into memory or on the disk.
      RunFolderError: the run folder exists or cannot be made.
      HostError: games on the host cannot be played; what was learned is saved.
    """
    if init_from is not None:
        config = replace(config, train=replace(config.train, init_from=str(init_from)))
    check(config)
    _check_games(config)
    runtime.configure(config.train)
    name = config.train.name or f"{config.algo_name}-{config.where.replace('/', '_')}-{time.strftime('%Y%m%d-%H%M%S')}"
    shown = progress or Progress(_total_steps(config), f"{config.algo_name} on {config.where}")
    with shown:
        shown.note(describe_run(config))
        program = bind(config)
        start = warm_start.prepare(config, program.algorithm)
        plan = make_plan(config, program)
        layout = {key: getattr(plan, key) for key in ("width", "n_devices", "n_blocks", "micro_batch")}
        card = describe_machine() | {"layout": layout, "grid": [dict(point) for point in grid_points(config)]}
        config = replace(config, train=replace(config.train, block=plan.width))  # what the bits depend on is on record
        path = folder.create(config.train.run_dir, name)
        _check_disk(plan, path)
        shown.note(plan_text(plan))
        if start is not None:  # before the two documents: whatever counts as a run folder has it
            warm_start.keep(path, start)
            card |= {warm_start.ENTRY: start.record}
            for line in warm_start.lines_of(start):
                shown.note(line)
        folder.write_text_atomic(path / folder.CONFIG, to_yaml(config))
        folder.write_json_atomic(path / folder.CARD, card)
        write_card(path, config, program)
        with folder.lock(path):
            return _run(Session(config, path, plan, program, shown))


def resume(path: str | Path, *, config: Config | None = None, progress: Progress | None = None) -> Result:
    """Continue a run from its last checkpoints, to the same bits as if it had never stopped.

    Args:
      path: the run folder.
      config: a configuration that may differ in settings declared `resumable` (a larger train.env_steps extends the
        run); None takes the folder's own.
      progress: as for `train`.

    Raises:
      ConfigError: the folder is not a run, or the configuration changes what its iterations compute.
      CheckpointError: a checkpoint is damaged or foreign; nothing is changed.
      RunFolderError: another process trains in this folder.
    """
    path = Path(path)
    saved, card = folder.read_run(path)
    wanted = in_blocks_of(saved, config or saved)
    changed = differences(saved, wanted)
    if changed:
        raise ConfigError(
            f"run {path} cannot be resumed with {changed[0]}; start a new run, or leave that setting alone"
        )
    check(wanted)
    _check_games(wanted)
    runtime.configure(wanted.train, card["layout"]["n_devices"])
    shown = progress or Progress(_total_steps(wanted), f"{wanted.algo_name} on {wanted.where} (resumed)")
    with shown, folder.lock(path):
        shown.note(f"resuming {path}")
        program = bind(wanted)
        plan = _saved_plan(wanted, card, program)
        _check_checkpoints(path, wanted)
        if any(checkpoint.latest(checkpoint.block_folder(path, block)) is None for block in range(plan.n_blocks)):
            warm_start.read(path, wanted)  # complains before anything is written
        if wanted != saved:
            folder.write_text_atomic(path / folder.CONFIG, to_yaml(wanted))
            write_card(path, wanted, program)
        return _run(Session(wanted, path, plan, program, shown))


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.4g} [{values.min():.4g}, {values.max():.4g}]"


def _check_games(config: Config) -> None:
    """Of games on the host, whether what they need is there, before a run folder is made."""
    hosted = make_hosted(config)
    if hosted is not None:
        hosted.check()


def differences_of(path: Path, config: Config) -> list[str]:
    """What forbids to continue the run in a folder with a configuration, one line each.

    Raises:
      ConfigError: it is not a run folder.
    """
    saved = folder.read_run(path)[0]
    return differences(saved, in_blocks_of(saved, config))


def in_blocks_of(saved: Config, wanted: Config) -> Config:
    """The configuration with the block width that a run began with, unless it names one itself."""
    block = wanted.train.block or saved.train.block
    return replace(wanted, train=replace(wanted.train, block=block))


def describe_run(config: Config) -> str:
    """The first line of a run: what will be trained, for how long."""
    train = config.train
    return (
        f"{config.algo_name} on {config.where}: {config.size}, {train.n_envs} environments and batches of "
        f"{config.algo.batch_size} episodes per seed, root seed {train.seed}"
    )


def _total_steps(config: Config) -> int:
    return config.train.env_steps * config.train.seeds * len(grid_points(config))


def _saved_plan(config: Config, card: dict[str, Any], program: Program) -> Plan:
    """The layout that the run began with: another block width would change bits."""
    layout = card["layout"]
    fixed = replace(config.train, block=layout["width"], micro_batch=layout["micro_batch"], devices=layout["n_devices"])
    plan = make_plan(replace(config, train=fixed), program)
    return plan._replace(width=layout["width"], n_blocks=layout["n_blocks"])


def _check_checkpoints(path: Path, config: Config) -> None:
    """Refuse, before anything is written, damaged checkpoints and budgets whose parameters are gone."""
    budget = config.train.env_steps
    for block in sorted((path / "checkpoints").glob("block-*")):
        if checkpoint.latest(block) is None:
            continue
        meta = checkpoint.read_whole_meta(block)
        before = from_yaml(meta["config"]).train.env_steps
        furthest = max(meta["env_steps"])
        if budget != before and budget <= furthest:
            raise ConfigError(
                f"train.env_steps is {budget}; expected {before}, or more than {furthest}: a seed of this run went on "
                f"to there, and its parameters at {budget} were not kept"
            )


def _check_disk(plan: Plan, path: Path) -> None:
    free = checkpoint.free_bytes(path)
    if 2 * plan.disk_bytes > free:
        path.rmdir()
        raise ConfigError(
            f"train.run_dir {path.parent}: checkpoints need up to {size_text(2 * plan.disk_bytes)} and "
            f"{size_text(free)} are free; name another folder or lower train.buffer_capacity"
        )


def _run(session: Session) -> Result:
    """All blocks, one after another; a finished one is skipped."""
    finished, stopped = True, False
    try:
        with stop_requested(
            "stopping after this chunk; the run will be saved (Ctrl-C again to stop at once)"
        ) as stopping:
            for block in range(session.plan.n_blocks):
                if not run_block(session, block, stopping):
                    finished = False
                    break
            stopped = stopping()
    finally:
        session.close()
    for sink in session.sinks:
        sink.close()
    timing = write_timing(session)
    final = final_columns(session) if finished else {}
    return Result(
        path=session.path,
        config=session.config,
        finished=finished,
        stopped=stopped,
        final=final,
        timing=timing,
        trouble=session.trouble,
    )


def final_columns(session: Session) -> dict[str, np.ndarray]:
    """The final evaluations of all rows, sorted by row."""
    table = tables.to_arrays(tables.read_table(session.path, "eval"))
    keep = table["final"]
    return {name: values[keep] for name, values in table.items()}
