"""What a person sees of a run in a notebook: one piece of HTML that is replaced as the run goes on, no widgets.

The bar and the numbers of `Progress`, and the fan: each seed's evaluations as a line, their median in front. What is
shown last stays in the notebook's file. Frontends without HTML get one line of text.
"""

import html
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lsf_jax.runs.progress import Progress

INTERVAL = 0.5  # seconds between pictures: kernels drop what comes faster
MOST_LINES, MOST_POINTS = 64, 60
"""Seeds drawn, and points of each: a picture is sent again and again, and kept in the notebook."""
NOTES_SHOWN = 3
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 180, 56, 18  # of the fan, in pixels, with the room for its numbers
_BAR, _SEED = "#0072B2", "#56B4E9"

Points = dict[int, list[tuple[float, float]]]
"""Row of the run -> its evaluations: environment steps and return."""


def progress_for(total_env_steps: int, label: str) -> Progress:
    """The display that suits where this runs: a notebook's if standard output is that of a cell, else `Progress`.

    Args:
      total_env_steps: as for `Progress`.
      label: as for `Progress`.
    """
    return (NotebookProgress if in_cell() else Progress)(total_env_steps, label)


def in_cell() -> bool:
    """Whether standard output goes to a notebook's cell; captured or redirected output is text, as anywhere."""
    streams = sys.modules.get("ipykernel.iostream")
    return streams is not None and isinstance(sys.stdout, streams.OutStream)


class NotebookProgress(Progress):
    """The live display of one run in a notebook's cell."""

    def __init__(self, total_env_steps: int, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepares the display; nothing is shown before the first note or update.

        Args:
          total_env_steps: as for `Progress`.
          label: as for `Progress`.
          clock: as for `Progress`.
        """
        super().__init__(total_env_steps, label, plain=False, clock=clock)
        self._label = label
        self._notes: list[str] = []
        self._points: Points = {}
        self._handle: Any = None
        self._shown_at = -float("inf")

    def evaluated(self, row: np.ndarray, env_steps: np.ndarray, returns: np.ndarray) -> None:
        """Takes an evaluation of some rows, for the fan; it is drawn at the next update.

        Args:
          row: `[K]` rows of the run.
          env_steps: `[K]` of each.
          returns: `[K]` of each; what is no number leaves a gap.
        """
        super().evaluated(row, env_steps, returns)
        for each, *point in zip(row.tolist(), env_steps.tolist(), returns.tolist(), strict=True):
            self._points.setdefault(each, []).append((point[0], point[1]))

    def close(self) -> None:
        """Shows where the run ended; may be called twice."""
        if self._handle is not None and not self._shown:
            self._shown_at = -float("inf")
            self._show()

    def _show_board(self, note: str | None) -> None:
        from IPython.display import display

        if note is not None:
            self._notes.append(note)
        elif not self._phase and self._clock() - self._shown_at < INTERVAL:
            return
        self._shown, self._shown_at = True, self._clock()
        data = {"text/html": self._page(), "text/plain": self._text()}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _text(self) -> str:
        return " · ".join([self._label, *(f"{name} {text}" for name, text in self._cells())])

    def _page(self) -> str:
        share = self._board.tasks[0].percentage
        cells = [
            f"<td style='text-align:left;padding:1px 12px 1px 0;opacity:.65'>{html.escape(name)}</td>"
            f"<td style='text-align:left;padding:1px 0'>{html.escape(text)}</td>"
            for name, text in self._cells()
        ]
        parts = (
            f"<b>{html.escape(self._label)}</b>",
            "<div style='height:8px;margin:6px 0;border-radius:4px;background:rgba(128,128,128,.25)'>"
            f"<div style='height:8px;width:{share:.1f}%;border-radius:4px;background:{_BAR}'></div></div>",
            f"<table style='margin:0'>{''.join(f'<tr>{cell}</tr>' for cell in cells)}</table>",
            fan_svg(self._points),
            self._notes_html(),
        )
        return f"<div style='max-width:{_WIDTH}px'>{''.join(parts)}</div>"

    def _notes_html(self) -> str:
        """The latest notes, and what came before them folded away."""
        style = "style='margin:4px 0;white-space:pre-wrap;font-size:12px;background:none'"
        before, last = (
            html.escape("\n".join(notes)) for notes in (self._notes[:-NOTES_SHOWN], self._notes[-NOTES_SHOWN:])
        )
        folded = f"<details><summary>what came before</summary><pre {style}>{before}</pre></details>" if before else ""
        return f"{folded}<pre {style}>{last}</pre>" if last else ""


def fan_svg(points: Points) -> str:
    """Each row's evaluations as a line over environment steps, the median of all rows in front.

    Args:
      points: of all rows; points that are not finite are left out.

    Returns:
      An SVG picture whose text has the colour of the page; "" before there are two moments to join.
    """
    every = {row: np.array(line, np.float64).reshape(-1, 2) for row, line in points.items()}
    finite = {row: line[np.isfinite(line).all(axis=1)] for row, line in every.items()}
    lines = {row: line for row, line in finite.items() if len(line) > 1}
    if not lines:
        return ""
    together = np.concatenate(list(lines.values()))
    (_, low), (right, high) = together.min(axis=0), together.max(axis=0)
    place = _placing(float(right), float(low), float(high))
    rows = sorted(lines)
    drawn = [rows[at] for at in np.unique(np.linspace(0, len(rows) - 1, MOST_LINES).astype(int))]
    thin = f"fill='none' stroke='{_SEED}' stroke-opacity='.45'"
    seeds = "".join(f"<polyline {thin} points='{place(lines[row])}'/>" for row in drawn)
    middle = f"<polyline fill='none' stroke='{_BAR}' stroke-width='2' points='{place(_median(list(lines.values())))}'/>"
    shown = f"{len(rows):,}" if len(drawn) == len(rows) else f"{len(drawn)} of {len(rows):,}"
    about = f"return of {shown} seeds at their evaluations, the median in front"
    return (
        f"<svg role='img' aria-label='{about}' viewBox='0 0 {_WIDTH} {_HEIGHT}' style='max-width:100%;margin-top:6px'>"
        f"{seeds}{middle}<g font-size='11' fill='currentColor'>"
        f"<text x='{_LEFT - 6}' y='12' text-anchor='end'>{high:.4g}</text>"
        f"<text x='{_LEFT - 6}' y='{_HEIGHT - _BOTTOM}' text-anchor='end'>{low:.4g}</text>"
        f"<text x='{_LEFT}' y='{_HEIGHT - 4}'>{about}</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT - 4}' text-anchor='end'>{right:,.0f} env steps</text></g></svg>"
    )


def _placing(right: float, low: float, high: float) -> Callable[[np.ndarray], str]:
    """From points of a line to those of a polyline."""

    def place(line: np.ndarray) -> str:
        kept = line[np.unique(np.linspace(0, len(line) - 1, MOST_POINTS).astype(int))]
        across = _LEFT + kept[:, 0] / max(right, 1.0) * (_WIDTH - _LEFT)
        down = 4 + (high - kept[:, 1]) / max(high - low, 1e-9) * (_HEIGHT - _BOTTOM - 8)
        return " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(across, down, strict=True))

    return place


def _median(lines: list[np.ndarray]) -> np.ndarray:
    """Of each moment that most lines have come to, counted from their first."""
    length = int(np.median([len(line) for line in lines]))
    return np.median([line[:length] for line in lines if len(line) >= length], axis=0)
