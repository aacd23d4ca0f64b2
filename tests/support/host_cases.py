"""A game on the host, in this process: every observation says whose it is, so that a lost or doubled one is seen."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from lsf_jax.envs.host import FIRST, LOST, STEP, Event, Hosted, HostError, hosted_env
from lsf_jax.settings import setting
from lsf_jax.types import EnvSpec, Observation

LIMIT = 5
SPEC = EnvSpec(n_agents=2, n_actions=3, obs_dim=4, state_dim=3, episode_limit=LIMIT)


@dataclass(frozen=True)
class ToyConfig:
    """Settings of the toy."""

    lose_every: int = setting(0, low=0, doc="every so-many-th episode of a worker is lost in its second step; 0: none")
    fail_after: int = setting(0, low=0, doc="steps after which the games cannot go on; 0: never")
    overlap: bool = setting(True, doc="collect while learning")


def length_of(worker, episode):
    """Steps of a worker's episode; those of LIMIT steps are cut by the limit."""
    return 2 + (3 * worker + episode) % (LIMIT - 1)


class ToyGames:
    """W games that answer one after another, the oldest request first."""

    def __init__(self, cfg, n_workers):
        self.cfg, self.spec, self.n_workers = cfg, SPEC, n_workers
        self.observation = Observation(
            obs=np.zeros((n_workers, 2, 4), np.float32),
            state=np.zeros((n_workers, 3), np.float32),
            avail=np.zeros((n_workers, 2, 3), bool),
        )
        self.counters = {"lost_episodes": 0}
        self.episode, self.time = np.zeros(n_workers, int), np.zeros(n_workers, int)
        self.todo: deque[tuple[int, str, np.ndarray | None]] = deque()
        self.steps, self.open = 0, False
        self.waiting: set[int] = set()
        self.sent: list[tuple[int, tuple[int, ...]]] = []
        self.finished: list[tuple[int, int]] = []

    def start(self):
        self.open = True
        self.todo.extend((worker, FIRST, None) for worker in range(self.n_workers))

    def send(self, workers, actions):
        for worker, action in zip(workers, actions, strict=True):
            if worker not in self.waiting or not self.observation.avail[worker, [0, 1], action].all():
                raise ValueError(f"worker {worker} waits for no action, or not for {action}")
        self.waiting -= set(workers)
        for worker, action in zip(workers, actions, strict=True):
            self.sent.append((worker, tuple(int(one) for one in action)))
            self.todo.append((worker, STEP, action))

    def receive(self, min_ready, timeout):
        assert self.open
        if self.cfg.fail_after and self.steps >= self.cfg.fail_after:
            raise HostError("the toy is broken; mend it")
        events = [self._event(*self.todo.popleft()) for _ in range(min(len(self.todo), max(min_ready, 2)))]
        self.waiting |= {event.worker for event in events if event.kind != LOST and not event.done}
        again = {event.worker for event in events if event.done or event.kind == LOST}
        self.todo.extend((worker, FIRST, None) for worker in sorted(again))
        return events

    def _event(self, worker, kind, action):
        if kind == FIRST:
            self.time[worker] = 0
            self.episode[worker] += 1
            self._show(worker)
            return Event(worker=worker, kind=FIRST)
        self.time[worker] += 1
        self.steps += 1
        episode, time = int(self.episode[worker]), int(self.time[worker])
        if self.cfg.lose_every and episode % self.cfg.lose_every == 0 and time == 2:
            self.counters["lost_episodes"] += 1
            return Event(worker=worker, kind=LOST)
        done = time == length_of(worker, episode)
        self._show(worker)
        if done:
            self.finished.append((worker, episode))
        return Event(
            worker=worker,
            kind=STEP,
            reward=reward_of(action),
            terminal=done and time < LIMIT,
            done=done,
            info={"won": float(worker % 2), "steps": float(time)},
        )

    def _show(self, worker):
        episode, time = int(self.episode[worker]), int(self.time[worker])
        self.observation.obs[worker] = [time / 8, worker / 8, episode / 128, 1.0]
        self.observation.state[worker] = [time / 8, worker / 8, episode / 128]
        self.observation.avail[worker] = [[True, True, time % 2 == 0], [True, time % 2 == 0, True]]

    def save_replay(self, worker, folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{worker}.replay"
        path.write_text(str([name for name in self.finished if name[0] == worker]))
        return path

    def close(self):
        self.open = False


def reward_of(action):
    """Both agents must play 0."""
    return float(action[0] == 0) * float(action[1] == 0)


def make_toy(cfg):
    """Shapes of the toy for everything that runs on the device."""
    del cfg
    return hosted_env(SPEC, success=lambda stats: stats.info["won"] > 0, max_return=float(LIMIT), version="toy")


def host_toy(cfg, opened=None):
    """How to open the toy; the games that were opened are appended to `opened`."""

    def open_games(n_workers, root_seed):
        del root_seed
        games = ToyGames(cfg, n_workers)
        if opened is not None:
            opened.append(games)
        return games

    return Hosted(
        info=("won", "steps"),
        store="float16",
        overlap=cfg.overlap,
        min_ready=1,
        check=lambda: None,
        open=open_games,
    )
