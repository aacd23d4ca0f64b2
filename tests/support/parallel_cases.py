"""What tests of `--env parallel` share: the tiny games as settings, and a player that checks every event."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lsf_jax.envs.host import FIRST, LOST, STEP
from tests.support import parallel_games

FILE = Path(__file__).with_name("parallel_games.py")
ZOO = f"{FILE}:zoo"
QUICK = {"make": ZOO, "stagger": 0.0, "backoff": 0.02, "deadline": 20.0, "team_reward": "sum"}


def has_packages(*names):
    """Whether packages of others can be imported, without importing them."""
    return all(find_spec(name) for name in names)


class ZooPlayer:
    """Plays random available actions of `Zoo` and checks that every event fits what was seen before."""

    def __init__(self, pool, seed=0):
        self.pool, self.rng = pool, np.random.default_rng(seed)
        self.open = {}  # worker -> (episode of its game, steps)
        self.finished, self.lost = [], 0

    def play(self, episodes):
        while len(self.finished) < episodes:
            ready = [event.worker for event in self.pool.receive(1, 5.0) if self.check(event)]
            if ready:
                avail = self.pool.observation.avail[ready]
                self.pool.send(ready, np.where(avail, self.rng.random(avail.shape), -1).argmax(-1))

    def check(self, event):
        """Whether the worker wants an action now."""
        rows = self.pool.observation.obs[event.worker]
        if event.kind == LOST:
            self.lost += 1
            del self.open[event.worker]
            return False
        seen = [int(x) for x in rows[1, [parallel_games.EPISODE, parallel_games.STEP, parallel_games.AGENT]]]
        if event.kind == FIRST:
            assert event.worker not in self.open
            assert seen[1:] == [0, 1]
            self.open[event.worker] = seen[:2]
            return True
        assert event.kind == STEP
        episode, steps = self.open[event.worker]
        assert seen == [episode, steps + 1, 1]
        assert event.reward == (111.0 if steps < 2 else 110.0)
        assert event.terminal == (event.done and steps + 1 == 3)
        assert event.done == (event.terminal or steps + 1 == 4)
        assert (rows[0] == 0).all() == (steps + 1 > 2)
        self.open[event.worker][1] += 1
        if event.done:
            self.finished.append((event.worker, *self.open.pop(event.worker)))
        return not event.done
