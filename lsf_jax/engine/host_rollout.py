"""Rollouts of games on the host: one inference for all games that are ready, each game at its own pace.

Games run ahead: a worker whose episode is done starts the next one while others still play, and a finished episode
waits in its seed's queue until a batch takes it. No episode is dropped and none is counted twice, so short ones are not
over-represented. Episodes that a crash made void are not among them: they are played again.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lsf_jax.envs.host import FIRST, LOST, Event, Hosted, HostEnv, HostError, empty_episodes, pack
from lsf_jax.types import Act, Algorithm, Carry, Clock, Env, Episode, EpisodeStats, Hyper, Observation, Params, PRNGKey

EXPLORE, GREEDY, SAMPLED = "act", "act_greedy", "act_sampled"
"""How to act, by the function of the algorithm that does."""
PATIENCE = 1.0  # seconds between two looks at workers that do not answer; the environment has deadlines of its own
SHARES = ("env", "transfer", "inference", "other")
"""Where the host's time goes: waiting for games; observations arranged and actions sent; agents, which take what they
see from the host's memory; everything else."""


class Behaviour(NamedTuple):
    """Everything that decides how games of all seeds are played; leaves `[K, ...]` but for the clock's counters."""

    params: Params
    clock: Clock
    hyper: Hyper
    key: PRNGKey  # [K]


def make_actor(algorithm: Algorithm, how: str) -> Callable[..., tuple[Carry, Array]]:
    """The jitted inference of all games: `[K, E]` games, of which those that are ready move.

    Args:
      algorithm: how to act.
      how: EXPLORE, GREEDY or SAMPLED.

    Returns:
      `(behaviour, carry, observation, tick, first, ready) -> (carry, actions [K, E, N])`; `first` games begin with a
      fresh carry, games that are not ready keep theirs. One width always, so nothing compiles twice.
    """
    policy = getattr(algorithm, how)

    def one_game(act: Act, carry: Carry, seen: Observation, key: PRNGKey, flags: Array) -> tuple[Carry, Array]:
        first, ready = flags
        before = jax.tree.map(lambda new, old: jnp.where(first, new, old), algorithm.start(), carry)
        after, action = act(before, seen, key)
        return jax.tree.map(lambda new, old: jnp.where(ready, new, old), after, before), action

    def one_seed(behaviour: Behaviour, carry: Carry, seen: Observation, tick: Array, flags: Array) -> tuple:
        def act(carry: Carry, observation: Observation, key: PRNGKey) -> tuple[Carry, Array]:
            return policy(behaviour.params, carry, observation, key, behaviour.clock, behaviour.hyper)

        keys = jax.random.split(jax.random.fold_in(behaviour.key, tick), flags.shape[0])
        return jax.vmap(lambda *game: one_game(act, *game))(carry, seen, keys, flags)

    clock: Any = Clock(**{"env_steps": 0, "episodes": None, "updates": None})
    key: Any = 0
    axes = Behaviour(params=0, clock=clock, hyper=0, key=key)
    return jax.jit(jax.vmap(one_seed, in_axes=(axes, 0, 0, None, 0)))


class HostCollector:
    """Plays the games of K seeds, E workers each, with policies on the device. Host state, hence a class."""

    def __init__(self, env: Env, hosted: Hosted, algorithm: Algorithm, n_seeds: int, n_envs: int) -> None:
        """Nothing is launched before the first episode is asked for.

        Args:
          env: sizes of the games.
          hosted: how to open them.
          algorithm: how to act.
          n_seeds: K.
          n_envs: E, workers of each seed: worker w plays for seed w // E.
        """
        self.spec, self.hosted, self.n_seeds, self.n_envs = env.spec, hosted, n_seeds, n_envs
        self.actors = {how: make_actor(algorithm, how) for how in (EXPLORE, GREEDY, SAMPLED)}
        start = algorithm.start()
        self.carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n_seeds, n_envs, *leaf.shape)), start)
        self.games: HostEnv | None = None
        self.records = empty_episodes(env.spec, hosted, n_seeds * n_envs)
        self.length = np.zeros(n_seeds * n_envs, int)
        self.waiting: set[int] = set()  # workers that want an action
        self.fresh = np.ones(n_seeds * n_envs, bool)  # workers at the first observation of an episode
        self.queues: list[deque[Episode]] = [deque() for _ in range(n_seeds)]
        self.tick = 0
        self.last: Behaviour | None = None  # what episodes in progress were begun with
        self.seconds = dict.fromkeys(SHARES, 0.0)
        self.counted: dict[str, int] = {}  # of games that were closed
        self.reported: dict[str, int] = {}  # what earlier reports said

    def open(self, root_seed: int) -> None:
        """Launch the games, if they are not running.

        Raises:
          HostError: they cannot be launched.
        """
        if self.games is None:
            games = self.hosted.open(self.n_seeds * self.n_envs, root_seed)
            try:
                games.start()
            except BaseException:
                games.close()
                raise
            self.games = games

    def close(self) -> None:
        """End the games."""
        if self.games is not None:
            self.counted = dict(self.games.counters)
            self.games.close()
            self.games = None

    def take_report(self) -> dict[str, dict[str, float]]:
        """What has happened since the last call: `seconds` by what they were spent on, `counters` of healed faults."""
        counters = dict(self.games.counters) if self.games is not None else self.counted
        report = {
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "counters": {name: value - self.reported.get(name, 0) for name, value in counters.items()},
        }
        self.seconds, self.reported = dict.fromkeys(SHARES, 0.0), counters
        return report

    def collect(self, behaviour: Behaviour, n: int, ahead: int = 0) -> Episode:
        """Take `n` finished episodes of each seed, oldest first, playing until there are so many.

        Args:
          behaviour: how to play.
          n: episodes of each seed.
          ahead: further episodes of each seed that idle workers may begin meanwhile; 0 ends with every worker idle.

        Returns:
          NumPy `[K, n, T, ...]`.

        Raises:
          HostError: the games cannot go on.
        """
        self.last = behaviour

        def may_begin(seed: int) -> bool:
            return len(self.queues[seed]) + self._playing(seed) < n + ahead

        while any(len(queue) < n for queue in self.queues):
            self._advance(EXPLORE, behaviour, may_begin)
        taken = [[queue.popleft() for _ in range(n)] for queue in self.queues]
        by_seed = [jax.tree.map(lambda *rows: np.stack(rows), *episodes) for episodes in taken]
        return jax.tree.map(lambda *rows: np.stack(rows), *by_seed)

    def evaluate(self, behaviour: Behaviour, n: int, how: str = GREEDY) -> EpisodeStats:
        """Play exactly `n` whole episodes of each seed, `[K, n]`; nothing of them reaches a batch.

        Episodes in progress are finished first, as they were begun, and wait for the next batch.

        Raises:
          HostError: the games cannot go on.
        """
        while self.last is not None and any(self._playing(seed) for seed in range(self.n_seeds)):
            self._advance(EXPLORE, self.last, lambda seed: False)
        kept, self.queues = self.queues, [deque() for _ in range(self.n_seeds)]
        try:
            played: list[list[EpisodeStats]] = [[] for _ in self.queues]
            while any(len(stats) < n for stats in played):
                self._advance(how, behaviour, lambda seed: len(played[seed]) + self._playing(seed) < n)
                for stats, queue in zip(played, self.queues, strict=True):
                    while queue:  # episodes with all that was seen in them would fill the memory
                        stats.append(_stats(queue.popleft()))
        finally:
            self.queues = kept
        by_seed = [jax.tree.map(lambda *rows: np.stack(rows), *stats) for stats in played]
        return jax.tree.map(lambda *rows: np.stack(rows), *by_seed)

    def _playing(self, seed: int) -> int:
        """Episodes of a seed that have begun and are not finished."""
        mine = slice(seed * self.n_envs, (seed + 1) * self.n_envs)
        return int((~self.fresh[mine]).sum())

    def _advance(self, how: str, behaviour: Behaviour, may_begin: Callable[[int], bool]) -> None:
        """Answer the workers that wait, then take in what others report."""
        started = time.perf_counter()
        if self.games is None:
            raise HostError("the games are not running; open the collector first")
        before = sum(self.seconds.values())
        ready = self._to_move(may_begin)
        if ready:
            self._send(self.games, how, behaviour, ready)
        waited = time.perf_counter()
        events = self.games.receive(self.hosted.min_ready, PATIENCE)
        self.seconds["env"] += time.perf_counter() - waited
        for event in events:
            self._take(self.games, event)
        spent = sum(self.seconds.values()) - before
        self.seconds["other"] += time.perf_counter() - started - spent

    def _to_move(self, may_begin: Callable[[int], bool]) -> list[int]:
        """Workers that wait and may move; those at a first observation only while their seed wants more episodes."""
        ready = []
        for worker in sorted(self.waiting):
            if self.fresh[worker]:
                if not may_begin(worker // self.n_envs):
                    continue
                self.fresh[worker] = False  # counts as playing from here on
            ready.append(worker)
        return ready

    def _send(self, games: HostEnv, how: str, behaviour: Behaviour, ready: list[int]) -> None:
        """One inference for all; only the ready games move."""
        start = time.perf_counter()
        shape = (self.n_seeds, self.n_envs)
        flags = np.zeros((*shape, 2), bool)
        flags.reshape(-1, 2)[ready, 0] = self.length[ready] == 0
        flags.reshape(-1, 2)[ready, 1] = True
        # NumPy goes straight in: cheaper than making JAX arrays first, and nothing changes it before actions are here.
        seen = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), games.observation)
        moved = time.perf_counter()
        self.carry, actions = self.actors[how](behaviour, self.carry, seen, np.int32(self.tick), flags)
        chosen = np.asarray(actions).reshape(len(self.length), -1)[ready]
        self.tick += 1
        answered = time.perf_counter()
        self.records.action[ready, self.length[ready]] = chosen
        self.waiting.difference_update(ready)
        recorded = time.perf_counter()
        games.send(ready, chosen)
        self.seconds["transfer"] += moved - start + time.perf_counter() - recorded
        self.seconds["inference"] += answered - moved

    def _take(self, games: HostEnv, event: Event) -> None:
        """Record what one worker reports."""
        worker = event.worker
        if event.kind == LOST:
            self._reset(worker)
            self.waiting.discard(worker)
            return
        if event.kind == FIRST:
            self._reset(worker)
        else:
            self._record(worker, event)
        self._see(games, worker)
        if event.done:
            self.queues[worker // self.n_envs].append(jax.tree.map(lambda rows: rows[worker].copy(), self.records))
            self.fresh[worker] = True
        else:
            self.waiting.add(worker)

    def _reset(self, worker: int) -> None:
        """Forget a worker's episode; the next event is its first."""
        for leaf in jax.tree.leaves(self.records):
            leaf[worker] = 0
        self.length[worker] = 0
        self.fresh[worker] = True

    def _record(self, worker: int, event: Event) -> None:
        """Write the step that a worker has just made; of what it reports, the last step counts."""
        at = (worker, self.length[worker])
        if self.length[worker] >= self.spec.episode_limit:
            raise HostError(f"worker {worker}: an episode is longer than its limit of {self.spec.episode_limit} steps")
        self.records.reward[at], self.records.terminal[at], self.records.valid[at] = event.reward, event.terminal, True
        for name in self.hosted.info:
            self.records.info[name][at] = event.info[name] if event.done else 0.0
        self.length[worker] += 1

    def _see(self, games: HostEnv, worker: int) -> None:
        """Write what a worker shows now as the world of its episode."""
        now = jax.tree.map(lambda leaf: leaf[worker], games.observation)
        for rows, value in zip(self.records.world, pack(now, self.hosted.store), strict=True):
            rows[worker, self.length[worker]] = value


def _stats(episode: Episode) -> EpisodeStats:
    """Sums over one finished episode of NumPy arrays."""
    sums: dict[str, Any] = {
        "episode_return": np.float32(episode.reward.sum()),
        "length": np.int32(episode.valid.sum()),
        "terminal": np.bool_(episode.terminal.any()),
        "info": {name: np.float32(values.sum()) for name, values in episode.info.items()},
        "first_action": episode.action[0].astype(np.int32),
    }
    return EpisodeStats(**sums)
