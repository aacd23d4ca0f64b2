"""All programs of one run, bound to its plan: what a session calls."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.config.composition import Config
from lsf_jax.engine.host_replay import init_on_host
from lsf_jax.engine.training import Chunk
from lsf_jax.programs.hosted import HostPrograms, HostSizes, make_host_programs
from lsf_jax.programs.parts import (
    LOG_ROWS,
    Evaluation,
    Program,
    Rows,
    compile_chunk,
    compile_evaluate,
    compile_init,
    compile_joint_table,
    seed_mesh,
    with_micro_batch,
)
from lsf_jax.programs.planner import Plan, slice_of
from lsf_jax.types import JointTable, TrainState

LARGEST_JOINT = 256  # joint actions whose Q table is recorded at every evaluation


class Compiled(NamedTuple):
    """The programs of a run."""

    program: Program
    init: Callable[[Rows], TrainState]
    chunk: Chunk
    evaluate: Evaluation
    evaluate_sampled: Evaluation | None
    joint_table: Callable[[Any, TrainState], JointTable] | None
    payoff: np.ndarray | None  # [starts, A, ..., A]
    host: HostPrograms | None = None  # where games are played on the host


def compile_all(config: Config, plan: Plan, program: Program) -> Compiled:
    """The jitted programs of a run (each compiles at its first call)."""
    mesh = seed_mesh(plan.n_devices)
    program = with_micro_batch(program, slice_of(plan))
    payoff = program.env.payoff
    if payoff is not None and payoff.table.size > LARGEST_JOINT:
        payoff = None
    train = config.train
    if program.hosted is not None:
        return _compile_hosted(config, plan, program)
    return Compiled(
        program=program,
        init=compile_init(program, train.seed, mesh),
        chunk=compile_chunk(program, rows=LOG_ROWS, log_every=train.log_every, mesh=mesh),
        evaluate=compile_evaluate(program, train.eval_episodes, mesh=mesh),
        evaluate_sampled=compile_evaluate(program, train.eval_episodes, stochastic=True, mesh=mesh)
        if train.eval_stochastic
        else None,
        joint_table=None if payoff is None else compile_joint_table(program, payoff.starts, mesh),
        payoff=None if payoff is None else payoff.table,
    )


def _compile_hosted(config: Config, plan: Plan, program: Program) -> Compiled:
    train = config.train
    host = make_host_programs(
        program,
        HostSizes(
            seeds=plan.width,
            n_envs=train.n_envs,
            log_every=train.log_every,
            eval_episodes=train.eval_episodes,
            host_replay=plan.host_replay,
        ),
        train.seed,
    )
    init = compile_init(program, train.seed)
    return Compiled(
        program=program,
        init=partial(init_on_host, init) if plan.host_replay else init,
        chunk=host.chunk,
        evaluate=host.evaluate,
        evaluate_sampled=host.evaluate_sampled if train.eval_stochastic else None,
        joint_table=None,
        payoff=None,
        host=host,
    )


def evaluation_interval(config: Config, program: Program) -> int:
    """Iterations between points where evaluations may stand: train.evaluate_every env steps of full episodes."""
    steps = config.train.n_envs * program.env.spec.episode_limit
    return max(1, round(config.train.evaluate_every / steps))
