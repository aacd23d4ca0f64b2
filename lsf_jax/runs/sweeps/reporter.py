"""What a session shows, as messages to the driver."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lsf_jax.runs.sweeps.messages import Moved, Said


class Reporter:
    """A `progress.Display` that sends what it is told, the latest of everything from time to time."""

    def __init__(
        self, send: Callable[[Any], object], interval: float = 1.0, after: Callable[[], object] = lambda: None
    ) -> None:
        """Nothing is sent yet.

        Args:
          send: takes each message.
          interval: seconds between two messages about progress.
          after: called whenever the session has something behind it, such as files that are complete.
        """
        self.send, self.interval, self.after = send, interval, after
        self.latest = Moved(0, 0)
        self.first_chunk_at = 0.0
        self.has_evaluated = False  # since the last counts
        self.told_at = -float("inf")

    def begin(self, env_steps: int = 0, updates: int = 0) -> None:
        """Counts where this process starts."""
        self._tell(self.latest._replace(env_steps=env_steps, updates=updates))

    def note(self, text: str) -> None:
        """One line for people."""
        self.send(Said(text))

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says so once it begins; how long it took is in the block's seconds."""
        self.send(self.latest._replace(phase=f"compiling {what}"))
        yield

    def evaluated(self, row: np.ndarray, env_steps: np.ndarray, returns: np.ndarray) -> None:
        """An evaluation, sent with the next counts."""
        self.latest = self.latest._replace(evaluation=(row, env_steps, returns))
        self.has_evaluated = True

    def update(self, *, env_steps: int, updates: int, returns: np.ndarray | None = None) -> None:
        """Counts after a chunk or an evaluation."""
        if not self.has_evaluated and not self.first_chunk_at:
            self.first_chunk_at = time.monotonic()
        self.has_evaluated = False
        before = self.latest
        self._tell(Moved(env_steps, updates, before.returns if returns is None else returns, before.evaluation))

    def _tell(self, moved: Moved) -> None:
        self.latest = moved
        self.after()
        if time.monotonic() - self.told_at >= self.interval:
            self.told_at = time.monotonic()
            self.send(moved)
