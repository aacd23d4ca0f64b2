"""Figures that hold systems against each other: intervals, profiles, who beats whom, Table I beside the paper's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsf_jax.analysis.matrix_table import LETTERS, OWN, Outcome, PaperRow, paper_rows
from lsf_jax.analysis.reliability import Scores, aggregate, improvement_matrix, performance_profile
from lsf_jax.analysis.statistics import CONFIDENCE
from lsf_jax.analysis.style import (
    BEYOND_ZERO,
    COLOURS,
    COLUMN,
    FAINT,
    GREY,
    PAGE,
    SIZE,
    SMALL,
    Drawn,
    broken,
    dress,
    save,
    width_of,
)
from lsf_jax.settings import ConfigError

MOST_TOGETHER = 6
"""Profiles in one pair of axes; of more each has a panel, in front of the others in grey."""


def plot_aggregates(scores: Scores, path: str | Path | None = None, title: str | None = None) -> Figure:
    """IQM with its interval, median and range of each system over all its seeds and tasks, best above.

    Args:
      scores: of one task, or of several on one scale.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for the tasks.

    Returns:
      The figure.

    Raises:
      ConfigError: a score that is not finite.
    """
    found = aggregate(scores)
    names = sorted(found, key=lambda name: found[name].iqm)
    shown = [broken(name, 40) for name in names]
    tall = max(name.count("\n") for name in shown) + 1
    figure = Drawn(max(COLUMN, COLUMN - 1.0 + width_of(shown)), 0.9 + 0.18 * max(4, len(names)) * (1 + tall) / 2)
    axes = figure.subplots()
    for place, name in enumerate(names):
        each = found[name]
        axes.hlines(place, each.low, each.high, color=FAINT, linewidth=1.0)
        axes.hlines(place, each.iqm_low, each.iqm_high, color=COLOURS[0], linewidth=4.0)
        axes.plot(each.iqm, place, "|", color="black", markersize=9, markeredgewidth=1.4)
        axes.plot(each.median, place, "o", color=COLOURS[1], markersize=3.5)
    axes.set_yticks(range(len(names)), shown)
    axes.set_xlabel(scores.unit)
    dress(axes)
    note = f"bar: IQM and its {CONFIDENCE:.0%} interval · dot: median\nthin line: smallest to largest seed"
    figure.supxlabel(note, fontsize=SMALL, color=GREY)
    return _titled(figure, scores, path, title)


def plot_profiles(scores: Scores, path: str | Path | None = None, title: str | None = None) -> Figure:
    """Performance profiles: the share of runs whose score exceeds each threshold, in its bootstrap band.

    Args:
      scores: of one task, or of several on one scale.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for the tasks.

    Returns:
      The figure; a curve above another everywhere belongs to the better system.

    Raises:
      ConfigError: a score that is not finite.
    """
    profiles = performance_profile(scores)
    alone = len(profiles) <= MOST_TOGETHER
    n_columns = 1 if alone else 5 if len(profiles) > 12 else 4
    n_rows = 1 if alone else -(-len(profiles) // n_columns)
    figure = Drawn(COLUMN if alone else PAGE, 2.7 if alone else 0.8 + 1.15 * n_rows)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for place, (name, profile) in enumerate(profiles.items()):
        axes = panels.flat[0 if alone else place]
        for other in () if alone else profiles.values():
            axes.step(other.at, other.share, color=FAINT, linewidth=0.6, where="post")
        colour = COLOURS[place % len(COLOURS)]
        axes.step(profile.at, profile.share, color=colour, linewidth=1.4, where="post", label=name)
        axes.fill_between(profile.at, profile.low, profile.high, color=colour, alpha=0.16, linewidth=0, step="post")
        axes.set_title("" if alone else broken(name, 28), fontsize=SMALL)
        dress(axes, grid=alone)
    for axes in panels.flat[1 if alone else len(profiles) :]:
        axes.set_visible(False)
    if alone and len(profiles) > 1:
        panels.flat[0].legend(frameon=False, fontsize=SMALL)
    figure.supxlabel(f"τ: {scores.unit}", fontsize=SMALL)
    figure.supylabel("share of runs above τ", fontsize=SMALL)
    return _titled(figure, scores, path, title)


def plot_improvement(scores: Scores, path: str | Path | None = None, title: str | None = None) -> Figure:
    """Who beats whom: the probability that a seed of the row's system beats one of the column's, as a matrix.

    Systems are sorted, the best above; where the interval leaves out one half, the number is bold.

    Args:
      scores: of any number of tasks.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for the tasks.

    Returns:
      The figure.

    Raises:
      ConfigError: a score that is not finite.
    """
    matrix = improvement_matrix(scores)
    names = np.array(scores.systems())
    order = np.argsort(-np.nanmean(matrix[..., 0], axis=1), kind="stable") if len(names) > 1 else np.arange(len(names))
    matrix, names = matrix[order][:, order], names[order]
    side = max(2.2, min(PAGE - 1.4, 0.29 * len(names)))
    shown = [broken(name, 40) for name in names]
    room = max(1.0, width_of(shown))  # beside and below
    figure = Drawn(side + room + 0.2, side + room)
    axes = figure.subplots()
    axes.imshow(matrix[..., 0], cmap=BEYOND_ZERO, norm=TwoSlopeNorm(0.5, 0.0, 1.0))
    for row, column in np.ndindex(len(names), len(names)):
        value, low, high = matrix[row, column]
        if row != column:
            sure = "bold" if low > 0.5 or high < 0.5 else "normal"
            colour = "white" if abs(value - 0.5) > 0.33 else "black"
            axes.text(column, row, _share(value), ha="center", va="center", fontsize=5.5, weight=sure, color=colour)
    axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=SMALL)
    axes.set_yticks(range(len(names)), shown, fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    note = f"P(row beats column) of two seeds, ties by half\nbold: {CONFIDENCE:.0%} interval leaves out 0.5"
    figure.supxlabel(note, fontsize=SMALL, color=GREY)
    return _titled(figure, scores, path, title)


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"


def plot_table_one(
    outcomes: Sequence[Outcome],
    path: str | Path | None = None,
    title: str | None = None,
    *,
    exploration: str = OWN,
    paper: Mapping[str, PaperRow] | None = None,
) -> Figure:
    """Table I as heat maps: what the paper printed of each system, beside the mean Q_tot of ours.

    The chosen joint action is boxed: the paper's greedy one, and of ours the most frequent one.

    Args:
      outcomes: of the paper's game, for example from a tracked table-matrix_game.json.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for what is shown.
      exploration: "own" or "uniform": which of our runs.
      paper: the printed rows; None: the shipped ones.

    Returns:
      The figure: a row for each system that both have; the paper's, the mean of all seeds, and the mean of those seeds
      that end with the most frequent joint action.

    Raises:
      ConfigError: no system is in both, or the games are not of two players.
    """
    rows = paper_rows() if paper is None else paper
    ours = {outcome.algorithm: outcome for outcome in outcomes if outcome.exploration == exploration}
    names = [name for name in rows if name in ours]
    if not names or any(ours[name].utilities.shape[:2] != (1, 2) for name in names):
        raise ConfigError(
            f"outcomes have {', '.join(ours) or 'nothing'}; expected some of {', '.join(rows)}, two players"
        )
    figure = Drawn(PAGE * 0.8, 0.7 + 1.35 * len(names))
    panels = figure.subplots(len(names), 3, squeeze=False)
    bound = max(np.abs(table).max() for name in names for table in (np.array(rows[name].q_total), ours[name].q_total))
    for line, name in zip(panels, names):
        outcome, side = ours[name], len(rows[name].q_1)
        (modal, share), *_ = outcome.shares.items()
        tables = (
            (np.array(rows[name].q_total), (rows[name].q_1, rows[name].q_2), rows[name].greedy, "paper"),
            (outcome.q_total.reshape(side, side), outcome.utilities[0], modal, f"mean of {outcome.seeds:,} seeds"),
            (outcome.modal_q_total.reshape(side, side), None, modal, f"the {share:.0%} that end with {modal}"),
        )
        for axes, (table, utilities, boxed, what) in zip(line, tables):
            _draw_q(axes, table, utilities, boxed, bound)
            axes.set_title(f"{name}: {what}" if what == "paper" else what, fontsize=SMALL)
    heading = f"Q_tot of the one-step game, {exploration} exploration" if title is None else title
    figure.suptitle(heading, fontsize=SIZE)
    return save(figure, path)


def _draw_q(
    axes: Axes, table: np.ndarray, utilities: Sequence[Sequence[float]] | np.ndarray | None, boxed: str, bound: float
) -> None:
    axes.imshow(table, cmap=BEYOND_ZERO, norm=TwoSlopeNorm(0.0, -bound, bound), aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if abs(value) > 0.6 * bound else "black"
        axes.text(column, row, _tenths(value), ha="center", va="center", fontsize=SMALL, color=colour)
    row, column = (LETTERS.index(letter) for letter in boxed[:2])
    box = {"fill": False, "edgecolor": COLOURS[4], "linewidth": 2.0, "clip_on": False, "zorder": 3}
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **box))
    for axis, values in zip((axes.yaxis, axes.xaxis), utilities if utilities is not None else ([None] * 3,) * 2):
        texts = [
            letter if value is None else f"{letter} {_tenths(value)}"
            for letter, value in zip(LETTERS, values, strict=False)
        ]
        axis.set_ticks(range(len(table)), texts[: len(table)], fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _tenths(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # without the sign of a zero


def _titled(figure: Figure, scores: Scores, path: str | Path | None, title: str | None) -> Figure:
    figure.suptitle(", ".join(scores.tasks) if title is None else title, fontsize=SIZE)
    return save(figure, path)
