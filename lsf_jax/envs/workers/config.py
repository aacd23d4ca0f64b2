"""Settings of every kind of game that a pool of worker processes plays."""

from dataclasses import dataclass

from lsf_jax.settings import setting


@dataclass(frozen=True)
class WorkersConfig:
    """How workers are started and watched, and how what they report is collected."""

    python: str = setting(
        "",
        resumable=True,
        code=("",),
        doc="interpreter of the workers, 3.8 or newer; empty: the one of this program",
    )
    hosts: str = setting(
        "",
        resumable=True,
        code=("", "auto"),
        doc="play on the nodes of a Ray cluster: auto, or host:port of its head; empty: on this machine",
    )
    deadline: float = setting(
        60.0, above=0, high=3600, resumable=True, doc="seconds that a step or the start of an episode may take"
    )
    launch_deadline: float = setting(
        240.0, above=0, high=3600, resumable=True, doc="seconds from starting a worker to its first step"
    )
    stagger: float = setting(0.5, low=0, high=60, resumable=True, doc="seconds between starting two workers")
    backoff: float = setting(
        1.0, low=0, high=60, resumable=True, doc="seconds before the second restart in a row, then doubled up to 30"
    )
    max_restarts: int = setting(
        6, low=0, high=1000, resumable=True, doc="failures of a worker in a row before the run gives up"
    )
    store: str = setting("float16", choices=("float16", "float32"), doc="how replay keeps observations and state")
    min_ready: int = setting(
        1, low=1, resumable=True, doc="workers that must have answered before agents act again; n_envs: lockstep"
    )
    overlap: bool = setting(True, doc="collect while updating, with parameters one update old")
