"""The pool: W workers, each with a game, kept alive whatever happens; what `lsf_jax.envs.base.HostEnv` describes.

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
from lsf_jax.envs.smac.check import advice, examine_game, refuse
from lsf_jax.envs.smac.config import OXWHIRL, SmacConfig, expected_max_reward, game_arguments, spec_of
from lsf_jax.envs.smac.process import Nest, WorkerProcess
from lsf_jax.settings import ConfigError
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
PATIENCE = 10.0  # seconds that a killed worker gets to disappear
LONGEST_WAIT = 3600.0  # seconds between two looks of `receive`


class Pending(NamedTuple):
    """An event that has not been returned yet, and what its worker looked like then (None for LOST)."""

    event: Event
    observation: Observation | None


class Seat:
    """One worker as the pool sees it: its process, what it is at, and events that wait."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
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
        self._seats = [Seat(worker) for worker in range(n_workers)]
        self._retired: list[WorkerProcess] = []
        self._next_start = 0.0  # when any process may start: they are staggered
        self._selector: selectors.BaseSelector | None = None
        self._nest: Nest | None = None

    def __enter__(self) -> "SmacPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the workers one by one and waits until each has begun its first episode.

        Raises:
          HostError: something is missing (checked beforehand), or a worker failed too often; all are closed then.
        """
        if self._nest is not None:
            raise HostError("the pool has been started already")
        found = [] if self._cfg.factory else examine_game(self._cfg, [self._cfg.map_name])
        refuse([f"{finding.name}: {finding.text}" for finding in found if not finding.good])
        atexit.register(self.close)
        self._nest, self._selector = Nest(), selectors.DefaultSelector()
        try:
            while not all(seat.pending for seat in self._seats):
                self._pump(LONGEST_WAIT)
        except BaseException:
            self.close()
            raise

    def send(self, workers: Sequence[int], actions: np.ndarray) -> None:
        """Starts one step of each named worker; see `HostEnv.send`."""
        actions = np.asarray(actions)
        self._check(workers, actions)
        due = time.monotonic() + self._cfg.deadline
        for worker, joint in zip(workers, actions.tolist()):
            seat = self._seats[worker]
            seat.wants_action = False
            if seat.process is not None and not seat.pending:  # else its episode is lost, which receive will tell
                seat.process.tell({"step": joint})
                seat.deadline = due

    def receive(self, min_ready: int, timeout: float) -> list[Event]:
        """Events of whoever is ready; see `HostEnv.receive`. Here deadlines are kept and workers started again."""
        end = time.monotonic() + timeout
        self._pump(0.0)
        while sum(bool(seat.pending) for seat in self._seats) < min_ready:
            left = end - time.monotonic()
            if left <= 0 or not any(seat.is_busy() for seat in self._seats):
                break
            self._pump(left)
        return [self._deliver(seat) for seat in self._seats if seat.pending]

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
        seat = self._seats[worker]
        while seat.is_busy():
            self._pump(LONGEST_WAIT)
        process, seat.replay = seat.process, None
        if process is None:
            raise HostError("there is no game to save a replay of; start the pool first")
        process.tell({"replay": str(Path(folder).absolute())})
        seat.deadline = time.monotonic() + self._cfg.deadline
        while seat.replay is None and seat.process is process:
            self._pump(LONGEST_WAIT)
        answer = seat.replay or {"kind": "fault", "text": self.last_fault}
        if answer["kind"] != "replay":
            raise HostError(f"worker {worker} could not save a replay: {answer['text']}")
        return Path(answer["path"])

    def close(self) -> None:
        """Kills workers and games and waits until nothing is left of them; may be called again."""
        atexit.unregister(self.close)
        for seat in self._seats:
            self._retire(seat)
            seat.pending.clear()
            seat.wants_action = seat.is_playing = False
        while self._retired:
            self._forget_the_gone()
            time.sleep(0.005)
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._nest is not None:
            self._nest.remove()
            self._nest = None

    def _check(self, workers: Sequence[int], actions: np.ndarray) -> None:
        shape = (len(workers), self.spec.n_agents)
        if actions.shape != shape or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions are {actions.dtype} {actions.shape}; expected integers {shape}")
        idle = [seat.worker for seat in self._seats if seat.wants_action]
        wrong = sorted(set(workers) - set(idle))
        if wrong or len(set(workers)) < len(workers):
            raise ValueError(f"actions for workers {list(workers)}; expected some of those that wait for one: {idle}")
        for worker, joint in zip(workers, actions.tolist()):  # few at a time: plain Python is faster than NumPy here
            avail = np.asarray(self.observation.avail)[worker]
            for agent, action in enumerate(joint):
                if not (0 <= action < self.spec.n_actions and avail[agent, action]):
                    raise ValueError(
                        f"worker {worker}: agent {agent} cannot take action {action}; available are "
                        f"{np.flatnonzero(avail[agent]).tolist()}"
                    )

    def _deliver(self, seat: Seat) -> Event:
        event, observation = seat.pending.popleft()
        if observation is not None:
            for rows, row in zip(self.observation, observation):
                np.copyto(rows[seat.worker], row)  # pyright: ignore[reportArgumentType]
        seat.is_playing |= event.kind == FIRST
        seat.wants_action = event.kind == FIRST or (event.kind == STEP and not event.done)
        return event

    def _pump(self, patience: float) -> None:
        """Starts, hears and judges workers: all that is due, after waiting until something is or patience ends."""
        if self._selector is None:
            raise HostError("the pool has no games; call start() first")
        self._start_due()
        for key, _ in self._selector.select(self._seconds_to_wait(patience)):
            self._hear(key.data)
        now = time.monotonic()
        for seat in self._seats:
            if seat.process is not None and seat.deadline <= now:
                limit = self._cfg.launch_deadline if seat.is_new else self._cfg.deadline
                self._fail(seat, "hangs", f"no answer within {limit:g} s")
        self._forget_the_gone()

    def _seconds_to_wait(self, patience: float) -> float:
        starts = [max(seat.start_at, self._next_start) for seat in self._seats if seat.process is None]
        soonest = min([seat.deadline for seat in self._seats] + starts)
        return max(0.0, min(patience, soonest - time.monotonic(), LONGEST_WAIT))

    def _start_due(self) -> None:
        for seat in self._seats:
            now = time.monotonic()
            if seat.process is None and max(seat.start_at, self._next_start) <= now:
                self._next_start = now + self._cfg.stagger
                self._start_one(seat)

    def _start_one(self, seat: Seat) -> None:
        cfg, nest, selector = self._cfg, self._nest, self._selector
        if nest is None or selector is None:
            return
        seat.generation += 1
        seed = (self._seed + seat.worker + seat.generation * self.n_workers) % 2**31
        # Games that start together would otherwise be relaunched together, and nobody would play meanwhile.
        share = 1.0 if seat.generation else 1.0 - 0.5 * seat.worker / self.n_workers
        settings = {
            "factory": _absolute(cfg.factory or OXWHIRL),
            "arguments": {**game_arguments(cfg), "seed": seed},
            "step_mul": cfg.step_mul,
            "relaunch_loops": math.ceil(cfg.relaunch_loops * share),
        }
        folder = nest.path / f"worker-{seat.worker}-{seat.generation}"
        seat.is_new = True
        try:
            seat.process = WorkerProcess(folder, settings, self.spec, python=cfg.python, sc2_path=cfg.sc2_path)
        except OSError as error:
            self._fail(seat, "launch_failures", f"no process could be started: {error}")
        else:
            seat.deadline = time.monotonic() + cfg.launch_deadline
            selector.register(seat.process, selectors.EVENT_READ, seat)

    def _hear(self, seat: Seat) -> None:
        process = seat.process
        if process is None:
            return
        messages, closed = process.hear()
        for message in messages:
            self._take(seat, process, message)
        if closed and seat.process is process:
            self._fail(seat, "crashes", "the process ended")

    def _take(self, seat: Seat, process: WorkerProcess, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "hello":
            process.pid = message["pid"]
        elif kind == "first":
            self._take_first(seat, process, message)
        elif kind == "step":
            self._take_step(seat, process, message)
        elif kind in ("replay", "no_replay"):
            seat.replay, seat.deadline = message, math.inf
        elif kind == "spent":
            self.counters["planned_relaunches"] += 1
            self._retire(seat)
        elif kind == "refused":
            raise self._broken(seat, message["text"], process.log_tail())
        else:
            counter = "stale_resets" if message["fault"] == "stale_reset" else "crashes"
            self._fail(seat, counter, message["text"])

    def _take_first(self, seat: Seat, process: WorkerProcess, message: dict[str, Any]) -> None:
        reward = message["max_reward"]
        if reward is not None and not math.isclose(reward, self._max_reward, rel_tol=1e-5):
            text = f"max_reward is {reward:g} after reset(), expected {self._max_reward:g}"
            seat.wrong_rewards += 1
            if seat.wrong_rewards > 1:
                remedy = "in another version of the game units may differ: then set env.max_reward to this number"
                raise self._broken(seat, f"{text}, in two games in a row; {remedy}", process.log_tail())
            return self._fail(seat, "wrong_max_rewards", text)
        seat.wrong_rewards, seat.is_new, seat.deadline = 0, False, math.inf
        event = Event(worker=seat.worker, kind=FIRST, reward=0.0, terminal=False, done=False, info={})
        return seat.pending.append(Pending(event=event, observation=process.look(message["slot"])))

    def _take_step(self, seat: Seat, process: WorkerProcess, message: dict[str, Any]) -> None:
        done = message["done"]
        event = Event(
            worker=seat.worker,
            kind=STEP,
            reward=message["reward"],
            terminal=done and not message["truncated"],
            done=done,
            info=message["info"],
        )
        seat.pending.append(Pending(event=event, observation=process.look(message["slot"])))
        seat.deadline = math.inf
        if done:
            seat.is_playing, seat.failures = False, 0
            seat.deadline = time.monotonic() + self._cfg.deadline

    def _fail(self, seat: Seat, counter: str, text: str) -> None:
        """Voids the episode and has the worker started again, or gives up."""
        if seat.is_new and counter in ("crashes", "hangs"):
            counter = "launch_failures"
        self.counters[counter] += 1
        tail = seat.process.log_tail() if seat.process else ""
        self.last_fault = f"worker {seat.worker}: {text}"
        self._retire(seat)
        while seat.pending and not (seat.pending[-1].event.done or seat.pending[-1].event.kind == LOST):
            seat.pending.pop()  # of the void episode, or of one that nobody has heard of
        if seat.is_playing:
            lost = Event(worker=seat.worker, kind=LOST, reward=0.0, terminal=False, done=False, info={})
            seat.pending.append(Pending(event=lost, observation=None))
            seat.is_playing = False
            self.counters["lost_episodes"] += 1
        seat.failures += 1
        if seat.failures > self._cfg.max_restarts:
            raise self._broken(seat, f"failed {seat.failures} times in a row, at last: {text}", tail)
        self.counters["restarts"] += 1
        if seat.failures > 1:
            pause = min(self._cfg.backoff * 2.0 ** (seat.failures - 2), LONGEST_BACKOFF)
            seat.start_at = time.monotonic() + pause

    def _retire(self, seat: Seat) -> None:
        if seat.process is not None:
            if self._selector is not None:
                self._selector.unregister(seat.process)
            seat.process.retire()
            self._retired.append(seat.process)
        seat.process, seat.deadline, seat.start_at = None, math.inf, 0.0

    def _forget_the_gone(self) -> None:
        self._retired = [process for process in self._retired if not process.is_gone(PATIENCE)]

    def _broken(self, seat: Seat, text: str, log: str) -> HostError:
        lines = [f"worker {seat.worker} of {self._cfg.map_name}: {text}"]
        lines += [] if self._cfg.factory else advice(self._cfg)
        lines += ["the end of its log:", log] if log else []
        return HostError("\n".join(lines))


def _blank(spec: EnvSpec, n_workers: int) -> Observation:
    """Zeros, and everything available: nothing is undefined where nobody has reported yet."""
    obs: Any = np.zeros((n_workers, spec.n_agents, spec.obs_dim), np.float32)
    state: Any = np.zeros((n_workers, spec.state_dim), np.float32)
    avail: Any = np.ones((n_workers, spec.n_agents, spec.n_actions), bool)
    return Observation(obs=obs, state=state, avail=avail)


def _absolute(factory: str) -> str:
    place, _, name = factory.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{name}" if place.endswith(".py") else factory
