"""The games of one node: the pool that one machine would have, played for a trainer at the other end of a line."""

import hashlib
import importlib.metadata
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.envs.host import Hosted, HostError
from lsf_jax.envs.hosts import line as lines
from lsf_jax.envs.hosts.line import Line, await_call
from lsf_jax.envs.hosts.rows import event_rows, order_rows, pack_events
from lsf_jax.envs.workers.pool import Pool
from lsf_jax.settings import ConfigError
from lsf_jax.types import EnvSpec

BEAT = 2.0  # seconds after which a node says that it is there though nothing has happened
LOOK = 0.2  # seconds between two looks at games that all wait for an action: one may have died
CALL = 60.0  # seconds that the trainer gets to connect


class Report(NamedTuple):
    """What a node has of the games that it is to play."""

    versions: dict[str, str]  # what must be the same on all nodes
    problem: str  # what is missing; "": nothing


class Started(NamedTuple):
    """How a node's games began."""

    problem: str  # why they cannot be played; "": they can
    port: int = 0  # where it listens
    counters: tuple[str, ...] = ()  # names of what its pool counts


class NodeGames:
    """A pool for a trainer elsewhere: the actor of a node. What is asked of it comes through Ray until games begin.

    From then on a thread of its own owns the pool and the line. When the trainer is gone, however that came about, the
    line ends, and the games with it.
    """

    def __init__(self, describe: bytes) -> None:
        """Nothing is opened yet.

        Args:
          describe: pickle of a function `() -> Hosted`.
        """
        self._describe = describe

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

    def start(self, slots: int, seed: int, spec: EnvSpec, host: str, secret: bytes) -> Started:
        """Launch games and wait until each has begun its first episode; then play for whoever connects.

        Args:
          slots: how many.
          seed: of the games.
          spec: sizes that they must have.
          host: address to listen on.
          secret: what the connection must begin with.
        """
        try:
            hosted = self._hosted()
            pool: Any = hosted.open(slots, seed)
            if pool.spec != spec:
                return Started(f"its games have other sizes: {pool.spec}, expected {spec}")
            pool.start()
            listener = lines.listen(host)
        except (HostError, ConfigError) as error:
            return Started(str(error))
        except OSError as error:
            pool.close()
            return Started(f"cannot listen on {host}: {error}")
        threading.Thread(target=_serve, args=(pool, hosted.info, listener, secret), daemon=True).start()
        return Started("", listener.getsockname()[1], tuple(pool.counters))

    def _hosted(self) -> Hosted:
        try:
            describe: Callable[[], Hosted] = pickle.loads(self._describe)
        except Exception as error:  # whatever code of the user's does when it is imported
            raise HostError(f"cannot be imported: {type(error).__name__}: {error}") from None
        return describe()


def _serve(pool: Pool, info: tuple[str, ...], listener: socket.socket, secret: bytes) -> None:
    """Play for the trainer until it ends the games or is gone."""
    try:
        with listener:
            line = await_call(listener, secret, CALL)
        if line is not None:
            with suppress(OSError):
                _play(_Service(pool, info, line))
            pool.close()
            line.close()  # tells the trainer that nothing is left
    finally:
        pool.close()


def _play(service: "_Service") -> None:
    """Raises OSError when the trainer is gone; it is told of everything else."""
    try:
        service.run()
    except OSError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
        service.line.send(lines.PROBLEM, text.encode())


class _Service:
    """A pool and the line to its trainer."""

    def __init__(self, pool: Pool, info: tuple[str, ...], line: Line) -> None:
        self.pool, self.info, self.line = pool, info, line
        self.events, self.orders = event_rows(pool.spec, info), order_rows(pool.spec)
        self.reported = np.zeros(pool.n_workers, np.int64)  # events of each slot so far
        self.counters: list[int] = []  # as they were told last
        self.told_at = 0.0  # when anything was told

    def run(self) -> None:
        """Events there, orders back, until the end."""
        self.pool.watch(self.line.fileno())
        while self._obey():
            self._report()
            if not self.pool.is_under_way():
                self.line.wait(LOOK)

    def _obey(self) -> bool:
        """Do what has been ordered; False if that is the end."""
        for kind, content in self.line.receive():
            if kind == lines.END:
                return False
            if kind == lines.ORDERS:
                self._send(np.frombuffer(content, self.orders))
            else:
                self._send_replay(int(content))
        return True

    def _send(self, orders: np.ndarray) -> None:
        """Move games, except by answers to events that another one has overtaken: those episodes are void."""
        timely = orders[orders["seen"] == self.reported[orders["slot"]]]
        if len(timely):
            self.pool.send(timely["slot"].tolist(), timely["action"])

    def _report(self) -> None:
        """Wait for events and tell them; now and then that there are none."""
        events = self.pool.receive(1, BEAT)
        if events or time.monotonic() - self.told_at >= BEAT:
            self.reported[[event.worker for event in events]] += 1
            packed = pack_events(events, self.pool.observation, self.info, self.events)
            self.line.send(lines.EVENTS, packed.tobytes())
            self.told_at = time.monotonic()
        counters = list(self.pool.counters.values())
        if counters != self.counters:
            self.line.send(lines.COUNTERS, np.array(counters, np.int64).tobytes())
            self.counters = counters

    def _send_replay(self, slot: int) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                path = self.pool.save_replay(slot, scratch)
            except HostError as error:
                self.line.send(lines.NO_REPLAY, str(error).encode())
            else:
                self.line.send(lines.REPLAY, path.name.encode() + b"\0" + path.read_bytes())


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
