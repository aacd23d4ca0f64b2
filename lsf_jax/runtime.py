"""Settings of the JAX runtime that a run asks for: compilation cache, precision of products, repeatable kernels."""

import os
from functools import cache
from pathlib import Path

import jax
import platformdirs

from lsf_jax.config import TrainConfig
from lsf_jax.fields import ConfigError

OFF = "off"
DETERMINISTIC_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


SAFE_ON_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""XLA's experimental library fusions for CPUs (on by default in jaxlib 0.10.2) read past the end of what they reduce:
with two critics side by side a seed's NaN reached its neighbour, and what lay behind the last seed could make it NaN.
Without them small networks are up to 1.6 times faster, large ones as fast."""


@cache
def compiler_options() -> dict[str, str]:
    """Options for every program that is compiled here: `SAFE_ON_CPU` where this XLA knows them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=SAFE_ON_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return SAFE_ON_CPU


def cache_folder(train: TrainConfig) -> Path | None:
    """Where compiled programs are kept between processes, or None where the user turned that off."""
    if train.cache_dir == OFF:
        return None
    if train.cache_dir:
        return Path(train.cache_dir).expanduser()
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("lsf_jax")) / "xla"


def configure(train: TrainConfig) -> None:
    """Apply a run's runtime settings; call before anything is compiled.

    Raises:
      ConfigError: the cache folder cannot be made.
    """
    if train.deterministic:
        present = os.environ.get("XLA_FLAGS", "")
        missing = [flag for flag in DETERMINISTIC_FLAGS if flag not in present]
        os.environ["XLA_FLAGS"] = " ".join([present, *missing]).strip()
    jax.config.update("jax_default_matmul_precision", train.matmul_precision)
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
