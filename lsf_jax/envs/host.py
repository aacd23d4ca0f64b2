"""Games on the host as the rest of the package sees them: their protocol, packed observations, and how to open them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from lsf_jax.types import Env, EnvSpec, Episode, EpisodeStats, Observation

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


class Finding(NamedTuple):
    """One thing that games on the host need, as `lsf-jax doctor` shows it."""

    name: str
    good: bool
    text: str  # what there is; where it is not good, also what to do


def any_number(n_workers: int) -> None:
    """Nothing: games of which as many can be played as the machine bears."""
    del n_workers


class Hosted(NamedTuple):
    """How games on the host are opened and what they report: the impure companion of an `Env` that has only shapes."""

    info: tuple[str, ...]  # names of what every STEP reports
    store: str  # NumPy dtype in which replay keeps observations
    overlap: bool  # collect the next episodes while the device learns
    min_ready: int  # workers that must have answered before agents act again
    check: Callable[[], None]  # raises HostError where something needed is missing; launches nothing
    open: Callable[[int, int], HostEnv]  # (workers, root seed) -> games, not launched yet
    examine: Callable[[], list[Finding]] = list  # all that the games of this kind need, there or not
    versions: Callable[[], dict[str, str]] = dict  # what must be the same wherever games of one run are played
    room: Callable[[int], None] = any_number
    """Raises HostError where so many games cannot be played side by side; launches nothing."""
    title: str = ""  # of the findings: what is needed, and which environments need it


class PackedObservation(NamedTuple):
    """What replay keeps of one moment of a game on the host, which no snapshot could recompute."""

    obs: Shaped[Any, "*lead agents obs"]
    state: Shaped[Any, "*lead state"]
    avail: UInt8[Any, "*lead agents bytes"]  # bits


def hosted_env(spec: EnvSpec, *, success: Callable[[EpisodeStats], Array], max_return: float, version: str) -> Env:
    """The `Env` of games on the host: sizes, unpacking and success; it cannot be reset or stepped in a program.

    Args:
      spec: sizes.
      success: which episodes count as won.
      max_return: best undiscounted return.
      version: another one whenever games, observations or rewards change.
    """
    return Env(
        spec=spec,
        reset=_refuse,
        step=_refuse,
        snapshot=_refuse,
        observe=lambda packed: unpack(packed, spec.n_actions),
        render=_refuse,
        success=success,
        max_return=max_return,
        ends_early=True,
        version=version,
    )


def _refuse(*_: Any) -> NoReturn:
    raise HostError("games on the host are not functions; open them with the `hosted` of their entry")


def pack(observation: Observation, dtype: str) -> PackedObservation:
    """Observations of NumPy, `[..., N, O]` and so on, as replay keeps them."""
    return PackedObservation(
        obs=observation.obs.astype(dtype),
        state=observation.state.astype(dtype),
        avail=np.packbits(observation.avail, axis=-1),
    )


def unpack(packed: PackedObservation, n_actions: int) -> Observation:
    """Inverse of `pack` on the device, up to the rounding of its dtype."""
    return Observation(
        obs=packed.obs.astype(jnp.float32),
        state=packed.state.astype(jnp.float32),
        avail=jnp.unpackbits(packed.avail, axis=-1, count=n_actions).astype(bool),
    )


def empty_episodes(spec: EnvSpec, hosted: Hosted, n: int) -> Episode:
    """Zeros in the shapes of `n` episodes, NumPy `[n, T, ...]`; on the device path only their shapes are read."""
    zeros: Any = np.zeros
    lead = (n, spec.episode_limit + 1)
    return Episode(
        world=PackedObservation(
            obs=zeros((*lead, spec.n_agents, spec.obs_dim), hosted.store),
            state=zeros((*lead, spec.state_dim), hosted.store),
            avail=zeros((*lead, spec.n_agents, -(-spec.n_actions // 8)), np.uint8),
        ),
        action=zeros((n, spec.episode_limit, spec.n_agents), np.uint8),
        reward=zeros((n, spec.episode_limit), np.float32),
        terminal=zeros((n, spec.episode_limit), bool),
        valid=zeros((n, spec.episode_limit), bool),
        info={name: zeros((n, spec.episode_limit), np.float32) for name in hosted.info},
    )
