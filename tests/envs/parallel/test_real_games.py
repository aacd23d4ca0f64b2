"""Games of the real packages, which are extras: what is read of them, and a few random episodes."""

import tempfile

import numpy as np
import pytest

from lsf_jax.envs import ENVS
from lsf_jax.envs.host import FIRST
from lsf_jax.envs.parallel.config import ParallelConfig
from tests.support.parallel_cases import has_packages

FORAGING = "lbforaging:Foraging-5x5-2p-1f-v3"
GAMES = {
    "mpe2": (
        {"make": "mpe2.simple_spread_v3:parallel_env", "arguments": {"N": 3, "max_cycles": 10}},
        ((3, 5, 18, 54, 10), "cut", -500.0, 0.0),
    ),
    "mpe2, speaker and listener": (
        {"make": "mpe2.simple_speaker_listener_v4:parallel_env", "state": "observations", "episode_limit": 6},
        ((2, 5, 11, 14, 6), "cut", -500.0, 0.0),
    ),
    "pettingzoo": (
        {"make": "pettingzoo.classic.rps_v2:parallel_env", "arguments": {"max_cycles": 5}, "team_reward": "sum"},
        ((2, 3, 4, 8, 5), "cut", 0.0, 0.0),
    ),
    "lbforaging": (
        {"make": "gymnasium:make", "arguments": {"id": FORAGING}, "team_reward": "sum"},
        ((2, 6, 9, 18, 50), "terminal", 0.0, 1.0),
    ),
    "lbforaging, cut": (
        {"make": "gymnasium:make", "arguments": {"id": FORAGING}, "team_reward": "sum", "limit_truncates": True},
        ((2, 6, 9, 18, 50), "cut", 0.0, 1.0),
    ),
}


def random_episodes(pool, n):
    """(return, length, terminal) of `n` episodes of random available actions."""
    rng, found = np.random.default_rng(0), []
    sums = np.zeros((pool.n_workers, 2))
    while len(found) < n:
        ready = []
        for event in pool.receive(1, 10.0):
            sums[event.worker] = 0 if event.kind == FIRST else sums[event.worker] + (event.reward, 1)
            found += [(*sums[event.worker], event.terminal)] if event.done else []
            ready += [] if event.done else [event.worker]
        if ready:
            avail = pool.observation.avail[ready]
            pool.send(ready, np.where(avail, rng.random(avail.shape), -1).argmax(-1))
    return found


@pytest.mark.parametrize("name", GAMES)
def test_a_game_is_read_and_played(monkeypatch, tmp_path, name):
    package = name.partition(",")[0]
    if not has_packages("pettingzoo", package):
        pytest.skip(f"not installed: pip install pettingzoo gymnasium {package}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings, (sizes, ends, least, most) = GAMES[name]
    cfg = ParallelConfig(**settings, stagger=0.0)
    assert tuple(ENVS["parallel"].factory(cfg).spec) == sizes
    pool = ENVS["parallel"].hosted(cfg).open(1, 3)
    try:
        pool.start()
        episodes = random_episodes(pool, 3)
    finally:
        pool.close()
    assert not any(pool.counters.values())
    for total, length, terminal in episodes:
        assert least <= total <= most
        assert 1 <= length <= sizes[-1]
        assert terminal == (length < sizes[-1] or ends == "terminal")
