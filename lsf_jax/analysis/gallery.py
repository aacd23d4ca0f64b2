"""Every figure of runs by name, with one way to ask for any: what `lsf-jax plot --figure` and a notebook use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure

from lsf_jax.analysis.comparison_figures import plot_aggregates, plot_improvement, plot_profiles, plot_table_one
from lsf_jax.analysis.figure_names import OF_RUNS, OF_TABLES
from lsf_jax.analysis.figures import plot_dynamics, plot_fan, plot_histograms, plot_map
from lsf_jax.analysis.matrix_table import OWN, UNIFORM, plot_outcomes, read_outcomes
from lsf_jax.analysis.plots import plot_curves
from lsf_jax.analysis.records import RunRecord
from lsf_jax.analysis.reliability import scores_of
from lsf_jax.analysis.style import save
from lsf_jax.settings import ConfigError, nearest


class Wish(NamedTuple):
    """What somebody wants of a figure; a figure looks at what concerns it."""

    metric: str = "return"
    title: str | None = None
    x: str | None = None  # keys of a map
    y: str | None = None
    of: str = "final"  # what a seed's score is, as for `scores_of`
    exploration: str = OWN  # of Table I


def _one(runs: Sequence[RunRecord]) -> RunRecord:
    if len(runs) != 1:
        raise ConfigError(f"{len(runs)} runs are given; expected one, a map is of one sweep")
    return runs[0]


_Draw: TypeAlias = Callable[[Sequence[RunRecord], Wish], Figure]
_DRAW: dict[str, _Draw] = {
    "curves": lambda runs, wish: plot_curves(runs, wish.metric, title=wish.title),
    "iqm": lambda runs, wish: plot_curves(runs, wish.metric, title=wish.title, form="iqm"),
    "fan": lambda runs, wish: plot_fan(runs, wish.metric, title=wish.title),
    "histogram": lambda runs, wish: plot_histograms(runs, wish.metric, title=wish.title),
    "map": lambda runs, wish: plot_map(_one(runs), wish.x, wish.y, wish.metric, title=wish.title),
    "dynamics": lambda runs, wish: plot_dynamics(runs, title=wish.title),
    "aggregate": lambda runs, wish: plot_aggregates(scores_of(runs, wish.metric, wish.of), title=wish.title),
    "profile": lambda runs, wish: plot_profiles(scores_of(runs, wish.metric, wish.of), title=wish.title),
    "improvement": lambda runs, wish: plot_improvement(scores_of(runs, wish.metric, wish.of), title=wish.title),
}


def draw(name: str, runs: Sequence[RunRecord], wish: Wish | None = None, path: str | Path | None = None) -> Figure:
    """A figure of runs, by its name.

    Args:
      name: one of `figure_names.OF_RUNS`.
      runs: loaded runs.
      wish: metric, heading and so on; None: the defaults.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.

    Returns:
      The figure.

    Raises:
      ConfigError: an unknown name, or what the figure itself complains about.
      ValueError: a run that lacks the metric.
    """
    if name not in _DRAW:
        raise ConfigError(f"figure is {name!r}, which is none of runs{nearest(name, OF_RUNS)}")
    return save(_DRAW[name](runs, wish or Wish()), path)


def draw_table(name: str, file: str | Path, wish: Wish | None = None, path: str | Path | None = None) -> Figure:
    """A figure of a `table-GAME.json`, by its name.

    Args:
      name: one of `figure_names.OF_TABLES`.
      file: what `lsf-jax matrix-table` wrote.
      wish: heading and exploration; None: the defaults.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.

    Returns:
      The figure.

    Raises:
      ConfigError: an unknown name or exploration, or no such file.
    """
    wish = wish or Wish()
    if name not in OF_TABLES:
        raise ConfigError(f"figure is {name!r}, which is none of tables{nearest(name, OF_TABLES)}")
    if wish.exploration not in (UNIFORM, OWN):
        raise ConfigError(f"exploration is {wish.exploration!r}; expected {UNIFORM} or {OWN}")
    outcomes = read_outcomes(file)
    if name == "outcomes":
        return plot_outcomes(outcomes, path, wish.title or "")
    return plot_table_one(outcomes, path, wish.title, exploration=wish.exploration)
