"""A maker of run folders with known tables."""

import json

import numpy as np
import pytest

from lsf_jax.analysis.frames import load_run
from lsf_jax.runs import tables

CONFIG = """algo: {name: lsf_sac, lr: 3e-4}
env: {name: predator_prey}
train: {seeds: %d, env_steps: %d}
"""


@pytest.fixture
def make_run(tmp_path):
    """`make_run(returns [seeds, points], env_steps=..., budget=...)` writes a run folder and loads it.

    The last point of each seed is its final evaluation; the training table has one loss per evaluation.
    """

    def make(returns, env_steps=None, budget=None, name="run", grid="", timing=None):
        returns = np.asarray(returns, np.float64)
        n_rows, n_points = returns.shape
        if env_steps is None:
            env_steps = np.tile(np.arange(1, n_points + 1) * 100, (n_rows, 1))
        budget = int(env_steps[:, -1].min()) if budget is None else budget
        folder = tmp_path / name
        folder.mkdir(parents=True)
        n_seeds = n_rows // max(1, len(grid.split(",")) if grid else 1)
        text = CONFIG % (n_seeds, budget) + (f"grid: {{algo.lr: [{grid}]}}\n" if grid else "")
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        (folder / "card.json").write_text(json.dumps({"timing": timing or {}}), encoding="utf-8")
        row, point = (index.ravel() for index in np.indices(returns.shape))
        columns = {
            "row": row,
            "grid": row // n_seeds,
            "seed": row % n_seeds,
            "iteration": point,
            "env_steps": np.asarray(env_steps).ravel(),
        }
        tables.write_part(folder, "train", 0, 0, {**columns, "loss": -returns.ravel()})
        columns["final"] = point == n_points - 1
        tables.write_part(folder, "eval", 0, 0, {**columns, "return": returns.ravel()})
        return load_run(folder)

    return make
