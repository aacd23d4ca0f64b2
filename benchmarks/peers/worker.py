"""One program of a comparison, in a process of its own: it is built once, then runs when it is told to.

The process answers on its standard output in lines of JSON: first the facts of its program, then, for every number n
that arrives on its standard input, n measurements. Everything that the peers' code prints goes to standard error.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

FEW_AND_MANY = (2, 6)  # updates of the two programs whose difference is the time of an update
CACHE_HIT = "/jax/compilation_cache/cache_hits"


def claim_output() -> TextIO:
    """The standard output for JSON alone; call before anything of the peers is imported."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def serve(channel: TextIO, facts: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
    """Answer until the input ends.

    Args:
      channel: from `claim_output`.
      facts: of the program, numbers by name.
      run: one unit of work, finished when it returns; what it returns is added to the measured seconds.
    """
    run()  # warm: allocations, pages, clocks
    channel.write(json.dumps(facts) + "\n")
    channel.flush()
    with suppress(BrokenPipeError):
        for line in sys.stdin:
            rows = [timed(run) for _ in range(int(line))]
            channel.write(json.dumps(rows) + "\n")
            channel.flush()


def marginal(
    short: Callable[[], dict[str, Any]], long: Callable[[], dict[str, Any]], more: int
) -> Callable[[], dict[str, Any]]:
    """The seconds of one update inside a program that does many, as training's does.

    A program costs something once however much it loops, so the time is the difference of two programs, one of which
    does `more` updates more.

    Args:
      short: runs a few updates as one program, waits for it and returns nothing to add.
      long: the same with `more` of them.
      more: updates.
    """

    def run() -> dict[str, Any]:
        low, high = timed(short), timed(long)
        return {clock: (high[clock] - low[clock]) / more for clock in ("cpu", "wall")}

    return run


def compile_cold(traced: Any) -> tuple[Any, float | None]:
    """Compile a lowered JAX program; its CPU seconds, or None if it came out of the cache on disk."""
    import jax

    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    begun = time.process_time()
    compiled = traced.compile()
    seconds = time.process_time() - begun
    return compiled, None if CACHE_HIT in events else seconds


def wait(result: Any) -> dict[str, Any]:
    """Wait for a JAX program's result; nothing to add to its measurement."""
    import jax

    jax.block_until_ready(result)
    return {}


def timed(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """CPU seconds of all threads and wall seconds of one unit of work, beside what it returns."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall} | found
