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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

RATE_WINDOW = 120.0  # seconds of work that the shown rates look back on
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


class Sample(NamedTuple):
    """Counters at one moment; `seconds` is time at work, compilation excluded."""

    seconds: float
    env_steps: int
    updates: int


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
        self._total, self._label, self._clock, self._interval = total_env_steps, label, clock, interval
        self._start, self._idle_seconds = clock(), 0.0
        self._samples: deque[Sample] = deque()
        self._returns = self._note = self._phase = ""
        self._last_line, self._shown = -float("inf"), True
        self._live: Live | None = None
        self._silent = False

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
        self._samples.clear()
        self._samples.append(Sample(self._work_seconds(), env_steps, updates))

    def note(self, text: str) -> None:
        """Shows one event at once; it stays readable above the table.

        Args:
          text: one line.
        """
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

    def update(
        self, *, env_steps: int, updates: int, returns: np.ndarray | None = None, evaluation: str | None = None
    ) -> None:
        """Shows how far the run is; cheap, and to be called after every chunk.

        Args:
          env_steps: environment steps so far, counted like the total.
          updates: updates so far.
          returns: `[K]` latest return of each seed (NaN where there is none); None keeps the last.
          evaluation: one line on the latest evaluation; None keeps the last.
        """
        if not self._samples:
            self._samples.append(Sample(0.0, 0, 0))
        self._samples.append(Sample(self._work_seconds(), int(env_steps), int(updates)))
        while len(self._samples) > 2 and self._samples[-1].seconds - self._samples[1].seconds >= RATE_WINDOW:
            self._samples.popleft()
        if returns is not None:
            self._returns = spread_text(returns)
        if evaluation is not None:
            self._note = evaluation
        self._shown = False
        if not self._plain:
            self._show()
        elif self._clock() - self._last_line >= self._interval:
            self._plain_update()

    def close(self) -> None:
        """Shows the latest update if it was held back, and gives the terminal back; may be called twice."""
        if self._plain and not self._shown:
            self._plain_update()
        live, self._live = self._live, None
        if live is not None:
            self._guarded(live.stop)

    def _work_seconds(self) -> float:
        return self._clock() - self._start - self._idle_seconds

    def _cells(self) -> list[tuple[str, str]]:
        latest = self._samples[-1] if self._samples else Sample(0.0, 0, 0)
        step_rate, update_rate = rates(self._samples)
        remaining = max(self._total - latest.env_steps, 0)
        eta = "-" if not step_rate else duration_text(remaining / step_rate)
        fraction = min(latest.env_steps / self._total, 1.0)
        cells = [
            ("env steps", f"{latest.env_steps:,} / {self._total:,} ({fraction:.0%})"),
            ("ETA", eta),
            ("env steps/s", rate_text(step_rate)),
            ("updates", f"{latest.updates:,}"),
            ("updates/s", rate_text(update_rate)),
        ]
        extra = [("return", self._returns), ("last evaluation", self._note), ("now", self._phase)]
        return cells + [(name, text) for name, text in extra if text]

    def _plain_update(self) -> None:
        self._last_line, self._shown = self._clock(), True
        self._line(" · ".join(f"{name} {text}" for name, text in self._cells()))

    def _line(self, text: str) -> None:
        self._guarded(lambda: _write_line(self._stream, text))

    def _show(self, note: str | None = None) -> None:
        self._guarded(lambda: self._show_table(note))

    def _show_table(self, note: str | None) -> None:
        if self._live is None:
            stream: Any = self._stream  # rich asks for an IO[str], and uses what `Stream` promises
            console = Console(file=stream, force_terminal=True)
            # No refresh thread: an error in it could not be caught here.
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        if note is not None:
            self._live.console.print(Text(note))
        self._shown = True
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        for name, text in self._cells():
            grid.add_row(name, Text(text))
        done = self._samples[-1].env_steps if self._samples else 0
        picture = Table.grid()
        picture.add_row(Text(self._label, style="bold"))
        picture.add_row(ProgressBar(total=self._total, completed=done, width=60))
        picture.add_row(grid)
        return picture

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            action()
        except (OSError, ValueError):  # a closed pipe, a lost terminal, a closed file
            self._silent = True


def rates(samples: Sequence[Sample]) -> tuple[float, float]:
    """Environment steps and updates per second at work, over the samples given.

    Args:
      samples: counters in order of time.

    Returns:
      (env steps/s, updates/s); zeros while nothing can be said.
    """
    if len(samples) < 2 or samples[-1].seconds <= samples[0].seconds:
        return 0.0, 0.0
    first, last = samples[0], samples[-1]
    seconds = last.seconds - first.seconds
    return (last.env_steps - first.env_steps) / seconds, (last.updates - first.updates) / seconds


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


def duration_text(seconds: float) -> str:
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


def rate_text(rate: float) -> str:
    """A rate with the digits that matter.

    Args:
      rate: events per second.

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
