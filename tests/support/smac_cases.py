"""What the tests of real SMAC's pool share: pools of scripted games, a player that checks every event, leak finders."""

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from lsf_jax.envs.host import FIRST, LOST, STEP, PackedObservation
from lsf_jax.envs.smac.config import SmacConfig
from lsf_jax.envs.smac.pool import SmacPool
from lsf_jax.envs.workers.process import PREFIX

SCRIPTED = Path(__file__).with_name("scripted.py")
BASE = 1000
QUICK = {"map_name": "3m", "factory": f"{SCRIPTED}:ScriptedEnv", "stagger": 0.0, "backoff": 0.02, "deadline": 20.0}

WORKERS = 4  # of each of two seeds
SMALL = (
    "algo.hidden=8",
    "algo.mixer_embed=4",
    "algo.hyper_hidden=8",
    "algo.batch_size=8",
    "algo.recurrent=false",
    "train.seeds=2",
    f"train.n_envs={WORKERS}",
    f"train.seed={BASE}",
    "algo.updates=1",
    "train.buffer_capacity=64",
    "train.evaluate_every=2000",
    "train.eval_episodes=5",
    "train.lengths=1",
)
"""Settings of a training that takes seconds."""


@contextlib.contextmanager
def scripted_pool(monkeypatch, tmp_path, n_workers=2, settings=(), **script):
    """A pool of scripted games, not started; afterwards nothing of it may be left."""
    script = {"base": BASE, "workers": n_workers, "token": str(tmp_path), **script}
    monkeypatch.setenv("SCRIPTED_SMAC", json.dumps(script))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = SmacPool(SmacConfig(**(QUICK | dict(settings))), n_workers, seed=BASE)
    try:
        yield pool
    finally:
        pool.close()
        assert leftovers(tmp_path) == ([], [])


def leftovers(tmp_path):
    """Processes that the scripted games of a test have left, and files in its temporary folder."""
    return marked_processes(str(tmp_path)), sorted(path.name for path in tmp_path.glob(f"{PREFIX}*"))


def marked_processes(token):
    """Live processes, workers and their games, in whose environment the test's token stands."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            script = process.environ().get("SCRIPTED_SMAC", "")
            is_ours = process.pid != os.getpid() and script and json.loads(script).get("token") == token
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def wait_until(holds, seconds=20.0):
    """Whether it held at some time; it is not asked again then, since asking may move things."""
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return held


def lowest(pool, workers):
    """For each agent the first action that is available to it."""
    return pool.observation.avail[list(workers)].argmax(-1)


class Player:
    """Plays random available actions and checks that every event fits what was sent and seen before."""

    def __init__(self, pool, seed=0):
        self.pool, self.rng = pool, np.random.default_rng(seed)
        self.episodes = []  # (worker, generation, episode, length) of complete ones
        self.lost = self.steps = 0
        self.open = {}  # worker -> identity of the episode under way
        self.sent = {}  # worker -> sum of the actions that wait for an answer
        self.idle = set()

    def play(self, episodes, seconds=60.0, min_ready=1):
        end = time.monotonic() + seconds
        while len(self.episodes) < episodes:
            assert time.monotonic() < end, (len(self.episodes), self.pool.counters, self.pool.last_fault)
            self.turn(min_ready)

    def turn(self, min_ready=1, timeout=1.0):
        events = self.pool.receive(min_ready, timeout)
        assert len({event.worker for event in events}) == len(events)
        for event in events:
            self.check(event)
        self.act()
        return events

    def act(self):
        workers = sorted(self.idle)
        if workers:
            chances = self.rng.random(self.pool.observation.avail[workers].shape)
            actions = np.where(self.pool.observation.avail[workers], chances, -1).argmax(-1)
            self.sent |= dict(zip(workers, actions.sum(-1).tolist()))
            self.idle.clear()
            self.pool.send(workers, actions)

    def check(self, event):
        row = [int(x) for x in self.pool.observation.obs[event.worker, 0, :4]]
        identity, step = tuple(row[:3]), row[3]
        if event.kind == LOST:
            assert self.open.pop(event.worker) is not None
            self.sent.pop(event.worker, None)
            self.idle.discard(event.worker)
            self.lost += 1
            return
        self.check_row(event.worker, row)
        if event.kind == FIRST:
            assert event.worker not in self.open
            assert identity not in {each[:3] for each in self.episodes}
            assert (step, event.reward, event.done, event.terminal, event.info) == (0, 0.0, False, False, {})
            self.open[event.worker] = [identity, 0]
        else:
            assert event.kind == STEP
            self.steps += 1
            before = self.open[event.worker]
            assert before[0] == identity
            assert step == before[1] + 1
            assert abs(event.reward - step - self.sent.pop(event.worker) / 1000) < 1e-6
            assert event.terminal == event.done
            won = float(event.done and step % 2 == 0)
            assert event.info == {"battle_won": won, "dead_allies": step % 3, "dead_enemies": 1}
            self.open[event.worker][1] = step
        if event.done:
            self.episodes.append((*self.open.pop(event.worker)[0], step))
        else:
            self.idle.add(event.worker)

    def check_row(self, worker, row):
        obs, state = self.pool.observation.obs[worker], self.pool.observation.state[worker]
        self.check_game(worker, row[0])
        assert (obs[:, :4] == row).all()
        assert (obs[:, 4] == np.arange(len(obs))).all()
        assert (state[:4] == row).all()
        assert state[4] == -1
        assert not obs[:, 5:].any()
        assert not state[5:].any()

    def check_game(self, worker, game):
        assert game == worker


def identity_of(episode):
    """(worker, generation, number) of a delivered episode, which must be whole."""
    assert isinstance(episode.world, PackedObservation)
    length = int(episode.valid.sum())
    obs = np.asarray(episode.world.obs, np.float32)[: length + 1]
    worker, generation, number = obs[0, 0, :3]
    for t in range(length + 1):
        for agent in range(obs.shape[1]):
            assert obs[t, agent, :5].tolist() == [worker, generation, number, t, agent]
    expected = [t + 1 + episode.action[t].sum() / 1000 for t in range(length)]
    np.testing.assert_allclose(episode.reward[:length], expected, rtol=1e-5)
    assert episode.terminal.tolist() == [t == length - 1 for t in range(len(episode.terminal))]
    return int(worker), int(generation), int(number)
