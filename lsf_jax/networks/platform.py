"""Which platform a program is traced for: what differs by platform asks here, and nowhere else.

On CPUs small loops keep their operands in the cache, and residuals are memory traffic; on accelerators every operation
of a loop is a kernel of its own, and launching it is what costs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def is_cpu() -> bool:
    """Whether what is being traced will run on a CPU."""
    return (_TARGET.get() or jax.default_backend()) == "cpu"


@contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Trace for another platform than the one at hand: what is compiled here for a device that is not there.

    Args:
      platform: "cpu", "cuda" or "tpu".
    """
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
