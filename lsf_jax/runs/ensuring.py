"""The run of a configuration, whatever there is of it already: what suites and searches ask for."""

from pathlib import Path

from lsf_jax.config.composition import Config
from lsf_jax.programs.shared import Shared
from lsf_jax.runs import checkpoint, experiment, folder
from lsf_jax.runs.sweeps.cluster import Cluster
from lsf_jax.settings import ConfigError


def ensure(
    path: Path, config: Config, shared: Shared | None = None, cluster: Cluster | str | None = None
) -> experiment.Result | None:
    """Train, continue or extend the run of a configuration in its folder; None if nothing was left to do.

    Args:
      path: the folder that `train.run_dir` and `train.name` of the configuration name.
      config: from `compose`.
      shared: as for `train`.
      cluster: as for `train`.

    Raises:
      ConfigError: the folder holds a run of another configuration; and as `train` and `resume`.
    """
    if not (path / folder.CONFIG).exists():
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # a process was killed between making the folder and writing into it
        return experiment.train(config, shared=shared, cluster=cluster)
    if is_finished(path, config) and not experiment.differences_of(path, config):
        return None
    return experiment.resume(path, config=config, cluster=cluster)


def is_finished(path: Path, config: Config) -> bool:
    """Whether a run in a folder has brought every block to the budget of a configuration."""
    try:
        saved, card = folder.read_run(path)
    except ConfigError:
        return False
    budget = saved.train.env_steps
    if budget != config.train.env_steps:
        return False
    metas = [checkpoint.read_block(path, index) for index in range(folder.read_layout(path, card).n_blocks)]
    return all(meta is not None and meta.finished_budget == budget for meta in metas)
