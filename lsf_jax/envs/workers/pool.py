"""The pool: W workers, each with a game, kept alive whatever happens; what `lsf_jax.envs.host.HostEnv` describes.

There is one way to heal: the worker is killed with its game, and a fresh one starts with another seed. A fault can be
an exception, a missed deadline, a process that is gone, or whatever the game's adapter finds; the pool voids the
episode, counts the fault and waits longer from one failure in a row to the next. The same happens, uncounted, when a
game says that it has run for long enough.
"""

import atexit
import math
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.envs.host import FIRST, STEP, Event, HostError
from lsf_jax.envs.workers.config import WorkersConfig
from lsf_jax.envs.workers.process import PoolFolder, WorkerProcess
from lsf_jax.envs.workers.reporters import Pending, Reporter, blank, check_actions
from lsf_jax.settings import ConfigError
from lsf_jax.types import EnvSpec

COUNTERS = (
    "crashes",  # an exception, the process ended, something that cannot be
    "hangs",  # a step or the start of an episode missed its deadline
    "launch_failures",  # either of them between starting a worker and its first episode
    "restarts",  # workers started again because of any fault
    "lost_episodes",  # episodes that had begun and were voided: LOST events
    "planned_relaunches",  # workers started again because their game had run for long
)
LONGEST_BACKOFF = 30.0  # seconds
KILL_TIMEOUT = 10.0  # seconds that a killed worker gets to disappear
LONGEST_WAIT = 3600.0  # seconds between two looks of `receive`


class PoolGame(NamedTuple):
    """What a pool must know of the games that it plays."""

    label: str  # the game as people call it
    spec: EnvSpec
    settings: Callable[[int, float], dict[str, Any]]
    """(seed, share) -> what a worker's script is told. Of a limit after which a game is started afresh, only the share
    counts: it differs between workers, since games that start together would be relaunched together, too."""
    variables: Mapping[str, str] = MappingProxyType({})  # environment variables
    remedies: Mapping[str, str] = MappingProxyType({})
    """Further counters, of faults that the adapter finds -> what to do where two games in a row have the fault, which
    ends the run; "" where it is healed like any other."""
    check: Callable[[], None] = lambda: None  # raises HostError where something is missing; before any worker starts
    advice: Callable[[], list[str]] = list  # what is missing, once games fail, however long it takes to find out


class Worker(Reporter):
    """One worker as the pool sees it: its process, what it is at, and events that wait."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.generation = -1  # of its process; each has another seed
        self.process: WorkerProcess | None = None
        self.start_at = 0.0  # when the next process may start, where there is none
        self.deadline = math.inf  # of the answer that is due; inf: the worker waits for us
        self.is_new = True  # its process has not begun an episode yet
        self.failures = 0  # since it last finished an episode
        self.found = ""  # the adapter's fault with a remedy that ended its last process before an episode could begin
        self.replay: dict[str, Any] | None = None  # answer to the last request for a replay

    def is_busy(self) -> bool:
        """Whether an event is to come without anything from us."""
        return self.process is None or self.deadline < math.inf


class Pool:
    """`n_workers` games: a `HostEnv`. Not for several threads.

        with Pool(game, WorkersConfig(), n_workers=8, seed=0) as pool:
            pool.start()
            events = pool.receive(min_ready=1, timeout=1.0)

    The seed of worker w's game is `seed + w` plus `n_workers` for each time that it is started afresh.

    Raises:
      ConfigError: there is to be no worker.
    """

    def __init__(self, game: PoolGame, cfg: WorkersConfig, n_workers: int, seed: int = 0) -> None:
        if n_workers < 1:
            raise ConfigError(f"n_workers is {n_workers}; expected at least 1")
        self.spec, self.n_workers = game.spec, n_workers
        self.counters: dict[str, int] = dict.fromkeys((*COUNTERS, *game.remedies), 0)
        self.last_fault = ""
        self.observation = blank(self.spec, n_workers)
        self._game, self._cfg, self._seed = game, cfg, seed
        self._workers = [Worker(index) for index in range(n_workers)]
        self._retired: list[WorkerProcess] = []
        self._next_start = 0.0  # when any process may start: they are staggered
        self._selector: selectors.BaseSelector | None = None
        self._folder: PoolFolder | None = None
        self._is_interrupted = False  # what was to be watched became readable

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the workers one by one and waits until each has begun its first episode.

        Raises:
          HostError: something is missing (checked beforehand), or a worker failed too often; all are closed then.
        """
        if self._folder is not None:
            raise HostError("the pool has been started already")
        self._game.check()
        atexit.register(self.close)
        self._folder, self._selector = PoolFolder(), selectors.DefaultSelector()
        try:
            while not all(worker.pending for worker in self._workers):
                self._pump(LONGEST_WAIT)
        except BaseException:
            self.close()
            raise

    def send(self, workers: Sequence[int], actions: np.ndarray) -> None:
        """Starts one step of each named worker; see `HostEnv.send`."""
        actions = np.asarray(actions)
        idle = [worker.index for worker in self._workers if worker.wants_action]
        check_actions(self.spec, workers, actions, idle, self.observation.avail)
        due = time.monotonic() + self._cfg.deadline
        for index, joint in zip(workers, actions.tolist()):
            worker = self._workers[index]
            worker.wants_action = False
            if worker.process is not None and not worker.pending:  # else its episode is lost, which receive will report
                worker.process.send({"step": joint})
                worker.deadline = due

    def receive(self, min_ready: int, timeout: float) -> list[Event]:
        """Events of whoever is ready; see `HostEnv.receive`. Here deadlines are kept and workers started again."""
        end, self._is_interrupted = time.monotonic() + timeout, False
        self._pump(0.0)
        while sum(bool(worker.pending) for worker in self._workers) < min_ready:
            left = end - time.monotonic()
            if left <= 0 or self._is_interrupted or not self.is_under_way():
                break
            self._pump(left)
        return [worker.deliver(self.observation) for worker in self._workers if worker.pending]

    def is_under_way(self) -> bool:
        """Whether anything is to be waited for: a step, the start of an episode or of a game."""
        return any(worker.is_busy() for worker in self._workers)

    def watch(self, descriptor: int) -> None:
        """From now on `receive` also returns, with what there is, when this descriptor is readable; once started."""
        if self._selector is None:
            raise HostError("the pool has no games; call start() first")
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def save_replay(self, worker: int, folder: str | Path) -> Path:
        """Saves what the worker's game has seen since it was launched, all its episodes, as its adapter does.

        Args:
          worker: a worker between two steps or before the first one; else its answer is waited for.
          folder: where to; made if it is missing.

        Returns:
          The path of the new file.

        Raises:
          HostError: the game could not save it, or went down meanwhile.
        """
        chosen = self._workers[worker]
        while chosen.is_busy():
            self._pump(LONGEST_WAIT)
        process, chosen.replay = chosen.process, None
        if process is None:
            raise HostError("there is no game to save a replay of; start the pool first")
        process.send({"replay": str(Path(folder).absolute())})
        chosen.deadline = time.monotonic() + self._cfg.deadline
        while chosen.replay is None and chosen.process is process:
            self._pump(LONGEST_WAIT)
        answer = chosen.replay or {"kind": "fault", "text": self.last_fault}
        if answer["kind"] != "replay":
            raise HostError(f"worker {worker} could not save a replay: {answer['text']}")
        return Path(answer["path"])

    def close(self) -> None:
        """Kills workers and games and waits until nothing is left of them; may be called again."""
        atexit.unregister(self.close)
        for worker in self._workers:
            self._retire(worker, WorkerProcess.abandon)
            worker.pending.clear()
            worker.wants_action = worker.is_playing = False
        while self._retired:
            self._forget_the_gone()
            time.sleep(0.005)
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _pump(self, timeout: float) -> None:
        """Starts workers, reads their messages, keeps deadlines: all that is due, once something is or time is up."""
        if self._selector is None:
            raise HostError("the pool has no games; call start() first")
        self._start_due()
        for key, _ in self._selector.select(self._seconds_to_wait(timeout)):
            if key.data is None:
                self._is_interrupted = True
            else:
                self._read(key.data)
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is not None and worker.deadline <= now:
                limit = self._cfg.launch_deadline if worker.is_new else self._cfg.deadline
                self._fail(worker, "hangs", f"no answer within {limit:g} s")
        self._forget_the_gone()

    def _seconds_to_wait(self, timeout: float) -> float:
        starts = [max(worker.start_at, self._next_start) for worker in self._workers if worker.process is None]
        soonest = min([worker.deadline for worker in self._workers] + starts)
        return max(0.0, min(timeout, soonest - time.monotonic(), LONGEST_WAIT))

    def _start_due(self) -> None:
        for worker in self._workers:
            now = time.monotonic()
            if worker.process is None and max(worker.start_at, self._next_start) <= now:
                self._next_start = now + self._cfg.stagger
                self._start_one(worker)

    def _start_one(self, worker: Worker) -> None:
        cfg, pool_folder, selector = self._cfg, self._folder, self._selector
        if pool_folder is None or selector is None:
            return
        worker.generation += 1
        seed = (self._seed + worker.index + worker.generation * self.n_workers) % 2**31
        share = 1.0 if worker.generation else 1.0 - 0.5 * worker.index / self.n_workers
        settings = {**self._game.settings(seed, share), "task": "play"}
        folder = pool_folder.path / f"worker-{worker.index}-{worker.generation}"
        worker.is_new = True
        try:
            worker.process = WorkerProcess(
                folder, settings, self.spec, python=cfg.python, variables=self._game.variables
            )
        except OSError as error:
            self._fail(worker, "launch_failures", f"no process could be started: {error}")
        else:
            worker.deadline = time.monotonic() + cfg.launch_deadline
            selector.register(worker.process, selectors.EVENT_READ, worker)

    def _read(self, worker: Worker) -> None:
        process = worker.process
        if process is None:
            return
        messages, closed = process.receive()
        for message in messages:
            self._handle(worker, process, message)
        if closed and worker.process is process:
            self._fail(worker, "crashes", "the process ended")

    def _handle(self, worker: Worker, process: WorkerProcess, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "hello":
            process.pid = message["pid"]
        elif kind == "first":
            self._handle_first(worker, process, message)
        elif kind == "step":
            self._handle_step(worker, process, message)
        elif kind in ("replay", "no_replay"):
            worker.replay, worker.deadline = message, math.inf
        elif kind == "spent":
            self.counters["planned_relaunches"] += 1
            self._retire(worker)
        elif kind == "refused":
            raise self._broken(worker, message["text"])
        else:
            found = message["fault"] if message["fault"] in self._game.remedies else "crashes"
            self._handle_fault(worker, found, message["text"])

    def _handle_first(self, worker: Worker, process: WorkerProcess, message: dict[str, Any]) -> None:
        worker.found, worker.is_new, worker.deadline = "", False, math.inf
        event = Event(worker=worker.index, kind=FIRST, reward=0.0, terminal=False, done=False, info={})
        worker.pending.append(Pending(event=event, observation=process.observation(message["slot"])))

    def _handle_fault(self, worker: Worker, fault: str, text: str) -> None:
        remedy = self._game.remedies.get(fault, "")
        if remedy and worker.found == fault:
            raise self._broken(worker, f"{text}, in two games in a row; {remedy}")
        worker.found = fault if remedy else worker.found
        self._fail(worker, fault, text)

    def _handle_step(self, worker: Worker, process: WorkerProcess, message: dict[str, Any]) -> None:
        done = message["done"]
        event = Event(
            worker=worker.index,
            kind=STEP,
            reward=message["reward"],
            terminal=done and not message["truncated"],
            done=done,
            info=message["info"],
        )
        worker.pending.append(Pending(event=event, observation=process.observation(message["slot"])))
        worker.deadline = math.inf
        if done:
            worker.is_playing, worker.failures = False, 0
            worker.deadline = time.monotonic() + self._cfg.deadline

    def _fail(self, worker: Worker, counter: str, text: str) -> None:
        """Voids the episode and has the worker started again, or gives up."""
        if worker.is_new and counter in ("crashes", "hangs"):
            counter = "launch_failures"
        self.counters[counter] += 1
        log = worker.process.keep_log() if worker.process and worker.failures >= self._cfg.max_restarts else ""
        self.last_fault = f"worker {worker.index}: {text}"
        self._retire(worker)
        self.counters["lost_episodes"] += worker.void()
        worker.failures += 1
        if worker.failures > self._cfg.max_restarts:
            raise self._broken(worker, f"failed {worker.failures} times in a row, at last: {text}", log)
        self.counters["restarts"] += 1
        if worker.failures > 1:
            pause = min(self._cfg.backoff * 2.0 ** (worker.failures - 2), LONGEST_BACKOFF)
            worker.start_at = time.monotonic() + pause

    def _retire(self, worker: Worker, end: Callable[[WorkerProcess], None] = WorkerProcess.retire) -> None:
        if worker.process is not None:
            if self._selector is not None:
                self._selector.unregister(worker.process)
            end(worker.process)
            self._retired.append(worker.process)
        worker.process, worker.deadline, worker.start_at = None, math.inf, 0.0

    def _forget_the_gone(self) -> None:
        self._retired = [process for process in self._retired if not process.is_gone(KILL_TIMEOUT)]

    def _broken(self, worker: Worker, text: str, log: str = "") -> HostError:
        """The end of the run in one line; what led to it is in the worker's log, which is kept."""
        log = log or (worker.process.keep_log() if worker.process else "")
        parts = [f"worker {worker.index} of {self._game.label}: {text}", *self._game.advice()]
        return HostError("; ".join(parts + ([f"its log is {log}"] if log else [])))
