"""The planner: what one seed needs, how many fit side by side, and how the batch is sliced so that they do."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.extend import core as jax_core
from jaxtyping import Array

from lsf_jax.config.composition import Config
from lsf_jax.config.train_config import divisors
from lsf_jax.engine.packing import choices_of, fitted_rows
from lsf_jax.engine.training import init_train_state
from lsf_jax.programs.compiled import LOG_ROWS, jit_chunk, jit_init
from lsf_jax.programs.parts import Program, bind, make_rows, take_rows, with_micro_batch
from lsf_jax.settings import ConfigError
from lsf_jax.types import BufferState, Clock, PRNGKey, TrainState

USABLE = 0.8  # share of the memory that a run may plan with; compiled programs and the host need the rest
DEVICE_REPLAY = 0.5  # share of a device's memory that replay of games on the host may take before it moves there
ENOUGH = 2**19  # hidden numbers of a batch, of all seeds of a block, from which a CPU gains nothing by more
TILED = {"tpu": 1.35}
"""How many times the activations that shapes ask for are planned with, 1 elsewhere: a TPU lays arrays out in tiles of
8 × 128. Compiled for v5e at predator-prey's size, temporary memory is 1.1 (LSF-SAC) and 1.3 (QMIX) times that with
libtpu 0.0.52, and 1.4 and 1.7 with 0.0.42; what is over, `USABLE` leaves room for."""
GIB = 2**30


class Plan(NamedTuple):
    """How a run is laid out in memory."""

    rows: int  # grid points × seeds
    n_devices: int
    width: int  # rows side by side on one device: the block width that fixes every bit
    n_blocks: int  # blocks of width · n_devices rows, one after another
    micro_batch: int  # episodes for each gradient pass
    batch_size: int
    bytes_per_row: dict[str, int]  # by component
    memory_bytes: int  # what one device, or the host, may hold
    disk_bytes: int  # one full checkpoint of one block
    host_replay: bool = False  # replay is kept in the host's memory, not on the device


class Hardware(NamedTuple):
    """What a run is laid out on."""

    platform: str  # JAX's name of the backend: "cpu", "gpu", "tpu"
    n_devices: int
    memory_bytes: int  # of one device; of a CPU's devices, which share it, together


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of its shapes."""
    return sum(math.prod(leaf.shape) * _item_bytes(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _item_bytes(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def peak_bytes(jaxpr: jax_core.Jaxpr) -> int:
    """Most bytes that intermediate values of a jaxpr hold at one time, inputs not counted.

    Values live from the equation that makes them to the last that reads them; inner programs (scan bodies, branches)
    add their own peak while they run. Fusion can only lower the truth, buffers kept for layout raise it: against
    compiled programs the estimate is within tens of per cent (`benchmarks/memory.py`).
    """
    last_use: dict[Any, int] = {}
    for position, equation in enumerate(jaxpr.eqns):
        last_use.update({var: position for var in equation.invars if isinstance(var, jax_core.Var)})
    kept = {var for var in jaxpr.outvars if isinstance(var, jax_core.Var)}
    live, peak = 0, 0
    made: dict[Any, int] = {}
    for position, equation in enumerate(jaxpr.eqns):
        inner = max((peak_bytes(sub) for sub in _inner(equation)), default=0)
        for var in equation.outvars:
            made[var] = _aval_bytes(var)
            live += made[var]
        peak = max(peak, live + inner)
        touched = [var for var in (*equation.invars, *equation.outvars) if isinstance(var, jax_core.Var)]
        for var in touched:
            if var in made and var not in kept and last_use.get(var, position) <= position:
                live -= made.pop(var)
    return peak


def _inner(equation: Any) -> list[jax_core.Jaxpr]:
    found = []
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
        if isinstance(value, jax_core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, jax_core.Jaxpr):
            found.append(value)
    return found


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jax_core.ClosedJaxpr | jax_core.Jaxpr)


def _aval_bytes(var: Any) -> int:
    return math.prod(var.aval.shape) * _item_bytes(var.aval.dtype) if hasattr(var.aval, "dtype") else 0


def row_bytes(program: Program, micro_batch: int) -> dict[str, int]:
    """Bytes that one row needs, by component, from shapes alone: nothing is compiled."""
    program = with_micro_batch(program, micro_batch)
    state, fresh = _shapes(program)
    step = jax.make_jaxpr(program.step)(state, jax.ShapeDtypeStruct((), jnp.int32))
    return _kept_bytes(state, fresh) | {"activations": max(peak_bytes(step.jaxpr) - tree_bytes(fresh), 0)}


def _laid_out(needs: dict[str, int], platform: str) -> dict[str, int]:
    """What a row needs where its activations are laid out as the platform does."""
    return needs | {"activations": int(needs["activations"] * TILED.get(platform, 1.0))}


def _kept_bytes(state: TrainState, fresh: Any) -> dict[str, int]:
    """Bytes of what lives through an iteration, of one row."""
    agent = state.agent
    return {
        "parameters": tree_bytes(agent.params),
        "targets": tree_bytes(agent.targets),
        "optimiser": tree_bytes(agent.opt_state),
        "kept parameters": tree_bytes(state.kept),
        "replay": tree_bytes(state.buffer),
        "fresh episodes": tree_bytes(fresh),
    }


def least_bytes(program: Program) -> Callable[[int], dict[str, int]]:
    """What one row needs at the least, as a function of the episodes in a slice of its batch.

    `row_bytes` traces an update, which takes seconds whatever the sizes; this does not, so that sizes that cannot be
    are refused at once. It counts the batch as it is drawn, or what learning sees of a slice of it: the larger one.
    """
    state, fresh = _shapes(program)
    drawn = peak_bytes(jax.make_jaxpr(partial(_drawn, program))(state.buffer, state.clock, state.key).jaxpr)
    spec, kept = program.env.spec, _kept_bytes(state, fresh)
    if program.hosted is not None:  # replay may be elsewhere
        kept["replay"] = 0
    seen = 4 * (spec.episode_limit + 1) * (spec.n_agents * spec.obs_dim + spec.state_dim)
    return lambda micro_batch: kept | {"batch": max(drawn, micro_batch * seen)}


def _drawn(program: Program, stored: BufferState, clock: Clock, key: PRNGKey) -> Array:
    """A number that hangs on all of a batch as an update is given it."""
    batch, sizes = program.buffer.sample(stored, clock, key), program.sizes
    first = lambda total, leaf: total + leaf[(0,) * leaf.ndim].astype(jnp.float32)
    read = lambda rows: jax.tree.reduce(first, rows, jnp.float32(0.0))
    return fitted_rows(choices_of(sizes.lengths, batch), batch, read) if sizes.packs else read(batch)


def _shapes(program: Program) -> tuple[TrainState, Any]:
    """Shapes of one row's state and of the episodes it collects at a time."""
    algorithm = program.algorithm
    start = lambda key: init_train_state(algorithm, program.buffer, algorithm.hyper, key)
    state = jax.eval_shape(start, jax.random.key(0))
    policy = jax.eval_shape(algorithm.policy_params, state.agent)
    return state, jax.eval_shape(program.collect, policy, state.clock, state.hyper, state.key)


def episode_bytes(program: Program) -> int:
    """Bytes of one episode as it is recorded, snapshots and all."""
    fresh = _shapes(program)[1]
    return -(-tree_bytes(fresh) // fresh.valid.shape[0])


def hardware_here() -> Hardware:
    """The devices of this process: a device's memory as it says, or free host memory."""
    platform = jax.default_backend()
    stats = jax.devices()[0].memory_stats() if platform != "cpu" else None
    free = int(stats["bytes_limit"]) if stats and "bytes_limit" in stats else int(psutil.virtual_memory().available)
    return Hardware(platform=platform, n_devices=len(jax.devices()), memory_bytes=free)


def memory_limit(config: Config, hardware: Hardware | None = None) -> int:
    """Bytes that a run may hold on one device: the config's word, else what there is."""
    if config.train.memory_gib:
        return int(config.train.memory_gib * GIB)
    return (hardware or hardware_here()).memory_bytes


def n_devices(config: Config, hardware: Hardware | None = None) -> int:
    """Devices that the run spreads its seeds over.

    Raises:
      ConfigError: if more are asked for than there are.
    """
    present = (hardware or hardware_here()).n_devices
    if config.train.devices > present:
        raise ConfigError(f"train.devices is {config.train.devices}; this machine has {present}; use 0 for all of them")
    return config.train.devices or present


def make_plan(config: Config, program: Program | None = None, hardware: Hardware | None = None) -> Plan:
    """Choose the block of rows and the micro-batch so that the run fits.

    All rows go side by side if they can, with the batch whole if it can be; then with a smaller micro-batch; then in
    blocks of equal width, one after another. Settings that are given (train.block, train.micro_batch) are taken, also
    a block wider than there are rows: it is filled up, so that a single seed gives the bits that it has in a sweep.

    Args:
      config: checked configuration.
      program: its parts, if they are bound already.
      hardware: what it is planned for; by default what this process has.

    Raises:
      ConfigError: if not even one row, or not the given block, fits, with what it needs and what there is.
    """
    batch = config.algo.batch_size
    program, hardware = program or bind(config), hardware or hardware_here()
    rows = len(make_rows(config, program.algorithm).seed)
    # On the host every forced CPU device shares one memory.
    devices = 1 if program.hosted is not None else min(n_devices(config, hardware), rows)
    limit = memory_limit(config, hardware) // (devices if hardware.platform == "cpu" else 1)
    share = -(-rows // devices)
    slices = [config.train.micro_batch] if config.train.micro_batch else _slices(batch)
    least = least_bytes(program)
    if sum(least(slices[0]).values()) > limit * USABLE:
        raise ConfigError(_too_large(least(slices[0]), limit, config))
    _check_evaluation(config, program, limit)
    needs_of = lambda micro: _laid_out(row_bytes(program, 0 if micro == batch else micro), hardware.platform)
    fits, micro, needs = _slice_that_fits(needs_of, least, slices, int(limit * USABLE), config.train.block or share)
    host_replay = _replay_on_host(config, program, needs.get("replay", 0) * share / limit, hardware.platform)
    disk = sum(needs.get(name, 0) for name in ("parameters", "targets", "optimiser", "kept parameters", "replay"))
    if host_replay:
        needs = needs | {"replay": 0}
        fits = int(limit * USABLE // sum(needs.values()))
    best_width = width_on_cpu(config, program) if hardware.platform == "cpu" else share
    width = config.train.block or min(share, fits, best_width)
    if fits < 1:
        raise ConfigError(_too_large(needs, limit, config))
    if width > fits:
        raise ConfigError(
            f"train.block is {width}; {fits} seeds side by side fit into {size_text(int(limit * USABLE))}; "
            f"lower train.block, or raise train.memory_gib"
        )
    if not config.train.block:  # as equal as they can be
        width = -(-share // -(-share // width))
    return Plan(
        rows=rows,
        n_devices=devices,
        width=width,
        n_blocks=-(-rows // (width * devices)),
        micro_batch=micro,
        batch_size=batch,
        bytes_per_row=needs,
        memory_bytes=limit,
        disk_bytes=disk * width * devices,
        host_replay=host_replay,
    )


def _check_evaluation(config: Config, program: Program, limit: int) -> None:
    """Nothing, where the episodes of one seed's evaluation, recorded side by side, have room.

    Raises:
      ConfigError: they have not.
    """
    needed = 0 if program.hosted is not None else episode_bytes(program) * config.train.eval_episodes
    if needed > limit * USABLE:
        raise ConfigError(
            f"train.eval_episodes is {config.train.eval_episodes}; an evaluation of one seed needs {size_text(needed)} "
            f"and {size_text(int(limit * USABLE))} may be used; lower it: `lsf-jax evaluate` plays as many in the end"
        )


def width_on_cpu(config: Config, program: Program) -> int:
    """Seeds side by side on one core: as many as make a batch of `ENOUGH` numbers, and one where one does.

    Side by side, seeds share what an operation costs that hardly computes anything; where a batch is large they only
    push each other out of the cache, and wait for the longest episode of all. The width fixes a run's bits, so it
    follows from shapes alone, never from a measurement.
    """
    spec = program.env.spec
    numbers = config.algo.batch_size * (spec.episode_limit + 1) * spec.n_agents * config.algo.hidden
    return max(1, -(-ENOUGH // numbers))


def _replay_on_host(config: Config, program: Program, of_memory: float, platform: str) -> bool:
    """Whether replay goes into the host's memory: only games on the host can, and do where the device has no room.

    Raises:
      ConfigError: it is asked for in an environment on the device.
    """
    if config.train.replay == "host" and program.hosted is None:
        raise ConfigError("train.replay is host; expected auto or device: this environment's replay is on the device")
    if program.hosted is None or config.train.replay == "device":
        return False
    return config.train.replay == "host" or (platform != "cpu" and of_memory > DEVICE_REPLAY)


def slice_of(plan: Plan) -> int:
    """Episodes for each gradient pass, 0 where the batch is taken whole."""
    return 0 if plan.micro_batch == plan.batch_size else plan.micro_batch


def _slices(batch: int) -> list[int]:
    """Divisors of the batch to try, from four episodes to the whole."""
    return [size for size in divisors(batch) if size == batch or size >= 4]


def _slice_that_fits(
    needs: Callable[[int], dict[str, int]],
    least: Callable[[int], dict[str, int]],
    slices: list[int],
    room: int,
    rows: int,
) -> tuple[int, int, dict[str, int]]:
    """How many rows fit, with which slice of the batch, and what one of them needs then.

    The largest slice with which so many rows fit, else the largest with which as many fit as with the smallest: the
    smaller it is, the less a row needs. Each look at one traces a whole update, so few are looked at: none of which
    `least` knows that no row fits, and the smallest alone if with that none does.
    """
    look = cache(needs)
    fits = lambda micro: room // sum(look(micro).values()) if sum(least(micro).values()) <= room else 0
    micro = slices[-1]
    if fits(micro) < rows:
        wanted = min(fits(slices[0]), rows)
        micro = slices[bisect_right(slices, -wanted, key=lambda each: -fits(each)) - 1] if wanted else slices[0]
    return fits(micro), micro, look(micro)


def _too_large(needs: dict[str, int], limit: int, config: Config) -> str:
    parts = ", ".join(
        f"{name} {size_text(size)}" for name, size in sorted(needs.items(), key=lambda item: -item[1])[:2]
    )
    known = "" if "activations" in needs else "at least "
    return (
        f"one seed needs {known}{size_text(sum(needs.values()))} ({parts}) and {size_text(int(limit * USABLE))} may be "
        f"used; lower train.buffer_capacity (now {config.train.buffer_capacity}) or algo.batch_size "
        f"(now {config.algo.batch_size}), or raise train.memory_gib"
    )


def size_text(size: int | float) -> str:
    """Bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def plan_text(plan: Plan) -> str:
    """The plan as lines for people."""
    total = sum(plan.bytes_per_row.values())
    lines = [f"  {name:<18} {size_text(size):>10}" for name, size in plan.bytes_per_row.items()]
    slices = plan.batch_size // plan.micro_batch
    how = "whole" if slices == 1 else f"in {slices} slices of {plan.micro_batch}"
    seeds_per_gib = GIB / total
    return "\n".join(
        [
            f"memory per seed      {size_text(total):>10}   ({seeds_per_gib:.1f} seeds per GiB)",
            *lines,
            f"seeds × grid points  {plan.rows:>10,}",
            f"layout               {plan.n_blocks} block(s) of {plan.width} on each of {plan.n_devices} device(s)",
            f"batch                {plan.batch_size} episodes, {how}",
            *(["replay               in the host's memory"] if plan.host_replay else []),
            f"memory in use        {size_text(total * plan.width):>10}   of {size_text(plan.memory_bytes)}, per device",
            f"checkpoint           {size_text(plan.disk_bytes):>10}   when replay is full",
        ]
    )


def compiled_text(config: Config, plan: Plan, program: Program) -> str:
    """Compile the training chunk at the planned width and tell what memory the program itself asks for."""
    program = with_micro_batch(program, slice_of(plan))
    rows = take_rows(make_rows(config, program.algorithm), 0, plan.width)
    state = jax.eval_shape(jit_init(program, config.train.seed), rows)
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    chunk = jit_chunk(program, rows=LOG_ROWS, log_every=config.train.log_every)
    start = time.monotonic()
    used = chunk.lower(state, counter, counter).compile().memory_analysis()
    seconds = time.monotonic() - start
    estimate = plan.bytes_per_row["activations"] * plan.width
    return "\n".join(
        [
            f"compiled in          {seconds:>8.1f} s",
            f"state, donated       {size_text(used.argument_size_in_bytes):>10}",
            f"temporary            {size_text(used.temp_size_in_bytes):>10}   (estimated {size_text(estimate)})",
        ]
    )
