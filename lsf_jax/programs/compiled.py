"""Jitted functions of a block of seeds, each compiled at its first call, and how a block lies over several devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from lsf_jax.engine.evaluation import make_evaluate
from lsf_jax.engine.lengths import SEEDS_AXIS
from lsf_jax.engine.training import AXES, Chunk, ChunkLog, init_train_state, iteration_keys, make_chunk, per_leaf
from lsf_jax.programs.parts import Program, Rows
from lsf_jax.programs.runtime import jit_program
from lsf_jax.types import EpisodeStats, Hyper, JointTable, PRNGKey, TrainState

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

Evaluation = Callable[[Any, TrainState], EpisodeStats]
"""Full parameter dicts `[K, ...]` by group and a block's state in, `[K, E]` out."""


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


def jit_init(program: Program, root_seed: int, mesh: Mesh | None = None) -> Callable[[Rows], TrainState]:
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


def place_shapes(state: TrainState, mesh: Mesh | None) -> TrainState:
    """Shapes of a block's state and where each leaf lies: the seed axis over the mesh, counters everywhere.

    Args:
      state: arrays or shapes.
      mesh: as for `jit_init`; None names no places.
    """
    if mesh is None:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    mapped, common = NamedSharding(mesh, BY_SEED), NamedSharding(mesh, COMMON)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=mapped if leaf.shape else common)

    return jax.tree.map(placed, state)


def jit_chunk(program: Program, *, rows: int, log_every: int = 1, mesh: Mesh | None = None) -> Chunk:
    """The jitted chunk of a block (see `make_chunk`); its state argument is donated."""
    chunk = jit_program(make_chunk(program.step, rows=rows, log_every=log_every), donate=(0,))
    counters = dict.fromkeys(("iteration", "episodes", "updates"), COMMON)
    log_places: Any = {**counters, "metrics": PartitionSpec(None, SEEDS), "nonfinite_at": BY_SEED}
    return over_devices(chunk, mesh, (PLACES, COMMON, COMMON), (PLACES, ChunkLog(**log_places)))


def jit_evaluate(
    program: Program, n_episodes: int, *, stochastic: bool = False, mesh: Mesh | None = None
) -> Evaluation:
    """`evaluate(params, state) -> EpisodeStats [K, E]` of full parameter dicts, for instance `state.kept.params`."""
    parts = len(program.sizes.lengths)
    one = make_evaluate(program.env, program.algorithm, n_episodes, stochastic=stochastic, parts=parts)

    def evaluate(params: Any, state: TrainState) -> EpisodeStats:
        policy = program.algorithm.policy_params(state.agent._replace(params=params))
        return one(policy, state.clock, state.hyper, iteration_keys(state).evaluate)

    return _per_seed(evaluate, mesh)


def jit_joint_table(
    program: Program, starts: tuple[int, ...], mesh: Mesh | None = None
) -> Callable[[Any, TrainState], JointTable]:
    """`table(params, state) -> JointTable [K, starts, ...]` of the nodes that a matrix game may start in."""

    def table(params: Any, state: TrainState) -> JointTable:
        agent = state.agent._replace(params=params)
        observation = jax.vmap(program.env.observe)(jnp.asarray(starts, jnp.uint8))
        keys = jax.random.split(iteration_keys(state).evaluate, len(starts))
        return jax.vmap(partial(program.algorithm.joint_table, agent))(observation, keys)

    return _per_seed(table, mesh)


def _per_seed(function: Callable[[Any, TrainState], Any], mesh: Mesh | None) -> Callable[[Any, TrainState], Any]:
    """Jit a function of one seed's (parameters, state) over a block; replay is not handed to it."""
    in_axes = (0, AXES._replace(buffer=None))
    batched = jit_program(jax.vmap(function, in_axes=in_axes, axis_name=SEEDS_AXIS))
    compiled = over_devices(batched, mesh, (BY_SEED, PLACES), BY_SEED)
    return lambda params, state: compiled(params, state._replace(buffer=()))
