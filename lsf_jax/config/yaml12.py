"""YAML 1.2 in and out, over PyYAML, which speaks YAML 1.1.

The difference is not academic: a 1.1 reader takes `3e-4` for text, `010` for eight, `1:30` for ninety and `on`,
`no` and `off` for truth values. Here plain scalars follow the core schema of YAML 1.2.2, section 10.3.2, in both
directions; a key that appears twice is an error; nothing but plain data is ever constructed.
"""

import re
from typing import Any

import yaml

from lsf_jax.settings import ConfigError

_PREFIX = "tag:yaml.org,2002:"
_CORE_SCHEMA = (
    ("null", r"^(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", tuple("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", tuple("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        tuple("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """A safe loader with the core schema's resolvers; see `_install`."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own class-level registry


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes whatever `_Loader` would misread; see `_install`."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own class-level registry


def parse(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML 1.2 document holds.

    Args:
      text: one document whose top level is a mapping with text keys; an empty document is an empty mapping.
      source: where the text comes from, named in errors.

    Returns:
      Plain dictionaries, lists, text, numbers, truth values and None.

    Raises:
      ConfigError: for broken YAML, a key that appears twice (with its line) or a top level that is no mapping.
    """
    content = _load(text, source)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected 'key: value' lines at the top level, got {shorten(content)}")
    return content


def parse_value(text: str, source: str) -> Any:
    """One YAML 1.2 value, for example `3e-4`, `true` or `[[8, -12], [0, 0]]`.

    Args:
      text: the value as typed on a command line.
      source: the key it belongs to, named in errors.

    Returns:
      Text, a number, a truth value, None, a list or a dictionary.

    Raises:
      ConfigError: for broken YAML.
    """
    return _load(text, source)


def dump(content: dict[str, Any]) -> str:
    """YAML 1.2 text that `parse` reads back to equal data (tuples come back as lists).

    Args:
      content: plain data; lists are written in brackets, keys keep their order.

    Returns:
      The document, ending in a newline.
    """
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110)


def shorten(value: Any) -> str:
    """A value as YAML on one line of at most 60 characters, for error messages."""
    text = " ".join(dump({"value": value}).split()).removeprefix("value: ")
    return text if len(text) <= 60 else text[:57] + "..."


def _load(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {' '.join(str(error).split())} (YAML 1.2)") from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        problem = None if isinstance(key, str) else f"key {key!r} is not text; put it in quotes"
        if problem is None and key in content:
            problem = f"key {key!r} appears twice; remove one"
        if problem is not None:
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        content[key] = loader.construct_object(value_node, deep=True)
    return content


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _install() -> None:
    for tag, pattern, first_characters in _CORE_SCHEMA:
        for kind in (_Loader, _Dumper):
            kind.add_implicit_resolver(_PREFIX + tag, re.compile(pattern), first_characters)
    _Loader.add_constructor(_PREFIX + "map", _mapping)
    _Loader.add_constructor(_PREFIX + "int", _integer)
    _Loader.add_constructor(_PREFIX + "float", _float)
    for kind in (list, tuple):
        _Dumper.add_representer(kind, lambda dumper, value: dumper.represent_sequence(_PREFIX + "seq", value, True))
    _Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]  # equal tuples are not shared


_install()
