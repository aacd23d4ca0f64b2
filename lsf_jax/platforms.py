"""Which platform a program is made for: what differs by platform asks here, and nowhere else.

On CPUs small loops keep their operands in the cache, and residuals are memory traffic; on accelerators every operation
of a loop is a kernel of its own, and launching it is what costs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def platform() -> str:
    """The platform that programs are made for, as JAX names backends: this process's, or that of `compiling_for`.

    What chooses by platform while a program is bound or traced asks here, not `jax.default_backend`.
    """
    return _TARGET.get() or jax.default_backend()


def is_cpu() -> bool:
    """Whether programs are made for a CPU."""
    return platform() == "cpu"


@contextmanager
def compiling_for(backend: str) -> Iterator[None]:
    """Make programs for a backend ("cpu", "gpu", "tpu") that this process need not have."""
    token = _TARGET.set(backend)
    try:
        yield
    finally:
        _TARGET.reset(token)
