"""The pool: W workers, each with a game, kept alive whatever happens; what `lsf_jax.envs.host.HostEnv` describes.

There is one way to heal: the worker is killed with its game, and a fresh one starts with another seed. A fault can be a
step that SMAC passes off as an ordinary end, stale units after a reset, a `max_reward` that grew, an exception, a
missed deadline or a process that is gone; the pool voids the episode, counts the fault and waits longer from one
failure in a row to the next. The same happens, uncounted, before a game reaches StarCraft II's limit of game loops.
"""

import atexit
import math
import selectors
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.envs.host import FIRST, LOST, STEP, Event, HostError
from lsf_jax.envs.smac.config import OXWHIRL, SmacConfig, expected_max_reward, game_arguments, spec_of
from lsf_jax.envs.smac.process import PoolFolder, WorkerProcess, absolute
from lsf_jax.envs.smac.requirements import advice, examine_game, refuse
from lsf_jax.settings import ConfigError, clip
from lsf_jax.types import EnvSpec, Observation

COUNTERS = (
    "crashes",  # the game was restarted inside step(), an exception, the process ended
    "hangs",  # a step or the start of an episode missed its deadline
    "stale_resets",  # the game was restarted inside reset()
    "wrong_max_rewards",  # the game reported another max_reward than the table
    "launch_failures",  # anything between starting a worker and its first episode, save the two above
    "restarts",  # workers started again because of any of these
    "lost_episodes",  # episodes that had begun and were voided: LOST events
    "planned_relaunches",  # workers started again because their game had run for long
)
LONGEST_BACKOFF = 30.0  # seconds
KILL_TIMEOUT = 10.0  # seconds that a killed worker gets to disappear
LONGEST_WAIT = 3600.0  # seconds between two looks of `receive`


class Pending(NamedTuple):
    """An event that has not been returned yet, and what its worker looked like then (None for LOST)."""

    event: Event
    observation: Observation | None


class Worker:
    """One worker as the pool sees it: its process, what it is at, and events that wait."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.generation = -1  # of its process; each has another seed
        self.process: WorkerProcess | None = None
        self.start_at = 0.0  # when the next process may start, where there is none
        self.deadline = math.inf  # of the answer that is due; inf: the worker waits for us
        self.is_new = True  # its process has not begun an episode yet
        self.is_playing = False  # FIRST was returned, and neither the end of that episode nor its loss has happened
        self.wants_action = False
        self.failures = 0  # since it last finished an episode
        self.wrong_rewards = 0  # in a row
        self.pending: deque[Pending] = deque()
        self.replay: dict[str, Any] | None = None  # answer to the last request for a replay

    def is_busy(self) -> bool:
        """Whether an event is to come without anything from us."""
        return self.process is None or self.deadline < math.inf


class SmacPool:
    """`n_workers` games of real SMAC: a `HostEnv`. Not for several threads.

        with SmacPool(SmacConfig(map_name="3m"), n_workers=8, seed=0) as pool:
            pool.start()
            events = pool.receive(min_ready=8, timeout=1.0)

    Args:
      cfg: the settings.
      n_workers: games side by side.
      seed: worker w gets seed + w, and another n_workers more whenever it is started afresh.

    Raises:
      ConfigError: for settings that are wrong or do not fit together.
    """

    def __init__(self, cfg: SmacConfig, n_workers: int, seed: int = 0) -> None:
        self.spec = spec_of(cfg)
        if n_workers < 1:
            raise ConfigError(f"n_workers is {n_workers}; expected at least 1")
        self.n_workers = n_workers
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.last_fault = ""
        self.observation = _blank(self.spec, n_workers)
        self._cfg, self._seed = cfg, seed
        self._max_reward = expected_max_reward(cfg)
        self._workers = [Worker(index) for index in range(n_workers)]
        self._retired: list[WorkerProcess] = []
        self._next_start = 0.0  # when any process may start: they are staggered
        self._selector: selectors.BaseSelector | None = None
        self._folder: PoolFolder | None = None

    def __enter__(self) -> "SmacPool":
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
        found = [] if self._cfg.factory else examine_game(self._cfg, [self._cfg.map_name])
        refuse([f"{finding.name}: {finding.text}" for finding in found if not finding.good])
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
        self._check(workers, actions)
        due = time.monotonic() + self._cfg.deadline
        for index, joint in zip(workers, actions.tolist()):
            worker = self._workers[index]
            worker.wants_action = False
            if worker.process is not None and not worker.pending:  # else its episode is lost, which receive will report
                worker.process.send({"step": joint})
                worker.deadline = due

    def receive(self, min_ready: int, timeout: float) -> list[Event]:
        """Events of whoever is ready; see `HostEnv.receive`. Here deadlines are kept and workers started again."""
        end = time.monotonic() + timeout
        self._pump(0.0)
        while sum(bool(worker.pending) for worker in self._workers) < min_ready:
            left = end - time.monotonic()
            if left <= 0 or not any(worker.is_busy() for worker in self._workers):
                break
            self._pump(left)
        return [self._deliver(worker) for worker in self._workers if worker.pending]

    def save_replay(self, worker: int, folder: str | Path) -> Path:
        """Saves what the worker's game has seen since it was launched, all its episodes, as one .SC2Replay.

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
            self._retire(worker)
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

    def _check(self, workers: Sequence[int], actions: np.ndarray) -> None:
        shape = (len(workers), self.spec.n_agents)
        if actions.shape != shape or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions are {actions.dtype} {actions.shape}; expected integers {shape}")
        idle = [worker.index for worker in self._workers if worker.wants_action]
        wrong = sorted(set(workers) - set(idle))
        if wrong or len(set(workers)) < len(workers):
            raise ValueError(f"actions for workers {list(workers)}; expected some of those that wait for one: {idle}")
        for index, joint in zip(workers, actions.tolist()):  # few at a time: plain Python is faster than NumPy here
            avail = np.asarray(self.observation.avail)[index]
            for agent, action in enumerate(joint):
                if not (0 <= action < self.spec.n_actions and avail[agent, action]):
                    raise ValueError(
                        f"worker {index}: agent {agent} cannot take action {action}; available are "
                        f"{np.flatnonzero(avail[agent]).tolist()}"
                    )

    def _deliver(self, worker: Worker) -> Event:
        event, observation = worker.pending.popleft()
        if observation is not None:
            for rows, row in zip(self.observation, observation):
                np.copyto(rows[worker.index], row)  # pyright: ignore[reportArgumentType]
        worker.is_playing |= event.kind == FIRST
        worker.wants_action = event.kind == FIRST or (event.kind == STEP and not event.done)
        return event

    def _pump(self, timeout: float) -> None:
        """Starts workers, reads their messages, keeps deadlines: all that is due, once something is or time is up."""
        if self._selector is None:
            raise HostError("the pool has no games; call start() first")
        self._start_due()
        for key, _ in self._selector.select(self._seconds_to_wait(timeout)):
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
        # Games that start together would otherwise be relaunched together, and nobody would play meanwhile.
        share = 1.0 if worker.generation else 1.0 - 0.5 * worker.index / self.n_workers
        settings = {
            "factory": absolute(cfg.factory or OXWHIRL),
            "arguments": {**game_arguments(cfg), "seed": seed},
            "step_mul": cfg.step_mul,
            "relaunch_loops": math.ceil(cfg.relaunch_loops * share),
        }
        folder = pool_folder.path / f"worker-{worker.index}-{worker.generation}"
        worker.is_new = True
        try:
            worker.process = WorkerProcess(folder, settings, self.spec, python=cfg.python, sc2_path=cfg.sc2_path)
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
            raise self._broken(worker, message["text"], process.log_tail())
        else:
            counter = "stale_resets" if message["fault"] == "stale_reset" else "crashes"
            self._fail(worker, counter, message["text"])

    def _handle_first(self, worker: Worker, process: WorkerProcess, message: dict[str, Any]) -> None:
        reward = message["max_reward"]
        if reward is not None and not math.isclose(reward, self._max_reward, rel_tol=1e-5):
            text = f"max_reward is {reward:g} after reset(), expected {self._max_reward:g}"
            worker.wrong_rewards += 1
            if worker.wrong_rewards > 1:
                remedy = "in another version of the game units may differ: then set env.max_reward to this number"
                raise self._broken(worker, f"{text}, in two games in a row; {remedy}", process.log_tail())
            return self._fail(worker, "wrong_max_rewards", text)
        worker.wrong_rewards, worker.is_new, worker.deadline = 0, False, math.inf
        event = Event(worker=worker.index, kind=FIRST, reward=0.0, terminal=False, done=False, info={})
        return worker.pending.append(Pending(event=event, observation=process.observation(message["slot"])))

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
        tail = worker.process.log_tail() if worker.process else ""
        self.last_fault = f"worker {worker.index}: {text}"
        self._retire(worker)
        while worker.pending and not (worker.pending[-1].event.done or worker.pending[-1].event.kind == LOST):
            worker.pending.pop()  # of the void episode, or of one that has not been reported
        if worker.is_playing:
            lost = Event(worker=worker.index, kind=LOST, reward=0.0, terminal=False, done=False, info={})
            worker.pending.append(Pending(event=lost, observation=None))
            worker.is_playing = False
            self.counters["lost_episodes"] += 1
        worker.failures += 1
        if worker.failures > self._cfg.max_restarts:
            raise self._broken(worker, f"failed {worker.failures} times in a row, at last: {text}", tail)
        self.counters["restarts"] += 1
        if worker.failures > 1:
            pause = min(self._cfg.backoff * 2.0 ** (worker.failures - 2), LONGEST_BACKOFF)
            worker.start_at = time.monotonic() + pause

    def _retire(self, worker: Worker) -> None:
        if worker.process is not None:
            if self._selector is not None:
                self._selector.unregister(worker.process)
            worker.process.retire()
            self._retired.append(worker.process)
        worker.process, worker.deadline, worker.start_at = None, math.inf, 0.0

    def _forget_the_gone(self) -> None:
        self._retired = [process for process in self._retired if not process.is_gone(KILL_TIMEOUT)]

    def _broken(self, worker: Worker, text: str, log: str) -> HostError:
        """What to raise: one line, and the end of the log as a note, which tracebacks show."""
        parts = [f"worker {worker.index} of {self._cfg.map_name}: {text}"]
        parts += [] if self._cfg.factory else advice(self._cfg)
        said = [line for line in log.splitlines() if not line.startswith((" ", "Traceback"))][-2:]
        parts += [f"its log ends: {clip(line, 200)}" for line in said if line and line not in text]
        error = HostError(". ".join(parts))
        if log:
            error.add_note(f"the end of its log:\n{log}")
        return error


def _blank(spec: EnvSpec, n_workers: int) -> Observation:
    """Zeros, and everything available: nothing is undefined where nobody has reported yet."""
    obs: Any = np.zeros((n_workers, spec.n_agents, spec.obs_dim), np.float32)
    state: Any = np.zeros((n_workers, spec.state_dim), np.float32)
    avail: Any = np.ones((n_workers, spec.n_agents, spec.n_actions), bool)
    return Observation(obs=obs, state=state, avail=avail)
