"""Games on the host as the rest of the package sees them: sizes, packed observations, and how to open them."""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from lsf_jax.envs.base import HostEnv, HostError
from lsf_jax.types import Env, EnvSpec, Episode, EpisodeStats, Observation


class Hosted(NamedTuple):
    """How games on the host are opened and what they report: the impure companion of an `Env` that has only shapes."""

    info: tuple[str, ...]  # names of what every STEP reports
    store: str  # NumPy dtype in which replay keeps observations
    overlap: bool  # collect the next episodes while the device learns
    min_ready: int  # workers that must have answered before agents act again
    check: Callable[[], None]  # raises HostError where something needed is missing; launches nothing
    open: Callable[[int, int], HostEnv]  # (workers, root seed) -> games, not launched yet


class PackedObservation(NamedTuple):
    """What replay keeps of one moment of a game on the host, which no snapshot could recompute."""

    obs: Shaped[Any, "*lead agents obs"]
    state: Shaped[Any, "*lead state"]
    avail: UInt8[Any, "*lead agents bytes"]  # bits


def hosted_env(spec: EnvSpec, *, success: Callable[[EpisodeStats], Array], max_return: float, version: str) -> Env:
    """The `Env` of games on the host: sizes, unpacking and judging; it cannot be reset or stepped in a program.

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
    raise HostError("games on the host are not functions; open them with lsf_jax.envs.HOSTED")


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
