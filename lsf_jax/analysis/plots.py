"""Learning curves, in the paper's form and as IQM, and Q tables of matrix games."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsf_jax.analysis.naming import env_of, systems_of
from lsf_jax.analysis.records import RunRecord
from lsf_jax.analysis.statistics import CONFIDENCE, Curve, curve
from lsf_jax.analysis.style import (
    BEYOND_ZERO,
    COLOURS,
    COLUMN,
    FAINT,
    GREY,
    LETTER,
    PAGE,
    SIZE,
    SMALL,
    Drawn,
    broken,
    dress,
    label_ends,
    look,
    save,
    unit_of,
)
from lsf_jax.settings import ConfigError

FORMS = {
    "median": "line: median of {} · band: smallest to largest",
    "iqm": f"line: interquartile mean of {{}} · band: its {CONFIDENCE:.0%} interval",
}
"""What a curve may show -> in words."""
MOST_TOGETHER = 6
"""Curves in one pair of axes; more have a panel each, in front of all others in grey."""


def plot_curves(
    runs: Sequence[RunRecord],
    metric: str = "return",
    path: str | Path | None = None,
    title: str | None = None,
    *,
    form: str = "median",
) -> Figure:
    """Learning curves of one or several systems over environment steps, named at their ends.

    Up to `MOST_TOGETHER` curves share one pair of axes; of more, each has a panel of its own, in which the others are
    drawn in grey.

    Args:
      runs: loaded runs; each grid point of each is one curve.
      metric: name of the metric, as for `lsf_jax.analysis.records.metric_of`.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for one made from the runs' environments.
      form: "median", the paper's: median in a band from the smallest to the largest seed; "iqm": interquartile mean in
        its bootstrap interval.

    Returns:
      The figure.

    Raises:
      ValueError: no runs, an unknown form, or a run that lacks the metric.
    """
    if not runs:
        raise ValueError("runs is empty; give at least one run to plot.")
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}; expected one of {', '.join(FORMS)}")
    curves = {system.label: curve(system.run, metric, system.grid) for system in systems_of(runs)}
    heading = title if title is not None else ", ".join(dict.fromkeys(map(env_of, runs)))
    draw = _together if len(curves) <= MOST_TOGETHER else _side_by_side
    figure = draw(curves, form)
    figure.suptitle(heading, fontsize=SIZE)
    figure.supylabel(unit_of(metric), fontsize=SIZE)
    figure.supxlabel("\n".join(["environment steps per seed", *_note(curves, form)]), fontsize=SMALL)
    return save(figure, path)


def _note(curves: dict[str, Curve], form: str) -> list[str]:
    counts = {_seeds(points) for points in curves.values()}
    if max(counts) <= 1:
        return []
    several = f"{counts.pop():,} seeds" if len(counts) == 1 else "seeds"
    return [FORMS[form].format(several)]


def _together(curves: dict[str, Curve], form: str) -> Drawn:
    figure = Drawn(COLUMN if len(curves) == 1 else 1.35 * COLUMN, 2.7)
    axes = figure.subplots()
    for place, (label, points) in enumerate(curves.items()):
        _draw_curve(axes, points, form, place, _counted(label, points))
    dress(axes, steps=True)
    axes.margins(x=0)
    if len(curves) > 1:
        ends = [float(_line(points, form)[-1]) if points.env_steps.size else math.nan for points in curves.values()]
        label_ends(axes, _names(curves), ends, [look(place)["color"] for place in range(len(curves))])
    else:
        axes.set_title(_names(curves)[0], fontsize=SMALL, color=GREY)
    return figure


def _side_by_side(curves: dict[str, Curve], form: str) -> Drawn:
    n_columns = min(5, math.ceil(math.sqrt(len(curves))))
    n_rows = math.ceil(len(curves) / n_columns)
    names = [broken(name, int(PAGE / n_columns / LETTER) - 3) for name in _names(curves)]
    tall = max(name.count("\n") for name in names)
    figure = Drawn(PAGE, 0.9 + (1.15 + 0.12 * tall) * n_rows)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for place, (axes, (label, points)) in enumerate(zip(panels.flat, curves.items(), strict=False)):
        for other, theirs in curves.items():
            if other != label:
                axes.plot(theirs.env_steps, _line(theirs, form), color=FAINT, linewidth=0.6, label="_")
        _draw_curve(axes, points, form, place % len(COLOURS), _counted(label, points))
        axes.set_title(names[place], fontsize=SMALL)
        dress(axes, steps=True, grid=False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    for axes in panels[-2, len(curves) - n_columns * (n_rows - 1) :] if n_rows > 1 else ():
        axes.tick_params(labelbottom=True)  # no panel stands below them
    return figure


def _names(curves: dict[str, Curve]) -> list[str]:
    """What stands in the figure: with the number of seeds only where it differs, else the note tells it."""
    alike = len({_seeds(points) for points in curves.values()} | {1}) == 2
    return [label if alike else _counted(label, points) for label, points in curves.items()]


def _counted(label: str, points: Curve) -> str:
    n_seeds = _seeds(points)
    return f"{label} ({n_seeds:,} seed{'s' * (n_seeds != 1)})"


def _seeds(points: Curve) -> int:
    return int(points.n.max(initial=0))


def _line(points: Curve, form: str) -> np.ndarray:
    return points.median if form == "median" else points.iqm


def _draw_curve(axes: Axes, points: Curve, form: str, place: int, label: str) -> None:
    several = _seeds(points) > 1
    low, high = (points.low, points.high) if form == "median" else (points.iqm_low, points.iqm_high)
    looks = look(place)
    if points.env_steps.size == 1:  # a band of one point would be invisible
        axes.plot(points.env_steps, _line(points, form), "o", color=looks["color"], markersize=4, label=label)
        if several:
            axes.vlines(points.env_steps, low, high, color=looks["color"], alpha=0.4, linewidth=3)
        return
    axes.plot(points.env_steps, _line(points, form), label=label, **looks)
    if several:
        axes.fill_between(points.env_steps, low, high, color=looks["color"], alpha=0.16, linewidth=0)


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
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
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
    figure = Drawn(width, height)
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


def _draw_table(axes: Axes, table: np.ndarray, bound: float, greedy: tuple[int, int], bold: np.ndarray) -> None:
    axes.imshow(table, cmap=BEYOND_ZERO, norm=TwoSlopeNorm(0.0, -bound, bound), aspect="auto")
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
