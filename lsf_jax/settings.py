"""One way to declare a setting of a config dataclass: its default, its range and one line that explains it.

    @dataclass(frozen=True)
    class MyConfig:
        trace: float = setting(0.6, low=0.0, high=1.0, doc="TD(λ); the release's value")

`lsf_jax.config` reads the declarations back: it checks values that come from files and the command line against them
and prints them as documentation. `msgspec` compares; the words are ours.
"""

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections import namedtuple
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, TypedDict, Unpack

import msgspec

LARGEST = 2**31 - 1
"""The largest whole number of a setting: arrays hold them in 32 bits."""
_FINITE = msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)
_STRICT: dict[Any, Any] = {
    float: Annotated[float, _FINITE],
    int: Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)],
    str: Annotated[str, msgspec.Meta(pattern="^[^\0\ud800-\udfff]*$")],  # neither a path nor UTF-8 has these
}
"""What msgspec is asked for where an annotation says so much."""


class ConfigError(ValueError):
    """A setting is wrong: one line that names the key, the value, what was expected and the remedy.

    Of words that nobody would read to their end, such as a number of thousands of digits, it keeps the beginning.
    """

    def __init__(self, message: object) -> None:
        super().__init__(clip_words(str(message)))


class Marks(TypedDict, total=False):
    """What may be true of a setting; nothing of this is unless a declaration says so."""

    traced: bool  # a number that compiled programs take as input: it can be swept, and changing it compiles nothing
    names: str  # its values are names of this kind of thing that is registered: plug-ins may add to them
    resumable: bool  # it does not decide what any iteration computes, so a resumed run may have another value
    place: tuple[str, ...]  # it names a place outside the run folder, unless it is one of these: `lsf_jax.config.trust`
    code: tuple[Any, ...]  # it names code or a program to run, unless it is one of these: see `lsf_jax.config.trust`


def clip(text: str, longest: int = 60) -> str:
    """Text on one line of at most so many characters, for error messages: what is cut ends in dots."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def clip_words(text: str) -> str:
    """A message that any stream can show, without the rest of each word that is longer than any path or key."""
    return re.sub(r"(\S{57})\S{343,}", r"\1...", text).encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """Text whose lines a terminal can show: files may hold anything, and what would steer a terminal is escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """So many of a thing: "1 seed", "4 seeds"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def user_path(key: str, text: str | Path) -> Path:
    """A path that a person wrote; "~" and "~name" at its beginning are home folders.

    Raises:
      ConfigError: there is no such user; the message names `key`.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{key} is {clip(str(text))}; expected a path, but there is no such user") from None


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


_SIGNS = {"low": ">=", "above": ">", "high": "<=", "below": "<"}
"""Bounds that a declaration may give, as they are shown."""


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

    Only the range is looked at, never the type. Values inside a tuple are checked one by one.

    Args:
      field: a field declared with `setting` (or any dataclass field: without a range everything is allowed).
      value: the value to check.

    Returns:
      For example "a number >= 0 and < 1", to be put after the word "expected".
    """
    choices, bounds = field.metadata.get("choices"), _bounds(*(field.metadata.get(key) for key in _SIGNS))
    for each in value if isinstance(value, tuple) else (value,):
        if choices is not None:
            allowed = any(each == choice and type(each) is type(choice) for choice in choices)
        else:
            allowed = isinstance(each, bool) or not isinstance(each, int | float) or _fits(bounds, each)
        if not allowed:
            return range_text(field)
    return None


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
    parts = [
        f"{sign} {_number_text(field.metadata[key])}"
        for key, sign in _SIGNS.items()
        if field.metadata.get(key) is not None
    ]
    return "a number " + " and ".join(parts) if parts else ""


def type_problem(annotation: Any, value: Any) -> str | None:
    """What kind of value an annotation asks for, or None where the value is of that kind.

    Strict where a slip would change meaning: a truth value is not a number, `3.0` is not a whole number and text is
    never a number. A whole number is fine where a number is wanted, and a list where a tuple is. Numbers are finite.

    Args:
      annotation: a field's type: bool, int, float, str, tuple, Mapping, Literal, a union of these, or Any.
      value: plain data as a YAML reader gives it.

    Returns:
      For example "a whole number", to be put after the word "expected".
    """
    if _fits(_strict(annotation), value):
        return None
    kinds, expected = (annotation, *typing.get_args(annotation)), type_text(annotation)
    kind = float if type(value) is int and int not in kinds else type(value)
    better = {int: f"a whole number of at most {LARGEST}", float: "a finite number", str: "text that a file can hold"}
    return expected.replace(type_text(kind), better[kind]) if kind in kinds and kind in better else expected


def type_text(annotation: Any) -> str:
    """A field's type in words, for example "a list of numbers"."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    words[Mapping] = words[dict] = "a mapping"
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
    return msgspec.convert(_in_tuples(value), annotation)


def _in_tuples(value: Any) -> Any:
    return tuple(_in_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _fits(kind: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@cache
def _strict(annotation: Any) -> Any:
    """An annotation as msgspec is asked for it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_strict(each) for each in arguments)]  # noqa: UP007 - made, not written
    if origin is tuple:
        return tuple[tuple(each if each is Ellipsis else _strict(each) for each in arguments)]
    return _STRICT.get(annotation, annotation)


@cache
def _bounds(low: Any, above: Any, high: Any, below: Any) -> Any:
    """A number between bounds, each None or a number, as msgspec is asked for it."""
    bounds: dict[str, Any] = {"ge": low, "gt": above, "le": high, "lt": below}
    return Annotated[float, msgspec.Meta(**bounds)]


def _number_text(number: float | int) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
