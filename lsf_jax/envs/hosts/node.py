"""The games of one node: the pool that one machine would have, and the calls that reach it from the trainer."""

import hashlib
import importlib.metadata
import pickle
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.envs.host import Event, Hosted, HostError
from lsf_jax.envs.hosts.rows import Answer, event_rows, order_rows, pack_events
from lsf_jax.envs.workers.pool import Pool
from lsf_jax.settings import ConfigError
from lsf_jax.types import EnvSpec

LOOK = 0.2  # seconds between two looks at games that all wait for an action: one may have died


class Report(NamedTuple):
    """What a node has of the games that it is to play."""

    versions: dict[str, str]  # what must be the same on all nodes
    problem: str  # what is missing; "": nothing


def code_version() -> str:
    """Which code of ours plays games here; of two checkouts with one version number, their contents say it."""
    try:
        version = importlib.metadata.version("lsf-jax")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    return f"{version} of {code.hexdigest()[:6]}"


class NodeGames:
    """A pool for a trainer elsewhere: the actor of a node. Its calls come on several threads.

    The pool is touched by one of them at a time. A `turn` holds it while its games play, and ends early when another
    call wants it; actions reach it meanwhile through `post`.
    """

    def __init__(self, describe: bytes) -> None:
        """Nothing is opened yet.

        Args:
          describe: pickle of a function `() -> Hosted`, by Ray's own pickler.
        """
        self._describe = describe
        self._lock, self._news = threading.Lock(), threading.Event()
        self._posted: deque[np.ndarray] = deque()
        self._guests = 0  # calls that wait for the pool
        self._pool: Pool | None = None
        self._info: tuple[str, ...] = ()
        self._reported = np.zeros(0, np.int64)  # events of each slot so far

    def arrive(self) -> None:
        """Be there: the actor's process has started."""

    def inspect(self) -> Report:
        """Whether this node can play, found out without launching a game."""
        try:
            hosted = self._hosted()
            hosted.check()
            return Report({"lsf-jax": code_version(), **hosted.versions()}, "")
        except (HostError, ConfigError) as error:
            return Report({}, str(error))

    def start(self, slots: int, seed: int, spec: EnvSpec) -> str:
        """Open and launch so many games, of the sizes that the trainer was built for.

        Returns:
          Why they cannot be played; "" once each has begun its first episode.
        """
        with self._lock:
            try:
                hosted = self._hosted()
                pool: Any = hosted.open(slots, seed)
                self._pool, self._info = pool, hosted.info
                self._reported = np.zeros(slots, np.int64)
                self._events, self._orders = event_rows(pool.spec, hosted.info), order_rows(pool.spec)
                if pool.spec != spec:
                    return f"its games have other sizes: {pool.spec}, expected {spec}"
                pool.start()
            except (HostError, ConfigError) as error:
                return str(error)
        return ""

    def turn(self, orders: np.ndarray, seconds: float) -> Answer:
        """Send actions, then wait until a game has something to report, another call wants the pool, or time is up."""
        pool, end = self._open_pool(), time.monotonic() + seconds
        self.post(orders)
        with self._lock:
            try:
                events = self._play(pool, end)
            except HostError as error:
                return Answer(np.zeros(0, self._events), dict(pool.counters), str(error))
            for event in events:
                self._reported[event.worker] += 1
            packed = pack_events(events, pool.observation, self._info, self._events)
            return Answer(packed, dict(pool.counters), "")

    def post(self, orders: np.ndarray) -> None:
        """Leave actions for the turn that is going on, or the next one."""
        self._posted.append(orders)
        self._wake()

    def save_replay(self, slot: int) -> tuple[str, bytes]:
        """What a game has seen since it was launched: the name of the file and what is in it.

        Raises:
          HostError: the game could not save it.
        """
        with self._as_guest(), tempfile.TemporaryDirectory() as scratch:
            path = self._open_pool().save_replay(slot, scratch)
            return path.name, Path(path).read_bytes()

    def close(self) -> None:
        """End the games and wait until nothing is left of them."""
        with self._as_guest():
            if self._pool is not None:
                self._pool.close()

    def _hosted(self) -> Hosted:
        try:
            describe: Callable[[], Hosted] = pickle.loads(self._describe)
        except Exception as error:  # whatever code of the user's does when it is imported
            raise HostError(f"cannot be imported: {type(error).__name__}: {error}") from None
        return describe()

    def _open_pool(self) -> Pool:
        if self._pool is None:
            raise HostError("the games are not open; call start first")
        return self._pool

    def _play(self, pool: Pool, end: float) -> list[Event]:
        while True:
            self._news.clear()
            self._send_posted(pool)
            left = end - time.monotonic()
            events = pool.receive(1, max(0.0, left))
            if events or left <= 0 or self._guests:
                return events
            self._news.wait(min(left, LOOK))  # all games wait for actions, unless there is news already

    def _send_posted(self, pool: Pool) -> None:
        """Send what was left here, except answers to events that another one has overtaken: those episodes are void."""
        while self._posted:
            orders = self._posted.popleft()
            timely = orders[orders["seen"] == self._reported[orders["slot"]]]
            if len(timely):
                pool.send(timely["slot"].tolist(), timely["action"])

    @contextmanager
    def _as_guest(self) -> Iterator[None]:
        self._guests += 1
        self._wake()
        try:
            with self._lock:
                yield
        finally:
            self._guests -= 1

    def _wake(self) -> None:
        self._news.set()
        if self._pool is not None:
            self._pool.interrupt()
