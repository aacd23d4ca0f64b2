"""What runs, their grid points and environments are called, so that each is told from those shown beside it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lsf_jax.analysis.records import RunRecord, grid_labels
from lsf_jax.runs.card import value_text
from lsf_jax.settings import env_label


class System(NamedTuple):
    """One curve: a grid point of a run, with as much of a name as tells it from the others."""

    run: RunRecord
    grid: int
    label: str


def systems_of(runs: Sequence[RunRecord]) -> list[System]:
    """Each grid point of each run, named by algorithm; by folder where two runs have the same.

    Args:
      runs: loaded runs, on one environment or several.
    """
    return [
        System(run, grid, f"{name}, {label}" if label else name)
        for run, name in zip(runs, run_names(runs), strict=True)
        for grid, label in enumerate(grid_labels(run))
    ]


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """As much of a name for each of several runs as tells it apart: its algorithm, else its folder.

    Args:
      runs: loaded runs, on one environment or several.
    """
    choices = (
        [_name(run, "algo") for run in runs],
        [run.path.name for run in runs],
        [str(run.path) for run in runs],
        [f"{run.path} ({place})" for place, run in enumerate(runs, 1)],  # one folder given twice
    )
    where = tasks_of(runs)
    return next(names for names in choices if len(set(zip(names, where, strict=True))) == len(runs))


def env_of(run: RunRecord) -> str:
    """The environment of a run as people call it."""
    return env_label(_name(run, "env"), _env_settings(run))


def tasks_of(runs: Sequence[RunRecord]) -> list[str]:
    """The environment of each run, with those settings that differ between runs of the same one.

    Args:
      runs: loaded runs.

    Returns:
      For example "predator_prey, punishment=-2" beside "predator_prey, punishment=0", else "predator_prey".
    """
    names = [env_of(run) for run in runs]
    tasks = []
    for name, run in zip(names, runs, strict=True):
        alike = [_env_settings(other) for other, its in zip(runs, names, strict=True) if its == name]
        keys = [key for key in _env_settings(run) if len({value_text(other.get(key)) for other in alike}) > 1]
        parts = [f"{key}={value_text(_env_settings(run)[key])}" for key in keys]
        tasks.append(", ".join([name, *parts]))
    return tasks


def _name(run: RunRecord, section: str) -> str:
    settings = run.config.get(section)
    return str(settings.get("name", run.path.name) if isinstance(settings, dict) else run.path.name)


def _env_settings(run: RunRecord) -> dict[str, Any]:
    settings = run.config.get("env")
    return settings if isinstance(settings, dict) else {}
