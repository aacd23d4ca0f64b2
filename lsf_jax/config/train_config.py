"""How a run is carried out: the settings that no algorithm and no environment owns."""

import math
from dataclasses import dataclass

from lsf_jax.registry import SINK
from lsf_jax.settings import setting


@dataclass(frozen=True)
class TrainConfig:
    """How a run is carried out: seeds, budget, collection, evaluation, memory and files."""

    seeds: int = setting(4, low=1, high=1_000_000, doc="independent runs trained side by side")
    seed: int = setting(0, low=0, high=2**31 - 1, doc="root of all randomness; seed k uses fold_in(root, k)")
    env_steps: int = setting(
        200_000, low=1, high=2_000_000_000, resumable=True, doc="budget per seed, in valid environment steps"
    )
    init_from: str = setting(
        "", doc="run folder from whose parameters to start, where names and shapes match; empty: none"
    )
    n_envs: int = setting(
        8, low=1, high=1_000_000, doc="environments per seed; each iteration collects one episode of each"
    )
    buffer_capacity: int = setting(
        5000, low=1, high=100_000_000, doc="replay per seed, in episodes; a multiple of n_envs"
    )
    evaluate_every: int = setting(10_000, low=1, high=2_000_000_000, doc="environment steps between evaluations")
    eval_episodes: int = setting(32, low=1, high=1_000_000, doc="episodes of one evaluation, per seed")
    eval_stochastic: bool = setting(False, doc="also evaluate the sampled policy, where there is one")
    log_every: int = setting(1, low=1, doc="iterations between rows of the train table, counted from the start")
    checkpoint_minutes: float = setting(10.0, above=0, resumable=True, doc="minutes of wall clock between checkpoints")
    micro_batch: int = setting(
        0, low=0, doc="episodes per gradient pass, a divisor of algo.batch_size; 0: the planner's"
    )
    lengths: int = setting(
        0,
        low=0,
        high=4,
        doc="lengths compiled in; 1: an episode a row; 0: 4, and packed rows, where most end early (StarCraft)",
    )
    block: int = setting(0, low=0, doc="seeds computed side by side on one device; 0: the planner's choice")
    chunk_seconds: float = setting(
        4.0, above=0, resumable=True, doc="seconds of device work between two looks of the host"
    )
    replay: str = setting(
        "auto",
        choices=("auto", "device", "host"),
        resumable=True,
        doc="where games on the host keep replay; auto: the planner's choice",
    )
    devices: int = setting(0, low=0, doc="devices to spread seeds over; 0: all")
    cpu_devices: int = setting(
        0,
        low=0,
        high=1024,
        resumable=True,
        doc="devices to make of a CPU, each with seeds of its own; 0: one a core, 8 at most",
    )
    matmul_precision: str = setting(
        "float32", choices=("float32", "tensorfloat32", "bfloat16"), doc="precision of matrix products"
    )
    deterministic: bool = setting(False, doc="bitwise repeatable kernels on GPUs (CPUs always are)")
    memory_gib: float = setting(0.0, low=0, resumable=True, doc="memory that the run may fill, in GiB; 0: detected")
    run_dir: str = setting("runs", resumable=True, doc="folder that run folders are made in")
    name: str = setting(
        "", resumable=True, doc="name of the run's folder; empty: made from algorithm, environment and time"
    )
    sinks: tuple[str, ...] = setting((), names=SINK, resumable=True, doc="where else metrics go")
    cache_dir: str = setting(
        "",
        resumable=True,
        place=("", "off"),
        doc="compilation cache; empty: in the user's cache folder; off: none",
    )


def divisors(number: int) -> list[int]:
    """Whole numbers that divide another, in ascending order."""
    low = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*low, *(number // each for each in low)})
