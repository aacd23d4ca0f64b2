"""Settings of the JAX runtime that a run asks for: compilation cache, precision of products, repeatable kernels."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import platformdirs

from lsf_jax.config.composition import Config
from lsf_jax.config.train_config import TrainConfig
from lsf_jax.platforms import is_cpu
from lsf_jax.settings import ConfigError, user_path

OFF = "off"
DETERMINISTIC_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")

MOST_CPU_DEVICES = 8
"""Every device compiles the program for itself, so more cores than these would be slow to start."""

SAFE_ON_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""XLA's experimental library fusions for CPUs (on by default in jaxlib 0.10.2) read past the end of what they reduce:
with two critics side by side a seed's NaN reached its neighbour, and what lay behind the last seed could make it NaN.
Without them small networks are up to 1.6 times faster, large ones as fast."""


def compiler_options() -> dict[str, str]:
    """Options for every program that is compiled: on a CPU `SAFE_ON_CPU`, where this XLA knows them."""
    return _options_on_cpu() if is_cpu() else {}


@cache
def _options_on_cpu() -> dict[str, str]:
    try:
        jax.jit(lambda x: x, compiler_options=SAFE_ON_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return SAFE_ON_CPU


def jit_program(function: Callable[..., Any], *, donate: Sequence[int] = ()) -> Any:
    """`jax.jit` of what trains or evaluates, with `compiler_options`: benchmarks time the program that runs use.

    Args:
      function: to be compiled at its first call.
      donate: places of arguments whose memory the result may take.
    """
    return jax.jit(function, donate_argnums=tuple(donate), compiler_options=compiler_options())


def cache_folder(train: TrainConfig) -> Path | None:
    """Where compiled programs are kept between processes, or None where the user turned that off."""
    if train.cache_dir == OFF:
        return None
    if train.cache_dir:
        return user_path("train.cache_dir", train.cache_dir)
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("lsf_jax")) / "xla"


def configure(train: TrainConfig, cpu_devices: int = 0) -> None:
    """Apply a run's runtime settings; call before anything is compiled.

    Args:
      train: the settings.
      cpu_devices: devices to make of a CPU where that is not decided yet; 0: as `train.cpu_devices` says.

    Raises:
      ConfigError: the cache folder cannot be made.
    """
    if train.deterministic:
        present = os.environ.get("XLA_FLAGS", "")
        missing = [flag for flag in DETERMINISTIC_FLAGS if flag not in present]
        os.environ["XLA_FLAGS"] = " ".join([present, *missing]).strip()
    jax.config.update("jax_default_matmul_precision", train.matmul_precision)
    _split_cpu(cpu_devices or train.cpu_devices or min(cores(), MOST_CPU_DEVICES))
    folder = cache_folder(train)
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"train.cache_dir is {str(folder)!r}; the folder cannot be made ({error.strerror}); "
            f"name another or use train.cache_dir=off"
        ) from None
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def configure_run(config: Config, tell: Callable[[str], None], cpu_devices: int = 0) -> None:
    """`configure` for a run that is read back: what its folder alone names as a cache is left alone.

    Compiled programs in it would be run, and a folder would be made wherever it says.

    Args:
      config: of the run.
      tell: says in one line what is left alone.
      cpu_devices: as for `configure`.

    Raises:
      ConfigError: as `configure`.
    """
    train = config.train
    if config.unfollowed:
        tell(
            "the run's config.yaml names a place outside the run folder, which is not used before you name it too; "
            f"if you trust it: {' '.join(config.unfollowed)}"
        )
        train = replace(train, cache_dir="")
    configure(train, cpu_devices)


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _split_cpu(n_devices: int) -> None:
    """Make several devices of the CPU, so that each core trains seeds of its own: threads within one product gain less.

    Nothing happens where the user's XLA_FLAGS decide, or where JAX has begun to compute.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", n_devices)
