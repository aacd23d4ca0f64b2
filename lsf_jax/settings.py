"""One way to declare a setting of a config dataclass: its default, its range and one line that explains it.

    @dataclass(frozen=True)
    class MyConfig:
        trace: float = setting(0.6, low=0.0, high=1.0, doc="TD(λ); the release's value")

`lsf_jax.config` reads the declarations back: it checks values that come from files and the command line against them
and prints them as documentation.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections import namedtuple
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any, TypedDict, Unpack


class ConfigError(ValueError):
    """A setting is wrong: one line that names the key, the value, what was expected and the remedy."""


class Marks(TypedDict, total=False):
    """What may be true of a setting; nothing of this is unless a declaration says so."""

    traced: bool  # a number that compiled programs take as input: it can be swept, and changing it compiles nothing
    resumable: bool  # it does not decide what any iteration computes, so a resumed run may have another value
    code: tuple[Any, ...]  # it names code or a program to run, unless it is one of these: see `lsf_jax.config.trust`


def nearest(word: str, words: Iterable[str], prefix: str = "") -> str:
    """The end of an error message about an unknown word: the nearest known one, else all of them.

    Args:
      word: what was given; its case does not matter here.
      words: what is known.
      prefix: what all of them are shown with; it would make any two look alike.
    """
    known_as = {candidate.lower(): candidate for candidate in words}
    close = difflib.get_close_matches(word.lower(), known_as, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {prefix}{known_as[close[0]]}?"
    return f"; expected one of {', '.join(prefix + name for name in known_as.values())}"


def setting(
    default: Any,
    *,
    low: float | int | None = None,
    high: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    choices: tuple[Any, ...] | None = None,
    doc: str = "",
    **marks: Unpack[Marks],
) -> Any:
    """A dataclass field with a default, an allowed range and a line of documentation.

    Args:
      default: value when nobody says otherwise; immutable (use tuples, not lists).
      low: smallest allowed number, itself allowed.
      high: largest allowed number, itself allowed.
      above: every allowed number is greater than this.
      below: every allowed number is smaller than this.
      choices: the allowed values, when they can be counted.
      doc: one line for people, with the unit and, where there is one, the source.
      **marks: what else is true of it.

    Returns:
      A `dataclasses.Field` (typed `Any`, so that type checkers see the annotation of the field itself).
    """
    metadata = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata | {"doc": doc} | marks)


number = partial(setting, traced=True)
"""A setting that is a traced number."""


def default_of(field: dataclasses.Field) -> Any:
    """The value of a setting when nobody says otherwise."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def env_label(name: str, settings: Mapping[str, Any]) -> str:
    """An environment as people call it: its name, and the map, scenario or game where its settings choose one."""
    chosen = [str(settings[key]) for key in ("scenario", "map_name", "game") if settings.get(key)]
    return "/".join([name, *chosen])


@cache
def hyper_class(config_class: type) -> type:
    """The NamedTuple of a config's traced numbers, in the order of declaration; the same class at every call."""
    names = [field.name for field in dataclasses.fields(config_class) if field.metadata.get("traced")]
    return namedtuple(f"{config_class.__name__.removesuffix('Config')}Hyper", names)


def range_problem(field: dataclasses.Field, value: Any) -> str | None:
    """What a value should have been, or None where it is allowed.

    Numbers must be finite wherever the field has a numeric bound. Only the range is looked at, never the type. Values
    inside a tuple are checked one by one.

    Args:
      field: a field declared with `setting` (or any dataclass field: without a range everything is allowed).
      value: the value to check.

    Returns:
      For example "a number >= 0 and < 1", to be put after the word "expected".
    """
    expected = range_text(field)
    if not expected:
        return None
    values = value if isinstance(value, tuple) else (value,)
    return None if all(_allowed(field.metadata, each) for each in values) else expected


def range_text(field: dataclasses.Field) -> str:
    """The allowed range in words, "" where there is none.

    Args:
      field: a dataclass field, declared with `setting` or not.

    Returns:
      For example "one of float32, bfloat16" or "a number > 0 and <= 1".
    """
    choices = field.metadata.get("choices")
    if choices is not None:
        return "one of " + ", ".join(str(choice) for choice in choices)
    signs = {"low": ">=", "above": ">", "high": "<=", "below": "<"}
    parts = [
        f"{sign} {_number_text(field.metadata[key])}"
        for key, sign in signs.items()
        if field.metadata.get(key) is not None
    ]
    return "a number " + " and ".join(parts) if parts else ""


def type_problem(annotation: Any, value: Any) -> str | None:
    """What kind of value an annotation asks for, or None where the value is of that kind.

    Strict where a slip would change meaning: a truth value is not a number, `3.0` is not a whole number and text is
    never a number. A whole number is fine where a number is wanted, and a list where a tuple is.

    Args:
      annotation: a field's type: bool, int, float, str, tuple, Literal, a union of these, or Any.
      value: plain data as a YAML reader gives it.

    Returns:
      For example "a whole number", to be put after the word "expected".
    """
    return None if _is_kind(annotation, value) else type_text(annotation)


def type_text(annotation: Any) -> str:
    """A field's type in words, for example "a list of numbers"."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    words[dict] = "names with values"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is tuple:
        inner = type_text(arguments[0])
        plural = inner.replace("a list", "lists", 1) if inner.startswith("a list") else inner
        plural = f"{inner[2:]}s" if plural.startswith("a ") else plural
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{plural}" if inner else "a list"
    return "a list" if annotation is tuple else words.get(dict if origin is dict else annotation, "")


def freeze(annotation: Any, value: Any) -> Any:
    """A value that fits `annotation`, made immutable: lists become tuples, whole numbers become floats if asked for.

    Args:
      annotation: a field's type, as in `type_problem`.
      value: a value for which `type_problem` is None.

    Returns:
      The value to put into the frozen config.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return freeze(next(argument for argument in arguments if _is_kind(argument, value)), value)
    if isinstance(value, list | tuple):
        return tuple(freeze(inner, each) for inner, each in zip(_inner(annotation, len(value)), value))
    return float(value) if annotation is float else value


def _is_kind(annotation: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_is_kind(argument, value) for argument in arguments)
    if origin is typing.Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if annotation is tuple or origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        inner = _inner(annotation, len(value))
        return len(inner) == len(value) and all(_is_kind(each, item) for each, item in zip(inner, value))
    if annotation is dict or origin is dict:
        return isinstance(value, dict)
    if annotation is float:
        return (type(value) is float and not math.isnan(value)) or (type(value) is int and abs(value) < 1e300)
    if annotation in (bool, int, str, type(None)):
        return type(value) is annotation
    return True


def _inner(annotation: Any, length: int) -> tuple[Any, ...]:
    arguments = typing.get_args(annotation)
    if not arguments:
        return (Any,) * length
    return (arguments[0],) * length if arguments[-1] is Ellipsis else arguments


def _number_text(number: float | int) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _allowed(metadata: typing.Mapping[str, Any], value: Any) -> bool:
    choices = metadata.get("choices")
    if choices is not None:
        return any(value == choice and type(value) is type(choice) for choice in choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True  # a matter of type, not of range
    low, high, above, below = (metadata.get(key) for key in ("low", "high", "above", "below"))
    if low is not None or above is not None or high is not None or below is not None:
        inside = (low is None or value >= low) and (high is None or value <= high) and math.isfinite(value)
        return inside and (above is None or value > above) and (below is None or value < below)
    return True
