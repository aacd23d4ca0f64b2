"""Commands that look inside trained runs and hand parts of them on: `inspect`, `extract` and `report`."""

import argparse
import contextlib
from pathlib import Path

from lsf_jax.cli.arguments import FINISHED, STOCHASTIC, Command, whole
from lsf_jax.settings import ConfigError

EXTRACT = """example:
  lsf-jax extract runs/NAME --row 731 --output best
Then `from policy import Policy` in that folder acts with NumPy alone."""
REPORT = """example:
  lsf-jax report runs/A runs/B runs/C --output report.html
One page that opens offline: what was run and where it differs, figures, tables, seeds in trouble, episodes."""
CODE_OF_RUN = "code that the run names, such as env.make: it is run only if you name it again"


def _extract(options: argparse.Namespace) -> int:
    """`lsf-jax extract`."""
    from lsf_jax.analysis import extract, playback
    from lsf_jax.programs import runtime
    from lsf_jax.runs.safe_files import folder_inside

    policies = playback.load_policies(options.run, options.overrides)
    runtime.configure(policies.config.train)
    check_row(options, len(policies.seed))
    folder = Path(options.output) if options.output else folder_inside(Path(options.run), f"row{options.row}")
    print(f"wrote {extract.extract_policy(policies, options.row, folder)}")
    print(f"row {options.row}, seed {policies.seed[options.row]} of {policies.config.algo_name}")
    return FINISHED


def _inspect(options: argparse.Namespace) -> int:
    """`lsf-jax inspect`."""
    from lsf_jax.analysis import inspection, playback
    from lsf_jax.programs import runtime
    from lsf_jax.runs.folder import read_run
    from lsf_jax.runs.safe_files import file_inside

    playback.check_recordable(read_run(Path(options.run), options.overrides)[0])
    policies = playback.load_policies(options.run, options.overrides)
    runtime.configure(policies.config.train)
    check_row(options, len(policies.seed))
    policy = policies.row(options.row, stochastic=options.stochastic)
    if policy.program.algorithm.forward is None:
        raise ConfigError(f"{policies.config.algo_name} offers no `Algorithm.forward`: there is nothing to look into")
    found = inspection.inspect_policy(policy, n_episodes=options.episodes, seed=options.seed)
    if options.json:
        print(inspection.inspection_json(found), end="")
        return FINISHED
    target = Path(options.output or file_inside(Path(options.run), f"inside-row{options.row}.png"))
    inspection.plot_inspection(found, target)
    print(f"{inspection.inspection_text(found)}\n\nwrote {target}")
    return FINISHED


def _report(options: argparse.Namespace) -> int:
    """`lsf-jax report`."""
    from lsf_jax.analysis.report import report_page

    if not options.no_episodes:
        _configure_as_first(options.runs)
    target = options.output or "report.html"
    page = report_page(options.runs, target, title=options.title, with_episodes=not options.no_episodes)
    print(f"wrote {target} ({len(page.encode()) / 1e6:.1f} MB)")
    return FINISHED


def _configure_as_first(runs: list[str]) -> None:
    """Settings of the runtime, its cache of compiled programs above all, as the first readable run has them."""
    from lsf_jax.programs import runtime
    from lsf_jax.runs.folder import read_run

    for path in runs:
        with contextlib.suppress(ConfigError):
            return runtime.configure(read_run(Path(path))[0].train)


def check_row(options: argparse.Namespace, n_rows: int) -> None:
    """Nothing, where the run has the row that was asked for.

    Raises:
      ConfigError: it has not.
    """
    if not 0 <= options.row < n_rows:
        raise ConfigError(f"--row is {options.row}; expected 0 to {n_rows - 1}, the rows of {options.run}")


def add_run_and_row(parser: argparse.ArgumentParser) -> None:
    """Add a run, its own code, and which row of it."""
    parser.add_argument("run", help="the run folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=CODE_OF_RUN)
    parser.add_argument(
        "--row", type=whole(0), default=0, help="which row (seed, or grid point × seed) of the run (default 0)"
    )


def _add_extract(parser: argparse.ArgumentParser) -> None:
    add_run_and_row(parser)
    parser.add_argument("--output", default="", metavar="FOLDER", help="folder to write (default: RUN/row<ROW>)")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    add_run_and_row(parser)
    parser.add_argument("--episodes", type=whole(1, 10_000), default=8, help="episodes to look at (default 8)")
    parser.add_argument("--stochastic", action="store_true", help=STOCHASTIC)
    parser.add_argument("--seed", type=whole(0), default=0, help="root of the episodes' randomness (default 0)")
    parser.add_argument("--output", default="", help="figure to write (default: RUN/inside-row<ROW>.png)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead, and draw nothing")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--output", default="", metavar="FILE", help="page to write (default: report.html)")
    parser.add_argument("--title", default="", help="its heading")
    parser.add_argument("--no-episodes", action="store_true", help="play none; compiling takes seconds for each run")


COMMANDS = (
    Command(
        "inspect",
        "look inside a policy: mixer weights, values along episodes, what messages carry and who hears whom",
        _add_inspect,
        _inspect,
    ),
    Command(
        "extract",
        "write one seed as a folder that stands alone: parameters, a model card, and a policy in NumPy",
        _add_extract,
        _extract,
        EXTRACT,
    ),
    Command("report", "one HTML page of one or more runs, to read and to send", _add_report, _report, REPORT),
)
