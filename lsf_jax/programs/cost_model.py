"""An estimated range of seconds for a compiled program on a chip that nobody here has: an estimate, never a result.

A kernel costs its launch and then whichever is longer, moving its bytes or doing its products; a loop costs something
for each pass. The optimist's constants are what the hardware can do, the pessimist's what small kernels were seen to
reach. All constants stand in `FAST` and `SLOW`, with their sources.
"""

from collections import defaultdict
from typing import NamedTuple

from lsf_jax.programs.chips import Chip
from lsf_jax.programs.hlo import AROUND, Loop, Reading

MICRO = 1e-6


class Costs(NamedTuple):
    """What a program's pieces cost, whatever the chip's size."""

    launch: dict[str, float]  # seconds from one kernel, or operation of a TPU, to the next, by platform
    loop: dict[str, float]  # seconds of one pass of a loop, beside its kernels
    branch: dict[str, float]  # seconds until the host, or the scalar unit, knows a predicate
    bandwidth: float  # share of the memory's bandwidth
    tera: float  # share of the rate of matrix products


FAST = Costs(
    launch={"cuda": 1.0 * MICRO, "tpu": 0.1 * MICRO},
    loop={"cuda": 0.0, "tpu": 0.1 * MICRO},
    branch={"cuda": 5.0 * MICRO, "tpu": 0.2 * MICRO},
    bandwidth=0.9,
    tera=0.6,
)
"""Everything goes well.

- launch, cuda: from kernel to kernel of a captured graph; 3.4 µs for each kernel of 2.9 µs, and less with later graphs
  (developer.nvidia.com/blog/cuda-graphs, developer.nvidia.com/blog/constant-time-launch-for-straight-line-cuda-graphs).
- loop, cuda: nothing, with loops captured (`--xla_gpu_enable_command_buffer=+WHILE`).
- launch, loop and branch, tpu: one program runs and nothing is launched; a hundred cycles or two of about 1 GHz.
  An assumption: no figure is published.
- branch, cuda, bandwidth and tera: what large kernels reach; assumptions.
"""

SLOW = Costs(
    launch={"cuda": 5.0 * MICRO, "tpu": 2.0 * MICRO},
    loop={"cuda": 8.0 * MICRO, "tpu": 1.0 * MICRO},
    branch={"cuda": 30.0 * MICRO, "tpu": 2.0 * MICRO},
    bandwidth=0.35,
    tera=0.1,
)
"""Everything goes badly.

- launch, cuda: a launch from the host is 4 to 6 µs of driver calls (susun-blog.com/blog/pegainfer-3-cuda-graph).
- loop, cuda: 0.805 s for 100,000 empty `lax.scan` passes (jax-ml/jax issues 29946 and 2491).
- branch, cuda: copying a predicate to the host and waiting for it; an assumption, as is all of a TPU.
- bandwidth and tera: kernels too small to fill a chip; assumptions.
"""


class Range(NamedTuple):
    """Seconds, the optimist's and the pessimist's."""

    fast: float
    slow: float


def iteration_seconds(reading: Reading, chip: Chip, precision: str) -> dict[str, Range]:
    """Estimated seconds of one iteration by part; what runs once a chunk is left out.

    Args:
      reading: of the program compiled for the chip.
      chip: where it would run.
      precision: `train.matmul_precision`.
    """
    fast = _seconds(reading, chip, precision, FAST)
    slow = _seconds(reading, chip, precision, SLOW)
    return {part: Range(fast[part], slow[part]) for part in slow if part != AROUND}


def _seconds(reading: Reading, chip: Chip, precision: str, costs: Costs) -> dict[str, float]:
    launch, bandwidth = costs.launch[chip.platform], chip.bandwidth * costs.bandwidth
    rate = chip.tera[precision] * 1e12 * costs.tera
    seconds: defaultdict[str, float] = defaultdict(float)
    for kernel in reading.kernels:
        work = max(kernel.n_bytes / bandwidth, kernel.flops / rate)
        # A captured graph prepares the next launch while a kernel works.
        once = max(launch, work) if costs is FAST else launch + work
        seconds[kernel.part] += kernel.times * once
    for loop in reading.loops:
        seconds[loop.part] += loop.iterations * _pass_seconds(loop, chip, costs)
    for part, times in reading.branches.items():
        seconds[part] += times * costs.branch[chip.platform]
    return seconds


def _pass_seconds(loop: Loop, chip: Chip, costs: Costs) -> float:
    """Of one pass; a loop whose length is not known asks a predicate each time."""
    return costs.loop[chip.platform] + (0.0 if loop.known else costs.branch[chip.platform])
