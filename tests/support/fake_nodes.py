"""Nodes of a cluster in this process: real pools of scripted games behind doors of threads, which can be lost."""

import contextlib
import pickle
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from lsf_jax.envs.hosts import line as lines
from lsf_jax.envs.hosts.games import RemoteGames
from lsf_jax.envs.hosts.node import NodeGames
from lsf_jax.envs.hosts.places import Offer, Shape
from lsf_jax.envs.smac.config import SmacConfig, spec_of
from lsf_jax.envs.smac.game import INFO
from lsf_jax.envs.smac.hosted import host_smac
from tests.support.smac_cases import BASE, QUICK, Player

HERE = "127.0.0.1"
ANY_SEED = 2**31
"""Size of the pool that scripted games are told: each knows itself by its seed alone."""


LINES = {}
"""The nodes' ends of connections by their secrets; recorded where nodes answer them."""


def await_call(listener, secret, seconds):
    LINES[secret] = lines.await_call(listener, secret, seconds)
    return LINES[secret]


class FakeDoor:
    """A node's process: a thread that starts games, and the line that it answers."""

    def __init__(self, describe, slots):
        self.slots, self.games = slots, NodeGames(describe)
        self.threads = ThreadPoolExecutor(1)
        self.is_gone = False
        self.secret = self.started = None

    def call(self, method, *arguments):
        if self.is_gone:
            answer = Future()
            answer.set_exception(ConnectionError("the node is gone"))
            return answer
        if method == "start":
            self.secret = arguments[-1]
            return self.threads.submit(self.start, *arguments)
        return self.threads.submit(getattr(self.games, method), *arguments)

    def start(self, *arguments):
        self.started = self.games.start(*arguments)
        if self.is_gone:
            self.end_games()
        return self.started

    def shut(self):
        self.is_gone = True
        if self.started is not None:
            self.end_games()

    def end_games(self):
        """As the end of its process would: the line ends, or the wait for it does."""
        with contextlib.suppress(OSError):
            if line := LINES.get(self.secret):
                line._socket.shutdown(socket.SHUT_RDWR)
            elif not self.started.problem:
                lines.call_up(HERE, self.started.port, self.secret).close()

    @property
    def line(self):
        return LINES[self.secret]


class FakeNodes:
    """Names of nodes and their slots; tests add some, and `kill` others."""

    def __init__(self, describe, slots):
        self.describe, self.slots, self.doors = pickle.dumps(describe), dict(slots), []
        self.dead = set()  # nodes that are offered though they are gone
        self.reports = {}  # what nodes say of themselves instead of looking; None: nothing

    def offers(self):
        taken = {name: sum(d.slots for n, d in self.doors if n == name and not d.is_gone) for name in self.slots}
        return [Offer(name, f"node {name}", HERE, slots - taken[name]) for name, slots in self.slots.items()]

    def open(self, node, slots):
        door = FakeDoor(self.describe, slots)
        if node in self.reports:
            report = self.reports[node]
            door.games.inspect = lambda: report or time.sleep(3)
        self.doors.append((node, door))
        if node in self.dead:
            door.shut()
        return door

    def how_to_offer(self):
        return "offer some"

    def door_of(self, name):
        (door,) = [door for node, door in self.doors if node == name and not door.is_gone]
        return door

    def is_connected(self, name):
        """Whether games are played there; only such a node counts as lost. For the thread that plays them."""
        return any(node == name and door.secret in LINES for node, door in self.doors)

    def kill(self, name):
        self.slots.pop(name)
        self.door_of(name).shut()

    def kill_unnoticed(self, name):
        """End a node that is still offered, as Ray does for some seconds."""
        self.dead.add(name)
        self.door_of(name).shut()

    def connect(self):
        return contextlib.nullcontext(self)


def remote_games(slots, n_workers, **settings):
    """Scripted games on fake nodes with so many slots, and the nodes; not started."""
    cfg = SmacConfig(**(QUICK | {"hosts": "auto"} | settings))
    here = partial(host_smac, SmacConfig(**(QUICK | settings)))
    nodes = FakeNodes(here, slots)
    return RemoteGames(nodes.connect, Shape(spec_of(cfg), INFO), cfg, n_workers, BASE), nodes


class RemotePlayer(Player):
    """A player of games whose numbers follow from their seeds: each belongs to one place and life."""

    def check_game(self, worker, game):
        del worker
        assert game >= 0
