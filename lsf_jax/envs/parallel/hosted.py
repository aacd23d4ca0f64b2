"""Games of others as environments: PettingZoo's parallel interface, and Gymnasium's with several agents."""

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.envs.base import check_spec
from lsf_jax.envs.host import Finding, Hosted, HostEnv, hosted_env
from lsf_jax.envs.hosts import spread
from lsf_jax.envs.parallel import game
from lsf_jax.envs.parallel.code import code_of
from lsf_jax.envs.parallel.config import ParallelConfig, check_parallel, is_code, with_defaults
from lsf_jax.envs.workers.ask import DESCRIBE, ask_worker
from lsf_jax.envs.workers.pool import Pool, PoolGame
from lsf_jax.envs.workers.process import absolute, as_on_a_node, source_version
from lsf_jax.registry import Entry
from lsf_jax.types import Env, EnvSpec, EpisodeStats

OUR_VERSION = "1"
"""Another one whenever the adapter changes observations, rewards or the end of episodes."""
UNKNOWN = EnvSpec(n_agents=1, n_actions=1, obs_dim=1, state_dim=1, episode_limit=1)
"""Stands for the sizes of a game that is asked for them."""
CODE_KEYS = ("make", "team_reward", "state")
"""Settings that may name code."""
Pickles = Mapping[str, str]
"""Pickles in base 64 by the text that settings show for them."""
NO_PICKLES: Pickles = MappingProxyType({})


class Description(NamedTuple):
    """What a game says of itself."""

    spec: EnvSpec
    version: str  # of the package that it is from; "" if it is from none


_KNOWN: dict[str, Description] = {}
"""What games that were asked have said, by all that they were asked with: asking takes a process."""


def from_parallel_env(
    make: str | Callable[..., Any],
    *,
    name: str = "parallel",
    team_reward: str | Callable[..., Any] = "mean",
    state: str | Callable[..., Any] = "auto",
    doc: str = "a game on the host",
    **settings: Any,
) -> Entry:
    """An environment of a game with PettingZoo's parallel interface, or with Gymnasium's and several agents.

        entry = lsf_jax.from_parallel_env("mpe2.simple_spread_v3:parallel_env", name="spread", arguments={"N": 3})
        lsf_jax.ENVS[entry.name] = entry        # then: lsf_jax.compose(env="spread")

    Every game runs in a spawned process of its own, where functions are found by their names: those of a script in its
    file, those of a module by importing it. What has no name (a `functools.partial`) is pickled.

    Args:
      make: makes one game; "module:function", "file.py:function", or something that can be called and found again.
      name: of the environment.
      team_reward: sum, mean or first of the agents' rewards, or a function of them (a dictionary by agent, 0 for those
        that have left; one number where the game gives one).
      state: what critics see: "game" (`env.state()`), "observations" (those of all agents side by side), "auto" (the
        former of a game with a `state_space`), or a function of the game and a dictionary of flat observations.
      doc: one line for people.
      **settings: defaults of any other setting of `--env parallel`, for example arguments, episode_limit or deadline.

    Returns:
      The entry. Agents that have left an episode observe zeros and have action 0 alone.

    Raises:
      ConfigError: a setting is wrong, or a function cannot be found by another process: a lambda, for example.
    """
    codes = {"make": code_of(make, "make"), "team_reward": code_of(team_reward, "team_reward")}
    codes["state"] = code_of(state, "state")
    pickles = {code.text: code.pickle for code in codes.values() if code.pickle}
    chosen: Any = {key: code.text for key, code in codes.items()} | settings
    cfg = check_parallel(ParallelConfig(**chosen))
    return Entry(
        name=name,
        config=with_defaults(name, cfg),
        factory=partial(make_parallel, pickles=pickles),
        doc=doc,
        hosted=partial(host_parallel, pickles=pickles),
    )


def make_parallel(cfg: ParallelConfig, pickles: Pickles = NO_PICKLES) -> Env:
    """Sizes, unpacking and success of a game, which is asked for its sizes once.

    Args:
      cfg: the settings.
      pickles: code that settings show by a text that is no name.

    Raises:
      ConfigError: for settings out of range, or if no game is named.
      HostError: the game cannot be imported or made, or is of another kind.
    """
    described = describe_game(cfg, pickles)
    return hosted_env(
        described.spec,
        success=partial(_won, cfg),
        max_return=float("inf") if cfg.max_return is None else cfg.max_return,
        version=", ".join(part for part in (OUR_VERSION, described.version) if part),
    )


def host_parallel(cfg: ParallelConfig, pickles: Pickles = NO_PICKLES) -> Hosted:
    """How to open games, here or on the nodes of `env.hosts`; arguments as in `make_parallel`."""
    codes = {key: as_on_a_node(f"env.{key}", getattr(cfg, key)) for key in CODE_KEYS}
    there = dataclasses.replace(cfg, hosts="", **codes)
    return spread(
        _host_here(cfg, pickles),
        cfg,
        lambda: describe_game(cfg, pickles).spec,
        partial(_host_here, there, pickles),
    )


def _host_here(cfg: ParallelConfig, pickles: Pickles) -> Hosted:
    def check() -> None:
        _KNOWN.clear()  # a game that was changed meanwhile may have other sizes
        describe_game(cfg, pickles)

    def open_games(n_workers: int, seed: int) -> HostEnv:
        return Pool(_pool_game(cfg, pickles, describe_game(cfg, pickles).spec), cfg, n_workers, seed)

    return Hosted(
        info=cfg.info,
        store=cfg.store,
        overlap=cfg.overlap,
        min_ready=cfg.min_ready,
        check=check,
        open=open_games,
        examine=_examine,
        versions=lambda: _versions(cfg, pickles),
        title="games with PettingZoo's or Gymnasium's interface, for --env parallel",
    )


def describe_game(cfg: ParallelConfig, pickles: Pickles = NO_PICKLES) -> Description:
    """What the game says of itself, in a worker that is gone afterwards; as `make_parallel`."""
    check_parallel(cfg)
    asked = _pool_game(cfg, pickles, UNKNOWN)
    key = json.dumps([asked.settings(0, 1.0), cfg.python], sort_keys=True)
    if key not in _KNOWN:
        answer = ask_worker(asked, cfg, DESCRIBE)
        _KNOWN[key] = Description(spec=check_spec(EnvSpec(**answer["spec"])), version=answer["version"])
    return _KNOWN[key]


def _versions(cfg: ParallelConfig, pickles: Pickles) -> dict[str, str]:
    """What games on several machines must have in common: packages, files, sizes."""
    described = describe_game(cfg, pickles)
    texts = {key: getattr(cfg, key) for key in CODE_KEYS}
    files = {f"env.{key}": source_version(text, f"env.{key}") for key, text in texts.items() if is_code(text)}
    found = files | {"the game": described.version, "its sizes": str(tuple(described.spec))}
    return {name: version for name, version in found.items() if version}


def _pool_game(cfg: ParallelConfig, pickles: Pickles, spec: EnvSpec) -> PoolGame:
    return PoolGame(label=f"env.make={cfg.make}", spec=spec, settings=partial(_settings, cfg, pickles))


def _settings(cfg: ParallelConfig, pickles: Pickles, seed: int, share: float) -> dict[str, Any]:
    """What a worker is told."""
    del share  # these games are never started afresh
    texts = {key: getattr(cfg, key) for key in CODE_KEYS}
    known = game.TEAM_REWARDS.keys() | game.STATES.keys()
    return {
        "adapter": str(Path(game.__file__).absolute()),
        "paths": _paths(cfg),
        "code": {key: _source(key, text, pickles) for key, text in texts.items() if text not in known},
        "arguments": dict(cfg.arguments or {}),
        "team_reward": cfg.team_reward,
        "state": cfg.state,
        "episode_limit": cfg.episode_limit,
        "limit_truncates": cfg.limit_truncates,
        "info": list(cfg.info),
        "seed": seed,
    }


def _source(key: str, text: str, pickles: Pickles) -> str | dict[str, str]:
    return {"pickle": pickles[text]} if text in pickles else absolute(text, f"env.{key}")


def _paths(cfg: ParallelConfig) -> list[str]:
    """Where workers look for modules after all other places: where this process does, and in the current folder.

    Packages of this interpreter are not for another one.
    """
    ours = [] if cfg.python else sys.path
    return [*(os.path.abspath(path) for path in ours if path), os.getcwd()]


def _won(cfg: ParallelConfig, stats: EpisodeStats) -> Array:
    if cfg.success:
        return jnp.asarray(stats.info[cfg.success]) > 0
    best = jnp.inf if cfg.max_return is None else cfg.max_return - 1e-4
    return jnp.asarray(stats.episode_return) >= best


def _examine() -> list[Finding]:
    """Whether the packages that most such games need are there; a game may come from anywhere."""
    names = ("pettingzoo", "gymnasium")
    found = {name: importlib.util.find_spec(name) is not None for name in names}
    return [Finding(n, good, "present" if good else "pip install 'lsf-jax[parallel]'") for n, good in found.items()]


ENTRIES = (
    Entry(
        name="parallel",
        config=ParallelConfig,
        factory=make_parallel,
        doc="Games of PettingZoo's parallel or Gymnasium's multi-agent interface on the host; env.make=module:function",
        hosted=host_parallel,
    ),
)
