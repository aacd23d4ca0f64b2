"""Commands that look at runs: `evaluate`, `render`, `plot` (in `plotting`) and `compare`."""

import argparse
import shutil
import sys
from pathlib import Path

from lsf_jax.cli.arguments import FINISHED, STOCHASTIC, Command, positive, whole
from lsf_jax.cli.complaints import one_line
from lsf_jax.cli.plotting import PLOT
from lsf_jax.settings import ConfigError, clip, printable

FASTEST = 50.0
"""Frames per second; faster than that viewers slow down."""


def _warn(line: str) -> None:
    """Say something that is no result."""
    sys.stderr.write(f"lsf-jax: {one_line(line)}\n")


def _evaluate(options: argparse.Namespace) -> int:
    """`lsf-jax evaluate`."""
    import numpy as np

    from lsf_jax.analysis import playback
    from lsf_jax.programs import runtime

    policies = playback.load_policies(options.run, options.overrides)
    runtime.configure_run(policies.config, _warn)
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
    return FINISHED


def _render(options: argparse.Namespace) -> int:
    """`lsf-jax render`."""
    import jax

    from lsf_jax.analysis import playback
    from lsf_jax.analysis.render import frames_to_gif
    from lsf_jax.programs import runtime
    from lsf_jax.runs.folder import read_run
    from lsf_jax.runs.safe_files import file_inside

    playback.check_recordable(read_run(Path(options.run))[0])
    policies = playback.load_policies(options.run, options.overrides)
    runtime.configure_run(policies.config, _warn)
    if not 0 <= options.row < len(policies.seed):
        raise ConfigError(f"--row is {options.row}; expected 0 to {len(policies.seed) - 1}, the rows of {options.run}")
    key = jax.random.fold_in(jax.random.key(policies.config.train.seed), options.episode)
    episode = playback.record_episode(policies, options.row, key, stochastic=options.stochastic)
    length, total = int(episode.valid.sum()), float(episode.reward.sum())
    if options.ascii:
        for t, moment in enumerate(playback.episode_moments(episode)):
            print(printable(f"step {t}\n{policies.program.env.render(moment)}\n"))
    elif options.output.endswith(".html"):
        from lsf_jax.analysis.viewer import episode_page

        episode_page(policies.row(options.row, stochastic=options.stochastic), episode, options.output)
        print(f"wrote {options.output}")
    else:
        target = Path(options.output or file_inside(Path(options.run), f"episode-row{options.row}.gif"))
        frames = playback.episode_frames(policies.program.env, episode)
        print(f"wrote {frames_to_gif(frames, target, fps=options.fps)}")
    print(f"row {options.row}, seed {policies.seed[options.row]}: {length} steps, return {total:g}")
    return FINISHED


def _compare(options: argparse.Namespace) -> int:
    """`lsf-jax compare`."""
    from lsf_jax.analysis.compare import compare_runs, comparison_text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(comparison_text(compare_runs(options.runs), everything=options.all, markdown=options.markdown, width=width))
    return FINISHED


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run folder")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings that may change, such as env.deadline, and code that the run names, such as env.make: it is run "
        "only if you name it again",
    )
    parser.add_argument("--episodes", type=positive, default=100, help="episodes for each seed (default 100)")
    parser.add_argument("--stochastic", action="store_true", help=STOCHASTIC)
    parser.add_argument("--seed", type=whole(0), default=0, help="root of the evaluation's randomness (default 0)")
    parser.add_argument(
        "--replays", default="", metavar="FOLDER", help="of StarCraft II: save the games played as .SC2Replay there"
    )


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run folder")
    parser.add_argument(
        "--row", type=whole(0), default=0, help="which row (seed, or grid point × seed) of the run (default 0)"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as of `evaluate`")
    parser.add_argument(
        "--output",
        default="",
        help="file to write (default: RUN/episode-row<ROW>.gif); NAME.html is a page with a slider: every moment, and "
        "what each agent sees, may do, values and says",
    )
    parser.add_argument(
        "--episode", type=whole(0), default=0, help="number of the episode: chooses its randomness (default 0)"
    )
    parser.add_argument("--stochastic", action="store_true", help=STOCHASTIC)
    parser.add_argument("--ascii", action="store_true", help="print the episode as text instead of writing a GIF")
    parser.add_argument("--fps", type=_frame_rate, default=6.0, help="frames per second (default 6)")


def _frame_rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= FASTEST:
        raise argparse.ArgumentTypeError(f"{clip(text)} is no number above 0 and at most {FASTEST:g}")
    return value


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run folders")
    parser.add_argument("--all", action="store_true", help="show what is equal too")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")


COMMANDS = (
    Command("evaluate", "evaluate the final policies of a run over fresh episodes", _add_evaluate, _evaluate),
    Command("render", "write a GIF, or a page with a slider, of an episode of a trained policy", _add_render, _render),
    PLOT,
    Command("compare", "hold the protocols of runs against each other; differences are marked", _add_compare, _compare),
)
