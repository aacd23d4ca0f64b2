"""From a configuration to functions: the parts of one run, bound together once, and the rows that it trains."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import Config, grid_points, make_env, make_hosted
from lsf_jax.engine.learner import anneal_rates
from lsf_jax.engine.lengths import EARLY, static_lengths
from lsf_jax.engine.packing import observe_rows
from lsf_jax.engine.rollouts import device_collector, slots_of
from lsf_jax.engine.training import Sizes, TrainStep, make_train_step
from lsf_jax.envs.host import Hosted, empty_episodes
from lsf_jax.registry import ALGO, plugins
from lsf_jax.settings import ConfigError
from lsf_jax.types import Algorithm, Buffer, Clock, Collect, Env, Hyper, PRNGKey


class Program(NamedTuple):
    """The parts of a run, all functions of one seed; nothing is compiled yet."""

    env: Env
    algorithm: Algorithm
    collect: Collect
    buffer: Buffer
    step: TrainStep
    updates: int  # after each collection
    micro_batch: int = 0  # episodes for each gradient pass; 0: the whole batch
    sizes: Sizes = Sizes()  # how much a rollout and an update may compute
    hosted: Hosted | None = None  # games on the host; `collect` and `step` then have only the right shapes


class Rows(NamedTuple):
    """What a run trains: every grid point with every seed, seeds fastest. NumPy, `[R]` each."""

    seed: np.ndarray
    grid: np.ndarray
    hyper: Hyper  # [R] float32 leaves


def bind(config: Config) -> Program:
    """Bind environment, algorithm, collection and replay of a configuration; a run does so once.

    Args:
      config: checked configuration.

    Raises:
      ConfigError: for settings that the environment refuses, sizes of replay that do not fit together, and several
        lengths of time for losses that read the padding.
    """
    env = make_env(config)
    observe = partial(observe_rows, env)
    entry = ALGORITHMS[config.algo_name]
    algorithm = plugins.build(ALGO, entry, env.spec, config.algo, observe, expected=Algorithm)
    if anneal_steps := getattr(config.algo, "lr_anneal", 0.0):
        algorithm = algorithm._replace(update=anneal_rates(algorithm.update, anneal_steps))
    hosted = make_hosted(config)
    sizes = make_sizes(config, env, algorithm, hosted)
    collect = _collector(env, algorithm, config.train.n_envs, hosted, len(sizes.lengths))
    clock = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))
    key = jax.random.key(0)

    def fresh(key_any: PRNGKey) -> Any:
        agent = algorithm.init(key_any, algorithm.hyper)
        return collect(algorithm.policy_params(agent), clock, algorithm.hyper, key_any)

    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), jax.eval_shape(fresh, key))
    try:
        buffer = algorithm.replay(example, config.train.buffer_capacity, config.train.n_envs)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    updates = config.algo.updates
    return Program(
        env=env,
        algorithm=algorithm,
        collect=collect,
        buffer=buffer,
        step=make_train_step(algorithm, buffer, collect, updates, sizes),
        updates=updates,
        sizes=sizes,
        hosted=hosted,
    )


def with_micro_batch(program: Program, micro_batch: int) -> Program:
    """The same parts, learning from `micro_batch` episodes at a time; 0 takes batches whole."""
    algorithm, buffer, collect = program.algorithm, program.buffer, program.collect
    step = make_train_step(algorithm, buffer, collect, program.updates, program.sizes, micro_batch)
    return program._replace(step=step, micro_batch=micro_batch)


def make_sizes(config: Config, env: Env, algorithm: Algorithm, hosted: Hosted | None) -> Sizes:
    """How much rollouts and updates may compute: follows from the settings and the platform that is traced for."""
    lengths = static_lengths(env.spec.episode_limit, _number_of_lengths(config, env, algorithm))
    return Sizes(
        lengths=lengths,
        packs=not algorithm.reads_padding,
        slots=0 if hosted else slots_of(env, config.train.n_envs),
    )


def _number_of_lengths(config: Config, env: Env, algorithm: Algorithm) -> int:
    asked = config.train.lengths
    if algorithm.reads_padding and asked > 1:
        raise ConfigError(
            f"train.lengths is {asked}; expected 1 with {algorithm.reads_padding}, whose losses count padding, which "
            f"several lengths make depend on the other seeds; set train.lengths=1 or change "
            f"{algorithm.reads_padding.partition('=')[0]}"
        )
    return asked or (EARLY if env.ends_early and not algorithm.reads_padding else 1)


def _collector(env: Env, algorithm: Algorithm, n_envs: int, hosted: Hosted | None, parts: int) -> Collect:
    """Collection on the device; for games on the host a stand-in with its shapes, which planning reads."""
    if hosted is None:
        return device_collector(env, algorithm, n_envs, parts)
    return lambda *_: jax.tree.map(jnp.asarray, empty_episodes(env.spec, hosted, n_envs))


def make_rows(config: Config, algorithm: Algorithm) -> Rows:
    """Grid points × seeds, in the order of the rows of every table."""
    points = grid_points(config)
    n_seeds = config.train.seeds
    seed = np.tile(np.arange(n_seeds), len(points))
    grid = np.repeat(np.arange(len(points)), n_seeds)

    def column(name: str, default: Array) -> np.ndarray:
        values = np.array([point.get(name, float(default)) for point in points], np.float32)
        return values[grid]

    defaults = algorithm.hyper
    hyper = type(defaults)(**{name: column(name, value) for name, value in defaults._asdict().items()})
    return Rows(seed=seed, grid=grid, hyper=hyper)


def take_rows(rows: Rows, start: int, width: int) -> Rows:
    """Rows start..start+width-1; a last block is filled up with copies of the last row's numbers and unused seeds.

    Padding keeps every block of a run equally wide, which keeps one program and makes results independent of how a
    sweep is cut.
    """
    stop = min(start + width, len(rows.seed))
    index = np.minimum(np.arange(start, start + width), stop - 1)
    unused = int(rows.seed.max()) + 1 + np.arange(width)
    seed = np.where(np.arange(start, start + width) < stop, rows.seed[index], unused)
    return Rows(seed=seed, grid=rows.grid[index], hyper=jax.tree.map(lambda leaf: leaf[index], rows.hyper))


def evaluation_interval(config: Config, program: Program) -> int:
    """Iterations between points where evaluations may stand: train.evaluate_every env steps of full episodes."""
    steps = config.train.n_envs * program.env.spec.episode_limit
    return max(1, round(config.train.evaluate_every / steps))
