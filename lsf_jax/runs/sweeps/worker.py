"""A worker of a cluster: one process for one device, which trains blocks of a run one after another.

It keeps its process and its compiled programs. Everything it finds out goes to the driver as a stream of messages; with
a shared folder it writes its block's parts, policies and checkpoints itself, else they travel too.
"""

import contextlib
import os
import pickle
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import psutil

from lsf_jax.cluster.connect import import_ray
from lsf_jax.config.composition import Config
from lsf_jax.config.documents import plugins_of
from lsf_jax.programs import runtime
from lsf_jax.programs.layouts import even_width, plan_again
from lsf_jax.programs.parts import Program, bind
from lsf_jax.programs.planner import Plan, hardware_here, make_plan
from lsf_jax.registry import plugins
from lsf_jax.runs import sinks, warm_start
from lsf_jax.runs.card import setup_card
from lsf_jax.runs.machine import describe_machine, plugin_versions
from lsf_jax.runs.safe_files import RunFolderError
from lsf_jax.runs.schemas import Layout
from lsf_jax.runs.session import Counts, Session, host_report, run_block
from lsf_jax.runs.sweeps.courier import Courier
from lsf_jax.runs.sweeps.leases import is_held
from lsf_jax.runs.sweeps.machines import describe
from lsf_jax.runs.sweeps.messages import Ended, Evaluated, Job, Opened, Order, Planned, Run, Told
from lsf_jax.runs.sweeps.reporter import Reporter
from lsf_jax.runs.watching import Evaluation

WAITING = 32
"""Messages that may wait for the driver; a worker that is ahead of it stands still."""
STAGE = "lsf_jax-stage-"
ENDING_SECONDS = 5.0
"""Until a worker that was told to end is gone."""


class LeaseLostError(RuntimeError):
    """Another worker has this block now: this one was taken for dead, and may not write any more."""


class BlockWorker:
    """What runs in an actor. Its methods are called by the driver, one `run` at a time, `stop` beside it."""

    def __init__(self) -> None:
        """Nothing is imported or made before `open`."""
        self.stopping = threading.Event()
        self.session: Session | None = None
        self.watched = False
        self.stage: Path | None = None
        self.ended_at = 0.0

    def open(self, order: Order) -> Opened:
        """Load what the run needs and bind it; a program compiles with the first block.

        Raises:
          ConfigError: a plug-in cannot be imported here, or a setting is refused.
        """
        _go_to(order.start)
        plugins.load_plugins(order.plugins, "the driver")
        self.order, self.config = order, _config_of(order.config)
        runtime.configure(self.config.train, cpu_devices=order.devices)
        self.program: Program = bind(self.config)
        return Opened(node=_node(), machine=describe(_device(), order.threads))

    def plan(self, slots: int, source: Any, layout: Layout | None) -> Planned:
        """Lay the run out on this worker's device: what fits on one, as many blocks as there are slots.

        Args:
          slots: blocks that can be trained at a time.
          source: a `warm_start.Source` to start from, or None.
          layout: of a run that has begun; None for a new one.

        Raises:
          ConfigError: as `make_plan` and `warm_start.prepare`.
        """
        config, program = self.config, self.program
        start = warm_start.prepare(config, program.algorithm, source) if layout is None else None
        if layout is None:
            plan = self._new_plan(slots)
        else:
            plan = plan_again(config, program, layout.width, layout.n_devices, layout.micro_batch)
        config = replace(config, train=replace(config.train, block=plan.width))
        card = describe_machine()
        card["versions"] |= plugin_versions(plugins_of(config))
        return Planned(plan=plan, machine=card, setup=setup_card(config, program), start=start)

    def _new_plan(self, slots: int) -> Plan:
        """As wide as fits on a device, but no wider than gives every slot a block; all as equal as they can be."""
        train = replace(self.config.train, devices=self.order.devices)
        here = hardware_here()
        here = here._replace(memory_bytes=here.memory_bytes // self.order.neighbours)
        plan = make_plan(replace(self.config, train=train), self.program, here)
        width = train.block or even_width(plan.width, plan.rows, slots * plan.n_devices)
        if width == plan.width:
            return plan
        return make_plan(replace(self.config, train=replace(train, block=width)), self.program, here)

    def run(self, job: Job) -> Iterator[Any]:
        """Train a block to its budget, or until `stop`; messages come as they arise, `Ended` last.

        Raises:
          LeaseLostError: another worker has the block.
          Exception: whatever training raises.
        """
        messages: queue.Queue[Any] = queue.Queue(WAITING)
        failed: list[BaseException] = []

        def work() -> None:
            try:
                messages.put(self._train(job, messages.put))
            except BaseException as error:
                failed.append(error)
            messages.put(None)

        threading.Thread(target=work, name=f"block {job.index}", daemon=True).start()
        while (message := messages.get()) is not None:
            yield message
        if failed:
            raise failed[0]

    def stop(self) -> None:
        """Ask the block at hand to be saved after its chunk."""
        self.stopping.set()

    def close(self) -> None:
        """End games on the host, and remove what lies on this node."""
        if self.session is not None:
            self.session.close()
        if self.stage is not None:
            shutil.rmtree(self.stage, ignore_errors=True)

    def _train(self, job: Job, send: Any) -> Ended:
        session = self._session_of(job.run)
        courier = None if self.stage is None else Courier(self.stage, job.index, send)
        if courier is not None:
            courier.receive(job.files)

        def look() -> None:
            """Before anything is written: whether this is still ours to write."""
            if courier is not None:
                courier.collect()
            elif not is_held(session.path, job.index, job.lease):
                raise LeaseLostError(f"block {job.index} was given to another worker")

        reporter = Reporter(send, self.order.interval, look)
        session.progress, session.done_before = reporter, Counts(0, 0)
        session.timing = dict.fromkeys(session.timing, 0.0)
        session.counts = dict.fromkeys(session.counts, 0)
        known = len(session.trouble)
        session.on_evaluation = (lambda seen: send(_evaluated(seen))) if self.watched else None
        session.sinks = _sinks(session, send)
        before, compiled = self.ended_at, len(session.warm)

        def stopping() -> bool:
            look()
            return self.stopping.is_set()

        finished = run_block(session, job.index, stopping)
        if courier is not None:
            courier.collect()
            courier.clear()
        self.ended_at = time.monotonic()
        return Ended(
            finished=finished,
            env_steps=reporter.latest.env_steps,
            updates=reporter.latest.updates,
            seconds=session.timing,
            counts=session.counts,
            trouble=session.trouble[known:],
            host=host_report(session),
            idle_seconds=max(reporter.first_chunk_at - before, 0.0) if before and reporter.first_chunk_at else 0.0,
            compiled=len(session.warm) - compiled,
        )

    def _session_of(self, reference: Any) -> Session:
        """The session of the run folder, made once."""
        if self.session is None:
            run: Run = import_ray().get(reference)
            self.watched = run.watched
            path = Path(run.path) if run.shared else self._staged(run)
            if not path.is_dir():
                raise RunFolderError(f"run folder {path} is not on this node: share it, or use --no-shared-folder")
            self.session = Session(_config_of(run.config), path, run.plan, self.program, Reporter(_nothing))
            self.session.keeps_card = False
        return self.session

    def _staged(self, run: Run) -> Path:
        """A folder of this node that looks like the run's."""
        clear_stages()
        self.stage = Path(tempfile.mkdtemp(prefix=f"{STAGE}{self.order.token}-{os.getpid()}-"))
        for name, data in run.documents.items():
            (self.stage / name).write_bytes(data)
        return self.stage


def clear_stages(token: str = "") -> None:
    """Remove what workers that were killed have left on this node.

    Args:
      token: of a driver whose workers are all being ended: theirs go in any case.
    """
    until = time.monotonic() + ENDING_SECONDS
    for path in Path(tempfile.gettempdir()).glob(f"{STAGE}*-*-*"):
        owner, number, *_ = path.name.removeprefix(STAGE).split("-")
        while owner == token and _lives(number) and time.monotonic() < until:
            time.sleep(0.1)
        if owner == token or not _lives(number):
            shutil.rmtree(path, ignore_errors=True)


def _lives(number: str) -> bool:
    return number.isdecimal() and psutil.pid_exists(int(number))


def _config_of(data: bytes) -> Config:
    return pickle.loads(data)


def _go_to(folder: str) -> None:
    """Into the driver's working folder, if this node has it: relative paths mean the same then."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _node() -> str:
    return import_ray().get_runtime_context().get_node_id()


def _device() -> str:
    return "cpu" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def _evaluated(seen: Evaluation) -> Evaluated:
    return Evaluated(iteration=seen.iteration, final=seen.final, columns=seen.columns)


def _sinks(session: Session, send: Any) -> tuple[sinks.Sink, ...]:
    """One sink that passes scalars on, if the run has any."""
    if not session.config.train.sinks:
        return ()
    return (sinks.Sink(write=lambda steps, told: send(Told(steps, dict(told))), close=_nothing),)


def _nothing(*_: Any) -> None:
    pass
