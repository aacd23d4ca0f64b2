"""A figure of the paper as we have it: curves of every system, and what they end with beside what was published."""

import io
import itertools
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from lsf_jax.analysis.paper.definition import Definition
from lsf_jax.analysis.paper.evidence import Evidence, Gathered
from lsf_jax.analysis.paper.verdicts import Points, points_of, values_at
from lsf_jax.analysis.statistics import curve_of_seeds
from lsf_jax.analysis.style import COLOURS
from lsf_jax.runs.safe_files import write_output

Look = tuple[str, str]
"""Marker and colour of a system."""
WIDE, HIGH, LEGEND = 4.6, 2.9, 0.55
"""Inches of a panel and of the legend."""
HOUR = 3600.0
MARKERS = ("", "o", "s", "^", "x")
"""One more for every round of the colours."""
DPI = 150
PALETTE = 128
"""Colours of a PNG."""
BEGUN = 0.05
"""Share of the budget below which the axis ends where the curves do: they would be dots else."""


def draw_figure(
    definition: Definition, gathered: Gathered, path: str | Path | None = None, *, hours: bool = False
) -> Figure:
    """Curves of each panel (median, in the range over seeds), and beside them every seed's end and published values.

    Args:
      definition: of the figure.
      gathered: its results.
      path: where to write the PNG; None writes nothing.
      hours: curves against hours of a device for each seed, at the run's mean pace, instead of env steps.

    Returns:
      The figure.
    """
    panels = list(definition.panels)
    looks = _looks(gathered)
    n_columns = min(2, len(panels)) if len(panels) <= 4 else 3
    n_rows = math.ceil(len(panels) / n_columns)
    figure = Figure(figsize=(WIDE * n_columns, HIGH * n_rows + LEGEND), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(n_rows, 2 * n_columns, width_ratios=[2.6, 1] * n_columns)
    for place, name in enumerate(panels):
        row, column = divmod(place, n_columns)
        left = figure.add_subplot(grid[row, 2 * column])
        right = figure.add_subplot(grid[row, 2 * column + 1], sharey=left)
        drawn = {label: gathered.evidence[panel, label] for panel, label in gathered.cells if panel == name}
        _draw_curves(left, definition, name, gathered, drawn, looks, hours)
        _draw_ends(right, definition, name, gathered, drawn, looks)
        _dress(left, right, definition, name, hours)
    figure.suptitle(definition.title, fontsize="medium")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=label)
        for label, (marker, colour) in looks.items()
    ]
    handles.append(Line2D([], [], color="0.35", marker="D", fillstyle="none", linestyle="", label="published"))
    figure.legend(handles=handles, loc="outside lower center", ncols=7, fontsize="x-small", frameon=False)
    if path is not None:
        write_output(path, _small_png(figure))
    return figure


def _small_png(figure: Figure) -> bytes:
    """A figure as PNG with a palette, a third of the bytes: pages are tracked.

    Pillow's usual method gives thin lines one colour where most of a figure is white; this one keeps the extremes.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(PALETTE, method=Image.Quantize.MAXCOVERAGE, kmeans=3).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def _looks(gathered: Gathered) -> dict[str, Look]:
    labels = dict.fromkeys(label for _, label in gathered.cells)
    return dict(zip(labels, itertools.cycle(itertools.product(MARKERS, COLOURS)), strict=False))


def _budget(gathered: Gathered, panel: str) -> int:
    return max(cell.budget for (name, _), cell in gathered.cells.items() if name == panel)


def _draw_curves(
    axes: Axes,
    definition: Definition,
    panel: str,
    gathered: Gathered,
    drawn: dict[str, Evidence],
    looks: dict[str, Look],
    hours: bool,
) -> None:
    budget, furthest = _budget(gathered, panel), 0.0
    for label, evidence in drawn.items():
        seeds = [points_of(seed, definition.metric, budget) for seed in evidence.seeds]
        seeds = [points for points in seeds if points[0].size]
        if not seeds:
            continue
        curve = curve_of_seeds([_mean(seeds)] if definition.share else seeds, budget)
        marker, colour = looks[label]
        x = curve.env_steps * (_seconds_per_step(evidence) / HOUR if hours else 1.0)
        axes.plot(x, curve.median, color=colour, linewidth=1.4, marker=marker, markersize=3, markevery=0.1)
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.6 / max(6, len(drawn)), linewidth=0)
        furthest = max(furthest, float(curve.env_steps[-1]))
    if not axes.lines:
        axes.text(0.5, 0.5, "no seeds yet", transform=axes.transAxes, ha="center", color="0.5", fontsize="small")
    if not hours:
        axes.set_xlim(0, 1.02 * (furthest if 0 < furthest < BEGUN * budget else budget))


def _mean(seeds: list[Points]) -> Points:
    """The mean curve of seeds, at the steps of the first that got furthest: of shares, where each seed has 0 or 1."""
    steps = max((points[0] for points in seeds), key=lambda each: each[-1])
    return steps, np.mean([np.interp(steps, *points) for points in seeds], axis=0)


def _seconds_per_step(evidence: Evidence) -> float:
    """Seconds of a device for an env step, mean over the seeds."""
    paces = [evidence.origins[seed.origin].seconds / seed.env_steps[-1] for seed in evidence.seeds]
    return float(np.mean(paces))


def _draw_ends(
    axes: Axes,
    definition: Definition,
    panel: str,
    gathered: Gathered,
    drawn: dict[str, Evidence],
    looks: dict[str, Look],
) -> None:
    for place, (label, evidence) in enumerate(drawn.items()):
        colour = looks[label][1]
        ends = values_at(evidence.seeds, definition.metric, gathered.cells[panel, label].budget)
        if ends.size:
            spread = np.linspace(-0.18, 0.18, ends.size) if ends.size > 1 else np.zeros(1)
            axes.plot(place + spread, np.sort(ends), ".", color=colour, markersize=4, alpha=0.7)
            middle = float(ends.mean() if definition.share else np.median(ends))
            axes.plot(place, middle, "_", color=colour, markersize=12, markeredgewidth=2)
        for one in definition.reported:
            if (one.panel, one.system) == (panel, label):
                axes.vlines(place, one.low, one.high, color=colour, linewidth=1, linestyle=":")
                ticks = sorted({one.low, one.high})
                axes.plot([place] * len(ticks), ticks, "D", color=colour, fillstyle="none", markersize=5)
    axes.set_xlim(-0.6, len(drawn) - 0.4)


def _dress(left: Axes, right: Axes, definition: Definition, panel: str, hours: bool) -> None:
    left.set_title(definition.panels[panel].title, fontsize="small", loc="left")
    right.set_title("at the budget", fontsize="x-small", color="0.35")
    left.set_ylim(*definition.limits)
    left.set_ylabel(definition.unit, fontsize="small")
    left.set_xlabel("hours of a device for each seed" if hours else "env steps for each seed", fontsize="x-small")
    if not hours:
        left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.xaxis.set_major_locator(MaxNLocator(4))
    right.set_xticks([])
    right.tick_params(labelleft=False)
    for axes in (left, right):
        axes.grid(color="0.92", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize="x-small")
