"""Stopping politely: the first Ctrl-C or SIGTERM asks, the second Ctrl-C insists."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_requested(notice: str | None = None) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a question that the caller asks between two pieces of work.

    Inside the `with` block the first signal only sets a flag, so the work at hand can end and be saved. A Ctrl-C after
    that raises KeyboardInterrupt at once; a repeated SIGTERM changes nothing (schedulers send several). On leaving, the
    previous handlers return. Outside the main thread Python allows no handlers: there the answer is always False.

        with stop_requested() as stopping:
            while not stopping():
                work()

    Args:
      notice: written to standard error at the first signal, for example what happens next; None writes nothing.

    Yields:
      A function without arguments that returns whether a stop was asked for; it raises KeyboardInterrupt if a second
      Ctrl-C has been lost on its way.
    """
    asked, insisted = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def handle(number: int, frame: Any) -> None:
        del frame
        if not asked.is_set():
            asked.set()
            _write_notice(notice)
        elif number == signal.SIGINT:
            insisted.set()
            raise KeyboardInterrupt

    def answer() -> bool:
        if insisted.is_set():  # a destructor or a callback of a library swallowed the exception
            raise KeyboardInterrupt
        return asked.is_set()

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield answer
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _write_notice(notice: str | None) -> None:
    # os.write: a handler may interrupt Python's own writing, whose buffers then refuse a second writer.
    if notice is not None:
        with contextlib.suppress(OSError):
            os.write(2, f"\n{notice}\n".encode())
