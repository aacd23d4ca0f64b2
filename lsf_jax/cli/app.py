"""The command line: `lsf-jax COMMAND`, a thin layer over `experiment`, `playback` and `analysis`.

Bad input ends in one line on standard error and exit code 2; a run stopped by Ctrl-C is saved and ends with 130.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lsf_jax.cli import suites

if TYPE_CHECKING:
    pass

WRONG_INPUT, INTERRUPTED = 2, 130

EPILOG = {
    "train": """examples:
  lsf-jax train
  lsf-jax train --algo lsf_sac --env predator_prey env.punishment=-2 seeds=8 train.env_steps=1000000
  lsf-jax train --preset matrix seeds=64
`lsf-jax list` shows names, `lsf-jax list keys` every setting with its range.""",
    "sweep": """examples:
  lsf-jax sweep --preset matrix seeds=32 algo.lr=1e-3,3e-3 algo.alpha=0.5,1,3
A comma list on a traced number makes a grid; grid points × seeds are trained in one compiled program.""",
    "resume": """examples:
  lsf-jax resume runs/lsf_sac-predator_prey-20260101-120000
  lsf-jax resume runs/NAME train.env_steps=2000000
Continues from the last checkpoint, to the same bits as an uninterrupted run.""",
}


STOCHASTIC = "sample from the policy instead of acting greedily; algorithms that learn values alone stay greedy"
PLOT_OUTPUT = "file to write (default: curves-METRIC.png in the run; of several, compared-METRIC.png in the first)"


class OneLineParser(argparse.ArgumentParser):
    """A parser that complains in one line, like every other error; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Write what is wrong with the arguments and end with exit code 2."""
        self.exit(WRONG_INPUT, f"lsf-jax: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    top = OneLineParser(
        prog="lsf-jax",
        description="LSF-SAC in JAX: multi-agent learning on device, many seeds at once.",
        epilog="`lsf-jax COMMAND --help` explains each command.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run_command(commands, "train", "train an algorithm on an environment, several seeds side by side")
    _add_run_command(commands, "sweep", "train a grid of hyper-parameters × seeds in one program")
    _add_run_command(commands, "plan", "show memory, blocks and the compiled program's needs; nothing is trained")
    resume = _command(commands, "resume", "continue a run that was stopped or killed, or extend it")
    resume.add_argument("run", help="the run folder")
    resume.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that may change, such as train.env_steps"
    )
    evaluate = _command(commands, "evaluate", "evaluate the final policies of a run over fresh episodes")
    evaluate.add_argument("run", help="the run folder")
    evaluate.add_argument("--episodes", type=_positive, default=100, help="episodes for each seed (default 100)")
    evaluate.add_argument("--stochastic", action="store_true", help=STOCHASTIC)
    evaluate.add_argument("--seed", type=int, default=0, help="root of the evaluation's randomness (default 0)")
    evaluate.add_argument(
        "--replays", default="", metavar="FOLDER", help="of StarCraft II: save the games played as .SC2Replay there"
    )
    render = _command(commands, "render", "write a GIF of an episode of a trained policy")
    render.add_argument("run", help="the run folder")
    render.add_argument(
        "--row", type=int, default=0, help="which row (seed, or grid point × seed) of the run (default 0)"
    )
    render.add_argument("--output", default="", help="file to write (default: RUN/episode-row<ROW>.gif)")
    render.add_argument(
        "--episode", type=int, default=0, help="number of the episode: chooses its randomness (default 0)"
    )
    render.add_argument("--stochastic", action="store_true", help=STOCHASTIC)
    render.add_argument("--ascii", action="store_true", help="print the episode as text instead of writing a GIF")
    render.add_argument("--fps", type=float, default=6.0, help="frames per second (default 6)")
    plot = _command(commands, "plot", "learning curves of one or more runs as a PNG, and a table of final results")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    plot.add_argument(
        "--metric", default="return", help="what to plot: an evaluation column, or train/NAME (default return)"
    )
    plot.add_argument("--output", default="", help=PLOT_OUTPUT)
    compare = _command(commands, "compare", "hold the protocols of runs against each other; differences are marked")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="two or more run folders")
    compare.add_argument("--all", action="store_true", help="show what is equal too")
    compare.add_argument("--markdown", action="store_true", help="print Markdown tables")
    listing = _command(commands, "list", "names of algorithms, environments and presets; `list keys` for every setting")
    listing.add_argument(
        "what", nargs="?", default="all", choices=("all", "algo", "env", "train", "preset", "suite", "keys")
    )
    listing.add_argument("--algo", default=None, help="for `list keys`: whose settings")
    listing.add_argument("--env", default=None, help="for `list keys`: whose settings")
    suites.add_commands(partial(_command, commands), _positive)
    doctor = _command(commands, "doctor", "versions, devices, cache, and what is missing for what")
    doctor.add_argument(
        "overrides", nargs="*", metavar="env.key=value", help="settings of real SMAC, such as env.python, env.sc2_path"
    )
    return top


def _command(commands: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=EPILOG.get(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_run_command(commands: argparse._SubParsersAction, name: str, summary: str) -> None:
    command = _command(commands, name, summary)
    command.add_argument("--algo", default=None, help="a name from `lsf-jax list algo` (default lsf_sac)")
    command.add_argument("--env", default=None, help="a name from `lsf-jax list env` (default predator_prey)")
    command.add_argument("--train", default="default", help="a name from `lsf-jax list train` (default default)")
    command.add_argument("--preset", action="append", default=[], help="a name from `lsf-jax list preset`; repeatable")
    command.add_argument("--config", action="append", default=[], metavar="FILE", help="your own YAML file; repeatable")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="dotted settings, last and strongest: algo.lr=3e-4 env.punishment=-2 train.n_envs=16 seeds=64",
    )
    if name == "plan":
        command.add_argument("--no-compile", action="store_true", help="estimate only; do not ask the compiled program")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write(
            "lsf-jax: stopped at once; a run that has begun keeps its last checkpoint: continue it with "
            "`lsf-jax resume` and its folder, a suite with the same command\n"
        )
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    options = _parse(arguments)
    from lsf_jax.envs.host import HostError
    from lsf_jax.runs.checkpoint import CheckpointError
    from lsf_jax.runs.folder import RunFolderError
    from lsf_jax.settings import ConfigError

    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except (ConfigError, RunFolderError, CheckpointError, HostError) as error:
        return _complain(str(error))
    except BrokenPipeError:
        # The reader has had enough, as in `| head`; Python flushes again at exit and would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, settings wherever they stand: argparse itself wants positional words in one place."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    words = [word for word in rest if "=" in word and not word.startswith("-")]
    if not hasattr(options, "overrides") or len(words) < len(rest):
        top.parse_args(arguments)  # complains
    else:
        options.overrides = [*options.overrides, *words]
    return options


def _complain(message: str) -> int:
    sys.stderr.write(f"lsf-jax: {' '.join(message.split())}\n")
    return WRONG_INPUT


def _compose(options: argparse.Namespace) -> "Config":
    from lsf_jax.config.composition import compose

    return compose(
        algo=options.algo,
        env=options.env,
        train=options.train,
        presets=options.preset,
        files=options.config,
        overrides=options.overrides,
    )


def _train(options: argparse.Namespace) -> int:
    from lsf_jax.runs import experiment

    return _report(experiment.train(_compose(options)))


def _resume(options: argparse.Namespace) -> int:
    from lsf_jax.config.composition import compose
    from lsf_jax.runs import experiment
    from lsf_jax.runs.folder import CONFIG, read_run

    path = Path(options.run)
    read_run(path)
    config = compose(files=[path / CONFIG], overrides=options.overrides) if options.overrides else None
    return _report(experiment.resume(path, config=config))


def _report(result: "Result") -> int:
    from lsf_jax.analysis.frames import load_run
    from lsf_jax.analysis.plots import plot_curves
    from lsf_jax.analysis.summary import summary_table

    if not result.finished:
        print(f"\nstopped and saved; continue with: lsf-jax resume {result.path}")
        return INTERRUPTED
    run = load_run(result.path)
    plot_curves([run], path=result.path / "curves-return.png")
    print(f"\n{summary_table(run)}\n")
    print(f"learning curve: {result.path / 'curves-return.png'}")
    print(f"run folder:     {result.path}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from lsf_jax.programs import planner, runtime
    from lsf_jax.programs.parts import bind
    from lsf_jax.runs import experiment

    config = _compose(options)
    runtime.configure(config.train)
    print(experiment.describe_run(config), flush=True)
    program = bind(config)
    plan = planner.make_plan(config, program)
    print(planner.plan_text(plan), flush=True)
    if not options.no_compile:
        print("compiling the training chunk to ask for its memory ...", flush=True)
        print(planner.compiled_text(config, plan, program))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import numpy as np

    from lsf_jax.analysis import playback
    from lsf_jax.programs import runtime

    policies = playback.load_policies(options.run)
    runtime.configure(policies.config.train)
    columns = playback.evaluate_policies(
        policies,
        options.episodes,
        stochastic=options.stochastic,
        root_seed=options.seed,
        replays=options.replays,
    )
    how = "sampled" if options.stochastic else "greedy"
    print(f"{options.episodes} {how} episodes for each of {len(columns['row'])} rows")
    names = [name for name in columns if name not in ("row", "grid")]
    print("  ".join(f"{name:>12}" for name in names))
    for index in range(min(len(columns["row"]), 32)):
        print("  ".join(f"{columns[name][index]:>12.4g}" for name in names))
    returns = columns["return"]
    print(f"return over rows: median {np.median(returns):.3f}, min {returns.min():.3f}, max {returns.max():.3f}")
    return 0


def _render(options: argparse.Namespace) -> int:
    import jax

    from lsf_jax.analysis import playback
    from lsf_jax.analysis.render import frames_to_gif
    from lsf_jax.programs import runtime
    from lsf_jax.settings import ConfigError

    policies = playback.load_policies(options.run)
    runtime.configure(policies.config.train)
    if not 0 <= options.row < len(policies.seed):
        raise ConfigError(f"--row is {options.row}; expected 0 to {len(policies.seed) - 1}, the rows of {options.run}")
    key = jax.random.fold_in(jax.random.key(policies.config.train.seed), options.episode)
    episode = playback.record_episode(policies, options.row, key, stochastic=options.stochastic)
    length, total = int(episode.valid.sum()), float(episode.reward.sum())
    if options.ascii:
        for t, moment in enumerate(playback.episode_moments(episode)):
            print(f"step {t}\n{policies.program.env.render(moment)}\n")
    else:
        target = Path(options.output or Path(options.run) / f"episode-row{options.row}.gif")
        print(f"wrote {frames_to_gif(playback.episode_frames(policies, episode), target, fps=options.fps)}")
    print(f"row {options.row}, seed {policies.seed[options.row]}: {length} steps, return {total:g}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from lsf_jax.analysis.frames import load_run
    from lsf_jax.analysis.plots import plot_curves
    from lsf_jax.analysis.summary import summary_table

    try:
        runs = [load_run(path) for path in options.runs]
        name = options.metric.replace("/", "_")
        kind = "compared" if len(runs) > 1 else "curves"  # a run's own curve stays its own
        target = Path(options.output or runs[0].path / f"{kind}-{name}.png")
        plot_curves(runs, metric=options.metric, path=target)
    except ValueError as error:
        return _complain(str(error))
    for run in runs:
        print(f"{run.path}\n{summary_table(run)}\n")
    if any(run.config["env"] != runs[0].config["env"] for run in runs):
        print("note: the environments of these runs differ: results do not compare; `lsf-jax compare` says where")
    print(f"wrote {target}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from lsf_jax.analysis.compare import compare_runs, comparison_text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(comparison_text(compare_runs(options.runs), everything=options.all, markdown=options.markdown, width=width))
    return 0


def _list(options: argparse.Namespace) -> int:
    from lsf_jax.config.composition import compose, describe, swept_keys
    from lsf_jax.config.layers import list_configs

    if options.what == "keys":
        config = compose(algo=options.algo, env=options.env)
        sections = {
            "algo": (config.algo, swept_keys(config.algo_name)),
            "env": (config.env, ()),
            "train": (config.train, ()),
        }
        for section, (part, swept) in sections.items():
            for key in describe(section, type(part), swept):
                mark = "  [sweep]" if key.swept else ""
                print(f"{key.key} = {key.default}{mark}\n    {key.doc} ({key.allowed})")
        return 0
    for section, entries in list_configs().items():
        if options.what in ("all", section):
            print(section)
            for name, headline in entries:
                print(f"  {name:<24} {headline}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from lsf_jax.cli.doctor import examine

    lines, healthy = examine(options.overrides)
    print("\n".join(lines))
    return 0 if healthy else 1


COMMANDS = {
    "train": _train,
    "sweep": _train,
    "plan": _plan,
    "resume": _resume,
    "evaluate": _evaluate,
    "render": _render,
    "plot": _plot,
    "compare": _compare,
    "list": _list,
    "suite": suites.run_suite,
    "matrix-table": suites.matrix_table,
    "doctor": _doctor,
}


if __name__ == "__main__":
    sys.exit(main())
