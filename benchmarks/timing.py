"""What every benchmark shares: arguments, medians of repeats, compilation apart from running, a GEMM probe, reports.

Nothing here knows a device: work is waited for with `block_until_ready`, and sizes come from the program.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flops import Product, product_flops

from lsf_jax.config.composition import Config, compose
from lsf_jax.programs import runtime
from lsf_jax.runs.machine import describe_machine
from lsf_jax.settings import ConfigError

REFERENCE = (  # the size that the published figures are for: pymarl2's QMIX on predator-prey
    "algo.batch_size=32",
    "algo.hidden=64",
    "train.n_envs=8",
    "algo.updates=1",
    "train.buffer_capacity=5000",
)
PROBED_SHARE = 0.9  # of a program's operations: the shapes that the GEMM probe times one by one
LONGEST_PROBE = 256  # products of one shape in a row
WIDEST = 9  # columns of a table; a wider one is printed on its side
CEILING = 2048  # rows, columns and depth of the large product whose rate is the machine's ceiling


class Timing(NamedTuple):
    """Seconds of repeated runs."""

    median: float
    low: float
    high: float
    repeats: int


class Compiled(NamedTuple):
    """A program ready to run, and what it took to get there."""

    call: Callable[..., Any]
    trace_seconds: float  # Python to StableHLO
    compile_seconds: float  # StableHLO to machine code
    memory: Any  # the compiled program's memory analysis, None where the backend has none


class Rates(NamedTuple):
    """What products of a program's own shapes reach by themselves."""

    flops_per_second: float  # of all shapes, weighted as the program weights them
    ceiling: float  # of one large square product
    covered: float  # share of the program's operations whose shape was timed


def measure(call: Callable[[], Any], repeats: int) -> Timing:
    """Run once to warm up, then `repeats` times, waiting for the device each time."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return summarise(seconds)


def summarise(seconds: Sequence[float]) -> Timing:
    """Median and spread of a list of seconds."""
    return Timing(median=statistics.median(seconds), low=min(seconds), high=max(seconds), repeats=len(seconds))


def compile_program(function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()) -> Compiled:
    """Trace and compile a function ahead of time, for the given arrays or shapes, with the options that runs use."""
    start = time.perf_counter()
    lowered = runtime.jit_program(function, donate=donate).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return Compiled(
        call=compiled,
        trace_seconds=traced - start,
        compile_seconds=time.perf_counter() - traced,
        memory=compiled.memory_analysis(),
    )


def probe(products: Iterable[Product], repeats: int) -> Rates:
    """Times products of a program's dominant shapes, each alone, and one large product.

    The time that a program would need if every product ran as fast as it does alone is the floor that its fraction of
    the GEMM rate refers to; shapes that are not timed count at the mean rate of the others.

    Args:
      products: from `flops.count_products`, most expensive first.
      repeats: of each shape.
    """
    products = list(products)
    total = sum(product_flops(product) for product in products)
    covered, seconds = 0, 0.0
    for product in products:
        if covered >= PROBED_SHARE * total:
            break
        covered += product_flops(product)
        seconds += _product_seconds(product, repeats)
    square = Product(batch=1, m=CEILING, n=CEILING, k=CEILING, times=1)
    return Rates(
        flops_per_second=covered / seconds,
        ceiling=product_flops(square) / _product_seconds(square, repeats),
        covered=covered / total,
    )


def _product_seconds(product: Product, repeats: int) -> float:
    """Seconds of all runs of one product. Left operands stream from memory, as in a recurrence; results are kept."""
    length = min(product.times, LONGEST_PROBE)
    # A depth beyond both sides is a sum over rows, as in a weight gradient: the operands lie transposed.
    over_rows = product.k > max(product.m, product.n)
    left_shape = (product.k, product.m) if over_rows else (product.m, product.k)
    axis = 1 if over_rows else 2
    key_left, key_right = jax.random.split(jax.random.key(0))
    left = jax.random.normal(key_left, (length, product.batch, *left_shape))
    right = jax.random.normal(key_right, (product.batch, product.k, product.n))
    dimensions = (((axis,), (1,)), ((0,), (0,)))

    def run(left: jax.Array, right: jax.Array) -> jax.Array:
        if length == 1:
            return jax.lax.dot_general(left[0], right, dimensions)
        return jax.lax.map(lambda rows: jax.lax.dot_general(rows, right, dimensions), left)

    compiled = runtime.jit_program(run)
    return measure(lambda: compiled(left, right), repeats).median * product.times / length


def make_parser(description: str, *, seeds: Sequence[int], repeats: int) -> argparse.ArgumentParser:
    """The arguments that all benchmarks understand.

    Args:
      description: first line of --help.
      seeds: default of --seeds.
      repeats: default of --repeats.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--algo", default=None, help="name of an algorithm")
    parser.add_argument("--env", default=None, help="name of an environment or of a file in configs/env")
    parser.add_argument("--preset", action="append", default=[], help="name of a file in configs/preset; repeatable")
    parser.add_argument("--release", dest="preset", action="append_const", const="release", help="--preset release")
    parser.add_argument("--paper", dest="preset", action="append_const", const="paper", help="--preset paper")
    parser.add_argument("--batch", type=int, default=None, help="episodes of one update, whatever the preset says")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="seeds side by side, one row each")
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs of everything")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does the script run at all")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write everything as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings, as for lsf-jax train")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; settings may stand anywhere on it."""
    arguments = parser.parse_intermixed_args()
    if arguments.quick:
        arguments.seeds, arguments.repeats = arguments.seeds[:1], 1
    return arguments


def configure(arguments: argparse.Namespace, *overrides: str, cache: str = "off") -> Config:
    """The configuration that the command line asks for, its runtime settings applied.

    Without a preset the sizes are those of `REFERENCE`, whatever configs/ recommends for learning. Exits with code 2
    and one line if a setting is wrong.

    Args:
      arguments: from `parse`.
      *overrides: of the benchmark itself; the command line's win.
      cache: folder of the compilation cache; by default there is none, so that compile times are cold.
    """
    words = [] if arguments.preset else list(REFERENCE)
    words += [*overrides, f"train.cache_dir={cache}"]
    words += [f"algo.batch_size={arguments.batch}"] if arguments.batch else []
    try:
        config = compose(
            algo=arguments.algo,
            env=arguments.env,
            presets=arguments.preset,
            overrides=[*words, *arguments.overrides],
        )
        runtime.configure(config.train)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    return config


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A folder for what a benchmark must write, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lsf_jax-benchmark-") as folder:
        yield folder


def report(arguments: argparse.Namespace, question: str, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Print tables for people; with --json write them, the machine and the load beside them.

    Args:
      arguments: from `parse`.
      question: what the benchmark answers.
      tables: title -> rows of equal keys.
    """
    machine = describe_machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    lines = [question, f"{machine['devices']['kind']} × {machine['devices']['count']}, {machine['cpu']['model']}, "]
    lines[1] += f"{machine['cpu']['threads']} threads, jax {machine['versions']['jax']}, load {load or 0.0:.1f}"
    for title, rows in tables.items():
        lines += ["", title, *_table(rows)]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json is not None:
        content = {"question": question, "machine": machine, "load": load, "quick": arguments.quick, "tables": tables}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def spread(name: str, timing: Timing, scale: float = 1.0) -> dict[str, float]:
    """Columns `name`, `name low` and `name high` of a timing, each multiplied by `scale`."""
    return {name: timing.median * scale, f"{name} low": timing.low * scale, f"{name} high": timing.high * scale}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["  (nothing)"]
    names = list(rows[0])
    cells = [names, *[[_cell(row.get(name)) for name in names] for row in rows]]
    if len(names) > WIDEST:
        cells = [list(column) for column in zip(*cells)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
