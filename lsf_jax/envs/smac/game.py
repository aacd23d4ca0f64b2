"""The worker's side of real SMAC: one `StarCraft2Env`, watched for the faults that it passes off as ordinary events.

A script for `envs.workers.worker`, which loads it by its path: it runs under Python 3.8 and needs nothing installed.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from typing import Any, Callable  # noqa: UP035  (Python 3.8)

RESET_LOOPS = 3  # game loops of an episode's start, at most
INFO = ("battle_won", "dead_allies", "dead_enemies")


class SmacFault(Exception):
    """The game did something that voids the episode; `fault` is what it is counted as."""

    def __init__(self, fault: str, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def open_game(code: dict[str, Callable[..., Any]], settings: dict[str, Any]) -> Game:
    """The environment, constructed; nothing is launched before its first episode."""
    return Game(code["factory"](**settings["arguments"]), settings)


class Game:
    """The environment, and what it has used up of its game loops."""

    def __init__(self, env: Any, settings: dict[str, Any]) -> None:
        self._env, self._expected = env, settings["max_reward"]
        self._step_mul, self._most_loops = settings["step_mul"], settings["relaunch_loops"]
        self._loops, self._first = 0, None

    def problems(self, spec: dict[str, int]) -> list[str]:
        """Where `get_env_info()` differs from the sizes that the trainer was built for."""
        info = self._env.get_env_info()
        names = {"obs_shape": "obs_dim", "state_shape": "state_dim"}
        keys = ("n_agents", "n_actions", "obs_shape", "state_shape", "episode_limit")
        pairs = [(key, info.get(key), spec[names.get(key, key)]) for key in keys]
        return [f"{key} is {found}, expected {wanted}" for key, found, wanted in pairs if found != wanted]

    def is_spent(self) -> bool:
        """Whether StarCraft II's own limit of game loops is near."""
        return self._loops >= self._most_loops

    def begin(self) -> None:
        """Starts an episode, once and no more."""
        restarts = count_restarts(self._env)
        self._first = self._env.reset()
        if count_restarts(self._env) != restarts:
            raise SmacFault("stale_resets", "the game was restarted inside reset(), which leaves stale units")
        self._loops += RESET_LOOPS
        reward = getattr(self._env, "max_reward", None)
        if reward is not None and not math.isclose(reward, self._expected, rel_tol=1e-5):
            text = f"max_reward is {reward:g} after reset(), expected {self._expected:g}"
            raise SmacFault("wrong_max_rewards", text)

    def look(self) -> tuple[Any, Any, Any]:
        """Observations, state and masks as they are now."""
        obs, state = self._first or (self._env.get_obs(), self._env.get_state())
        self._first = None
        return obs, state, self._env.get_avail_actions()

    def step(self, actions: list[int]) -> tuple[float, bool, bool, dict[str, float]]:
        """One step: reward, whether the episode is done, whether by the time limit, and what is reported of it."""
        restarts = count_restarts(self._env)
        reward, done, info = self._env.step(actions)
        self._loops += self._step_mul
        if "battle_won" not in info or count_restarts(self._env) != restarts:
            raise SmacFault("crashes", "the game was restarted inside step()")
        content = {name: float(info.get(name, 0)) for name in INFO}
        return float(reward), bool(done), bool(info.get("episode_limit", False)), content

    def save_replay(self, folder: str) -> str:
        """Lets the environment save its replay and moves the file, whose name SMAC does not return, to `folder`."""
        scratch = tempfile.mkdtemp(prefix="replay-")
        self._env.replay_dir = scratch  # an absolute path wins over StarCraft II's own folder
        self._env.save_replay()
        (name,) = os.listdir(scratch)
        os.makedirs(folder, exist_ok=True)
        stem, end = os.path.splitext(name)
        path, number = os.path.join(folder, name), 1
        while os.path.exists(path):  # SMAC's names hold the second, and workers may share a folder
            number += 1
            path = os.path.join(folder, f"{stem}-{number}{end}")
        shutil.move(os.path.join(scratch, name), path)
        return path


def count_restarts(env: Any) -> int:
    """How often SMAC has restarted the game behind our back."""
    if hasattr(env, "force_restarts"):
        return int(env.force_restarts)
    try:
        return int(env.get_stats().get("restarts", 0))
    except ZeroDivisionError:  # SMAC's win rate before the first finished battle
        return 0
