"""Plots of runs as PNG. Figures are made directly, never through pyplot, so that a notebook's backend is left alone."""

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter

from lsf_jax.analysis.frames import Run, grid_labels, name_in, run_names
from lsf_jax.analysis.statistics import CONFIDENCE, Curve, curve
from lsf_jax.runs.safe_files import write_output
from lsf_jax.settings import env_label

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart with any colour vision; curves beyond its length repeat it with marks."""
MARKERS = ("", "o", "s", "^", "x")  # one more for every round of the colours
DPI = 150
_UNITS = {
    "return": "return per episode",
    "episode_return": "return per episode",
    "length": "episode length (steps)",
    "success": "episodes won (fraction)",
    "captures": "prey caught per episode",
    "kl": "KL per message (nats)",
    "entropy": "policy entropy (nats)",
}


def plot_curves(
    runs: Sequence[Run], metric: str = "return", path: str | Path | None = None, title: str | None = None
) -> Figure:
    """Learning curves: median line in a min–max band, and the IQM, dashed, in its bootstrap interval.

    Args:
      runs: loaded runs; each grid point of each is one curve.
      metric: name of the metric, as for `lsf_jax.analysis.frames.metric_of`.
      path: where to write the PNG; None writes nothing.
      title: heading; None for one made from the runs' environments.

    Returns:
      The figure.

    Raises:
      ValueError: no runs, or a run that lacks the metric.
    """
    if not runs:
        raise ValueError("runs is empty; give at least one run to plot.")
    curves = [(label, curve(run, metric, grid)) for run, grid, label in _labelled(runs)]
    figure = Figure(figsize=(7.2, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    looks = itertools.cycle(itertools.product(MARKERS, COLOURS))
    for (marker, colour), (label, points) in zip(looks, curves, strict=False):
        _draw_curve(axes, points, label, colour, marker)
    axes.set_xlabel("environment steps per seed")
    name = metric.split("/")[-1]
    axes.set_ylabel(_UNITS.get(name, name.replace("_", " ")))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title if title is not None else ", ".join(dict.fromkeys(map(_env_of, runs))))
    legend = axes.legend(fontsize="small", title=_legend_note(curves), title_fontsize="x-small", alignment="left")
    legend.get_frame().set(linewidth=0, alpha=0.7)
    return save(figure, path)


def plot_q_table(
    q_total: Float[np.ndarray, "first second"],
    payoff: Real[np.ndarray, "rows columns"],
    utilities: Float[np.ndarray, "2 actions"] | None = None,
    path: str | Path | None = None,
    *,
    title: str = "",
    greedy: tuple[int, int] | None = None,
) -> Figure:
    """What a critic has learnt of a two-player matrix game, beside the game: Q_tot and the payoff, with numbers.

    The chosen joint action is boxed in both tables; the payoff's best cells are in bold.

    Args:
      q_total: Q_tot of each joint action; rows are the first player's actions.
      payoff: the game, in the same order.
      utilities: q₁ and q₂ of each action, written beside rows and columns; None leaves them out. Both players then
        have as many actions as there are columns.
      path: where to write the PNG; None writes nothing.
      title: heading.
      greedy: the joint action that the players take; None for the argmax of each one's utility, or of Q_tot where no
        utilities are given.

    Returns:
      The figure.

    Raises:
      ValueError: tables of different shape.
    """
    if q_total.shape != payoff.shape:
        raise ValueError(f"q_total has shape {q_total.shape} and payoff {payoff.shape}; both need [actions, actions].")
    if greedy is None:
        first, second = np.unravel_index(np.argmax(q_total), q_total.shape)
        greedy = (int(first), int(second))
        if utilities is not None:
            greedy = (int(np.argmax(utilities[0])), int(np.argmax(utilities[1])))
    n_first, n_second = payoff.shape
    width, height = 2 * (1.7 + 0.75 * n_second), 1.7 + 0.65 * n_first
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    bound = float(np.nanmax(np.abs(np.stack([payoff, q_total])))) or 1.0
    bold = payoff == payoff.max()
    _draw_table(left, q_total, bound, greedy, np.zeros_like(bold))
    _draw_table(right, payoff, bound, greedy, bold)
    if utilities is not None:
        left.set_yticks(range(n_first), [f"{a}\nq₁ {q:.2f}" for a, q in enumerate(utilities[0][:n_first])])
        left.set_xticks(range(n_second), [f"{a}\nq₂ {q:.2f}" for a, q in enumerate(utilities[1][:n_second])])
    left.set_title("Q_tot", fontsize="medium")
    right.set_title("payoff", fontsize="medium")
    if title:
        figure.suptitle(title, fontsize="medium")
    return save(figure, path)


def save(figure: Figure, path: str | Path | None) -> Figure:
    """Writes a figure as PNG, making its folder as needed.

    Args:
      figure: what to write.
      path: the file; None writes nothing.

    Returns:
      The same figure.

    Raises:
      ConfigError: it cannot be written there.
    """
    if path is not None:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DPI)
        write_output(path, drawn.getvalue())
    return figure


def _labelled(runs: Sequence[Run]) -> list[tuple[Run, int, str]]:
    """Each grid point of each run, with as much of a name as tells it from the others."""
    return [
        (run, grid, f"{name}, {label}" if label else name)
        for run, name in zip(runs, run_names(runs), strict=True)
        for grid, label in enumerate(grid_labels(run))
    ]


def _env_of(run: Run) -> str:
    settings = run.config.get("env")
    return env_label(name_in(run, "env"), settings if isinstance(settings, dict) else {})


def _legend_note(curves: list[tuple[str, Curve]]) -> str:
    if all(points.n.max(initial=0) <= 1 for _, points in curves):
        return ""
    return f"line: median, in min–max · dashed: IQM, in its {CONFIDENCE:.0%} interval"


def _draw_curve(axes: Axes, points: Curve, label: str, colour: str, marker: str) -> None:
    n_seeds = int(points.n.max(initial=0))
    counted = f"{label} ({n_seeds:,} seed{'s' * (n_seeds != 1)})"
    if points.env_steps.size == 1:
        _draw_point(axes, points, counted, colour, n_seeds)
        return
    x = points.env_steps
    axes.plot(x, points.median, color=colour, linewidth=1.8, label=counted, marker=marker, markersize=4, markevery=0.1)
    if n_seeds > 1:
        axes.fill_between(x, points.low, points.high, color=colour, alpha=0.10, linewidth=0)
        axes.fill_between(x, points.iqm_low, points.iqm_high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(x, points.iqm, color=colour, linewidth=1.3, linestyle=(0, (4, 2)))


def _draw_point(axes: Axes, points: Curve, label: str, colour: str, n_seeds: int) -> None:
    """A band of one point would be invisible: bars instead."""
    axes.plot(points.env_steps, points.median, "o", color=colour, markersize=6, label=label)
    if n_seeds > 1:
        x = float(points.env_steps[0])
        axes.vlines(x, points.low[0], points.high[0], color=colour, alpha=0.35, linewidth=2)
        axes.vlines(x, points.iqm_low[0], points.iqm_high[0], color=colour, alpha=0.35, linewidth=7)
        axes.plot(x, points.iqm[0], "_", color=colour, markersize=14)


def _draw_table(axes: Axes, table: np.ndarray, bound: float, greedy: tuple[int, int], bold: np.ndarray) -> None:
    axes.imshow(table, cmap="RdBu", norm=TwoSlopeNorm(0.0, -bound, bound), aspect="auto")
    for edge in range(1, table.shape[1]):
        axes.axvline(edge - 0.5, color="white", linewidth=2)
    for edge in range(1, table.shape[0]):
        axes.axhline(edge - 0.5, color="white", linewidth=2)
    for (row, column), value in np.ndenumerate(table):
        weight = "bold" if bold[row, column] else "normal"
        colour = "white" if abs(value) > 0.6 * bound else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, weight=weight)
    box = Rectangle(
        (greedy[1] - 0.5, greedy[0] - 0.5), 1, 1, fill=False, edgecolor="#E69F00", linewidth=3, clip_on=False, zorder=3
    )
    axes.add_patch(box)
    axes.set_xticks(range(table.shape[1]))
    axes.set_yticks(range(table.shape[0]))
    axes.tick_params(length=0, labelsize="small")
    axes.set_xlabel("action of player 2", fontsize="small")
    axes.set_ylabel("action of player 1", fontsize="small")
    axes.spines[:].set_visible(False)
