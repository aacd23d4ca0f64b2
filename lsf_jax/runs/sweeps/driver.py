"""The driver of a run on a cluster: owns the run folder, hands blocks to workers, shows and records what they say.

    with driving(cluster, config, shown) as driver:
        planned = driver.plan(source)
        ...  # make the run folder
        outcome = driver.train(path, config, planned.plan, on_evaluation)

It computes nothing itself, so it needs no accelerator and takes none from the workers of its machine.
"""

import contextlib
import json
import os
import pickle
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.cluster.connect import Node, connected, slots_on
from lsf_jax.config.composition import Config
from lsf_jax.programs.planner import Plan
from lsf_jax.programs.runtime import cache_folder
from lsf_jax.runs import checkpoint, folder, sinks, warm_start
from lsf_jax.runs.progress import Progress
from lsf_jax.runs.safe_files import file_inside, folder_inside
from lsf_jax.runs.schemas import Layout
from lsf_jax.runs.session import Counts, drop_tables, plain_settings
from lsf_jax.runs.sweeps import leases
from lsf_jax.runs.sweeps.board import Board
from lsf_jax.runs.sweeps.cluster import (
    Cluster,
    check_probed,
    devices_of,
    environment,
    find_nodes,
    is_on_cpu,
    needs_of,
    plugins_needed,
    probe_nodes,
    refusal,
    threads_of,
)
from lsf_jax.runs.sweeps.courier import Delivery, pieces_of
from lsf_jax.runs.sweeps.machines import Machine, difference
from lsf_jax.runs.sweeps.messages import (
    Ended,
    Evaluated,
    Job,
    Moved,
    Opened,
    Order,
    Piece,
    Planned,
    Run,
    Said,
    Saved,
    Told,
)
from lsf_jax.runs.sweeps.pool import SAME_REASON, Hand, Hooks, Pool
from lsf_jax.runs.sweeps.record import Record
from lsf_jax.runs.watching import Evaluation, OnEvaluation
from lsf_jax.settings import ConfigError, counted

MESSAGES_PER_SECOND = 50.0
"""About progress, from all workers together: a driver takes a few hundred of all kinds."""
PLAN_SECONDS = 60.0
"""Seconds until a first worker that does not start is spoken of: others may use the cluster too."""


class Outcome(NamedTuple):
    """What a run on a cluster came to."""

    finished: bool
    stopped: bool
    timing: dict[str, float]
    trouble: list[dict[str, int]]


class Begun(NamedTuple):
    """What a run that goes on has on record."""

    layout: Layout
    machine: Machine | None  # what has trained its blocks; None if no cluster did


@contextlib.contextmanager
def driving(cluster: Cluster, config: Config, shown: Progress, begun: Begun | None = None) -> Iterator["Driver"]:
    """A driver, connected and with nodes that can train the run; at the end all workers are gone.

    Args:
      cluster: where.
      config: of the run.
      shown: where people look.
      begun: what is fixed already; None for a new run.

    Raises:
      ConfigError: there is no such cluster, or it cannot train this run; the message says why.
    """
    with connected(cluster.where) as ray:
        driver = Driver(ray, cluster, config, shown, begun)
        try:
            yield driver
        finally:
            driver.close()


class Driver:
    """Everything that the driver of one run shares. Host state, hence a class."""

    def __init__(self, ray: Any, cluster: Cluster, config: Config, shown: Progress, begun: Begun | None) -> None:
        """Look at the nodes; see `driving`."""
        self.ray, self.cluster, self.shown, self.begun = ray, cluster, shown, begun
        self.reference = None if begun is None else begun.machine
        self.nodes: list[Node] = []
        while not self.nodes:  # they may be lost again before they are asked
            found = find_nodes(ray, cluster, shown.note)
            self.needs = needs_of(cluster, found)
            self.nodes = self._examined(config, found)
        by_node = [slots_on(node, self.needs) for node in self.nodes]
        slots = sum(by_node)
        self.order = Order(
            config=pickle.dumps(config),
            plugins=plugins_needed(),
            start=os.getcwd(),
            threads=threads_of(self.needs),
            devices=devices_of(self.needs) if begun is None else begun.layout.n_devices,
            neighbours=max(by_node) if is_on_cpu(self.needs) else 1,
            interval=max(1.0, slots / MESSAGES_PER_SECOND),
            token=secrets.token_hex(8),
        )
        self.pool = Pool(
            ray, self._new_worker, self.needs, Hooks(self._accept, self._begin, self._take, self._lost, shown.note)
        )
        self.pool.nodes = self.nodes
        shown.note(f"cluster: {counted(len(self.nodes), 'node')}, {counted(slots, 'block')} at a time")
        shown.note(_cache_text(config, cluster))

    def _examined(self, config: Config, nodes: list[Node]) -> list[Node]:
        """Those of the nodes that are still there, all of which can train this run together."""
        parent = Path(config.train.run_dir).expanduser().absolute()
        parent.mkdir(parents=True, exist_ok=True)
        token = parent / f".seen-{secrets.token_hex(8)}" if self.cluster.shared_folder else None
        try:
            if token is not None:
                token.touch()
            answers = probe_nodes(self.ray, nodes, self.needs, token)
        finally:
            if token is not None:
                token.unlink(missing_ok=True)
        living = [node for node in nodes if node.id in answers]
        if living:
            check_probed(living, answers, self.cluster, self.reference)
        return living

    def _new_worker(self) -> Hand:
        from lsf_jax.runs.sweeps.worker import BlockWorker

        others = {name: amount for name, amount in self.needs.items() if name not in ("CPU", "GPU", "memory")}
        options: dict[str, Any] = {"memory": self.needs["memory"]} if "memory" in self.needs else {}
        actor = (
            self.ray.remote(BlockWorker)
            .options(
                num_cpus=self.needs.get("CPU", 0.0),
                num_gpus=self.needs.get("GPU", 0.0),
                resources=others,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=2,  # `stop` beside `run`
                runtime_env={"env_vars": environment(self.needs)},
                **options,
            )
            .remote()
        )
        return Hand(actor, actor.open.remote(self.order))

    def plan(self, source: warm_start.Source | None) -> Planned:
        """Let a worker lay the run out on its device; the worker stays for the run.

        Raises:
          ConfigError: a setting is wrong, or not even one row fits.
        """
        for left in reversed(range(SAME_REASON)):
            hand = self._new_worker()
            self.pool.hands.append(hand)
            try:
                return self._planned_by(hand, source)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except self.ray.exceptions.RayError as error:
                self.pool.drop(hand)
                reason = " ".join(str(error).split())[:300]
            if left:
                self.shown.note("the worker that plans the run was lost; another one does it")
        raise ConfigError(f"the worker that plans the run was lost {SAME_REASON} times: {reason}")

    def _planned_by(self, hand: Hand, source: warm_start.Source | None) -> Planned:
        ready, _ = self.ray.wait([hand.pending], timeout=PLAN_SECONDS)
        if not ready:
            self.shown.note("waiting for the cluster: others use its resources, or the worker's start takes long")
        hand.opened, hand.pending = self.ray.get(hand.pending), None
        if refused := self._accept(hand.opened):
            raise ConfigError(refused)
        return self.ray.get(hand.actor.plan.remote(self.pool.n_slots(), source, self.begun and self.begun.layout))

    def train(
        self, path: Path, config: Config, plan: Plan, on_evaluation: OnEvaluation | None, stopping: Callable[[], bool]
    ) -> Outcome:
        """All blocks that are not finished yet; the run folder is locked by this process.

        Args:
          path: the run folder, with its documents.
          config: of the run, its block width set.
          plan: its layout.
          on_evaluation: as for `experiment.train`.
          stopping: whether a stop was asked for.

        Raises:
          ConfigError: no worker can be started, or blocks were given up, after all others are finished.
        """
        self.path, self.config, self.plan_made, self.on_evaluation = path, config, plan, on_evaluation
        self.raised: BaseException | None = None
        self.deliveries: dict[int, Delivery] = {}
        self.workers: dict[int, Opened] = {}
        self.record = Record(path)
        self.run_of_all = self.ray.put(self._run())
        self.sinks = ()
        if config.train.sinks:
            plain = json.loads(json.dumps(plain_settings(config)))
            self.sinks = sinks.make_sinks(config.train.sinks, path, plain, config.algo_name)
        done = {index: self._saved_counts(index) for index in range(plan.n_blocks)}
        todo = [index for index in done if not self._is_finished(index)]
        self.board = Board(self.shown, self.pool, done, plan.n_blocks - len(todo))
        try:
            given_up = self.pool.run(todo, lambda: self.raised is not None or stopping())
        finally:
            self._settle()
        if self.raised is not None:
            raise self.raised
        self._complain(given_up)
        return Outcome(
            finished=self.board.n_finished == plan.n_blocks,
            stopped=bool(stopping()),
            timing=self.record.timing,
            trouble=self.record.trouble,
        )

    def close(self) -> None:
        """End all workers, and what those that were killed have left on the nodes."""
        self.pool.release()
        if not self.cluster.shared_folder:
            self._clear_nodes()

    def _run(self) -> Run:
        names = () if self.cluster.shared_folder else (folder.CONFIG, folder.CARD, warm_start.FILE)
        files = [(name, file_inside(self.path, name)) for name in names]
        return Run(
            config=pickle.dumps(self.config),
            plan=self.plan_made,
            path=str(self.path.absolute()),
            shared=self.cluster.shared_folder,
            watched=self.on_evaluation is not None,
            documents={name: path.read_bytes() for name, path in files if path.exists()},
        )

    # What the pool asks and tells.

    def _accept(self, opened: Opened) -> str | None:
        self.reference = self.reference or opened.machine
        other = difference(self.reference, opened.machine)
        if other is None or self.cluster.mixed:
            return None
        ip = next((node.ip for node in self.pool.nodes if node.id == opened.node), "that joined")
        return refusal(ip, other)

    def _begin(self, index: int, opened: Opened) -> Any:
        self.workers[index] = opened
        shared = self.cluster.shared_folder
        files = ()
        if not shared:
            self.deliveries[index] = Delivery(self.path, index)
            files = self._prepared(index)
        lease = leases.grant(self.path, index) if shared else ""
        return Job(run=self.run_of_all, index=index, lease=lease, files=files)

    def _prepared(self, index: int) -> tuple:
        """The checkpoint of a block as pieces in Ray's store; rows past it, which come again, are dropped here."""
        block = checkpoint.block_folder(self.path, index)
        newest = checkpoint.latest(block)
        if newest is None:
            drop_tables(self.path, index, 0)
            return ()
        checkpoint.remove(block, [])
        drop_tables(self.path, index, checkpoint.read_meta(block)[0])
        found = sorted(path for path in newest.rglob("*") if path.is_file())
        return tuple(
            (path.relative_to(self.path).parts, tuple(self.ray.put(data) for data, _ in pieces_of(path)))
            for path in found
        )

    def _lost(self, index: int) -> Any:
        """Give up what has arrived of an attempt."""
        if delivery := self.deliveries.pop(index, None):
            delivery.give_up()
        self.board.count(index, self._saved_counts(index))
        newest = checkpoint.latest(checkpoint.block_folder(self.path, index))
        return None if newest is None else newest.name

    def _take(self, index: int, message: Any) -> None:
        match message:
            case Moved():
                self.board.count(index, Counts(message.env_steps, message.updates))
                self.board.show(message)
            case Said():
                self.shown.note(message.text)
            case Piece():
                self.deliveries[index].take(message)
            case Saved():
                self.deliveries[index].commit(message)
            case Told():
                sinks.write_all(self.sinks, message.env_steps, message.scalars)
            case Evaluated():
                self._tell_watcher(message)
            case Ended():
                self._ended(index, message)

    def _ended(self, index: int, ended: Ended) -> None:
        self.deliveries.pop(index, None)
        self.board.count(index, Counts(ended.env_steps, ended.updates))
        self.board.n_finished += ended.finished
        self.record.add(index, ended, self.workers[index].machine)
        self.board.show(Moved(0, 0))

    def _tell_watcher(self, seen: Evaluated) -> None:
        """Hand an evaluation to the caller's function; what it raises ends the run after saving."""
        if self.on_evaluation is None or self.raised is not None:
            return
        try:
            self.on_evaluation(Evaluation(self.path, seen.iteration, seen.final, seen.columns))
        except BaseException as error:
            self.raised = error

    # What is on disk.

    def _saved_counts(self, index: int) -> Counts:
        meta, budget = checkpoint.read_block(self.path, index), self.config.train.env_steps
        if meta is None:
            return Counts(0, 0)
        steps = int(np.minimum(meta.env_steps, budget).sum())
        return Counts(env_steps=steps, updates=meta.updates * len(meta.env_steps))

    def _is_finished(self, index: int) -> bool:
        meta = checkpoint.read_block(self.path, index)
        return meta is not None and meta.finished_budget == self.config.train.env_steps

    def _settle(self) -> None:
        """Nobody writes any more: remove leases and what killed workers left, and write the card."""
        leases.clear(self.path)
        for delivery in self.deliveries.values():
            delivery.give_up()
        for left in folder_inside(self.path, "policies").glob(".tmp-*"):
            left.unlink(missing_ok=True)
        for sink in self.sinks:
            sink.close()
        self.record.write()

    def _complain(self, given_up: dict[int, str]) -> None:
        if given_up:
            index, cause = next(iter(given_up.items()))
            which = f"block {index}" if len(given_up) == 1 else f"{len(given_up)} blocks, the first of them {index},"
            raise ConfigError(
                f"{which} failed again and again: {cause}; {self.board.n_finished} of {self.plan_made.n_blocks} blocks "
                f"are finished; when the cause is mended, the same command goes on with {self.path}"
            )

    def _clear_nodes(self) -> None:
        from lsf_jax.runs.sweeps.worker import clear_stages

        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        remote = self.ray.remote(clear_stages)
        with contextlib.suppress(Exception):
            calls = [
                remote.options(num_cpus=0, scheduling_strategy=affinity(node.id, soft=False)).remote(self.order.token)
                for node in self.pool.nodes
            ]
            self.ray.wait(calls, num_returns=len(calls), timeout=10.0)


def _cache_text(config: Config, cluster: Cluster) -> str:
    kept = cache_folder(config.train)
    if kept is None:
        return "compiled programs are not kept (train.cache_dir=off): every worker compiles for itself"
    if config.train.cache_dir and cluster.shared_folder:
        return f"compiled programs are shared in {kept}, if the nodes share it"
    return "each node keeps its own compiled programs; train.cache_dir on a shared disk lets them share"
