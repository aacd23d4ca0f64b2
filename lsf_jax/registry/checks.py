"""What an entry must be, found out when it is registered: later it would be a traceback in somebody else's code."""

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

from lsf_jax.registry import ALGO, Entry
from lsf_jax.settings import freeze, range_problem, type_problem

NEEDED = ("batch_size", "updates", "hidden")
"""Settings that training and planning ask of every algorithm."""
SUBFOLDERS = ("env", "train", "preset", "suite")
"""What a folder of configurations may hold."""


def name_problem(name: Any) -> str | None:
    """What is wrong with a name, or None; names are words of a command line and parts of folders' names."""
    if isinstance(name, str) and re.fullmatch(r"\w+(?:[.-]\w+)*", name):
        return None
    return f"the name {name!r}: expected letters, digits and '_', with single '-' or '.' between them"


def entry_problem(kind: str, entry: Any) -> str | None:
    """What is wrong with an entry, or None.

    Args:
      kind: "algo" (mixers too) or "env".
      entry: what was registered.
    """
    if not isinstance(entry, Entry):
        return f"{kind} {entry!r}: expected an lsf_jax.Entry"
    problem = name_problem(entry.name) or _record_problem(entry) or _config_problem(entry.config)
    if problem is None and kind == ALGO:
        fields = {field.name for field in dataclasses.fields(entry.config)}
        lacking = [key for key in NEEDED if key not in fields]
        if lacking:
            problem = f"config {entry.config.__name__} lacks {', '.join(lacking)}; inherit lsf_jax.CommonConfig"
    return None if problem is None else f"{kind} {entry.name!r}: {problem}"


def sink_problem(name: str, opener: Any) -> str | None:
    """What is wrong with a sink, or None."""
    return None if callable(opener) else f"sink {name!r} is {opener!r}; expected a function that opens it"


def folder_problem(folder: Path | None) -> str | None:
    """What is wrong with a folder of configurations, or None."""
    if folder is None or any((folder / name).is_dir() for name in SUBFOLDERS):
        return None
    return f"configs is {folder}; expected a folder with {', '.join(SUBFOLDERS[:-1])} or {SUBFOLDERS[-1]} in it"


def _record_problem(entry: Entry) -> str | None:
    if not isinstance(entry.doc, str) or not entry.doc.strip() or "\n" in entry.doc:
        return f"doc is {entry.doc!r}; expected one line for people"
    if not callable(entry.factory):
        return f"factory is {entry.factory!r}; expected a function"
    if entry.hosted is not None and not callable(entry.hosted):
        return f"hosted is {entry.hosted!r}; expected a function or None"
    if entry.acts not in ("policy", "values"):
        return f"acts is {entry.acts!r}; expected 'policy' or 'values'"
    return None


def _config_problem(config: Any) -> str | None:
    """Whether a config is a frozen dataclass whose every setting has a default that its own declaration allows."""
    frozen = isinstance(config, type) and getattr(getattr(config, "__dataclass_params__", None), "frozen", False)
    if not frozen:
        return f"config is {config!r}; expected a class with @dataclass(frozen=True)"
    fields = dataclasses.fields(config)
    for field in fields:
        if field.name == "name":
            return f"config {config.__name__} has a setting 'name'; choose another: that key holds the entry's name"
        if field.default is dataclasses.MISSING:
            return f"setting {field.name} of {config.__name__} has no default; declare it with lsf_jax.setting(...)"
    try:
        annotations = typing.get_type_hints(config)
    except NameError as error:
        return f"config {config.__name__} has an annotation that means nothing: {error}"
    for field in fields:
        annotation = annotations[field.name]
        problem = type_problem(annotation, field.default)
        problem = problem or range_problem(field, freeze(annotation, field.default))
        if problem:
            return f"setting {field.name} of {config.__name__} is {field.default!r} by default; expected {problem}"
    return None
