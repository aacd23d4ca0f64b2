"""Sweeps and searches without training: finished runs written by hand, whose returns follow their points."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lsf_jax.config.composition import grid_points, replace
from lsf_jax.config.documents import to_yaml
from lsf_jax.runs import ensuring, tables


def write_run(config, returns, nonfinite=()):
    """A finished run of final returns `[points, seeds]`, with an evaluation before; some rows diverged."""
    n_seeds = config.train.seeds
    path = Path(config.train.run_dir) / config.train.name
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    trouble = [{"row": row, "seed": row % n_seeds, "iteration": 1} for row in nonfinite]
    (path / "card.json").write_text(json.dumps({"nonfinite": trouble}), encoding="utf-8")
    row = np.repeat(np.arange(returns.size), 2)
    final = np.tile([False, True], returns.size)
    tables.write_part(
        path,
        "eval",
        0,
        0,
        {
            "row": row,
            "grid": row // n_seeds,
            "seed": row % n_seeds,
            "iteration": np.tile([0, 1], returns.size),
            "env_steps": np.tile([0, config.train.env_steps], returns.size),
            "final": final,
            "return": np.where(final, returns.reshape(-1)[row], -99.0).astype(np.float32),
        },
    )
    return path


class Trainer:
    """Stands in for training: the return is how near a point's learning rate is to 0.01; seeds lie up to 1 around."""

    def __init__(self, monkeypatch):
        self.configs, self.stop_before, self.nonfinite, self.nan_at = [], None, {}, set()
        monkeypatch.setattr(ensuring, "ensure", self.ensure)

    def ensure(self, path, config, shared):
        assert shared is not None
        self.configs.append(config)
        if self.stop_before == len(self.configs):
            return SimpleNamespace(finished=False, stopped=True)
        if path.exists():
            return None
        points = grid_points(config) if config.grid else ({"lr": config.algo.lr},)
        worth = -np.abs(np.log10([point["lr"] for point in points]) + 2)
        returns = worth[:, None] + np.linspace(-1.0, 1.0, config.train.seeds)
        for place in self.nan_at:
            returns[place, 0] = np.nan
        block = config.train.block or returns.size  # as the planner chooses one, on record in the run's config.yaml
        write_run(replace(config, "train.block", block), returns, self.nonfinite.get(path.name, ()))
        return SimpleNamespace(finished=True, stopped=False)
