"""A sweep from Python: a grid trained as one program, its evaluations with names on every axis."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lsf_jax.analysis.frames import load_run
from lsf_jax.analysis.labelled import require
from lsf_jax.config.composition import Config
from lsf_jax.config.sweeps import swept_over
from lsf_jax.runs import experiment
from lsf_jax.runs.progress import Progress
from lsf_jax.runs.watching import OnEvaluation
from lsf_jax.settings import ConfigError

if TYPE_CHECKING:
    import xarray


def sweep(
    config: Config,
    grid: Mapping[str, Sequence[float]] | None = None,
    *,
    progress: Progress | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> "xarray.Dataset":
    """Train a grid of hyper-parameters × seeds as one compiled program.

    Args:
      config: from `compose`; what it sweeps itself is part of the grid.
      grid: dotted key of a number of the algorithm, such as "algo.lr", -> its values; all combinations are trained.
      progress: as for `lsf_jax.train`.
      on_evaluation: as for `lsf_jax.train`.

    Returns:
      The evaluations, as `lsf_jax.load_run(folder).to_xarray()` gives them: dimensions point, seed, step. After Ctrl-C
      those until then; its coordinate `run` names the folder in `train.run_dir` that `lsf_jax.resume` goes on with.

    Raises:
      ConfigError: nothing is swept, a key that cannot be, a value that is refused, or xarray is not installed; and as
        for `lsf_jax.train`.
    """
    swept = swept_over(config, grid or {})
    if not swept.grid:
        raise ConfigError("grid is empty; expected keys with several values, such as {'algo.lr': [1e-3, 3e-3]}")
    require("xarray")
    return load_run(experiment.train(swept, progress=progress, on_evaluation=on_evaluation).path).to_xarray()
