"""Runs in the JSON form that marl-eval reads; the package itself is not needed.

Reference: Gorsane et al. (2022), Towards a Standardised Performance Evaluation Protocol for Cooperative MARL, and the
"Data Structure for Raw Experiment data" in the README of https://github.com/instadeepai/marl-eval.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lsf_jax.analysis.naming import systems_of, tasks_of
from lsf_jax.analysis.records import RunRecord, grid_of, metric_names
from lsf_jax.runs.safe_files import write_output
from lsf_jax.settings import ConfigError


def write_marl_eval(runs: Sequence[RunRecord], path: str | Path) -> Path:
    """Writes the evaluations of runs as one JSON file: environment, task, algorithm, seed, step.

    Each evaluation is one number a metric, the mean over its episodes; the final one, of the parameters taken at the
    budget, stands under `absolute_metrics`. Metrics with several numbers, and points that are NaN, are left out.

    Args:
      runs: finished runs.
      path: the file to write.

    Returns:
      The path.

    Raises:
      ConfigError: a run is not finished, or the file cannot be written.
    """
    content: dict[str, Any] = {}
    tasks = dict(zip((id(run) for run in runs), tasks_of(runs), strict=True))
    for system in systems_of(runs):
        env, _, rest = tasks[id(system.run)].partition("/")
        of_task = content.setdefault(env.partition(",")[0], {}).setdefault(rest or env, {})
        of_task[system.label] = _seeds(system.run, system.grid)
    write_output(path, json.dumps(content, indent=1, allow_nan=False).encode())
    return Path(path)


def _seeds(run: RunRecord, grid: int) -> dict[str, Any]:
    table = run.evaluation
    mine = np.flatnonzero(grid_of(run, table) == grid) if table else np.zeros(0, np.int64)
    rows = table["row"][mine] if table else mine
    if not len(mine) or set(rows) != set(rows[table["final"][mine]]):
        raise ConfigError(f"{run.path} is not finished; expected a final evaluation of each seed: resume it first")
    names = [name for name in metric_names(table) if table[name].ndim == 1]
    seeds: dict[str, Any] = {}
    for index in mine:
        steps = seeds.setdefault(f"seed_{table['seed'][index]}", {})
        values = {name: float(table[name][index]) for name in names}
        metrics = {name: [value] for name, value in values.items() if np.isfinite(value)}
        steps[f"step_{len(steps)}"] = {"step_count": int(table["env_steps"][index]), **metrics}
        if table["final"][index]:
            steps["absolute_metrics"] = metrics
    return seeds
