"""Nodes of a cluster in this process: real pools of scripted games behind doors of threads, which can be lost."""

import contextlib
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from lsf_jax.envs.hosts.games import Offer, RemoteGames, Shape
from lsf_jax.envs.hosts.node import NodeGames
from lsf_jax.envs.smac.config import SmacConfig, spec_of
from lsf_jax.envs.smac.game import INFO
from lsf_jax.envs.smac.hosted import host_smac
from tests.support.smac_cases import BASE, QUICK, Player

ANY_SEED = 2**31
"""Size of the pool that scripted games are told: each knows itself by its seed alone."""


class FakeDoor:
    def __init__(self, describe, slots):
        self.slots, self.games = slots, NodeGames(describe)
        self.threads = ThreadPoolExecutor(4)
        self.is_gone = self.is_frozen = False
        self.waiting = []

    def call(self, method, *arguments):
        answer = Future()
        self.waiting.append(answer)
        if self.is_gone:
            answer.set_exception(ConnectionError("the node is gone"))
        elif not self.is_frozen:
            self.threads.submit(self.run, answer, method, arguments)
        return answer

    def run(self, answer, method, arguments):
        try:
            result = getattr(self.games, method)(*arguments)
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            return
        if not self.is_frozen and not answer.done():
            answer.set_result(result)

    def shut(self):
        if self.is_gone:
            return
        self.is_gone = True
        for answer in self.waiting:
            with contextlib.suppress(Exception):
                answer.set_exception(ConnectionError("the node is gone"))
        self.games.close()
        self.threads.shutdown()


class FakeNodes:
    def __init__(self, describe, slots):
        self.describe, self.slots, self.doors = pickle.dumps(describe), dict(slots), []

    def offers(self):
        taken = {name: sum(d.slots for n, d in self.doors if n == name and not d.is_gone) for name in self.slots}
        return [Offer(name, f"node {name}", slots - taken[name]) for name, slots in self.slots.items()]

    def open(self, node, slots):
        door = FakeDoor(self.describe, slots)
        self.doors.append((node, door))
        return door

    def how_to_offer(self):
        return "offer some"

    def doors_of(self, name):
        return [door for node, door in self.doors if node == name and not door.is_gone]

    def kill(self, name):
        self.slots.pop(name)
        for door in self.doors_of(name):
            door.shut()

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
