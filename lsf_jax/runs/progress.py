"""What a person sees while a run goes on: a live table on a terminal, plain lines anywhere else.

    with Progress(total_env_steps, "lsf_sac on predator_prey, 4 seeds") as progress:
        with progress.compiling("training chunk"):
            ...
        progress.update(env_steps=..., updates=..., returns=...)

Host only, and never the reason why a run stops: a terminal that goes away silences it.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lsf_jax.settings import printable

RATE_WINDOW = 600.0  # seconds of work that the shown rates look back on: a chunk of StarCraft may take minutes
PLAIN_INTERVAL = 5.0  # seconds between plain lines of progress; notes are never held back


@runtime_checkable
class Stream(Protocol):
    """What a display needs of a text stream: standard output, a file, a notebook's cell, `io.StringIO`."""

    def write(self, text: str, /) -> int:
        """Writes text and returns the number of characters."""
        ...

    def flush(self) -> None:
        """Makes what was written visible."""
        ...

    def isatty(self) -> bool:
        """Whether a person's terminal is at the other end."""
        ...


@runtime_checkable
class Display(Protocol):
    """What a run needs of whatever shows, or passes on, how far it is; `Progress` says what each means."""

    def begin(self, env_steps: int = 0, updates: int = 0) -> None:
        """Says where counting starts."""
        ...

    def note(self, text: str) -> None:
        """Shows one event."""
        ...

    def compiling(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Shows that something is being compiled."""
        ...

    def evaluated(self, row: np.ndarray, env_steps: np.ndarray, returns: np.ndarray) -> None:
        """Takes an evaluation of some rows."""
        ...

    def update(self, *, env_steps: int, updates: int, returns: np.ndarray | None = None) -> None:
        """Shows how far the run is."""
        ...


class _Board(rich_progress.Progress):
    """A label and a bar, and below them a line for each of the cells."""

    def __init__(self, label: str, cells: Callable[[], list[tuple[str, str]]], **settings: Any) -> None:
        self._label, self._cells = label, cells
        super().__init__(rich_progress.BarColumn(bar_width=60), auto_refresh=False, **settings)

    def get_renderables(self) -> Iterable[RenderableType]:
        lines = Table.grid(padding=(0, 2))
        for name, text in self._cells() if self.tasks else ():  # rich asks before there are tasks
            lines.add_row(Text(name, style="dim", no_wrap=True), Text(text))
        return Text(self._label, style="bold"), self.make_tasks_table(self.tasks), lines


class Progress:
    """The live display of one run; a context manager, because it holds the terminal.

    Counts may be per seed or summed over seeds, as long as the total is counted alike.
    """

    def __init__(
        self,
        total_env_steps: int,
        label: str,
        stream: Stream | None = None,
        plain: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval: float = PLAIN_INTERVAL,
    ) -> None:
        """Prepares the display; nothing is shown before the first note or update.

        Args:
          total_env_steps: environment steps at which the run is done; at least 1.
          label: one line that says what runs.
          stream: where to write; standard output when None.
          plain: True for plain lines, False for the live table, None for a table where the stream is a terminal.
          clock: seconds on a clock that never goes back.
          interval: least seconds between plain lines of progress.

        Raises:
          ValueError: `total_env_steps` below 1.
        """
        if total_env_steps < 1:
            raise ValueError(f"total_env_steps {total_env_steps} is below 1; there is nothing to show.")
        self._stream = sys.stdout if stream is None else stream
        self._plain = not _is_terminal(self._stream) if plain is None else plain
        self._clock, self._interval = clock, interval
        self._start, self._idle_seconds = clock(), 0.0
        self._returns = self._note = self._phase = ""
        self._more: dict[str, str] = {}
        self._last_line, self._shown, self._silent = -float("inf"), True, False
        file: Any = self._stream  # rich asks for an IO[str], and uses what `Stream` promises
        self._board = _Board(
            label,
            self._cells,
            console=Console(file=file, force_terminal=True),
            speed_estimate_period=RATE_WINDOW,
            redirect_stdout=False,
            redirect_stderr=False,
            get_time=self._work_seconds,
        )
        self._board.add_task("env steps", total=total_env_steps)
        self._board.add_task("updates", total=None, visible=False)
        self._count(0, 0)

    def __enter__(self) -> "Progress":
        """Itself; see `close`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the display; an exception passes through."""
        del error
        self.close()

    def begin(self, env_steps: int = 0, updates: int = 0) -> None:
        """Says where this process starts counting: a resumed run does not begin at zero.

        Args:
          env_steps: environment steps done before this process.
          updates: updates done before this process.
        """
        for task, done in zip(self._board.task_ids, (env_steps, updates)):
            self._guarded(partial(self._board.reset, task, completed=done))
        self._count(env_steps, updates)

    def note(self, text: str) -> None:
        """Shows one event at once; it stays readable above the table.

        Args:
          text: one line.
        """
        text = printable(text)
        if self._plain:
            self._line(text)
        else:
            self._show(text)

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Shows that something is being compiled; its time does not enter rates and ETA.

        Args:
          what: name of the program, for example "training chunk".

        Yields:
          Nothing; the block is timed.
        """
        start = self._clock()
        self._phase = f"compiling {what}"
        if self._plain:
            self._line(self._phase)
        else:
            self._show()
        try:
            yield
        finally:
            seconds = self._clock() - start
            self._idle_seconds += seconds
            self._phase = ""
        self.note(f"compiled {what} in {seconds:.1f} s")

    def evaluated(self, row: np.ndarray, env_steps: np.ndarray, returns: np.ndarray) -> None:
        """Takes an evaluation of some rows; it is shown at the next update.

        Args:
          row: `[K]` rows of the run.
          env_steps: `[K]` of each.
          returns: `[K]` of each; NaN where there is none.
        """
        del row  # for displays that tell rows apart
        self._note = f"return {spread_text(returns)} at {int(np.median(env_steps)):,} env steps"

    def update(self, *, env_steps: int, updates: int, returns: np.ndarray | None = None) -> None:
        """Shows how far the run is; cheap, and to be called after every chunk.

        Args:
          env_steps: environment steps so far, counted like the total.
          updates: updates so far.
          returns: `[K]` latest return of each seed (NaN where there is none); None keeps the last.
        """
        self._count(int(env_steps), int(updates))
        if returns is not None:
            self._returns = spread_text(returns)
        self._shown = False
        if not self._plain:
            self._show()
        elif self._clock() - self._last_line >= self._interval:
            self._plain_update()

    def tell(self, **cells: str) -> None:
        """Says more with the next update: a name and a short text each, which stay until they are told anew.

        Args:
          **cells: an empty text takes its cell away.
        """
        self._more |= cells

    def close(self) -> None:
        """Shows the latest update if it was held back, and gives the terminal back; may be called twice."""
        if self._plain and not self._shown:
            self._plain_update()
        if self._board.live.is_started:
            self._guarded(self._board.stop)

    def _work_seconds(self) -> float:
        return self._clock() - self._start - self._idle_seconds

    def _count(self, *counts: int) -> None:
        for task, count in zip(self._board.tasks, counts):
            self._board.advance(task.id, count - task.completed)  # counts a moment without progress too

    def _cells(self) -> list[tuple[str, str]]:
        steps, updates = self._board.tasks
        eta = steps.time_remaining
        cells = [
            ("env steps", f"{steps.completed:,} / {steps.total:,} ({steps.percentage:.0f}%)"),
            ("ETA", "-" if eta is None else duration_text(eta)),
            ("env steps/s", rate_text(steps.speed)),
            ("updates", f"{updates.completed:,}"),
            ("updates/s", rate_text(updates.speed)),
        ]
        extra = [("return", self._returns), ("last evaluation", self._note), ("now", self._phase), *self._more.items()]
        return cells + [(name, text) for name, text in extra if text]

    def _plain_update(self) -> None:
        self._last_line, self._shown = self._clock(), True
        self._line(" · ".join(f"{name} {text}" for name, text in self._cells()))

    def _line(self, text: str) -> None:
        self._guarded(lambda: _write_line(self._stream, text))

    def _show(self, note: str | None = None) -> None:
        self._guarded(lambda: self._show_board(note))

    def _show_board(self, note: str | None) -> None:
        self._board.start()  # without a thread of its own: an error in it could not be caught here
        if note is not None:
            self._board.print(Text(note))
        self._shown = True
        self._board.refresh()

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            action()
        except (OSError, ValueError):  # a closed pipe, a lost terminal, a closed file
            self._silent = True


def spread_text(values: np.ndarray) -> str:
    """Median and range over seeds in one phrase.

    Args:
      values: `[K]`; NaN where a seed has no value.

    Returns:
      For example "12.5 (3.0 … 20.0, 4 seeds)"; "-" where no value is finite.
    """
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if not finite.size:
        return "-"
    if finite.size == 1:
        return f"{finite[0]:.2f} (1 seed)"
    return f"{np.median(finite):.2f} ({finite.min():.2f} … {finite.max():.2f}, {finite.size} seeds)"


def duration_text(seconds: float | int) -> str:
    """A duration as people say it: "42 s", "3 min 05 s", "2 h 07 min".

    Args:
      seconds: length of time, at least 0.

    Returns:
      Two units at most.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def rate_text(rate: float | None) -> str:
    """A rate with the digits that matter.

    Args:
      rate: events per second; None where nothing can be said yet.

    Returns:
      "-" for none, two decimals below 10, otherwise a whole number with thousands separated.
    """
    if not rate:
        return "-"
    return f"{rate:,.2f}" if rate < 10 else f"{rate:,.0f}"


def _write_line(stream: Stream, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


def _is_terminal(stream: Stream) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, OSError, ValueError):
        return False
