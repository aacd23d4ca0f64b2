"""Run folders made by hand: finished policies with random weights, without training anything."""

import json
from functools import partial

import jax
import numpy as np

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import compose, grid_points, make_env
from lsf_jax.config.documents import to_yaml
from lsf_jax.engine.packing import observe_rows
from lsf_jax.runs.params_file import save_params

TINY = {"hidden": 8, "mixer_embed": 4, "hyper_hidden": 4, "encoder_hidden": 4, "decoder_hidden": 4, "critic_hidden": 8}


def tiny(algo, env):
    """Overrides for small networks, of those settings that an algorithm has."""
    keys = vars(compose(algo=algo, env=env).algo)
    return [f"algo.{key}={size}" for key, size in TINY.items() if key in keys]


def algorithm_of(config):
    """The algorithm of a configuration alone, without binding collection and replay."""
    env = make_env(config)
    return ALGORITHMS[config.algo_name].factory(env.spec, config.algo, partial(observe_rows, env))


def finished_run(path, algo, env, *overrides, block=2, seed=0):
    """A folder that looks like a finished run, its policies in blocks of so many rows; returns their parameters."""
    config = compose(algo=algo, env=env, overrides=[*tiny(algo, env), *overrides])
    algorithm = algorithm_of(config)
    n_rows = config.train.seeds * len(grid_points(config))
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper).params
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(size=(n_rows, *leaf.shape)).astype(leaf.dtype), shapes)
    (path / "policies").mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    starts = range(0, n_rows, block)
    layout = {"width": block, "n_devices": 1, "n_blocks": len(starts), "micro_batch": config.algo.batch_size}
    (path / "card.json").write_text(json.dumps({"layout": layout}), encoding="utf-8")
    for index, first in enumerate(starts):
        rows = list(range(first, min(first + block, n_rows)))
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], params)
        save_params(path / "policies" / f"block-{index:04d}.safetensors", part, {"rows": json.dumps(rows)})
    return params
