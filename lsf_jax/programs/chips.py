"""Accelerators that a run can be planned for without having one: how XLA is told of them, and what they can do.

All that is known of a chip stands in `CHIPS`. For a GPU XLA wants a description of the device, the same that it would
ask a real one for; for a TPU the name of a topology.
"""

import importlib.metadata
import platform
import re
from typing import Any, NamedTuple

from lsf_jax.settings import ConfigError

MOST_DEVICES = 8
"""Devices that one process may plan for: those of one machine with GPUs, or of one host with TPUs v5e and v6e."""

PREALLOCATED = 0.75
"""Share of a GPU's memory that a JAX process takes unless told otherwise
(docs.jax.dev/en/latest/gpu_memory_allocation.html)."""

PASSES = {"float32": 6, "tensorfloat32": 3, "bfloat16": 1}
"""Passes of bfloat16 that a TPU makes for one product of float32 numbers (docs.jax.dev, "Matmul precision")."""

EXTRA = 'pip install "lsf-jax[targets]"'


class Gpu(NamedTuple):
    """What XLA:GPU asks of a device."""

    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of a core
    threads_per_core: int
    shared_per_core: int  # bytes
    shared_per_block: int  # bytes, the most that a block may ask for
    l2: int  # bytes
    ghz: float


class Tpu(NamedTuple):
    """What libtpu asks of a slice."""

    accelerator: str  # prefix of TPU_ACCELERATOR_TYPE, which ends in a number of cores or chips
    cores: int  # that the number counts, on a chip
    shapes: tuple[str, ...]  # of slices with 1, up to 4, and up to 8 chips
    megacore: bool = False  # the two cores of a chip are one device


class Chip(NamedTuple):
    """One accelerator."""

    name: str
    title: str
    memory: int  # bytes; of a TPU those that its compiler may fill
    bandwidth: float  # bytes a second
    tera: dict[str, float]  # 10¹² operations a second in matrix products, by `train.matmul_precision`
    kind: Gpu | Tpu
    source: str

    @property
    def platform(self) -> str:
        """XLA's name of its kind."""
        return "cuda" if isinstance(self.kind, Gpu) else "tpu"

    @property
    def backend(self) -> str:
        """JAX's name of its kind."""
        return "gpu" if isinstance(self.kind, Gpu) else "tpu"

    @property
    def limit(self) -> int:
        """Bytes that a JAX process has there."""
        return int(self.memory * PREALLOCATED) if self.platform == "cuda" else self.memory


def _passes(tera: float) -> dict[str, float]:
    return {precision: tera / passes for precision, passes in PASSES.items()}


_HOPPER = Gpu((9, 0), 132, 128, 2048, 233_472, 232_448, 52_428_800, 1.98)
_HOPPER_TERA = {"float32": 66.9, "tensorfloat32": 494.7, "bfloat16": 989.4}
_XLA = "openxla/xla, xla/backends/gpu/target_config/specs"
_FLAT, _DEEP = ("1x1", "2x2", "2x4"), ("1x1x1", "2x2x1", "2x2x2")
_GIB = 2**30

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            *("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 3.352e12, _HOPPER_TERA, _HOPPER),
            f"{_XLA}/h100_sxm.txtpb; NVIDIA H100 datasheet (SXM, without sparsity)",
        ),
        Chip(
            *("h200", "NVIDIA H200 141GB HBM3e", 151_397_597_184, 4.8e12, _HOPPER_TERA, _HOPPER),
            f"{_XLA}/h200.txtpb; NVIDIA H200 datasheet (SXM, without sparsity)",
        ),
        Chip(
            *("a100", "NVIDIA A100-SXM4-80GB", 85_100_068_864, 2.039e12),
            {"float32": 19.5, "tensorfloat32": 156.0, "bfloat16": 312.0},
            Gpu((8, 0), 108, 64, 2048, 167_936, 166_912, 41_943_040, 1.41),
            f"{_XLA}/a100_sxm_80.txtpb; NVIDIA A100 datasheet",
        ),
        Chip(
            *("l4", "NVIDIA L4", 24_152_899_584, 0.3e12),
            {"float32": 30.3, "tensorfloat32": 60.0, "bfloat16": 121.0},
            Gpu((8, 9), 58, 128, 1536, 102_400, 101_376, 50_331_648, 2.04),
            "NVIDIA L4 datasheet; CUDA C++ programming guide, compute capability 8.9; 23,034 MiB by nvidia-smi",
        ),
        Chip(
            *("b200", "NVIDIA B200", 191_514_411_008, 7.672e12),
            {"float32": 74.4, "tensorfloat32": 1100.0, "bfloat16": 2250.0},
            Gpu((10, 0), 148, 128, 2048, 233_472, 232_448, 132_644_864, 1.965),
            f"{_XLA}/b200.txtpb; NVIDIA HGX B200 datasheet (without sparsity)",
        ),
        Chip(
            *("v4", "TPU v4", int(30.75 * _GIB), 1.228e12, _passes(275.0), Tpu("v4-", 2, _DEEP, megacore=True)),
            "cloud.google.com/tpu/docs/v4; memory: what its compiler calls available",
        ),
        Chip(
            *("v5e", "TPU v5e", int(15.75 * _GIB), 0.819e12, _passes(197.0), Tpu("v5litepod-", 1, _FLAT)),
            "cloud.google.com/tpu/docs/v5e; memory: what its compiler calls available",
        ),
        Chip(
            *("v5p", "TPU v5p", int(95.73 * _GIB), 2.765e12, _passes(459.0), Tpu("v5p-", 2, _DEEP)),
            "cloud.google.com/tpu/docs/v5p; memory: what its compiler calls available",
        ),
        Chip(
            *("v6e", "TPU v6e", int(31.24 * _GIB), 1.64e12, _passes(918.0), Tpu("v6e-", 1, _FLAT)),
            "cloud.google.com/tpu/docs/v6e; memory: what its compiler calls available",
        ),
    )
}
"""Every chip by the name that `lsf-jax plan --target` takes."""


def find_chip(name: str, n_devices: int = 1) -> Chip:
    """The chip of that name.

    Raises:
      ConfigError: for a name that is none, more devices than a machine has, and, before anything is compiled, where
        the compiler for the chip is missing or does not match the installed JAX.
    """
    if name not in CHIPS:
        raise ConfigError(f"--target is {name}; expected one of {', '.join(CHIPS)}")
    if not 1 <= n_devices <= MOST_DEVICES:
        raise ConfigError(f"--devices is {n_devices}; expected 1 to {MOST_DEVICES}, the chips of one machine")
    chip = CHIPS[name]
    _check_compiler(chip)
    return chip


def _check_compiler(chip: Chip) -> None:
    """Whether what compiles for a chip is installed and is that of this jaxlib."""
    asked, jaxlib = f"--target is {chip.name}", _version("jaxlib")
    if platform.system() != "Linux":
        raise ConfigError(f"{asked}; its compiler exists for Linux alone and this is {platform.system()}; use Linux")
    if chip.platform == "tpu":
        if _version("libtpu") is None:
            raise ConfigError(f"{asked}, which libtpu compiles for; libtpu is not installed; {EXTRA}")
        return
    plugins = ("jax-cuda13-plugin", "jax-cuda13-pjrt"), ("jax-cuda12-plugin", "jax-cuda12-pjrt")
    names = next((pair for pair in plugins if any(_version(name) for name in pair)), plugins[0])
    for name in names:
        found = _version(name)
        if found is None:
            raise ConfigError(f"{asked}, which {name} compiles for; {name} is not installed; {EXTRA}")
        if found != jaxlib:
            remedy = f'pip install "jax[{names[0].split("-")[1]}]=={jaxlib}"'
            raise ConfigError(f"{asked}; {name} is {found}; expected {jaxlib}, the version of jaxlib; {remedy}")


def compiler_of(chip: Chip) -> str:
    """Package and version of what compiles for a chip, as `find_chip` found it."""
    names = ("libtpu",) if chip.platform == "tpu" else ("jax-cuda13-pjrt", "jax-cuda12-pjrt")
    return next((f"{name} {version}" for name in names if (version := _version(name))), "an unknown compiler")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(chip: Chip, n_devices: int) -> dict[str, str]:
    """Environment variables of a process that compiles for a chip: its own backend is the CPU, whatever is there."""
    variables = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if isinstance(chip.kind, Tpu):
        chips = [1, 4, 8][_shape_index(n_devices)]
        variables |= {"TPU_ACCELERATOR_TYPE": f"{chip.kind.accelerator}{chips * chip.kind.cores}"}
        variables |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
        variables["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is opened, so two plans may compile side by side
    return variables


def topology_arguments(chip: Chip, n_devices: int) -> dict[str, Any]:
    """Arguments of `jax.experimental.topologies.get_topology_desc`: at least `n_devices` devices, all of one host."""
    if isinstance(chip.kind, Gpu):
        return {"platform": "cuda", "topology": f"1x1x{n_devices}", "target_config": description(chip)}
    shape = chip.kind.shapes[_shape_index(n_devices)]
    megacore = {"chip_config_name": "megacore"} if chip.kind.megacore else {}
    # Without bounds libtpu before 0.0.52 takes a host for one of 2x2 chips, and refuses a single one.
    bounds = [int(side) for side in f"{shape}x1".split("x")[:3]]
    return {
        "platform": "tpu",
        "topology_name": f"{chip.name}:{shape}",
        "chips_per_host_bounds": bounds,
        **megacore,
    }


def _shape_index(n_devices: int) -> int:
    return 0 if n_devices == 1 else 1 if n_devices <= 4 else 2


def description(chip: Chip) -> str:
    """A GPU as XLA's text proto `GpuTargetConfigProto`."""
    if not isinstance(chip.kind, Gpu):
        raise TypeError(f"{chip.name} is no GPU")
    gpu = chip.kind
    accelerated = "feature_extension: ACCELERATED_FEATURES" if gpu.capability[0] >= 9 else ""
    text = f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {gpu.threads_per_core}
      shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_per_core}
      shared_memory_per_block_optin: {gpu.shared_per_block} core_count: {gpu.cores} fpus_per_core: {gpu.lanes}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {chip.bandwidth:.0f} l2_cache_size: {gpu.l2} clock_rate_ghz: {gpu.ghz}
      device_memory_size: {chip.memory} registers_per_core_limit: 65536 registers_per_block_limit: 65536
      cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} {accelerated} }}
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
    runtime_version {{ major: 13 minor: 0 patch: 0 }} device_description_str: "{chip.title}"
    """
    return re.sub(r"\s+", " ", text).strip()
