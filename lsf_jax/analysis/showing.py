"""How runs show themselves in a notebook: a small table and their curves, in one piece of HTML without scripts."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np

from lsf_jax.analysis.naming import env_of, systems_of
from lsf_jax.analysis.plots import plot_curves
from lsf_jax.analysis.records import RunRecord, budget, metric_names
from lsf_jax.analysis.statistics import CONFIDENCE, final_values, summarize

MOST_LINES = 20
"""Lines of a table; of the rest the number is told."""
_SCROLLS = "style='max-width:100%;overflow-x:auto'"  # on a phone the table scrolls, not the page
_BREAKS = "style='overflow-wrap:anywhere'"
_CELL = "style='text-align:right;padding:2px 10px'"
_FIRST = "style='text-align:left;padding:2px 10px'"


def run_html(run: RunRecord) -> str:
    """One run: what it is, what its seeds ended with, and its learning curve.

    Args:
      run: a loaded run.

    Returns:
      HTML; all text of the run is escaped.
    """
    return runs_html([run])


def runs_html(runs: Sequence[RunRecord]) -> str:
    """Several runs as one table, a line for each grid point, above the curves of those on the first one's environment.

    Args:
      runs: loaded runs.

    Returns:
      HTML; all text of the runs is escaped.
    """
    heads = ("", "environment", "seeds", "env steps", "final return: median", "min … max", "IQM", f"{CONFIDENCE:.0%}")
    lines = [_line(system.label, system.run, system.grid) for system in systems_of(runs)]
    table = [_row(heads, "th"), *(_row(line, "td") for line in lines[:MOST_LINES])]
    more = f"<div>… and {len(lines) - MOST_LINES:,} more</div>" if len(lines) > MOST_LINES else ""
    where = "".join(f"<div {_BREAKS}><code>{html.escape(str(run.path))}</code></div>" for run in runs[:MOST_LINES])
    alike = [run for run in runs if env_of(run) == env_of(runs[0]) and "return" in metric_names(run.evaluation)]
    return f"<div>{where}<div {_SCROLLS}><table>{''.join(table)}</table></div>{more}{_picture(alike)}</div>"


def _line(label: str, run: RunRecord, grid: int) -> tuple[str, ...]:
    train = run.config.get("train") or {}
    known = (label, env_of(run), f"{train.get('seeds', 0):,}", f"{budget(run):,}")
    if "return" not in metric_names(run.evaluation):
        return (*known, "no evaluations yet", "", "", "")
    result = summarize(final_values(run, "return", grid)[1])
    if not result.n:
        return (*known, "no finite value", "", "", "")
    end = "" if np.any(run.evaluation["final"]) else " (unfinished)"
    return (
        *known,
        f"{result.median:.3g}{end}",
        f"{result.low:.3g} … {result.high:.3g}",
        f"{result.iqm:.3g}",
        f"{result.iqm_low:.3g} … {result.iqm_high:.3g}",
    )


def _row(cells: Sequence[str], tag: str) -> str:
    styles = [_FIRST, _FIRST, *[_CELL] * (len(cells) - 2)]
    inner = [f"<{tag} {style}>{html.escape(cell)}</{tag}>" for cell, style in zip(cells, styles, strict=True)]
    return f"<tr>{''.join(inner)}</tr>"


def _picture(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return ""
    drawn = io.BytesIO()
    plot_curves(runs).savefig(drawn, format="png")
    data = base64.b64encode(drawn.getvalue()).decode()
    return f"<img alt='learning curves' style='max-width:100%;background:white' src='data:image/png;base64,{data}'>"
