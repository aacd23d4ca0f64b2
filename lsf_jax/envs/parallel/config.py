"""Settings of games with PettingZoo's parallel interface, or with Gymnasium's and several agents."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from lsf_jax.envs.base import check_settings, require
from lsf_jax.envs.parallel.game import STATES, TEAM_REWARDS
from lsf_jax.envs.workers.config import WorkersConfig
from lsf_jax.settings import setting

CODE = "'module:function' or 'file.py:function'"


@dataclass(frozen=True)
class ParallelGameConfig:
    """Which game is played, and how a team makes of it what algorithms here learn from."""

    make: str = setting("", code=("",), doc=f"{CODE} that makes the game")
    arguments: dict[str, Any] | None = setting(  # noqa: RUF009  (its default is None)
        None, code=(None,), doc="keyword arguments of that function, for example {N: 3}"
    )
    game: str = setting("", doc="what to call the game in the names of runs, in plots and tables; empty: nothing")
    team_reward: str = setting(
        "mean",
        code=tuple(TEAM_REWARDS),
        doc=f"of the agents' rewards: {', '.join(TEAM_REWARDS)}, or {CODE} of a dictionary by agent",
    )
    state: str = setting(
        "auto",
        code=tuple(STATES),
        doc=f"for critics: game is env.state(), observations those side by side, auto the former of a game with a "
        f"state_space, else the latter, or {CODE}"
        " of the game and a dictionary of observations",
    )
    episode_limit: int = setting(0, low=0, high=100_000, doc="steps after which an episode is cut; 0: the game's own")
    limit_truncates: bool = setting(
        False, doc="an end at the limit is a cut, from which learning bootstraps, even if the game calls it its end"
    )
    info: tuple[str, ...] = setting((), doc="numbers of the game's infos to report, as they stand at an episode's end")
    success: str = setting("", doc="the one of them that says whether an episode was won; empty: see max_return")
    max_return: float | None = setting(None, doc="best return of an episode, and a success; null: unknown")


@dataclass(frozen=True)
class ParallelConfig(WorkersConfig, ParallelGameConfig):
    """Settings of `parallel`: of the game, then of its workers. Replay keeps observations as they are."""

    store: str = setting("float32", choices=("float16", "float32"), doc="how replay keeps observations and state")


def check_parallel(cfg: ParallelConfig) -> ParallelConfig:
    """Returns `cfg` unchanged if its settings are in range, and name what has to be named.

    Raises:
      ConfigError: naming the key, its value and what was expected.
    """
    check_settings(cfg)
    require(bool(cfg.make), "make", cfg.make, f"{CODE}, for example env.make=mpe2.simple_spread_v3:parallel_env")
    require(is_code(cfg.make), "make", cfg.make, CODE)
    for key, known in (("team_reward", TEAM_REWARDS), ("state", STATES)):
        value = getattr(cfg, key)
        require(value in known or is_code(value), key, value, f"one of {', '.join(known)}, or {CODE}")
    names = ("", *cfg.info)
    require(_is_plain(cfg.arguments), "arguments", cfg.arguments, "names with plain data: numbers, text, lists, names")
    require(cfg.success in names, "success", cfg.success, f"one of env.info, which are {', '.join(cfg.info) or 'none'}")
    return cfg


def _is_plain(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def is_code(text: str) -> bool:
    """Whether a text has the form of `CODE`."""
    place, colon, name = text.rpartition(":")
    return bool(colon) and bool(place) and all(part.isidentifier() for part in name.split("."))


def with_defaults(name: str, cfg: ParallelConfig) -> type[ParallelConfig]:
    """A class of settings like those of `cfg` whose defaults are what `cfg` has."""

    def field_like(field: dataclasses.Field) -> Any:
        value = getattr(cfg, field.name)
        if isinstance(value, dict):
            return dataclasses.field(default_factory=lambda: dict(value), metadata=field.metadata)
        return dataclasses.field(default=value, metadata=field.metadata)

    fields = [(field.name, field.type, field_like(field)) for field in dataclasses.fields(cfg)]
    return dataclasses.make_dataclass(f"{name.title()}Config", fields, bases=(ParallelConfig,), frozen=True)
