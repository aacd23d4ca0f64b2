"""What a process knows of plug-ins, beside the tables of what there is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lsf_jax.registry import TABLES

GROUP = "lsf_jax.plugins"
"""Group of entry points; the value of each is a module."""
VARIABLE = "LSF_JAX_PLUGINS"
"""Environment variable that names modules, with commas between them."""
WITHOUT = "no:"
"""What stands before a name that is not to be loaded, in `--plugin` and the variable."""
FLAG, PROCESS = "--plugin", "this process"
"""Who named a plug-in: a word of the command line, or a module or script that called `register` by itself."""
NOTEBOOK = "__main__"
"""What registers in a notebook or an interactive session: no other process can import it."""


class Plugin(NamedTuple):
    """A module that adds something, or may."""

    name: str  # of the module
    origin: str  # FLAG, the variable, PROCESS, or what installed it: "lsf-extra 0.1"
    named: bool  # by the user; else it is installed

    @property
    def text(self) -> str:
        """As messages call it."""
        return f"plug-in {self.name} ({self.origin})"


class State(NamedTuple):
    """What this process knows of plug-ins."""

    asked: dict[str, Plugin]  # what the user named
    left_out: set[str]  # what the user does not want
    loaded: dict[str, Plugin]
    owners: dict[tuple[str, str], str]  # (kind, name) of all that was added -> the plug-in
    folders: dict[Path, str]  # folder of configurations -> the plug-in
    loading: list[str]  # plug-ins whose modules are being imported, the innermost last
    settled: list[Any]  # what the last complete `load_plugins` was asked for


STATE = State({}, set(), {}, {}, {}, [], [])
"""There is one in a process, as there is one of each table."""


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Whatever is named and registered in the `with` block is forgotten at its end: for tests."""
    before = copies()
    try:
        yield
    finally:
        restore(before)


def copies() -> list[tuple[Any, Any]]:
    """All that is known and registered, each table with a copy of what it holds."""
    kept: list[Any] = [*STATE, *TABLES.values()]
    return [(one, one.copy()) for one in kept]


def restore(kept: list[tuple[Any, Any]]) -> None:
    """Put back what tables held when they were copied."""
    for one, copy in kept:
        one.clear()
        one.extend(copy) if isinstance(one, list) else one.update(copy)
