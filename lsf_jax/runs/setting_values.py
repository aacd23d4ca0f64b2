"""The settings of a run as columns beside its metrics: one value for each grid point, by dotted name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsf_jax.config.composition import Config
from lsf_jax.config.grids import Swept
from lsf_jax.config.train_config import TrainConfig
from lsf_jax.runs.columns import Columns

_OF_THE_MACHINE = {field.name for field in dataclasses.fields(TrainConfig) if field.metadata.get("resumable")}
"""Settings of the section train that no result depends on, by their declarations."""


def settings_by_point(sections: Mapping[str, Mapping[str, Any]], swept: Swept) -> dict[str, np.ndarray]:
    """Those settings that are one number, truth value or text, at each grid point.

    Args:
      sections: "algo", "env" and "train", each with its settings; the first two with their `name`.
      swept: by dotted names; these come first.

    Returns:
      Dotted name -> `[points]` of float64, int64, bool or text.
    """
    points = swept.points
    varied = {name: np.array([point[name] for point in points]) for name in swept.values}
    fixed = {
        f"{section}.{key}": np.full(len(points), value)
        for section, settings in sections.items()
        for key, value in settings.items()
        if isinstance(value, bool | int | float | str) and not (section == "train" and key in _OF_THE_MACHINE)
    }
    return varied | {name: values for name, values in fixed.items() if name not in varied}


def setting_columns(config: Config, grid: np.ndarray) -> Columns:
    """The settings of rows of a table.

    Args:
      config: of the run.
      grid: `[rows]` index of each row's grid point.

    Returns:
      Dotted name -> `[rows]`.
    """
    sections = {
        "algo": {"name": config.algo_name, **vars(config.algo)},
        "env": {"name": config.env_name, **vars(config.env)},
        "train": vars(config.train),
    }
    by_point = settings_by_point(sections, config.swept)
    return {name: values[grid] for name, values in by_point.items()}
