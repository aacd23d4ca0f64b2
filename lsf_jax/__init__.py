"""LSF-SAC in JAX and Flax: multi-agent learning on device, vmapped over seeds and hyper-parameters.

    import lsf_jax
    config = lsf_jax.compose(env="matrix_game", overrides=["seeds=64"])
    result = lsf_jax.train(config)
    run = lsf_jax.load_run(result.path)

Names are imported at first use, so that `import lsf_jax` costs nothing and initialises no backend.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ALGORITHMS": "lsf_jax.algorithms",
    "ENVS": "lsf_jax.envs",
    "Algorithm": "lsf_jax.types",
    "Buffer": "lsf_jax.types",
    "Clock": "lsf_jax.types",
    "Config": "lsf_jax.config.composition",
    "ConfigError": "lsf_jax.settings",
    "Env": "lsf_jax.types",
    "EnvSpec": "lsf_jax.types",
    "Episode": "lsf_jax.types",
    "Observation": "lsf_jax.types",
    "Result": "lsf_jax.runs.experiment",
    "TimeStep": "lsf_jax.types",
    "TrainConfig": "lsf_jax.config.composition",
    "TrainState": "lsf_jax.types",
    "Trajectory": "lsf_jax.types",
    "compare_runs": "lsf_jax.runs.card",
    "comparison_text": "lsf_jax.runs.card",
    "compose": "lsf_jax.config.composition",
    "evaluate_policies": "lsf_jax.analysis.playback",
    "load_policies": "lsf_jax.analysis.playback",
    "load_run": "lsf_jax.analysis.frames",
    "make": "lsf_jax.envs",
    "make_plan": "lsf_jax.programs.planner",
    "plot_curves": "lsf_jax.analysis.plots",
    "plot_q_table": "lsf_jax.analysis.plots",
    "record_episode": "lsf_jax.analysis.playback",
    "replace": "lsf_jax.config.composition",
    "resume": "lsf_jax.runs.experiment",
    "rollout": "lsf_jax.engine.rollouts",
    "summary_table": "lsf_jax.analysis.summary",
    "train": "lsf_jax.runs.experiment",
}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lsf_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
