"""What a session shows, as messages to the driver."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lsf_jax.runs.sweeps.messages import Moved, Said

INTERVAL = 1.0
"""Seconds between two messages about progress."""


class Reporter:
    """A `progress.Display` that sends what it is told, the latest counts at most once a second."""

    def __init__(self, send: Callable[[Any], object], after: Callable[[], object] = lambda: None) -> None:
        """Nothing is sent yet.

        Args:
          send: takes each message.
          after: called whenever the session has something behind it, such as files that are complete.
        """
        self.send, self.after = send, after
        self.env_steps = self.updates = 0
        self.first_chunk_at = 0.0
        self.told_at = -float("inf")

    def begin(self, env_steps: int = 0, updates: int = 0) -> None:
        """Counts where this process starts."""
        self._tell(env_steps, updates)

    def note(self, text: str) -> None:
        """One line for people."""
        self.send(Said(text))

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says so once it begins; how long it took is in the block's seconds."""
        self.send(Moved(self.env_steps, self.updates, phase=f"compiling {what}"))
        yield

    def update(
        self, *, env_steps: int, updates: int, returns: np.ndarray | None = None, evaluation: str | None = None
    ) -> None:
        """Counts after a chunk or an evaluation."""
        if evaluation is None and not self.first_chunk_at:
            self.first_chunk_at = time.monotonic()
        self._tell(env_steps, updates, returns, evaluation)

    def _tell(
        self, env_steps: int, updates: int, returns: np.ndarray | None = None, evaluation: str | None = None
    ) -> None:
        self.env_steps, self.updates = env_steps, updates
        self.after()
        if evaluation is not None or time.monotonic() - self.told_at >= INTERVAL:
            self.told_at = time.monotonic()
            self.send(Moved(env_steps, updates, returns, evaluation))
