"""What every environment shares: the protocol of games that live on the host, and the checks of settings and sizes."""

import dataclasses
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from lsf_jax.fields import ConfigError, range_problem, type_problem
from lsf_jax.types import EnvSpec, Observation

FIRST, STEP, LOST = "first", "step", "lost"
"""Kinds of an `Event`."""


class HostError(RuntimeError):
    """Games on the host cannot be started or kept alive; the message has the cause and what to do."""


class Event(NamedTuple):
    """What one worker of a `HostEnv` has to say."""

    worker: int
    kind: str  # FIRST: observation that begins an episode; STEP: answer to an action; LOST: the episode is void
    reward: float  # STEP only, else 0
    terminal: bool  # the game ended: do not bootstrap
    done: bool  # the episode ended, by the game or by its limit
    info: dict[str, float]  # at every STEP, else empty; for SMAC battle_won (0 or 1), dead_allies, dead_enemies


@runtime_checkable
class HostEnv(Protocol):
    """W games at once outside JAX (for example StarCraft II), as NumPy arrays.

    A worker's events are FIRST, then one STEP for each `send`, until one is done or LOST comes instead; then FIRST of
    the next episode comes by itself. Between an event that asks for an action and `send` a worker waits for ever.
    """

    spec: EnvSpec
    n_workers: int
    observation: Observation
    """`[W, N, O]` float32, `[W, S]` float32, `[W, N, A]` bool: row w is what worker w last reported. It changes
    only inside `receive`, when an event of w is returned; the terminal one stays until the next FIRST is returned."""
    counters: dict[str, int]
    """What went wrong so far, by kind."""

    def start(self) -> None:
        """Starts the games and waits until each has begun its first episode.

        Raises:
          HostError: with cause and advice, when that cannot be done.
        """
        ...

    def send(self, workers: Sequence[int], actions: np.ndarray) -> None:
        """Starts one step of each named worker with its joint action `[len(workers), N]`; does not wait.

        Raises:
          ValueError: for an unavailable action, or a worker that waits for none. Nothing is sent then.
        """
        ...

    def receive(self, min_ready: int, timeout: float) -> list[Event]:
        """Waits until `min_ready` workers have an event, `timeout` seconds have passed or nothing is under way.

        Returns:
          At most one event of each worker; all of them are to be handled before the next call.

        Raises:
          HostError: when a worker has failed too often in a row.
        """
        ...

    def close(self) -> None:
        """Ends every game; nothing of it is left. May be called again."""
        ...


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raises ConfigError, a ValueError, naming `env.<key>`, its value and what was expected, unless `holds`."""
    if not holds:
        raise ConfigError(f"env.{key} is {value!r}; expected {expected}.")


def check_settings(cfg: Any) -> None:
    """Checks type and range of every field of an environment's config, as declared with `lsf_jax.fields.setting`.

    Raises:
      ValueError: naming `env.<key>`, its value and what was expected.
    """
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        problem = type_problem(field.type, value) or range_problem(field, value)
        require(problem is None, field.name, value, problem or "")


def nearest(name: str, valid: Sequence[str]) -> str:
    """A hint that ends an error message about an unknown name: the nearest valid one, and all of them."""
    matches = get_close_matches(name, valid, n=1, cutoff=0.4)
    suggestion = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{suggestion}valid names are {', '.join(sorted(valid))}"


def check_spec(spec: EnvSpec) -> EnvSpec:
    """Returns `spec` unchanged if all its sizes are positive integers.

    Raises:
      ValueError: naming the size that is not.
    """
    for key, value in spec._asdict().items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"EnvSpec.{key} is {value!r}; expected an integer of at least 1.")
    return spec
