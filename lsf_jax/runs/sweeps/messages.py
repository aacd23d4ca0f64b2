"""What driver and workers say to each other: plain records, no open files and no arrays of JAX."""

from typing import Any, NamedTuple

import numpy as np

from lsf_jax.programs.planner import Plan
from lsf_jax.runs.columns import Columns
from lsf_jax.runs.sweeps.machines import Machine

PIECE_BYTES = 16 * 2**20
"""Files travel in pieces of this size, so that neither side ever holds a checkpoint whole."""


class Order(NamedTuple):
    """What a worker is for; it comes before anything else."""

    config: bytes  # pickled: its class may be a plug-in's, which must be loaded first
    plugins: tuple[str, ...]
    start: str  # the driver's working folder, where plug-ins may lie
    threads: int  # of a block on CPUs; 0 on accelerators
    devices: int  # of a block
    neighbours: int  # blocks that share a host's memory, itself counted; 1 on accelerators
    interval: float  # seconds between two messages about progress
    token: str  # of the driver: marks what its workers leave on nodes


class Opened(NamedTuple):
    """A worker that is ready for blocks."""

    node: str  # of Ray
    machine: Machine


class Planned(NamedTuple):
    """How a worker would lay a run out on its own device."""

    plan: Plan
    machine: dict[str, Any]  # for the card, without the command line
    setup: dict[str, str]
    start: Any  # a `warm_start.WarmStart`, None where parameters are fresh


class Run(NamedTuple):
    """A run folder and what it is made of; the same for all of its blocks."""

    config: bytes
    plan: Plan
    path: str  # on the driver, and on every node where they share it
    shared: bool
    watched: bool  # whether the driver is to be sent every evaluation
    documents: dict[str, bytes]  # files that a block reads, by name, where the folder is not shared


class Job(NamedTuple):
    """One block to be trained, or trained on."""

    run: Any  # reference to the `Run`, which lies in Ray's store once
    index: int
    lease: str  # whoever holds another may no longer write
    files: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = ()  # names below the run folder, pieces: a checkpoint


class Moved(NamedTuple):
    """How far a block is."""

    env_steps: int
    updates: int
    returns: np.ndarray | None = None  # [rows] latest of each seed
    evaluation: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # rows, env steps and returns of the latest
    phase: str = ""


class Said(NamedTuple):
    """One line for people."""

    text: str


class Piece(NamedTuple):
    """Part of a file of the run folder."""

    names: tuple[str, ...]  # below the folder
    data: bytes
    is_last: bool


class Saved(NamedTuple):
    """All files of a checkpoint have been sent."""

    names: tuple[str, ...]  # of its folder


class Evaluated(NamedTuple):
    """An evaluation of a block."""

    iteration: int
    final: bool
    columns: Columns


class Told(NamedTuple):
    """Scalars for the driver's sinks."""

    env_steps: int
    scalars: dict[str, float]


class Ended(NamedTuple):
    """A block has come to its end, or to a stop that was asked for."""

    finished: bool
    env_steps: int
    updates: int
    seconds: dict[str, float]  # as in `Session.timing`
    counts: dict[str, int]  # as in `Session.counts`
    trouble: list[dict[str, int]]
    host: dict[str, dict[str, float]]
    idle_seconds: float  # from the end of this worker's block before to the end of this one's first chunk; 0: it is new
    compiled: int  # programs compiled for this block
