"""What every environment shares: the protocol of games that live on the host, and the checks of settings and sizes."""

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from lsf_jax.fields import ConfigError, range_problem, type_problem
from lsf_jax.types import EnvSpec, Observation

FIRST, STEP, LOST = "first", "step", "lost"
"""Kinds of events: the first observation of an episode; the answer to an action; its episode is void, FIRST follows."""


class HostError(RuntimeError):
    """Games on the host cannot be played: what failed, and what to do about it."""


class Event(NamedTuple):
    """What one worker of a `HostEnv` reports."""

    worker: int
    kind: str  # FIRST, STEP or LOST
    reward: float = 0.0  # of a STEP
    terminal: bool = False  # the game ended: do not bootstrap
    done: bool = False  # the episode ended, by the game or by its limit
    info: Mapping[str, float] = MappingProxyType({})  # as it stands after this step


@runtime_checkable
class HostEnv(Protocol):
    """W games outside JAX (for example StarCraft II), each in a worker of its own and at its own pace.

    A worker whose episode is done starts the next one by itself; after FIRST it waits, as long as it takes, for `send`.
    """

    spec: EnvSpec
    n_workers: int
    observation: Observation
    """NumPy `[W, N, O]` float32, `[W, S]` float32, `[W, N, A]` bool: row w is what worker w last reported. It changes
    only inside `receive`, when an event of w is returned: after a step that is done it holds the last observation until
    FIRST."""
    counters: dict[str, int]
    """What went wrong and was healed, by kind, since the start."""

    def start(self) -> None:
        """Launch the games.

        Raises:
          HostError: they cannot be launched; it names the cause and what to do.
        """
        ...

    def send(self, workers: Sequence[int], actions: np.ndarray) -> None:
        """Start one step of each named worker with its joint action, `[len(workers), N]`; does not wait.

        Raises:
          ValueError: for an unavailable action, or a worker that waits for none. Nothing is sent then.
        """
        ...

    def receive(self, min_ready: int, timeout: float) -> list[Event]:
        """Wait until `min_ready` workers have an event, `timeout` seconds have passed or nothing is under way.

        Returns:
          At most one event of each worker; all of them are to be handled before the next call.

        Raises:
          HostError: a worker failed too often to go on.
        """
        ...

    def save_replay(self, worker: int, folder: str | Path) -> Path:
        """Save what a worker's game has seen since it was launched; the new file's path.

        Raises:
          HostError: the game cannot record itself, or went down meanwhile.
        """
        ...

    def close(self) -> None:
        """End every game and remove what it left; may be called twice."""
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
