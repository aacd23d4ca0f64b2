"""`lsf-jax doctor`: versions, devices, cache, and what is missing for what."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
from collections.abc import Sequence

import jax
import psutil

from lsf_jax.config.composition import compose
from lsf_jax.config.files import config_folder
from lsf_jax.config.train_config import TrainConfig
from lsf_jax.envs import ENVS
from lsf_jax.programs.planner import size_text
from lsf_jax.programs.runtime import cache_folder
from lsf_jax.registry.plugins import load_plugins

PACKAGES = ("lsf-jax", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "pyarrow", "matplotlib")
OPTIONAL = {
    "tensorboardX": ("train.sinks=tensorboard", "pip install 'lsf-jax[tensorboard]'"),
    "wandb": ("train.sinks=wandb", "pip install 'lsf-jax[wandb]'"),
    "trackio": ("train.sinks=trackio", "pip install 'lsf-jax[trackio]'"),
    "pandas": ("Run.to_frame", "pip install 'lsf-jax[analysis]'"),
    "xarray": ("Run.to_xarray", "pip install 'lsf-jax[analysis]'"),
    "optuna": ("lsf_jax.optimize", "pip install 'lsf-jax[optuna]'"),
    "jaxmarl": ("env jaxmarl: JaxMARL's games", "pip install 'jaxmarl>=0.2,<0.3'"),
    "jumanji": ("env jumanji: RobotWarehouse and Level-Based Foraging", "pip install 'lsf-jax[jumanji]'"),
    "nbclient": ("running the notebooks", "pip install 'lsf-jax[notebook]'"),
}


def examine(overrides: Sequence[str] = ()) -> tuple[list[str], bool]:
    """Look at the installation and the machine.

    Args:
      overrides: settings of environments with games on the host, for example "env.python=~/smac/bin/python".

    Returns:
      Lines for people, and whether everything that training needs is there (no games on the host are needed).

    Raises:
      ConfigError: for overrides that are settings of none of them.
    """
    lines, healthy = ["packages"], True
    lines.append(f"  {'python':<18} {platform.python_version()}  ({platform.system()} {platform.machine()})")
    for name in PACKAGES:
        found = _version(name)
        healthy &= found is not None or name == "lsf-jax"
        lines.append(f"  {name:<18} {found or _absent(name)}")
    lines += ["", "optional", *(_optional_line(package) for package in OPTIONAL)]
    devices = jax.devices()
    memory = psutil.virtual_memory()
    lines += [
        "",
        "devices",
        f"  backend            {jax.default_backend()} ({len(devices)} × {devices[0].device_kind})",
        f"  host               {psutil.cpu_count()} CPU threads, {size_text(memory.total)} memory, "
        f"{size_text(memory.available)} available",
        *_accelerator_lines(),
        "",
        "compilation cache",
        f"  {_cache_line()}",
        "",
        "configurations",
        f"  {config_folder()}",
        *_host_lines(overrides),
    ]
    return lines, healthy


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _absent(name: str) -> str:
    return "running from a source tree, not installed" if name == "lsf-jax" else f"MISSING: pip install {name}"


def _optional_line(package: str) -> str:
    purpose, remedy = OPTIONAL[package]
    present = importlib.util.find_spec(package) is not None
    return f"  {package:<18} {'present' if present else 'missing'}, for {purpose}{'' if present else f': {remedy}'}"


def _accelerator_lines() -> list[str]:
    if jax.default_backend() != "cpu":
        stats = jax.devices()[0].memory_stats() or {}
        return [f"  device memory      {size_text(stats.get('bytes_limit', 0))}"]
    return ["  accelerator        none seen by JAX; for a GPU: pip install 'lsf-jax[cuda]', for a TPU: [tpu]"]


def _host_lines(overrides: Sequence[str]) -> list[str]:
    """What the games of every environment on the host need."""
    load_plugins()
    hosted = {entry.name: entry.hosted for entry in ENVS.values() if entry.hosted is not None}
    keys = {name: {f"env.{field.name}" for field in dataclasses.fields(ENVS[name].config)} for name in hosted}
    known = set().union(*keys.values())
    lines = []
    for name, describe in hosted.items():
        foreign = known - keys[name]  # settings of another one; what nobody knows is refused below
        own = [word for word in overrides if word.partition("=")[0].strip() not in foreign]
        games = describe(compose(env=name, overrides=own).env)
        found = [f"  {each.name:<18} {'' if each.good else 'missing: '}{each.text}" for each in games.examine()]
        lines += ["", games.title or f"games of --env {name}", *found]
    return lines


def _cache_line() -> str:
    folder = cache_folder(TrainConfig())
    if folder is None:
        return "off"
    if not folder.is_dir():
        return f"on, empty: {folder}"
    files = [file for file in folder.iterdir() if file.is_file()]
    return f"on, {len(files)} files, {size_text(sum(file.stat().st_size for file in files))}: {folder}"
