"""Train, resume and read runs: from a configuration to a run folder and its result.

The host acts between chunks only. What it decides (when to look, save or stop) never changes a bit of a result.
"""

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lsf_jax.config.composition import Config, check, differences, grid_points
from lsf_jax.config.documents import plugins_of, to_yaml
from lsf_jax.programs import runtime
from lsf_jax.programs.layouts import plan_again
from lsf_jax.programs.parts import bind, take_rows
from lsf_jax.programs.planner import Plan, make_plan, plan_text, size_text
from lsf_jax.programs.shared import Shared
from lsf_jax.runs import checkpoint, checks, folder, sinks, tables, warm_start
from lsf_jax.runs.card import Setup, setup_card, write_card, write_setup
from lsf_jax.runs.machine import command_words, describe_machine, plugin_versions
from lsf_jax.runs.manifest import SaveError
from lsf_jax.runs.notebook import progress_for
from lsf_jax.runs.progress import Progress
from lsf_jax.runs.safe_files import RunFolderError, file_inside
from lsf_jax.runs.schemas import BlockMeta, Layout
from lsf_jax.runs.session import Session, layout_of, run_block, write_timing
from lsf_jax.runs.signals import stop_requested
from lsf_jax.runs.sweeps.cluster import Cluster
from lsf_jax.runs.watching import OnEvaluation
from lsf_jax.settings import ConfigError, user_path

if TYPE_CHECKING:
    from lsf_jax.runs.sweeps.driver import Driver


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


def train(
    config: Config,
    *,
    init_from: str | Path | None = None,
    progress: Progress | None = None,
    on_evaluation: OnEvaluation | None = None,
    shared: Shared | None = None,
    cluster: Cluster | str | None = None,
) -> Result:
    """Train a configuration in a new run folder.

    Args:
      config: from `compose`; checked again here.
      init_from: a finished run whose parameters, where names and shapes match, this one starts from: row i from row i,
        or all from a single one. Targets are copied from them, optimiser and clock are fresh. It stands for the setting
        `train.init_from`; None leaves that as it is.
      progress: a display of your own; None makes one on standard output, in a notebook with the fan of seeds.
      on_evaluation: called with an `Evaluation` after each evaluation of each block of seeds. What it raises ends the
        run, after saving; `resume` then makes that evaluation again.
      shared: plan and programs of runs whose configurations differ in swept numbers alone; None makes new ones.
      cluster: a Ray cluster whose nodes train the blocks: auto, local, local:N, HOST:PORT, or a `Cluster` with more;
        None trains on this machine. A run without a name is then named after its configuration, and a folder that
        holds a run of the same configuration is gone on with.

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
    sinks.require_packages(config.train.sinks)
    checks.check_games(config)
    user_path("train.run_dir", config.train.run_dir)
    if cluster is not None:
        return _train_on_cluster(config, _as_cluster(cluster), progress, on_evaluation)
    runtime.configure(config.train)
    name = config.train.name or f"{config.algo_name}-{config.where.replace('/', '_')}-{time.strftime('%Y%m%d-%H%M%S')}"
    shown = progress or progress_for(_total_steps(config), f"{config.algo_name} on {config.where}")
    with shown:
        shown.note(describe_run(config))
        program = bind(config)
        start = warm_start.prepare(config, program.algorithm)
        plan = make_plan(config, program) if shared is None else shared.plan_of(config, program)
        checks.check_room(config, plan.width)
        card = describe_machine() | {"layout": layout_of(plan), "grid": [dict(point) for point in grid_points(config)]}
        card["versions"] |= plugin_versions(plugins_of(config))
        config = replace(config, train=replace(config.train, block=plan.width))  # what the bits depend on is on record
        path = folder.create(config.train.run_dir, name)
        _check_disk(plan, path)
        shown.note(plan_text(plan))
        if start is not None:
            card |= {warm_start.ENTRY: start.record}
            for line in warm_start.lines_of(start):
                shown.note(line)
        _write_documents(path, config, card, setup_card(config, program), start)
        with checks.saying_how_to_go_on(path), folder.lock(path):
            return _run(Session(config, path, plan, program, shown, shared), on_evaluation)


def resume(
    path: str | Path,
    *,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    on_evaluation: OnEvaluation | None = None,
    cluster: Cluster | str | None = None,
) -> Result:
    """Continue a run from its last checkpoints, to the same bits as if it had never stopped.

    Args:
      path: the run folder.
      config: a configuration that may differ in settings declared `resumable` (a larger train.env_steps extends the
        run); None takes the folder's own.
      overrides: without a configuration, words laid over the folder's own. Code that it names, such as `env.make`, is
        run only if they name it too.
      progress: as for `train`.
      on_evaluation: as for `train`.
      cluster: as for `train`.

    Raises:
      ConfigError: the folder is not a run, or the configuration changes what its iterations compute; the copy that
        its checkpoints have of theirs decides.
      CheckpointError: a checkpoint is damaged or foreign; nothing is changed.
      RunFolderError: another process trains in this folder.
    """
    path = Path(path)
    saved, wanted, card = folder.read_with(path, () if config else overrides)
    wanted = in_blocks_of(saved, config or wanted)
    changed = differences(saved, wanted)
    if changed:
        raise ConfigError(
            f"run {path} cannot be resumed with {changed[0]}; start a new run, or leave that setting alone"
        )
    check(wanted)
    sinks.require_packages(wanted.train.sinks)
    checks.check_games(wanted)
    shown = progress or progress_for(_total_steps(wanted), f"{wanted.algo_name} on {wanted.where} (resumed)")
    if cluster is not None:
        return _resume_on_cluster(path, saved, wanted, card, _as_cluster(cluster), shown, on_evaluation)
    with shown, checks.saying_how_to_go_on(path), folder.lock(path):
        session = _reopened(path, wanted, card, shown)
        checks.check_room(wanted, session.plan.width)
        if wanted != saved:
            folder.write_text_atomic(file_inside(path, folder.CONFIG), to_yaml(wanted))
            write_card(path, wanted, session.programs.parts)
        return _run(session, on_evaluation)


def _as_cluster(cluster: Cluster | str) -> Cluster:
    return Cluster(cluster) if isinstance(cluster, str) else cluster


def _train_on_cluster(
    config: Config, cluster: Cluster, progress: Progress | None, on_evaluation: OnEvaluation | None
) -> Result:
    """`train` with workers of a cluster; a run of the same configuration in that folder is gone on with."""
    from lsf_jax.runs.sweeps.driver import driving

    name = config.train.name or _name_of(config)
    path = user_path("train.run_dir", config.train.run_dir) / name
    if (path / folder.CONFIG).exists():
        if changed := differences_of(path, config):
            raise RunFolderError(f"train.name {name!r}: {path} holds a run with another {changed[0]}; choose another")
        return resume(path, config=config, progress=progress, on_evaluation=on_evaluation, cluster=cluster)
    shown = progress or Progress(_total_steps(config), f"{config.algo_name} on {config.where}")
    with shown, driving(cluster, config, shown) as driver:
        shown.note(describe_run(config))
        planned = driver.plan(warm_start.read_source(config))
        plan, start = planned.plan, planned.start
        checks.check_room(config, plan.width)
        card = planned.machine | {"command": command_words(), "layout": layout_of(plan)}
        card |= {"grid": [dict(point) for point in grid_points(config)]}
        config = replace(config, train=replace(config.train, block=plan.width))
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # a driver was killed between making the folder and writing into it
        folder.create(config.train.run_dir, name)
        _check_disk(plan, path)
        shown.note(plan_text(plan))
        card |= {} if start is None else {warm_start.ENTRY: start.record}
        for line in [] if start is None else warm_start.lines_of(start):
            shown.note(line)
        _write_documents(path, config, card, planned.setup, start)
        with checks.saying_how_to_go_on(path), folder.lock(path):
            return _drive(driver, path, config, plan, on_evaluation)


def _resume_on_cluster(
    path: Path,
    saved: Config,
    wanted: Config,
    card: dict[str, Any],
    cluster: Cluster,
    shown: Progress,
    on_evaluation: OnEvaluation | None,
) -> Result:
    """`resume` with workers of a cluster."""
    from lsf_jax.runs.sweeps.driver import Begun, driving
    from lsf_jax.runs.sweeps.record import machine_on_record

    with shown, checks.saying_how_to_go_on(path), folder.lock(path):
        _, layout = _checked_layout(path, wanted, card, shown)
        with driving(cluster, wanted, shown, Begun(layout, machine_on_record(card))) as driver:
            planned = driver.plan(None)
            checks.check_room(wanted, planned.plan.width)
            if wanted != saved:
                folder.write_text_atomic(file_inside(path, folder.CONFIG), to_yaml(wanted))
                write_setup(path, planned.setup)
            return _drive(driver, path, wanted, planned.plan, on_evaluation)


def _name_of(config: Config) -> str:
    """A name that the same configuration has again, so that the same command goes on with its run."""
    free = {"run_dir": "", "name": "", "block": 0}
    plain = to_yaml(replace(config, train=replace(config.train, **free)))
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{config.algo_name}-{config.where.replace('/', '_')}-{digest}"


def _drive(driver: "Driver", path: Path, config: Config, plan: Plan, on_evaluation: OnEvaluation | None) -> Result:
    with stop_requested(
        "stopping after these chunks; the run will be saved (Ctrl-C again to stop at once)"
    ) as stopping:
        outcome = driver.train(path, config, plan, on_evaluation, stopping)
    return Result(
        path=path,
        config=config,
        finished=outcome.finished,
        stopped=outcome.stopped,
        final=final_columns(path) if outcome.finished else {},
        timing=outcome.timing,
        trouble=outcome.trouble,
    )


def _checked_layout(
    path: Path, wanted: Config, card: dict[str, Any], shown: Progress
) -> tuple[dict[int, BlockMeta], Layout]:
    """The copies and the layout of a run that goes on; all that can be wrong with its folder's files is found here."""
    metas = checks.check_copies(path, wanted)
    layout = checks.check_layout(path, wanted, card)
    checks.check_places(path, wanted, layout)
    checks.check_rows(path, wanted, layout, metas)
    if any(checkpoint.latest(checkpoint.block_folder(path, block)) is None for block in range(layout.n_blocks)):
        warm_start.read(path, wanted)  # complains before anything is written
    shown.note(f"resuming {path}")
    for index in [index for index, meta in metas.items() if meta.config is None]:
        shown.note(f"the checkpoint of block {index} has no copy of its configuration: {folder.CONFIG} is believed")
    return metas, layout


def _reopened(path: Path, wanted: Config, card: dict[str, Any], shown: Progress) -> Session:
    """The session of a run that goes on; all that can be wrong with its folder is found here, and nothing changed."""
    metas, layout = _checked_layout(path, wanted, card, shown)
    runtime.configure_run(wanted, shown.note, layout.n_devices)
    program = bind(wanted)
    session = Session(
        wanted, path, plan_again(wanted, program, layout.width, layout.n_devices, layout.micro_batch), program, shown
    )
    like = session.programs.shapes(take_rows(session.rows, 0, layout.width * layout.n_devices))
    checks.check_state(path, wanted, layout, like, metas)
    return session


def _write_documents(
    path: Path, config: Config, card: dict[str, Any], setup: Setup, start: warm_start.WarmStart | None
) -> None:
    """What makes a new folder a run; where it cannot be written, the folder goes again."""
    try:
        if start is not None:  # before the two documents: whatever counts as a run folder has it
            warm_start.keep(path, start)
        folder.write_text_atomic(path / folder.CONFIG, to_yaml(config))
        folder.write_json_atomic(path / folder.CARD, card)
        write_setup(path, setup)
    except (OSError, SaveError) as error:
        shutil.rmtree(path, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(
            f"train.run_dir {path.parent}: {path.name} cannot be written ({reason}); nothing was "
            "trained; make room, or name another folder"
        ) from error


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.4g} [{values.min():.4g}, {values.max():.4g}]"


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


def _check_disk(plan: Plan, path: Path) -> None:
    free = checkpoint.free_bytes(path)
    if 2 * plan.disk_bytes > free:
        path.rmdir()
        raise ConfigError(
            f"train.run_dir {path.parent}: checkpoints need up to {size_text(2 * plan.disk_bytes)} and "
            f"{size_text(free)} are free; name another folder or lower train.buffer_capacity"
        )


def _run(session: Session, on_evaluation: OnEvaluation | None) -> Result:
    """All blocks, one after another; a finished one is skipped."""
    session.on_evaluation = on_evaluation
    finished, stopped = True, False
    session.open_sinks()
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
    final = final_columns(session.path) if finished else {}
    return Result(
        path=session.path,
        config=session.config,
        finished=finished,
        stopped=stopped,
        final=final,
        timing=timing,
        trouble=session.trouble,
    )


def final_columns(path: Path) -> dict[str, np.ndarray]:
    """The final evaluations of all rows of a run, sorted by row."""
    table = tables.to_arrays(tables.read_table(path, "eval"))
    keep = table["final"]
    return {name: values[keep] for name, values in table.items()}
