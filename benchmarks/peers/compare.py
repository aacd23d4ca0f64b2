"""Our programs beside JaxMARL's and pymarl2's, one process each, measured in turn: A B C A B C, a probe in every turn.

    python benchmarks/peers/compare.py update --ours before=PATH --ours after=PATH --jaxmarl PATH --pymarl2 PATH
    python benchmarks/peers/compare.py train --ours before=PATH --ours after=PATH --jaxmarl PATH --seeds 1 4

Seconds are CPU seconds of a process, wall seconds where it may use several cores; ratios are those of each turn, to
the first program. PEERS.md says what is run, and how to set it up.
"""

import argparse
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from turns import Worker, ask, start, stop

HERE = Path(__file__).resolve().parent
NEEDED = 15.19  # GFLOP of a QMIX update at these sizes if nothing is computed twice (`flops.analytic_update_flops`)
PROBE = "GEMM probe"
CLOCKS = {"cpu": "CPU", "wall": "wall"}


class Program(NamedTuple):
    """How one of the programs is started."""

    name: str
    python: str
    arguments: list[str]  # the script and what follows it
    path: str = ""  # its PYTHONPATH
    beside: str = ""  # another one whose time its own is a multiple of


def ours(arguments: argparse.Namespace, seeds: int) -> Iterable[Program]:
    """Our programs of every checkout; settings are those of the command line."""
    env = ["--env", "predator_prey" if arguments.what == "update" else "smax/3m"]
    shared = [*env, "--seeds", str(seeds), "--cache", arguments.cache, *arguments.overrides]
    if arguments.what == "train":
        shared += ["--iterations", str(8 * arguments.iterations // seeds)]
        shared += ["--evaluation"] if arguments.evaluation else []
    for algo in arguments.algo:
        for label, checkout in arguments.ours.items():
            path = os.pathsep.join((str(checkout), str(checkout / "benchmarks")))
            words = ["ours.py", arguments.what, "--algo", algo, *shared]
            beside = name_of(label, arguments.algo[0], seeds) if algo != arguments.algo[0] else ""
            yield Program(name_of(label, algo, seeds), arguments.python, words, path, beside)


def name_of(label: str, algo: str, seeds: int) -> str:
    """What one of our programs is called."""
    return f"ours {label} {algo} × {seeds}"


def update_groups(arguments: argparse.Namespace) -> Iterable[tuple[str, list[Program]]]:
    """All programs of the first comparison; they stand in one group."""
    programs = []
    if arguments.jaxmarl:
        words = ["jaxmarl_qmix.py", "update", str(arguments.jaxmarl), "--cache", arguments.cache]
        programs.append(Program("JaxMARL", arguments.jaxmarl_python, words))
    if arguments.pymarl2:
        programs.append(Program("pymarl2", arguments.pymarl2_python, ["pymarl2_qmix.py", str(arguments.pymarl2)]))
    yield "update", [*programs, *ours(arguments, 1)]


def train_groups(arguments: argparse.Namespace) -> Iterable[tuple[str, list[Program]]]:
    """The programs of the second comparison, one group for each number of seeds."""
    for seeds in arguments.seeds:
        programs = []
        if arguments.jaxmarl:
            words = ["jaxmarl_qmix.py", "train", str(arguments.jaxmarl), "--cache", arguments.cache]
            words += ["--seeds", str(seeds), "--iterations", str(arguments.iterations // seeds)]
            words += ["--evaluation"] if arguments.evaluation else []
            programs.append(Program(f"JaxMARL × {seeds}", arguments.jaxmarl_python, words))
        yield f"{seeds} seeds", [*programs, *ours(arguments, seeds)]


def measure_group(programs: list[Program], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Start all programs one after another, then let each run in every turn; one row for each of them."""
    workers = [start(PROBE, arguments.python, [str(HERE / "gemm.py")], "", arguments.cores)]
    try:
        for name, python, (script, *words), path, _ in programs:
            workers.append(start(name, python, [str(HERE / script), *words], path, arguments.cores))
            sys.stderr.write(f"built {name}: {json.dumps(workers[-1].facts)}\n")
        turns = [[measure(worker, arguments) for worker in workers] for _ in range(arguments.turns)]
    finally:
        for worker in workers:
            stop(worker)
    probes, *measured = (list(rows) for rows in zip(*turns))  # by program: turns of repeats
    peak = [workers[0].facts["GFLOP"] / cost(rows) for rows in probes]
    rows = []
    for program, worker, own in zip(programs, workers[1:], measured):
        told = {"program": program.name} | figures(own, worker.facts, peak)
        for other, theirs in zip(programs, measured):
            if other.name in (programs[0].name, program.beside):
                told |= ratio(other.name, own, theirs)
        rows.append(told | worker.facts | spread("probe GFLOP/s", peak))
    return rows


def measure(worker: Worker, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One program's turn; `seconds` are those of the clock that counts."""
    clock = "cpu" if len(arguments.cores) == 1 else "wall"
    return [row | {"clock": CLOCKS[clock], "seconds": row[clock]} for row in ask(worker, arguments.repeats)]


def cost(rows: list[dict[str, Any]]) -> float:
    """Seconds of one update, or of one valid env step where steps are counted: the median of a turn."""
    return statistics.median(one["seconds"] / one.get("env steps", 1) for one in rows)


def ratio(name: str, own: list[list[dict[str, Any]]], theirs: list[list[dict[str, Any]]]) -> dict[str, float]:
    """A program beside another, turn by turn: times where time is what is told, rates where rates are."""
    times = [cost(mine) / cost(its) for mine, its in zip(own, theirs)]
    if "env steps" in own[0][0]:
        return spread(f"rate ÷ {name}'s", [1 / time for time in times])
    return spread(f"time ÷ {name}'s", times)


def figures(turns: list[list[dict[str, Any]]], facts: dict[str, Any], peak: list[float]) -> dict[str, Any]:
    """What is told of one program's measurements.

    Args:
      turns: lists of repeats.
      facts: of the program.
      peak: GFLOP/s of the probe in every turn.
    """
    every = [one for rows in turns for one in rows]
    clock = every[0]["clock"]
    if "env steps" in every[0]:
        told = spread(f"valid env steps / {clock} s", [one["env steps"] / one["seconds"] for one in every])
        told["env steps / update"] = sum(one["env steps"] for one in every) / sum(one["updates"] for one in every)
        told["env steps / episode"] = every[-1].get("env steps / episode")
    else:
        needed = facts.get("needed GFLOP", NEEDED)
        told = spread(f"{clock} ms", [1000 * one["seconds"] for one in every])
        told |= spread("% of GEMM", [100 * needed / cost(own) / rate for own, rate in zip(turns, peak)])
    return told | {"wall ÷ CPU": sum(one["wall"] for one in every) / sum(one["cpu"] for one in every)}


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {name: statistics.median(values), f"{name} low": min(values), f"{name} high": max(values)}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of different keys as lines, one column for each program."""
    names = list(dict.fromkeys(name for row in rows for name in row if not name.endswith((" low", " high"))))
    cells = [[name, *(cell(row, name) for row in rows)] for name in names]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(line, widths)) for line in cells]


def cell(row: dict[str, Any], name: str) -> str:
    """A value, with its spread where it has one."""
    if not isinstance(row.get(name), float):
        return "-" if row.get(name) is None else str(row[name])
    if f"{name} low" not in row:
        return short(row[name])
    return f"{short(row[name])} ({short(row[name + ' low'])} to {short(row[name + ' high'])})"


def short(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("update", "train"))
    parser.add_argument("--ours", action="append", default=[], metavar="[LABEL=]CHECKOUT", help="repeatable")
    parser.add_argument("--jaxmarl", type=Path, help="a checkout of JaxMARL")
    parser.add_argument("--pymarl2", type=Path, help="a checkout of pymarl2 (update only)")
    parser.add_argument("--python", default=sys.executable, help="interpreter for ours and the probe")
    parser.add_argument("--jaxmarl-python", default=sys.executable)
    parser.add_argument("--pymarl2-python", default=sys.executable)
    parser.add_argument("--algo", nargs="+", default=["qmix"], help="of ours")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="side by side (train only)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1], help="numbers of the cores that may be used")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="in every turn")
    parser.add_argument("--iterations", type=int, default=16, help="of all seeds in JaxMARL's chunk; × 8 in ours")
    parser.add_argument("--evaluation", action="store_true", help="also the compile time with evaluation (train only)")
    parser.add_argument("--cache", default="off", help="folder of compiled programs; what it holds has no compile time")
    parser.add_argument("--quick", action="store_true", help="two turns of one run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of ours")
    arguments = parser.parse_intermixed_args()
    if arguments.quick:
        arguments.turns, arguments.repeats = 2, 1
    named = (word.rpartition("=") for word in arguments.ours)
    arguments.ours = {label or Path(folder).name: Path(folder).resolve() for label, _, folder in named}
    return arguments


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured, where and with what, without a path."""
    checkouts = {"JaxMARL": arguments.jaxmarl, "pymarl2": arguments.pymarl2} | arguments.ours
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "what": arguments.what,
        "settings": arguments.overrides,
        "cpu": model and model[1],
        "cores": len(arguments.cores),
        "load": os.getloadavg()[0],
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "commits": {name: commit(folder) for name, folder in checkouts.items() if folder},
    }


def commit(folder: Path) -> str:
    """The commit that is checked out, marked where tracked files differ from it."""
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure, show, write."""
    arguments = parse()
    os.sched_setaffinity(0, arguments.cores)
    groups = update_groups(arguments) if arguments.what == "update" else train_groups(arguments)
    found = {}
    for title, programs in groups:
        found[title] = measure_group(programs, arguments)
        sys.stdout.write("\n".join(["", title, *table(found[title])]) + "\n")
        sys.stdout.flush()
    if arguments.json:
        content = describe(arguments) | {"tables": found}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
