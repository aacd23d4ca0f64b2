"""From a configuration to functions: the parts of one run, bound together, and the compiled programs made of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import Config, grid_points, make_env, make_hosted, updates_per_iteration
from lsf_jax.engine.buffers import observe_episode
from lsf_jax.engine.evaluation import make_evaluate
from lsf_jax.engine.lengths import EARLY, SEEDS_AXIS, static_lengths
from lsf_jax.engine.rollouts import device_collector
from lsf_jax.engine.training import (
    AXES,
    Chunk,
    ChunkLog,
    TrainStep,
    init_train_state,
    iteration_keys,
    make_chunk,
    make_train_step,
    per_leaf,
)
from lsf_jax.envs.host import Hosted, empty_episodes
from lsf_jax.programs.runtime import compiler_options
from lsf_jax.settings import ConfigError
from lsf_jax.types import Algorithm, Buffer, Clock, Collect, Env, EpisodeStats, Hyper, JointTable, PRNGKey, TrainState

LOG_ROWS = 512
"""Rows of the train table that one chunk has room for."""

SEEDS = "seeds"
"""Name of the mesh axis over which seeds are sharded."""

COMMON = PartitionSpec()
"""On every device alike: the counters."""

BY_SEED = PartitionSpec(SEEDS)
"""Rows over devices, by the first axis."""

PLACES = per_leaf(BY_SEED, COMMON)
"""Where every part of the state lies."""


class Program(NamedTuple):
    """The parts of a run, all functions of one seed; nothing is compiled yet."""

    env: Env
    algorithm: Algorithm
    collect: Collect
    buffer: Buffer
    step: TrainStep
    updates: int  # after each collection
    micro_batch: int = 0  # episodes for each gradient pass; 0: the whole batch
    lengths: tuple[int, ...] = ()  # steps that an update may compute, ascending; the last one is the limit
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
    observe = partial(observe_episode, env)
    algorithm = ALGORITHMS[config.algo_name].factory(env.spec, config.algo, observe)
    hosted = make_hosted(config)
    lengths = static_lengths(env.spec.episode_limit, _number_of_lengths(config, env, algorithm))
    collect = _collector(env, algorithm, config.train.n_envs, hosted, len(lengths))
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
    updates = updates_per_iteration(config)
    return Program(
        env=env,
        algorithm=algorithm,
        collect=collect,
        buffer=buffer,
        step=make_train_step(algorithm, buffer, collect, updates, lengths),
        updates=updates,
        lengths=lengths,
        hosted=hosted,
    )


def with_micro_batch(program: Program, micro_batch: int) -> Program:
    """The same parts, learning from `micro_batch` episodes at a time; 0 takes batches whole."""
    algorithm, buffer, collect = program.algorithm, program.buffer, program.collect
    step = make_train_step(algorithm, buffer, collect, program.updates, program.lengths, micro_batch)
    return program._replace(step=step, micro_batch=micro_batch)


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


def seed_mesh(n_devices: int) -> Mesh | None:
    """A one-axis mesh over the first devices, or None for a single one."""
    if n_devices == 1:
        return None
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((n_devices,), (SEEDS,), auto, devices=jax.devices()[:n_devices])


def over_devices(
    function: Callable[..., Any], mesh: Mesh | None, in_places: tuple[Any, ...], out_places: Any
) -> Callable[..., Any]:
    """Call a jitted function of one device on each device's share of the seeds, all devices at the same time.

    Not one program partitioned over the mesh: XLA fuses, and so rounds, that one differently from the program of a
    single device. Here every device runs the latter on its own rows, so results are bitwise those of one device that
    runs blocks of that width. Each device asks for the program at its first call; on GPUs the compilation cache on
    disk answers all but the first. Shares of arguments that are in place already are not copied and can be donated.

    Args:
      function: jitted, of positional arguments.
      mesh: devices with one axis `SEEDS`; None returns `function` as it is.
      in_places: of each argument, a tree prefix of partition specs; what lies elsewhere is moved there.
      out_places: a tree prefix of partition specs of the result.

    Returns:
      The function of whole arrays: `[K, ...]` over the mesh, what is common on every device.
    """
    if mesh is None:
        return function
    shardings = jax.tree.map(partial(NamedSharding, mesh), in_places)

    def everywhere(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(jax.device_put(arguments, shardings))
        shares = [[shard.data for shard in leaf.addressable_shards] for leaf in leaves]
        results = [function(*structure.unflatten(share)) for share in zip(*shares, strict=True)]
        return jax.tree.map(partial(_join, mesh), out_places, *results)

    return everywhere


def _join(mesh: Mesh, place: PartitionSpec, *shares: Any) -> Any:
    """Each device's result as one tree of arrays over the mesh; nothing is copied."""

    def join(*parts: Array) -> Array:
        names = (*place, *(None,) * parts[0].ndim)
        sizes = zip(parts[0].shape, names, strict=False)
        shape = tuple(size * mesh.size if name == SEEDS else size for size, name in sizes)
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, place), list(parts))

    return jax.tree.map(join, *shares)


def compile_init(program: Program, root_seed: int, mesh: Mesh | None = None) -> Callable[[Rows], TrainState]:
    """`init(rows) -> TrainState` of a block; seed k starts from `fold_in(key(root_seed), k)`.

    With a mesh each device makes its own rows: all replays would not fit on one.
    """
    start = partial(init_train_state, program.algorithm, program.buffer)

    def one(hyper: Hyper, seed: Array, root: PRNGKey) -> TrainState:
        return start(hyper, jax.random.fold_in(root, seed))

    batched = jax.jit(jax.vmap(one, in_axes=(0, 0, None), out_axes=AXES))
    compiled = over_devices(batched, mesh, (BY_SEED, BY_SEED, COMMON), PLACES)

    def init(rows: Rows) -> TrainState:
        return compiled(
            jax.tree.map(jnp.asarray, rows.hyper), jnp.asarray(rows.seed, jnp.uint32), jax.random.key(root_seed)
        )

    return init


def state_shapes(state: TrainState, mesh: Mesh | None) -> TrainState:
    """Shapes of a block's state and where each leaf lies: the seed axis over the mesh, counters everywhere.

    Args:
      state: arrays or shapes.
      mesh: as for `compile_init`; None says nothing about places.
    """
    if mesh is None:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    mapped, common = NamedSharding(mesh, BY_SEED), NamedSharding(mesh, COMMON)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=mapped if leaf.shape else common)

    return jax.tree.map(placed, state)


def compile_chunk(program: Program, *, rows: int, log_every: int = 1, mesh: Mesh | None = None) -> Chunk:
    """The jitted chunk of a block (see `make_chunk`); its state argument is donated."""
    chunk = jax.jit(
        make_chunk(program.step, rows=rows, log_every=log_every), donate_argnums=0, compiler_options=compiler_options()
    )
    counters = dict.fromkeys(("iteration", "episodes", "updates"), COMMON)
    log_places: Any = {**counters, "metrics": PartitionSpec(None, SEEDS), "nonfinite_at": BY_SEED}
    return over_devices(chunk, mesh, (PLACES, COMMON, COMMON), (PLACES, ChunkLog(**log_places)))


Evaluation = Callable[[Any, TrainState], EpisodeStats]


def compile_evaluate(
    program: Program, n_episodes: int, *, stochastic: bool = False, mesh: Mesh | None = None
) -> Evaluation:
    """`evaluate(params, state) -> EpisodeStats [K, E]` of full parameter dicts, for instance `state.kept.params`."""
    parts = len(program.lengths)
    one = make_evaluate(program.env, program.algorithm, n_episodes, stochastic=stochastic, parts=parts)

    def evaluate(params: Any, state: TrainState) -> EpisodeStats:
        policy = program.algorithm.policy_params(state.agent._replace(params=params))
        return one(policy, state.clock, state.hyper, iteration_keys(state)[2])

    return _per_seed(evaluate, mesh)


def compile_joint_table(
    program: Program, starts: tuple[int, ...], mesh: Mesh | None = None
) -> Callable[[Any, TrainState], JointTable]:
    """`table(params, state) -> JointTable [K, starts, ...]` of the nodes that a matrix game may start in."""

    def table(params: Any, state: TrainState) -> JointTable:
        agent = state.agent._replace(params=params)
        observation = jax.vmap(program.env.observe)(jnp.asarray(starts, jnp.uint8))
        keys = jax.random.split(iteration_keys(state)[2], len(starts))
        return jax.vmap(partial(program.algorithm.joint_table, agent))(observation, keys)

    return _per_seed(table, mesh)


def _per_seed(function: Callable[[Any, TrainState], Any], mesh: Mesh | None) -> Callable[[Any, TrainState], Any]:
    """Jit a function of one seed's (parameters, state) over a block; replay is not handed to it."""
    in_axes = (0, AXES._replace(buffer=None))
    batched = jax.jit(jax.vmap(function, in_axes=in_axes, axis_name=SEEDS_AXIS), compiler_options=compiler_options())
    compiled = over_devices(batched, mesh, (BY_SEED, PLACES), BY_SEED)
    return lambda params, state: compiled(params, state._replace(buffer=()))


def returns_summary(stats: EpisodeStats) -> Float[np.ndarray, "seeds"]:
    """Mean return of each seed `[K]` over the episodes of an evaluation."""
    return np.asarray(stats.episode_return).mean(axis=-1)
