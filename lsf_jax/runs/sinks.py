"""Optional live views of a run, beside its Parquet tables: TensorBoard, Weights & Biases and Trackio.

A sink's package is imported when the sink is asked for, never before.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lsf_jax.registry import SHIPPED_SINKS, SINK, TABLES
from lsf_jax.runs.safe_files import folder_inside
from lsf_jax.settings import ConfigError, clip


class Sink(NamedTuple):
    """Somewhere to watch scalars while a run goes on; what it is sent is a copy, never the record of the run."""

    write: Callable[[int, Mapping[str, float]], None]  # environment steps, name -> value; NaN is left out
    close: Callable[[], None]  # flushes; call once


def make_sinks(
    names: Sequence[str], run_dir: Path, config: Mapping[str, Any] | None = None, label: str = "lsf-jax"
) -> tuple[Sink, ...]:
    """Opens the sinks that a run asks for.

    Args:
      names: any of `SINKS`; a repeated name opens one sink.
      run_dir: the run folder; event files go into a sub-folder named like the sink.
      config: the resolved configuration, shown beside the curves where the sink can.
      label: the project that the run is filed under.

    Returns:
      One sink per name, in order.

    Raises:
      ConfigError: an unknown name, or a package that is not installed.
    """
    require_packages(names)
    return tuple(SINKS[name](Path(run_dir), dict(config or {}), label) for name in dict.fromkeys(names))


def require_packages(names: Sequence[str]) -> None:
    """Imports the packages of the sinks that a run asks for, before anything is written.

    Raises:
      ConfigError: an unknown name, or a package that is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"sink {name!r} is unknown; choose from {', '.join(SINKS)}")
        if name in PACKAGES:
            _import(name)


def write_all(sinks: Sequence[Sink], env_steps: int, scalars: Mapping[str, float]) -> None:
    """Sends the same scalars to every sink.

    Args:
      sinks: open sinks.
      env_steps: the horizontal axis: environment steps per seed.
      scalars: name -> value; names may carry a group, as in "train/loss".
    """
    for sink in sinks:
        sink.write(env_steps, scalars)


def _tensorboard(run_dir: Path, config: dict[str, Any], label: str) -> Sink:
    del config, label  # TensorBoard shows the folder's name
    writer = _import("tensorboard").SummaryWriter(logdir=str(folder_inside(run_dir, "tensorboard")))

    def write(env_steps: int, scalars: Mapping[str, float]) -> None:
        for name, value in _without_nan(scalars).items():
            writer.add_scalar(name, value, global_step=env_steps)

    return Sink(write=write, close=writer.close)


def _wandb(run_dir: Path, config: dict[str, Any], label: str) -> Sink:
    folder_inside(run_dir, "wandb")  # where it puts its files
    run = _import("wandb").init(project=label, name=run_dir.name, dir=str(run_dir), config=config)

    def write(env_steps: int, scalars: Mapping[str, float]) -> None:
        run.log({**_without_nan(scalars), "env_steps": env_steps})

    return Sink(write=write, close=run.finish)


def _trackio(run_dir: Path, config: dict[str, Any], label: str) -> Sink:
    run = _import("trackio").init(project=label, name=run_dir.name, config=config, resume="allow")

    def write(env_steps: int, scalars: Mapping[str, float]) -> None:
        run.log({**_without_nan(scalars), "env_steps": env_steps}, step=env_steps)

    return Sink(write=write, close=run.finish)


SINKS: dict[str, Callable[[Path, dict[str, Any], str], Sink]] = TABLES[SINK]
"""Name in `train.sinks` -> what opens it; those of plug-ins once they are loaded."""
SINKS.update(zip(SHIPPED_SINKS, (_tensorboard, _wandb, _trackio), strict=True))
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
"""Name in `train.sinks` -> what it imports; plug-ins import what theirs need."""


def _without_nan(scalars: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in scalars.items() if value == value}


def _import(name: str) -> ModuleType:
    package = PACKAGES[name]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"train.sinks has {name}; expected its package {package} to be there ({clip(str(error))}); "
            f"pip install 'lsf-jax[{name}]'"
        ) from None
