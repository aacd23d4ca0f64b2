"""Commands that train or are about to: `train`, `sweep`, `resume` and `plan`."""

import argparse
from typing import TYPE_CHECKING

from lsf_jax.cli.arguments import (
    FINISHED,
    INTERRUPTED,
    Command,
    add_cluster,
    add_composition,
    cluster_of,
    composed,
    positive,
)
from lsf_jax.settings import ConfigError, printable

if TYPE_CHECKING:
    from lsf_jax.runs.experiment import Result

TRAIN = """examples:
  lsf-jax train
  lsf-jax train --algo lsf_sac --env predator_prey env.punishment=-2 seeds=8 train.env_steps=1000000
  lsf-jax train --preset matrix seeds=64 train.block=32
  lsf-jax train --env smax/8m --init-from runs/lsf_sac-smax_3m-20260101-120000
`lsf-jax list` shows names, `lsf-jax list keys` every setting with its range."""
SWEEP = """examples:
  lsf-jax sweep --preset matrix seeds=32 algo.lr=1e-3,3e-3 algo.alpha=0.5,1,3
  lsf-jax sweep --cluster auto --preset matrix seeds=1000 algo.lr=1e-3,3e-3
A comma list on a traced number makes a grid; grid points × seeds are trained in one compiled program."""
PLAN = """examples:
  lsf-jax plan --preset matrix seeds=256
  lsf-jax plan --target h100 seeds=64
  lsf-jax plan --target v5e --devices 8 --quick --env smax/3m seeds=512
  lsf-jax plan --cluster 16x8xh100 seeds=10000 algo.lr=1e-4,3e-4,1e-3"""
RESUME = """examples:
  lsf-jax resume runs/lsf_sac-predator_prey-20260101-120000
  lsf-jax resume runs/NAME train.env_steps=2000000
Continues from the last checkpoint, to the same bits as an uninterrupted run."""


def _train(options: argparse.Namespace) -> int:
    """`lsf-jax train` and `lsf-jax sweep`."""
    from lsf_jax.runs import experiment

    cluster = cluster_of(options)
    return _report(experiment.train(composed(options), init_from=options.init_from, cluster=cluster))


def _resume(options: argparse.Namespace) -> int:
    """`lsf-jax resume`."""
    from lsf_jax.runs import experiment

    cluster = cluster_of(options)
    return _report(experiment.resume(options.run, overrides=options.overrides, cluster=cluster))


def _plan(options: argparse.Namespace) -> int:
    """`lsf-jax plan`."""
    if options.cluster:
        return _plan_cluster(options)
    if options.target:
        return _plan_target(options)
    if options.devices != 1 or options.quick:
        given = f"--devices is {options.devices}" if options.devices != 1 else "--quick is given"
        raise ConfigError(f"{given}; expected together with --target alone; add --target, or use train.devices")
    from lsf_jax.programs import planner, runtime
    from lsf_jax.programs.parts import bind
    from lsf_jax.runs import experiment

    config = composed(options)
    runtime.configure(config.train)
    print(experiment.describe_run(config), flush=True)
    program = bind(config)
    layout = planner.make_plan(config, program)
    print(planner.plan_text(layout), flush=True)
    if not options.no_compile:
        print("compiling the training chunk to ask for its memory ...", flush=True)
        print(planner.compiled_text(config, layout, program))
    return FINISHED


def _plan_target(options: argparse.Namespace) -> int:
    """`lsf-jax plan --target`: nothing here wakes a device, so that a real one is left alone."""
    from lsf_jax.config.documents import to_yaml
    from lsf_jax.programs import targets
    from lsf_jax.runs import experiment

    config = composed(options)
    print(experiment.describe_run(config), flush=True)
    tell = lambda line: print(line, flush=True)
    found = targets.survey(to_yaml(config), options.target, n_devices=options.devices, quick=options.quick, tell=tell)
    print(f"\n{targets.survey_text(found)}")
    return FINISHED


def _plan_cluster(options: argparse.Namespace) -> int:
    """`lsf-jax plan --cluster`: of a cluster that is not there."""
    from lsf_jax.runs import experiment
    from lsf_jax.runs.sweeps import foresight

    if options.target or options.devices != 1:
        raise ConfigError("--cluster names chip and devices; expected without --target and --devices")
    shape = foresight.read_shape(options.cluster)
    config = composed(options)
    print(experiment.describe_run(config), flush=True)
    seen = foresight.foresee(config, shape, lambda line: print(line, flush=True))
    print(f"\n{foresight.foresight_text(seen)}")
    return FINISHED


def _report(result: "Result") -> int:
    from lsf_jax.analysis.frames import load_run
    from lsf_jax.analysis.plots import plot_curves
    from lsf_jax.analysis.summary import summary_table
    from lsf_jax.runs.folder import CURVES
    from lsf_jax.runs.safe_files import file_inside

    if not result.finished:
        print(f"\nstopped and saved; continue with: lsf-jax resume {result.path}")
        return INTERRUPTED
    run = load_run(result.path)
    print(printable(f"\n{summary_table(run)}\n"))
    target = file_inside(result.path, CURVES)
    plot_curves([run], path=target)
    print(f"learning curve: {target}")
    print(f"run folder:     {result.path}")
    return FINISHED


def _add_train(parser: argparse.ArgumentParser) -> None:
    add_composition(parser)
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        help="start from the parameters of a finished run, where names and shapes match: row i from row i, or all from "
        "a single one; short for train.init_from=RUN",
    )
    add_cluster(parser)


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that may change, such as train.env_steps"
    )
    add_cluster(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add_composition(parser)
    parser.add_argument("--no-compile", action="store_true", help="estimate only; do not ask the compiled program")
    parser.add_argument(
        "--target",
        default="",
        metavar="CHIP",
        help="plan for h100, h200, a100, l4, b200, v4, v5e, v5p or v6e without having one: compile the run for it here "
        "(minutes); needs the extra lsf-jax[targets]",
    )
    parser.add_argument(
        "--cluster",
        default="",
        metavar="NODESxDEVICESxCHIP",
        help="what the run would take on a cluster, such as 16x8xh100: blocks, hours and disk, by compiling one block "
        "for a device of it here; needs the extra lsf-jax[targets]",
    )
    parser.add_argument("--devices", type=positive, default=1, metavar="N", help="of them in one machine (default 1)")
    parser.add_argument(
        "--quick", action="store_true", help="with --target: compile once; how many seeds fit is then not known"
    )


COMMANDS = (
    Command("train", "train an algorithm on an environment, several seeds side by side", _add_train, _train, TRAIN),
    Command("sweep", "train a grid of hyper-parameters × seeds in one program", _add_train, _train, SWEEP),
    Command("plan", "show memory, blocks and the compiled program's needs; nothing is trained", _add_plan, _plan, PLAN),
    Command("resume", "continue a run that was stopped or killed, or extend it", _add_resume, _resume, RESUME),
)
