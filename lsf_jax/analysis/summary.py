"""Tables for people: what a run ended with, as plain text."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lsf_jax.analysis.naming import run_names
from lsf_jax.analysis.records import Columns, RunRecord, grid_labels, metric_names, table_of
from lsf_jax.analysis.statistics import Summary, final_values, summarize
from lsf_jax.settings import counted

MAX_SEEDS_SHOWN = 16
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WIDTH = 100
_TIMING = (
    ("env_steps_per_second", "env steps/s", "{:,.0f}"),
    ("updates_per_second", "updates/s", "{:,.2f}"),
    ("compile_seconds", "compile", "{:,.1f} s"),
    ("total_seconds", "total", "{:,.1f} s"),
)


def summary_table(run: RunRecord, metric: str = "return") -> str:
    """What a run ended with: the final return of each seed and over seeds, and how fast it was.

    With more than `MAX_SEEDS_SHOWN` seeds quantiles stand in for the single seeds. Speed comes from the card's
    `timing`: `env_steps_per_second`, `updates_per_second` (both over all seeds), `compile_seconds`, `total_seconds`;
    what is not there is left out.

    Args:
      run: a loaded run.
      metric: the metric to report, as for `lsf_jax.analysis.records.metric_of`.

    Returns:
      Several lines of plain text, at most `WIDTH` wide, without a trailing newline.
    """
    if metric.split("/")[-1] not in {*metric_names(run.evaluation), *metric_names(run.train)}:
        return "\n".join(["no evaluations yet", *_timing_lines(run)])
    labels = grid_labels(run)
    blocks = [_point_block(run, metric, grid, label) for grid, label in enumerate(labels)]
    blocks = [*blocks, "\n".join(_timing_lines(run))]
    return "\n\n".join(block for block in blocks if block)


def _point_block(run: RunRecord, metric: str, grid: int, label: str) -> str:
    rows, values = final_values(run, metric, grid)
    name = metric.split("/")[-1].replace("_", " ")
    seeds, env_steps = _seeds_of(table_of(run, metric), rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=label or None, title_justify="left")
    if rows.size <= MAX_SEEDS_SHOWN:
        for heading in ("seed", "env steps", f"final {name}"):
            table.add_column(heading, justify="right")
        for seed, steps, value in zip(seeds, env_steps, values, strict=True):
            table.add_row(str(seed), f"{steps:,}", f"{value:.3f}")
    else:
        table.add_column("quantile over seeds", justify="right")
        table.add_column(f"final {name}", justify="right")
        known = values[np.isfinite(values)]
        for quantile in QUANTILES if known.size else ():
            table.add_row(f"{quantile:.0%}", f"{np.quantile(known, quantile):.3f}")
    lost = int(values.size - np.isfinite(values).sum())
    line = summary_line(summarize(values)) + (f" · {counted(lost, 'seed')} without a finite value" if lost else "")
    return f"{_plain(table)}\n{line}"


def summary_line(summary: Summary) -> str:
    """A summary over seeds in one line.

    Args:
      summary: of one number per seed.

    Returns:
      For example "4 seeds: median 31.200 · min 20.000 · max 40.000 · IQM 30.500 (95%: 25.000 … 36.000)".
    """
    if not summary.n:
        return "no finite value"
    if summary.n == 1:
        return f"1 seed: {summary.median:.3f}"
    return (
        f"{summary.n:,} seeds: median {summary.median:.3f} · min {summary.low:.3f} · max {summary.high:.3f}"
        f" · IQM {summary.iqm:.3f} (95%: {summary.iqm_low:.3f} … {summary.iqm_high:.3f})"
    )


def results_table(runs: Sequence[RunRecord]) -> str:
    """What several runs ended with, one line each, as a Markdown table; per-seed returns are in it.

    Args:
      runs: finished runs without a grid, on one environment.

    Returns:
      Return over seeds (median, range, IQM), success and whatever else the environment reports, and how much was spent.
    """
    more = sorted(set.intersection(*({*metric_names(run.evaluation)} for run in runs)) & {"captures", "lone_catches"})
    heads = [
        "algorithm",
        "env steps",
        "seeds",
        "median return",
        "min to max",
        "IQM",
        "success",
        *more,
        "updates",
        "hours",
    ]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in heads) + " |", "|---" * len(heads) + "|"]
    names = run_names(runs)
    rows = [_result_cells(run, name, more) for run, name in zip(runs, names, strict=True)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _result_cells(run: RunRecord, name: str, more: Sequence[str]) -> list[str]:
    rows, returns = final_values(run, "return")
    summary = summarize(returns)
    _, env_steps = _seeds_of(table_of(run, "return"), rows)
    timing: dict[str, Any] = run.card.get("timing") or {}
    return [
        f"`{name}`",
        f"{int(env_steps.min()):,}",
        f"{summary.n:,}",
        f"{summary.median:.1f}",
        f"{summary.low:.1f} to {summary.high:.1f}",
        f"{summary.iqm:.1f}",
        *(f"{final_values(run, name)[1].mean():.2f}" for name in ("success", *more)),
        f"{int(run.evaluation['updates'].max()):,}",
        f"{timing.get('total_seconds', 0.0) / 3600:.2f}",
    ]


def _seeds_of(table: Columns, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    last = np.append(np.diff(table["row"]) != 0, True)[: table["row"].size]
    place = np.searchsorted(table["row"][last], rows)
    return table["seed"][last][place], table["env_steps"][last][place]


def _timing_lines(run: RunRecord) -> list[str]:
    timing: dict[str, Any] = run.card.get("timing") or {}
    parts = [f"{name} {form.format(timing[key])}" for key, name, form in _TIMING if timing.get(key) is not None]
    return [" · ".join(parts)] if parts else []


def _plain(table: Table) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(line for line in lines if line)
