"""One look for all figures: colours that any eye tells apart, type that is read at the width of a column, PNG and PDF.

Figures are made directly, never through pyplot, so that a notebook's backend is left alone; they show themselves there.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lsf_jax.runs.safe_files import write_output

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart with any colour vision; what goes beyond its length repeats it with marks."""
MANY = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#666666")
"""Paul Tol's muted palette and a grey, for pieces of a bar: ten that any eye tells apart."""
MARKERS = ("", "o", "s", "^", "x")  # one more for every round of the colours
COLUMN, PAGE = 3.4, 7.0  # inches: one column of a paper, and both
SIZE, SMALL = 8.0, 7.0  # points of type
DPI = 200
LETTER = 0.055  # inches that a letter of small type takes, about so
GREY, FAINT = "0.45", "0.8"
BEYOND_ZERO = "RdBu"  # for numbers of either sign, white at the middle
UPWARDS = "cividis"  # for numbers from low to high
_STYLE: Any = {
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # type stays type: journals ask for it
    "svg.fonttype": "none",
}
_UNITS = {
    "return": "return per episode",
    "episode_return": "return per episode",
    "length": "episode length (steps)",
    "success": "episodes won (fraction)",
    "captures": "prey caught per episode",
    "kl_per_message": "KL per message (nats)",
    "entropy": "policy entropy (nats)",
    "alpha": "temperature α",
}
_FORMATS = {".pdf": "pdf", ".svg": "svg"}


class Drawn(Figure):
    """A figure in the style of this package, which a notebook shows by itself."""

    def __init__(self, width: float, height: float) -> None:
        """An empty figure.

        Args:
          width: inches.
          height: inches.
        """
        super().__init__(figsize=(width, height), dpi=DPI, layout="constrained")

    def add_subplot(self, *args: Any, **kwargs: Any) -> Axes:
        """As matplotlib's, in the style."""
        with matplotlib.rc_context(_STYLE):
            return super().add_subplot(*args, **kwargs)

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """As matplotlib's, in the style."""
        with matplotlib.rc_context(_STYLE):
            super().savefig(fname, **kwargs)

    def _repr_png_(self) -> bytes:
        return drawn_as(self, "png")


def drawn_as(figure: Figure, form: str) -> bytes:
    """A figure as the content of a file.

    Args:
      figure: what to draw.
      form: "png", "pdf" or "svg".
    """
    drawn = io.BytesIO()
    dated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # else no two files are alike
    figure.savefig(drawn, format=form, dpi=DPI, metadata=dated.get(form))
    return drawn.getvalue()


def save(figure: Figure, path: str | Path | None) -> Figure:
    """Writes a figure, making its folder as needed.

    Args:
      figure: what to write.
      path: the file; ".pdf" and ".svg" at its end say so, everything else is a PNG; None writes nothing.

    Returns:
      The same figure.

    Raises:
      ConfigError: it cannot be written there.
    """
    if path is not None:
        write_output(path, drawn_as(figure, _FORMATS.get(Path(path).suffix.lower(), "png")))
    return figure


def look(place: int) -> dict[str, Any]:
    """Colour and mark of the curve that stands at a place in a list."""
    rounds, colour = divmod(place, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[rounds % len(MARKERS)], "markersize": 3, "markevery": 0.1}


def dress(axes: Axes, *, steps: bool = False, grid: bool = True) -> None:
    """Takes from axes what is not needed, and sets their type.

    Args:
      axes: what to dress.
      steps: the horizontal axis counts environment steps.
      grid: draw faint lines behind.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    if grid:
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    if steps:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def unit_of(metric: str) -> str:
    """What stands beside an axis of a metric."""
    name = metric.split("/")[-1]
    return _UNITS.get(name, name.replace("_", " "))


def label_ends(axes: Axes, labels: Sequence[str], heights: Sequence[float], colours: Sequence[str]) -> None:
    """Names curves at their right ends, moved apart where they would overlap, each tied to its end by a thin line.

    Args:
      axes: whose limits are final.
      labels: the names.
      heights: where each curve ends, in data; what is not finite stands at the bottom.
      colours: of the curves.
    """
    low, high = axes.get_ylim()
    span = (high - low) or 1.0
    ends = np.array([(height - low) / span if np.isfinite(height) else 0.0 for height in heights])
    figure = axes.get_figure(root=True)
    inches = (
        figure.get_size_inches()[1] if figure else 1.0
    ) * axes.get_position().height  # before the layout: about so
    placed = spread_apart(ends, 1.3 * SMALL / 72 / inches)
    for label, end, place, colour in zip(labels, ends, placed, colours, strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        axes.annotate(
            label,
            xy=(1.0, end),
            xytext=(1.05, place),
            xycoords="axes fraction",
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            arrowprops=line,
        )


def broken(name: str, most: int) -> str:
    """A name on several lines, broken after commas and before brackets: those of grid points are long.

    Args:
      name: such as "lsf_sac, lr=0.001, overestimate_weight=0.4".
      most: letters of a line; a longer part without a comma stays whole.
    """
    lines: list[str] = []
    for part in re.split(r"(?<=,) | (?=\()", name):
        if lines and len(lines[-1]) + len(part) + 1 <= most:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def width_of(names: Sequence[str]) -> float:
    """Inches that names of small type take, the longest line of all counted."""
    return LETTER * max((len(line) for name in names for line in name.split("\n")), default=0)


def spread_apart(places: np.ndarray, least: float) -> np.ndarray:
    """Places on a line, moved as little as need be until neighbours are `least` apart.

    Args:
      places: `[n]`, in any order.
      least: the smallest distance between two.

    Returns:
      `[n]`, in the order of `places`: the nearest such places by least squares, neighbours staying neighbours.
    """
    order = np.argsort(places, kind="stable")
    shifted = places[order] - least * np.arange(places.size)  # which must not decrease: isotonic regression
    pools: list[list[float]] = []
    for value in shifted:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (left, n_left), (right, n_right) = pools[-2:]
            pools[-2:] = [[(left * n_left + right * n_right) / (n_left + n_right), n_left + n_right]]
    spread = np.empty(places.size)
    spread[order] = np.repeat([value for value, _ in pools], [int(n) for _, n in pools])
    spread[order] += least * np.arange(places.size)
    return spread
