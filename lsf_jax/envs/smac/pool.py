"""The pool of real SMAC: what it tells its workers, and which of SMAC's own faults it counts.

A fault can be a step that SMAC passes off as an ordinary end, stale units after a reset, or a `max_reward` that grew.
A game is started afresh before it reaches StarCraft II's limit of game loops.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

from lsf_jax.envs.smac import game
from lsf_jax.envs.smac.config import OXWHIRL, SmacConfig, expected_max_reward, game_arguments, spec_of, worker_variables
from lsf_jax.envs.smac.requirements import advice, require_all, require_game
from lsf_jax.envs.workers.ask import IMPORT, ask_worker
from lsf_jax.envs.workers.pool import COUNTERS as COMMON_COUNTERS
from lsf_jax.envs.workers.pool import Pool, PoolGame
from lsf_jax.envs.workers.process import absolute
from lsf_jax.settings import ConfigError, clip, user_path

REMEDIES = {
    "stale_resets": "",  # the game was restarted inside reset()
    "wrong_max_rewards": (  # the game reported another max_reward than the table
        "in another version of the game units may differ: then set env.max_reward to this number"
    ),
}
COUNTERS = (*COMMON_COUNTERS, *REMEDIES)


class SmacPool(Pool):
    """`n_workers` games of real SMAC: a `HostEnv`. Not for several threads.

        with SmacPool(SmacConfig(map_name="3m"), n_workers=8, seed=0) as pool:
            pool.start()
            events = pool.receive(min_ready=8, timeout=1.0)

    Args:
      cfg: the settings.
      n_workers: games side by side.
      seed: worker w gets seed + w, and another n_workers more whenever it is started afresh.

    Raises:
      ConfigError: for settings that are wrong or do not fit together.
    """

    def __init__(self, cfg: SmacConfig, n_workers: int, seed: int = 0) -> None:
        super().__init__(_pool_game(cfg), cfg, n_workers, seed)


def check_smac(cfg: SmacConfig) -> None:
    """Look for everything that the games need, before anything is compiled or launched.

    Raises:
      HostError: something is missing, or another game than oxwhirl's cannot be imported.
      ConfigError: `env.factory` names no such place.
    """
    require_all(cfg)
    if cfg.factory:
        _check_place(cfg.factory)
        ask_worker(_pool_game(cfg)._replace(label=f"env.factory is {clip(cfg.factory, 200)}"), cfg, IMPORT)


def _check_place(factory: str) -> None:
    """What can be seen of `env.factory` without starting a process."""
    place, _, name = factory.rpartition(":")
    problem = "" if place and name else "expected 'file.py:Class' or 'module:Class'"
    if not problem and place.endswith(".py") and not user_path("env.factory", place).is_file():
        problem = f"there is no file {place}"
    if problem:
        raise ConfigError(f"env.factory is {clip(factory, 200)}; {problem}")


def _pool_game(cfg: SmacConfig) -> PoolGame:
    return PoolGame(
        label=cfg.map_name,
        spec=spec_of(cfg),
        settings=partial(_settings, cfg),
        variables=worker_variables(cfg),
        remedies=REMEDIES,
        check=partial(require_game, cfg),
        advice=lambda: [] if cfg.factory else advice(cfg),
    )


def _settings(cfg: SmacConfig, seed: int, share: float) -> dict[str, Any]:
    return {
        "adapter": str(Path(game.__file__).absolute()),
        "code": {"factory": absolute(cfg.factory or OXWHIRL)},
        "arguments": {**game_arguments(cfg), "seed": seed},
        "step_mul": cfg.step_mul,
        "relaunch_loops": math.ceil(cfg.relaunch_loops * share),
        "max_reward": expected_max_reward(cfg),
    }
