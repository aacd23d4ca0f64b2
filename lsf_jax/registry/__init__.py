"""What there is to choose from: the entries of algorithms and environments, and how a package collects its own.

A module of `lsf_jax.algorithms` or `lsf_jax.envs` lists what it offers as `ENTRIES`; the package finds its modules by
itself. So a new algorithm is one new file. Names and lines for people are written as literals, so that `shipped` can
list them without importing anything. What plug-ins add (`plugins`) goes into the same tables.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lsf_jax.settings import hyper_class


class Entry(NamedTuple):
    """An algorithm, an environment or a mixer that can be chosen by name.

    What the factory is called with and returns: `(spec, config, observe) -> Algorithm`, `(config) -> Env` or, for a
    mixer, `(spec, config) -> Mixer`.
    """

    name: str
    config: type  # frozen dataclass of every setting
    factory: Callable[..., Any]
    doc: str  # one line for people
    acts: Literal["policy", "values"] = "policy"  # a ~ π, or greedily on learned values, which have nothing to sample
    communicates: bool = False  # agents exchange messages while acting: an action depends on what all of them see
    hosted: Callable[[Any], Any] | None = None  # environments with games on the host: (config) -> `envs.host.Hosted`

    @property
    def hyper(self) -> type:
        """NamedTuple of an algorithm's settings that are traced numbers, and so can be swept."""
        return hyper_class(self.config)


ALGO, ENV, SINK = "algo", "env", "sink"
"""Kinds of things that have names."""
TABLES: dict[str, dict[str, Any]] = {ALGO: {}, ENV: {}, SINK: {}}
"""Kind -> name -> the thing: an `Entry`, or what opens a sink. Packages put theirs in when they are imported, plug-ins
when they are loaded."""
PACKAGES = {ALGO: "algorithms", ENV: "envs"}
"""Kinds of which a package of ours collects entries."""
SHIPPED_SINKS = ("tensorboard", "wandb", "trackio")
"""Sinks of our own, known before any of them is imported."""


def collect(package: str, folders: Iterable[str]) -> dict[str, Entry]:
    """The entries of all modules directly in a package, by name.

    Args:
      package: its dotted name.
      folders: its `__path__`.

    Raises:
      ValueError: two entries bear one name.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(folders))
    modules = [importlib.import_module(f"{package}.{name}") for name in names]
    found: dict[str, Entry] = {}
    for module in modules:
        for entry in getattr(module, "ENTRIES", ()):
            if entry.name in found:
                raise ValueError(f"{module.__name__} offers {entry.name!r}, which another module offers already.")
            found[entry.name] = entry
    return found


@cache
def shipped(package: str) -> dict[str, str]:
    """Name -> line of documentation of a package's entries, read from the source: nothing is imported, not even JAX.

    Args:
      package: "algorithms" or "envs".
    """
    folder = Path(__file__).resolve().parents[1] / package
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py")))
    calls = [call for tree in trees for call in _calls_in_entries(tree)]
    words = [{keyword.arg: keyword.value for keyword in call.keywords} for call in calls]
    return {ast.literal_eval(each["name"]): ast.literal_eval(each["doc"]) for each in words}


def _calls_in_entries(tree: ast.Module) -> list[ast.Call]:
    """Every `Entry(...)` that stands in a module's `ENTRIES`."""
    tables = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    tables = [node for node in tables if any(getattr(target, "id", "") == "ENTRIES" for target in _targets(node))]
    nodes = [node for table in tables for node in ast.walk(table)]
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Entry"]


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]
