"""Our programs beside JaxMARL's and pymarl2's, one process each, measured in turn: A B C A B C, a probe in every turn.

    python benchmarks/peers/compare.py update --ours before=PATH --ours after=PATH --jaxmarl PATH --pymarl2 PATH
    python benchmarks/peers/compare.py train --ours before=PATH --ours after=PATH --jaxmarl PATH --seeds 1 4

Seconds are CPU seconds of all threads of a process; ratios are to JaxMARL within each turn. PEERS.md says what is run.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from turns import Worker, ask, start

HERE = Path(__file__).resolve().parent
NEEDED = 15.19  # GFLOP of a QMIX update at these sizes if nothing is computed twice (`flops.analytic_update_flops`)
PROBE = "GEMM probe"


class Program(NamedTuple):
    """How one of the programs is started."""

    name: str
    python: str
    arguments: list[str]  # the script and what follows it
    path: str = ""  # its PYTHONPATH


def ours(arguments: argparse.Namespace, algo: str, seeds: int) -> Iterable[Program]:
    """Our program of every checkout; settings are those of the command line."""
    env = ["--env", "predator_prey" if arguments.what == "update" else "smax/3m"]
    shared = [*env, "--algo", algo, "--seeds", str(seeds), "--cache", arguments.cache, *arguments.overrides]
    if arguments.what == "train":
        shared += ["--iterations", str(8 * arguments.iterations // seeds)]
        shared += ["--evaluation"] if arguments.evaluation else []
    for word in arguments.ours:
        label, _, folder = word.rpartition("=")
        checkout = Path(folder).resolve()
        path = os.pathsep.join((str(checkout), str(checkout / "benchmarks")))
        name = f"ours {label or checkout.name} {algo} × {seeds}"
        yield Program(name, arguments.python, ["ours.py", arguments.what, *shared], path)


def update_groups(arguments: argparse.Namespace) -> Iterable[tuple[str, list[Program]]]:
    """All programs of the first comparison; they stand in one group."""
    programs = []
    if arguments.jaxmarl:
        words = ["jaxmarl_qmix.py", "update", str(arguments.jaxmarl), "--cache", arguments.cache]
        programs.append(Program("JaxMARL", arguments.jaxmarl_python, words))
    if arguments.pymarl2:
        programs.append(Program("pymarl2", arguments.pymarl2_python, ["pymarl2_qmix.py", str(arguments.pymarl2)]))
    for algo in arguments.algo:
        programs += ours(arguments, algo, 1)
    yield "update", programs


def train_groups(arguments: argparse.Namespace) -> Iterable[tuple[str, list[Program]]]:
    """The programs of the second comparison, one group for each number of seeds."""
    for seeds in arguments.seeds:
        programs = []
        if arguments.jaxmarl:
            words = ["jaxmarl_qmix.py", "train", str(arguments.jaxmarl), "--cache", arguments.cache]
            words += ["--seeds", str(seeds), "--iterations", str(arguments.iterations // seeds)]
            words += ["--evaluation"] if arguments.evaluation else []
            programs.append(Program(f"JaxMARL × {seeds}", arguments.jaxmarl_python, words))
        for algo in arguments.algo:
            programs += ours(arguments, algo, seeds)
        yield f"{seeds} seeds", programs


def measure_group(programs: list[Program], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Start all programs one after another, then let each run in every turn; one row for each of them.

    The first program is what the others are compared with.
    """
    workers = [start(PROBE, arguments.python, [str(HERE / "gemm.py")], "", arguments.cores)]
    try:
        for name, python, (script, *words), path in programs:
            workers.append(start(name, python, [str(HERE / script), *words], path, arguments.cores))
            sys.stderr.write(f"built {name}: {json.dumps(workers[-1].facts)}\n")
        turns = [[ask(worker, arguments.repeats) for worker in workers] for _ in range(arguments.turns)]
    finally:
        for worker in workers:
            worker.process.kill()
    measured = list(zip(*turns))  # by program: turns of repeats
    peak = [workers[0].facts["GFLOP"] / cost(rows) for rows in measured[0]]
    return [row(worker, rows, measured[1], peak) for worker, rows in zip(workers[1:], measured[1:])]


def cost(rows: list[dict[str, Any]]) -> float:
    """CPU seconds of one update, or of one valid env step where steps are counted: the median of a turn."""
    return statistics.median(one["cpu"] / one.get("env steps", 1) for one in rows)


def row(worker: Worker, turns: Iterable[Any], base: Iterable[Any], peak: list[float]) -> dict[str, Any]:
    """What is told of one program.

    Args:
      worker: the program.
      turns: its measurements.
      base: those of the program that it is compared with.
      peak: GFLOP/s of the probe in every turn.
    """
    turns = list(turns)
    every = [one for rows in turns for one in rows]
    told: dict[str, Any] = {"program": worker.name}
    if "env steps" in every[0]:
        told |= spread("valid env steps / CPU s", [one["env steps"] / one["cpu"] for one in every])
        told |= spread("× JaxMARL's rate", [cost(theirs) / cost(own) for own, theirs in zip(turns, base)])
        told["env steps / update"] = sum(one["env steps"] for one in every) / sum(one["updates"] for one in every)
        told["env steps / episode"] = every[-1].get("env steps / episode")
    else:
        needed = worker.facts.get("needed GFLOP", NEEDED)
        told |= spread("CPU ms", [1000 * one["cpu"] for one in every])
        told |= spread("× JaxMARL's time", [cost(own) / cost(theirs) for own, theirs in zip(turns, base)])
        told |= spread("% of GEMM", [100 * needed / cost(own) / rate for own, rate in zip(turns, peak)])
    told["wall / CPU"] = sum(one["wall"] for one in every) / sum(one["cpu"] for one in every)
    return told | worker.facts | spread("probe GFLOP/s", peak)


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
    parser.add_argument("--iterations", type=int, default=16, help="of JaxMARL's in a chunk, over all seeds; × 8 for ours")
    parser.add_argument("--evaluation", action="store_true", help="also the compile time with evaluation (train only)")
    parser.add_argument("--cache", default="off", help="folder of compiled programs; what it holds has no compile time")
    parser.add_argument("--quick", action="store_true", help="two turns of one run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of ours")
    arguments = parser.parse_intermixed_args()
    if arguments.quick:
        arguments.turns, arguments.repeats = 2, 1
    return arguments


def main() -> None:
    """Measure, show, write."""
    arguments = parse()
    os.sched_setaffinity(0, arguments.cores)
    groups = update_groups(arguments) if arguments.what == "update" else train_groups(arguments)
    found = {title: measure_group(programs, arguments) for title, programs in groups}
    for title, rows in found.items():
        sys.stdout.write("\n".join(["", title, *table(rows)]) + "\n")
    if arguments.json:
        content = {"what": arguments.what, "cores": len(arguments.cores), "load": os.getloadavg()[0], "tables": found}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
