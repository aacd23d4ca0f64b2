"""The command `reproduce`: train what a figure of the paper needs, draw it, judge its claims; heavy imports wait."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lsf_jax.cli.arguments import FINISHED, INTERRUPTED, Command, add_cluster, cluster_of
from lsf_jax.settings import ConfigError

if TYPE_CHECKING:
    from lsf_jax.analysis.paper.definition import Definition, Scale
    from lsf_jax.analysis.paper.evidence import Cell, Gathered, Place
    from lsf_jax.analysis.paper.page import Judged
    from lsf_jax.runs.suite import Member

ALL = "all"
EXAMPLES = """examples:
  lsf-jax reproduce fig3 --scale smoke
  lsf-jax reproduce fig3 --scale laptop --system qmix --panel p2_1m train.cpu_devices=2
  lsf-jax reproduce fig3 --keep runs/qmix-1 runs/qmix-2
  lsf-jax reproduce all --report --page docs/results/paper
The same command again continues what was stopped. A claim is judged on seeds whose setting is exactly the suite's, from
kept tables (benchmarks/results/paper/NAME) and run folders together; `smoke` only rehearses, and tests nothing."""


def _reproduce(options: argparse.Namespace) -> int:
    """`lsf-jax reproduce`."""
    from lsf_jax.analysis.paper.definition import definition_names, read_definition

    names = definition_names() if options.name == ALL else (options.name,)
    definitions = [read_definition(name) for name in names]
    if options.name == ALL and (options.keep is not None or not options.report):
        raise ConfigError("all goes with --report alone; expected the name of one figure to train it or to keep runs")
    if options.keep is not None:
        return _keep(definitions[0], options)
    judged = []
    for definition in definitions:
        runs = _runs(definition, options)
        if not options.report and not _train(runs, options):
            return INTERRUPTED
        judged.append(_report(definition, runs, options))
    if options.name == ALL:
        _write_index(judged, options)
    return FINISHED


def _scale(definition: "Definition", options: argparse.Namespace) -> "Scale":
    if options.scale not in definition.scales:
        raise ConfigError(f"--scale is {options.scale!r}; expected one of {', '.join(definition.scales)}")
    return definition.scales[options.scale]


def _folder(definition: "Definition", options: argparse.Namespace) -> Path:
    """Where runs, figure and page of a figure go."""
    folder = Path(options.out or f"runs/reproduce-{options.scale}")
    return folder / definition.name


def _kept(definition: "Definition", options: argparse.Namespace) -> Path:
    """The folder of kept tables: of a checkout in benchmarks, else beside the runs."""
    from lsf_jax.config.files import config_folder

    results = config_folder().parent / "benchmarks" / "results"
    folder = Path(options.kept) if options.kept else results / "paper" if results.is_dir() else None
    return _folder(definition, options) / "kept" if folder is None else folder / definition.name


def _runs(definition: "Definition", options: argparse.Namespace) -> "list[Member]":
    """The runs that a scale trains, of the systems and panels that were asked for."""
    from lsf_jax.analysis.paper.evidence import labels_in
    from lsf_jax.runs.suite import members
    from lsf_jax.settings import nearest

    scale = _scale(definition, options)
    everyone = {label for panel in definition.panels for label in labels_in(definition, panel)}
    for what, asked, known in (
        ("--panel", options.panel, definition.panels),
        ("--system", options.system, sorted(everyone)),
    ):
        for name in asked:
            if name not in known and options.name != ALL:
                raise ConfigError(f"{what} is {name!r}{nearest(name, known)}")
    runs, suites = [], definition.suites()
    for name in options.panel or scale.panels or definition.panels:
        panel = definition.panels.get(name)
        wanted = options.system or scale.systems
        if panel is None or not (labels := [one for one in labels_in(definition, name) if not wanted or one in wanted]):
            continue
        runs += members(
            suites[panel.suite],
            _folder(definition, options) / panel.suite,
            algorithms=labels,
            envs=[panel.env],
            variants=[panel.variant],
            overrides=[*scale.overrides, *options.overrides],
        )
    return runs


def _train(runs: "list[Member]", options: argparse.Namespace) -> bool:
    from lsf_jax.cli.suites import train_members

    return train_members(runs, cluster_of(options))


def _report(definition: "Definition", runs: "list[Member]", options: argparse.Namespace) -> "Judged":
    """Judge, draw and write a figure; among all of them, one that nothing was trained for is only counted."""
    from lsf_jax.analysis.paper.evidence import cells_of
    from lsf_jax.analysis.paper.page import Judged, write_page
    from lsf_jax.analysis.paper.verdicts import judge

    scale = _scale(definition, options)
    cells = cells_of(definition, () if scale.counts else (*scale.overrides, *options.overrides))
    gathered = _gather(definition, cells, runs, options)
    verdicts = judge(definition, gathered, counts=scale.counts)
    print(f"\n{definition.title}")
    if options.name == ALL and gathered.is_empty:
        print(f"  no seeds yet: {len(verdicts)} claims not tested; `lsf-jax reproduce {definition.name}` trains them")
        return Judged(definition, verdicts, has_page=False)
    paths = write_page(definition, gathered, verdicts, Path(options.page or _folder(definition, options)))
    for verdict in verdicts:
        where = definition.panels[verdict.panel].title
        print(f"  {verdict.verdict.upper()}: {verdict.claim.text} [{where}]: {verdict.reason}")
    print("wrote " + ", ".join(str(path) for path in paths))
    return Judged(definition, verdicts)


def _gather(
    definition: "Definition", cells: "dict[Place, Cell]", runs: "list[Member]", options: argparse.Namespace
) -> "Gathered":
    """Results from kept tables, unless this is a rehearsal, and from the run folders that are there."""
    from lsf_jax.analysis.paper.evidence import gather
    from lsf_jax.analysis.paper.kept import read_tables, tables_of
    from lsf_jax.runs.folder import CONFIG

    tables = read_tables(_kept(definition, options)) if _scale(definition, options).counts else []
    for member in runs:
        if (member.path / CONFIG).exists():
            tables += tables_of(member.path, _metrics(definition))
    return gather(cells, [table for table in tables if table.seeds])


def _metrics(definition: "Definition") -> tuple[str, ...]:
    """What of the evaluations is kept: the figure's metric, and the return."""
    return tuple(dict.fromkeys((definition.metric, "return")))


def _keep(definition: "Definition", options: argparse.Namespace) -> int:
    """Merge runs into the kept tables."""
    from lsf_jax.analysis.paper.evidence import cells_of
    from lsf_jax.runs.folder import CONFIG

    paths = [Path(path) for path in options.keep]
    if not paths:
        paths = [member.path for member in _runs(definition, options) if (member.path / CONFIG).exists()]
        if not paths:
            raise ConfigError(f"--keep names no run, and {_folder(definition, options)} has none")
    cells = cells_of(definition)
    for path in paths:
        _keep_run(definition, cells, path, options)
    return FINISHED


def _keep_run(definition: "Definition", cells: "dict[Place, Cell]", path: Path, options: argparse.Namespace) -> None:
    import msgspec

    from lsf_jax.analysis.paper import kept
    from lsf_jax.analysis.paper.evidence import nearest_cell

    for table in kept.tables_of(path, _metrics(definition)):
        setting = kept.setting_of(kept.config_of(table), table.environment)
        close = nearest_cell(cells, setting)
        if close is None:
            where = f"{setting['algo.name']} on {table.environment}"
            raise ConfigError(f"{path} has {where} with settings of env that no panel of {definition.name} has")
        (panel, label), changes = close
        if not table.seeds:
            print(f"{path}: no evaluation yet, nothing to keep")
            continue
        purpose = options.purpose or (kept.SEARCH if changes else kept.REPORT)
        seeds = tuple(msgspec.structs.replace(seed, purpose=purpose) for seed in table.seeds)
        table = msgspec.structs.replace(table, seeds=seeds)
        name = f"{panel}-{label}" + ("-variant" if changes else "")
        target = kept.keep(table, _kept(definition, options), name, setting)
        steps = min(seed.env_steps[-1] for seed in seeds)
        counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({purpose})"
        print(f"{target}: {counted} of {label} in {panel}, {steps:,} env steps, from {path}")
        for key, (ours, theirs) in changes.items():
            print(f"  a variant: {key} is {theirs}, in the suite {ours}")


def _write_index(judged: "list[Judged]", options: argparse.Namespace) -> None:
    from lsf_jax.analysis.paper.page import index_text
    from lsf_jax.runs.safe_files import write_output

    folder = Path(options.page or options.out or f"runs/reproduce-{options.scale}")
    target = folder.with_suffix(".md")
    write_output(target, index_text(judged, folder.name).encode())
    print(f"wrote {target}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="such as table1 or fig3, the files of configs/paper; with --report also all")
    parser.add_argument(
        "--scale",
        default="laptop",
        help="how much is trained: smoke (minutes), laptop (nights on 2 cores), full (for a GPU); default laptop",
    )
    parser.add_argument("--system", action="append", default=[], help="train only this system of the suite; repeatable")
    parser.add_argument("--panel", action="append", default=[], help="train only this panel; repeatable")
    parser.add_argument("--out", default="", metavar="DIR", help="folder of the runs (default runs/reproduce-SCALE)")
    parser.add_argument("--report", action="store_true", help="train nothing: judge and draw what is there")
    parser.add_argument("--page", default="", metavar="DIR", help="folder of page and figure (default beside the runs)")
    parser.add_argument(
        "--kept", default="", metavar="DIR", help="folder of kept tables (default benchmarks/results/paper)"
    )
    parser.add_argument(
        "--keep",
        nargs="*",
        default=None,
        metavar="RUN",
        help="train nothing: merge these runs, finished or not, into the kept tables; none named: all of --out",
    )
    parser.add_argument(
        "--purpose",
        choices=("report", "search"),
        default="",
        help="with --keep: search marks seeds that chose a setting, which count nowhere (default: report; search for "
        "settings that are not the suite's)",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings for every run, as for suite")
    add_cluster(parser)


COMMANDS = (
    Command(
        "reproduce",
        "a figure of the paper: train it, draw it beside what was published, and judge its claims",
        _add_arguments,
        _reproduce,
        EXAMPLES,
    ),
)
