"""The command `plot`: any figure of runs, and a table of what they ended with; heavy imports wait for the call."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lsf_jax.analysis.figure_names import EVERY, OF_TABLES
from lsf_jax.cli.arguments import FINISHED, Command
from lsf_jax.settings import ConfigError, nearest, printable

if TYPE_CHECKING:
    from lsf_jax.analysis.gallery import Wish

OUTPUT = (
    "file to write; .pdf or .svg at its end say so (default: FIGURE-METRIC.png and .pdf in the run; curves of several "
    "are compared-METRIC in the first; of a table beside it)"
)
EXAMPLES = "\n".join(
    [
        "examples:",
        "  lsf-jax plot runs/qmix-1 runs/vdn-1",
        "  lsf-jax plot runs/predator_prey_p2 --figure profile",
        "  lsf-jax plot runs/sweep --figure map --x algo.lr --y algo.trace --output map.pdf",
        "  lsf-jax plot runs/matrix_table/table-matrix_game.json --figure table_one",
        "",
        "figures:",
        *(f"  {name:<12} {doc}" for name, doc in EVERY.items()),
    ]
)


def _plot(options: argparse.Namespace) -> int:
    """`lsf-jax plot`."""
    from lsf_jax.analysis import gallery

    if options.figure not in EVERY:
        raise ConfigError(f"--figure is {options.figure!r}{nearest(options.figure, EVERY)}")
    wish = gallery.Wish(options.metric, None, options.x, options.y, options.of, options.exploration)
    try:
        return _plot_table(options, wish) if options.figure in OF_TABLES else _plot_runs(options, wish)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _plot_runs(options: argparse.Namespace, wish: "Wish") -> int:
    from lsf_jax.analysis import gallery
    from lsf_jax.analysis.frames import load_runs
    from lsf_jax.analysis.summary import summary_table
    from lsf_jax.runs.safe_files import file_inside

    runs = [run for path in options.runs for run in load_runs(path)]
    kind = "compared" if options.figure == "curves" and len(runs) > 1 else options.figure  # its own curve stays
    name = kind if kind == "dynamics" else f"{kind}-{options.metric.replace('/', '_')}"
    targets = [Path(options.output)] if options.output else _both(lambda end: file_inside(runs[0].path, name + end))
    figure = gallery.draw(options.figure, runs, wish)
    for target in targets:
        gallery.save(figure, target)
    for run in runs:
        print(printable(f"{run.path}\n{summary_table(run)}\n"))
    if any(run.config["env"] != runs[0].config["env"] for run in runs):
        print("note: the environments of these runs differ: results do not compare; `lsf-jax compare` says where")
    print(f"wrote {', '.join(map(str, targets))}")
    return FINISHED


def _plot_table(options: argparse.Namespace, wish: "Wish") -> int:
    from lsf_jax.analysis import gallery

    if len(options.runs) != 1:
        raise ConfigError(f"{len(options.runs)} files are given; expected one table-GAME.json with {options.figure}")
    beside = Path(options.runs[0]).with_suffix("")
    targets = [Path(options.output)] if options.output else _both(lambda end: Path(f"{beside}-{options.figure}{end}"))
    figure = gallery.draw_table(options.figure, options.runs[0], wish)
    for target in targets:
        gallery.save(figure, target)
    print(f"wrote {', '.join(map(str, targets))}")
    return FINISHED


def _both(named: Callable[[str], Path]) -> list[Path]:
    return [named(end) for end in (".png", ".pdf")]


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, folders of runs, or patterns of them")
    parser.add_argument("--figure", default="curves", metavar="NAME", help="one of those below (default curves)")
    parser.add_argument(
        "--metric", default="return", help="what to plot: an evaluation column, or train/NAME (default return)"
    )
    parser.add_argument("--x", metavar="KEY", help="of a map: the key along the horizontal axis, such as algo.lr")
    parser.add_argument("--y", metavar="KEY", help="of a map: the key along the vertical axis")
    parser.add_argument(
        "--of", default="final", help="aggregate, profile, improvement: of final values or of the area (default final)"
    )
    parser.add_argument("--exploration", default="own", help="table_one: our runs with own or uniform (default own)")
    parser.add_argument("--output", default="", help=OUTPUT)


PLOT = Command(
    "plot", "figures of one or more runs as PNG and PDF, and a table of final results", _add_plot, _plot, EXAMPLES
)
