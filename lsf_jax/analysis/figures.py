"""Figures of runs beside their curves: every seed, final values, maps over a sweep, and how learning itself went."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsf_jax.analysis.naming import System, env_of, systems_of
from lsf_jax.analysis.records import RunRecord, metric_names, metric_of, settings_of, table_of
from lsf_jax.analysis.statistics import curve, final_values
from lsf_jax.analysis.style import (
    COLOURS,
    COLUMN,
    FAINT,
    PAGE,
    SIZE,
    SMALL,
    UPWARDS,
    Drawn,
    broken,
    dress,
    label_ends,
    look,
    save,
    unit_of,
    width_of,
)
from lsf_jax.config.grids import swept_in
from lsf_jax.settings import ConfigError

DYNAMICS = ("alpha", "entropy", "kl_per_message")
"""Columns of the training table that tell how learning went, where an algorithm has them."""
MOST_NUMBERS = 120
"""Cells of a map that have their number written in them; of more the colours must do."""
BEST, WORST = COLOURS[2], COLOURS[1]


def plot_fan(
    runs: Sequence[RunRecord], metric: str = "return", path: str | Path | None = None, title: str | None = None
) -> Figure:
    """Every seed's own curve, the best and the worst named: what a band hides.

    Args:
      runs: loaded runs; each grid point of each has a panel.
      metric: with one number per row, as for `lsf_jax.analysis.records.metric_of`.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for the environments.

    Returns:
      The figure. Best and worst are by the last value; their numbers are those of the column `seed`.

    Raises:
      ValueError: no runs, or a run that lacks the metric.
    """
    systems = _systems(runs)
    figure, panels = _panels(len(systems), width=1.25)
    for axes, system in zip(panels, systems):
        _draw_fan(axes, system, metric)
        axes.set_title(broken(system.label, 26), fontsize=SMALL)
        dress(axes, steps=True)
    return _finished(figure, runs, path, title, "environment steps per seed", unit_of(metric))


def _draw_fan(axes: Axes, system: System, metric: str) -> None:
    points = metric_of(system.run, metric, system.grid)
    if points.value.ndim != 1:
        raise ConfigError(
            f"metric is {metric}; expected one with a single number per row, it has {points.value.shape[1]}"
        )
    rows, last = final_values(system.run, metric, system.grid)
    axes.margins(x=0)
    known = np.flatnonzero(np.isfinite(last))  # a seed that ended without a number is drawn as far as it has any
    if not known.size:
        return
    places = {"worst": int(known[np.argmin(last[known])]), "best": int(known[np.argmax(last[known])])}
    for place, row in enumerate(rows):
        mine = points.row == row
        named = next((name for name, which in places.items() if which == place and rows.size > 1), "")
        colour = {"best": BEST, "worst": WORST}.get(named, FAINT)
        width, order = (1.4, 3) if named else (0.7, 1)
        axes.plot(points.env_steps[mine], points.value[mine], color=colour, linewidth=width, zorder=order)
    middle = curve(system.run, metric, system.grid)
    axes.plot(middle.env_steps, middle.median, color="black", linewidth=1.2, linestyle=(0, (4, 2)), zorder=4)
    table = table_of(system.run, metric)
    seeds = table["seed"][np.searchsorted(table["row"], rows)]
    names = [f"{name}: seed {seeds[place]}" for name, place in places.items()]
    ends = [float(end) for end in (*last[list(places.values())], middle.median[-1])]
    label_ends(axes, [*names, "median"], ends, [WORST, BEST, "black"])


def plot_histograms(
    runs: Sequence[RunRecord], metric: str = "return", path: str | Path | None = None, title: str | None = None
) -> Figure:
    """What the seeds end with, as a histogram for each system on one scale; the median is marked.

    Args:
      runs: loaded runs; each grid point of each has a panel.
      metric: with one number per row, as for `lsf_jax.analysis.records.metric_of`.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for the environments.

    Returns:
      The figure. Seeds whose last value is not finite are counted in the panel's title.

    Raises:
      ValueError: no runs, or a run that lacks the metric.
    """
    systems = _systems(runs)
    values = [final_values(system.run, metric, system.grid)[1].astype(np.float64) for system in systems]
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    edges = np.linspace(*(ends if ends[0] < ends[1] else (ends[0] - 0.5, ends[0] + 0.5)), 25).tolist()
    figure, panels = _panels(len(systems))
    for place, (axes, system, each) in enumerate(zip(panels, systems, values)):
        shown = each[np.isfinite(each)]
        axes.hist(shown, edges, weights=np.full(shown.size, 1 / max(1, each.size)), color=COLOURS[place % len(COLOURS)])
        if shown.size:
            axes.axvline(float(np.median(shown)), color="black", linewidth=1.0, linestyle=(0, (3, 2)))
        lost = f", {each.size - shown.size} not finite" if shown.size < each.size else ""
        name = f"{system.label} ({each.size:,} seed{'s' * (each.size != 1)}{lost})"
        axes.set_title(broken(name, 32), fontsize=SMALL)
        dress(axes)
    return _finished(figure, runs, path, title, f"final {unit_of(metric)} (dashed: median)", "share of seeds")


def plot_map(
    run: RunRecord,
    x: str | None = None,
    y: str | None = None,
    metric: str = "return",
    path: str | Path | None = None,
    title: str | None = None,
    *,
    at: Mapping[str, float] | None = None,
) -> Figure:
    """What a sweep ended with over any two of its keys, as a map: the median over seeds in each cell.

    Args:
      run: a run with a grid of two keys or more.
      x: key along the horizontal axis, such as "algo.lr"; None: the last swept one.
      y: key along the vertical axis; None: the first swept one that is not `x`.
      metric: with one number per row, as for `lsf_jax.analysis.records.metric_of`.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for algorithm and environment.
      at: values of further keys; those that are not given are pooled with the seeds.

    Returns:
      The figure.

    Raises:
      ConfigError: fewer than two keys were swept, an unknown key or value, or a run that lacks the metric.
    """
    swept = swept_in(run.config)
    if swept.paired:
        raise ConfigError(f"{run.path} has points, given one by one; expected a grid of two keys or more for a map")
    grid = swept.values
    x, y = _map_keys(grid, x, y, run.path)
    settings, keep = settings_of(run), np.ones(swept.size, bool)
    for key, value in (at or {}).items():
        if key not in grid or value not in grid[key]:
            raise ConfigError(f"at has {key}={value:g}; expected swept keys and values: {_grid_text(grid)}")
        keep &= settings[key] == value
    cells = np.full((len(grid[y]), len(grid[x])), np.nan)
    for row, column in np.ndindex(*cells.shape):
        chosen = keep & (settings[y] == grid[y][row]) & (settings[x] == grid[x][column])
        values = np.concatenate([final_values(run, metric, int(point))[1] for point in np.flatnonzero(chosen)])
        finite = values[np.isfinite(values)]
        cells[row, column] = np.median(finite) if finite.size else np.nan
    figure = Drawn(min(PAGE, 1.4 + 0.45 * cells.shape[1] + 0.6), min(PAGE, 1.3 + 0.35 * cells.shape[0]))
    axes = figure.subplots()
    image = axes.imshow(cells, cmap=UPWARDS, origin="lower", aspect="auto")
    if cells.size <= MOST_NUMBERS:
        _write_numbers(axes, cells)
    axes.set_xticks(range(cells.shape[1]), [f"{value:g}" for value in grid[x]], fontsize=SMALL, rotation=45)
    axes.set_yticks(range(cells.shape[0]), [f"{value:g}" for value in grid[y]], fontsize=SMALL)
    axes.set_xlabel(x.removeprefix("algo."))
    axes.set_ylabel(y.removeprefix("algo."))
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(f"median final {unit_of(metric)}", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    heading = f"{run.config.get('algo', {}).get('name')} on {env_of(run)}" if title is None else title
    pooled = [key.removeprefix("algo.") for key in grid if key not in (x, y, *(at or {}))]
    figure.suptitle(heading + (f"\npooled over {', '.join(pooled)}" if pooled else ""), fontsize=SIZE)
    return save(figure, path)


def _map_keys(grid: Mapping[str, Sequence[float]], x: str | None, y: str | None, path: Path) -> tuple[str, str]:
    if len(grid) < 2:
        raise ConfigError(f"{path} has {len(grid)} swept key(s); expected two or more for a map")
    keys = list(grid)
    x = x or next(key for key in reversed(keys) if key != y)
    y = y or next(key for key in keys if key != x)
    for name, key in (("x", x), ("y", y)):
        if key not in grid or x == y:
            raise ConfigError(f"{name} is {key}; expected two different ones of {', '.join(keys)}")
    return x, y


def _grid_text(grid: Mapping[str, Sequence[float]]) -> str:
    return "; ".join(f"{key}: {', '.join(f'{value:g}' for value in values)}" for key, values in grid.items())


def _write_numbers(axes: Axes, cells: np.ndarray) -> None:
    low, high = np.nanmin(cells, initial=np.inf), np.nanmax(cells, initial=-np.inf)
    for (row, column), value in np.ndenumerate(cells):
        colour = "white" if value < (low + high) / 2 else "black"
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=SMALL - 1, color=colour)


def plot_dynamics(
    runs: Sequence[RunRecord],
    metrics: Sequence[str] = DYNAMICS,
    path: str | Path | None = None,
    title: str | None = None,
) -> Figure:
    """How learning went: temperature α, policy entropy and KL of messages over time, a panel for each.

    Args:
      runs: loaded runs; each grid point of each is one curve, the median over seeds in its range.
      metrics: columns of the training table; those that no run has, or that are nowhere finite, are left out.
      path: where to write it, as PNG, or as PDF or SVG by its ending; None writes nothing.
      title: heading; None for the environments.

    Returns:
      The figure.

    Raises:
      ValueError: no runs, or none of the metrics is there.
    """
    systems = _systems(runs)
    curves = {
        name: {
            place: curve(system.run, f"train/{name}", system.grid)
            for place, system in enumerate(systems)
            if name in metric_names(system.run.train)
        }
        for name in metrics
    }
    shown = {name: {p: c for p, c in each.items() if c.env_steps.size} for name, each in curves.items()}
    shown = {name: each for name, each in shown.items() if each}
    if not shown:
        raise ConfigError(f"none of {', '.join(metrics)} is in the training tables; expected one or more")
    figure, panels = _panels(len(shown), width=1.0, shared=False)
    for axes, (name, each) in zip(panels, shown.items()):
        for place, points in each.items():
            axes.plot(points.env_steps, points.median, **look(place), label=systems[place].label)
            axes.fill_between(points.env_steps, points.low, points.high, color=look(place)["color"], alpha=0.16, lw=0)
        axes.set_title(unit_of(name), fontsize=SMALL)
        dress(axes, steps=True)
    note = "environment steps per seed · line: median over seeds, in the range of all"
    if len(systems) > 1:
        handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels())}
        columns = max(1, int(figure.get_figwidth() / (width_of(list(handles)) + 0.5)))  # 0.5: the line before a name
        figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(len(handles) / columns))
        below = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": SMALL}
        figure.legend(handles.values(), handles, title=note, title_fontsize=SMALL, **below)
        note = ""  # a label of the whole figure would lie on the legend
    return _finished(figure, runs, path, title, note, "")


def _systems(runs: Sequence[RunRecord]) -> list[System]:
    if not runs:
        raise ValueError("runs is empty; give at least one run to plot.")
    return systems_of(runs)


def _panels(count: int, *, width: float = 1.0, shared: bool = True) -> tuple[Drawn, list[Axes]]:
    """A figure with so many panels, as near to a square as they go; what is left over is hidden."""
    n_columns = min(5 if width == 1.0 else 4, math.ceil(math.sqrt(count)))
    n_rows = math.ceil(count / n_columns)
    figure = Drawn(
        min(PAGE, max(COLUMN, width * COLUMN * n_columns / 1.4)), 0.9 + (2.0 if n_rows == 1 else 1.3) * n_rows
    )
    panels = figure.subplots(n_rows, n_columns, sharex=shared, sharey=shared, squeeze=False)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    for axes in panels[-2, count - n_columns * (n_rows - 1) :] if n_rows > 1 else ():
        axes.tick_params(labelbottom=True)  # no panel stands below them
    return figure, list(panels.flat[:count])


def _finished(
    figure: Figure, runs: Sequence[RunRecord], path: str | Path | None, title: str | None, below: str, beside: str
) -> Figure:
    heading = title if title is not None else ", ".join(dict.fromkeys(map(env_of, runs)))
    figure.suptitle(heading, fontsize=SIZE)
    figure.supxlabel(below, fontsize=SMALL)
    figure.supylabel(beside, fontsize=SIZE)
    return save(figure, path)
