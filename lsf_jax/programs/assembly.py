"""All programs of one run, laid out as its plan says: what a session calls."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from lsf_jax.config.composition import Config
from lsf_jax.engine.host_replay import init_on_host, on_host
from lsf_jax.engine.training import Chunk
from lsf_jax.programs.compiled import (
    LOG_ROWS,
    Evaluation,
    jit_chunk,
    jit_evaluate,
    jit_init,
    jit_joint_table,
    place_shapes,
    seed_mesh,
)
from lsf_jax.programs.hosted import HostPrograms, HostSizes, make_host_programs
from lsf_jax.programs.parts import Program, Rows, with_micro_batch
from lsf_jax.programs.planner import Plan, slice_of
from lsf_jax.types import JointTable, TrainState

LARGEST_JOINT = 256  # joint actions whose Q table is recorded at every evaluation


class Programs(NamedTuple):
    """The programs of a run; each compiles at its first call."""

    parts: Program  # what they are made of, the batch cut as planned
    init: Callable[[Rows], TrainState]
    shapes: Callable[[Rows], TrainState]  # what `init` returns, and where it lies, without making it
    chunk: Chunk
    evaluate: Evaluation
    evaluate_sampled: Evaluation | None  # where it was asked for
    joint_table: Callable[[Any, TrainState], JointTable] | None = None  # of games that have a small `env.payoff`
    host: HostPrograms | None = None  # where games are played on the host


def make_programs(config: Config, plan: Plan, program: Program) -> Programs:
    """The programs of a run.

    Args:
      config: checked configuration.
      plan: block width, devices and micro-batch.
      program: the run's parts.
    """
    program = with_micro_batch(program, slice_of(plan))
    if program.hosted is not None:
        return _programs_on_host(config, plan, program)
    train, mesh = config.train, seed_mesh(plan.n_devices)
    evaluate = partial(jit_evaluate, program, train.eval_episodes, mesh=mesh)
    payoff = program.env.payoff
    if payoff is not None and payoff.table.size > LARGEST_JOINT:
        payoff = None
    return Programs(
        parts=program,
        init=jit_init(program, train.seed, mesh),
        shapes=partial(_shapes, jit_init(program, train.seed), mesh),
        chunk=jit_chunk(program, rows=LOG_ROWS, log_every=train.log_every, mesh=mesh),
        evaluate=evaluate(),
        evaluate_sampled=evaluate(stochastic=True) if train.eval_stochastic else None,
        joint_table=None if payoff is None else jit_joint_table(program, payoff.starts, mesh),
    )


def _programs_on_host(config: Config, plan: Plan, program: Program) -> Programs:
    train = config.train
    sizes = HostSizes(
        seeds=plan.width,
        n_envs=train.n_envs,
        log_every=train.log_every,
        eval_episodes=train.eval_episodes,
        host_replay=plan.host_replay,
    )
    host = make_host_programs(program, sizes, train.seed)
    init = jit_init(program, train.seed)
    shapes = partial(_shapes, init, None)
    return Programs(
        parts=program,
        init=partial(init_on_host, init) if plan.host_replay else init,
        shapes=(lambda rows: on_host(shapes(rows))) if plan.host_replay else shapes,
        chunk=host.chunk,
        evaluate=host.evaluate,
        evaluate_sampled=host.evaluate_sampled if train.eval_stochastic else None,
        host=host,
    )


def _shapes(init: Callable[[Rows], TrainState], mesh: Mesh | None, rows: Rows) -> TrainState:
    return place_shapes(jax.eval_shape(init, rows), mesh)
