"""YAML 1.2 in and out, over `ruamel.yaml`: plain data alone, of bounded size, and every problem in one line.

Plain scalars follow the core schema of YAML 1.2.2, section 10.3.2, in both directions: ruamel would read `1_000`,
`0b11` and dates as other things than text. What is written has the same style whatever is written.
"""

import copy
import io
import json
import re
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from lsf_jax.settings import ConfigError, clip

MOST_CHARACTERS = 2**18  # of a document: reading it takes seconds
MOST_NODES = 2**17  # lists and values of a document with every alias written out: as many as a payoff of 16 agents has
DEEPEST = 32  # brackets in brackets, likewise
LONGEST_NUMBER = 400  # characters
_PREFIX = "tag:yaml.org,2002:"
_CORE_SCHEMA = re.compile(
    r"(?P<null>~|null|Null|NULL|)"
    r"|(?P<bool>true|True|TRUE|false|False|FALSE)"
    r"|(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))"
)


_BREAKS = re.compile("[\x85\u2028\u2029]")


def _kind_of(text: str) -> str:
    found = _CORE_SCHEMA.fullmatch(text)
    return str(found.lastgroup) if found else "str"


class _Resolver(VersionedResolver):
    """What plain scalars mean, whatever a `%YAML` line says; the dumper quotes text by it too."""

    @property
    def processing_version(self) -> Any:
        return (1, 2)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Tag:
        if kind is ScalarNode and implicit[0]:
            return Tag(suffix=_PREFIX + _kind_of(value))
        return super().resolve(kind, value, implicit)


class _Representer(SafeRepresenter):
    """The style of every file that was ever written: lists in brackets, `1.0e-05`, no aliases for what is equal."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> Any:
        return self.represent_sequence(f"{_PREFIX}seq", data, flow_style=True)

    def represent_float(self, data: float) -> Any:
        node = super().represent_float(data)
        node.value = re.sub(r"^(-?\d+)e", r"\1.0e", node.value)
        return node

    def represent_str(self, data: str) -> Any:
        # Bare, ruamel would not read these back.
        style = "'" if data.startswith("?") else '"' if _BREAKS.search(data) else None
        return self.represent_scalar(f"{_PREFIX}str", data, style=style)


for _kind, _name in ((list, "list"), (tuple, "list"), (float, "float"), (str, "str")):
    _Representer.add_representer(_kind, getattr(_Representer, f"represent_{_name}"))


def parse(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML 1.2 document holds.

    Args:
      text: one document whose top level is a mapping with text keys; an empty document is an empty mapping.
      source: where the text comes from, named in errors.

    Returns:
      Plain dictionaries, lists, text, numbers, truth values and None.

    Raises:
      ConfigError: for broken YAML, more than the bounds above, a key that appears twice (with its line) or a top level
        that is no mapping.
    """
    content = parse_value(text, source)
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
      ConfigError: for broken YAML, and for more than the bounds above.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{source}: {len(text):,} characters; expected at most {MOST_CHARACTERS:,}")
    try:
        return copy.deepcopy(_read(text))
    except MaxDepthExceededError:
        raise ConfigError(f"{source}: more than {DEEPEST} levels; expected fewer") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}{where}: {clip(error.problem or error.context or '', 200)}") from None
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {clip(str(error), 200)} (YAML 1.2)") from None


@lru_cache(maxsize=256)
def _read(text: str) -> Any:
    """The value of a text; remembered, as a suite composes the same files for each of its members."""
    yaml = _yaml()
    node = yaml.compose(text)
    if node is None:
        return None
    _measure(node, {})
    return yaml.constructor.construct_document(node)


def dump(content: dict[str, Any]) -> str:
    """YAML 1.2 text that `parse` reads back to equal data (tuples come back as lists).

    Args:
      content: plain data; lists are written in brackets, keys keep their order.

    Returns:
      The document, ending in a newline.
    """
    written = io.StringIO()
    _yaml().dump(content, written)
    return written.getvalue()


def shorten(value: Any) -> str:
    """A value as YAML on one line of at most 60 characters, for error messages."""
    if isinstance(value, list | tuple | dict):
        return clip(json.dumps(value, ensure_ascii=False, default=str))  # a large one takes YAML's dumper seconds
    if isinstance(value, int) and value.bit_length() > 1000:
        value = hex(value)  # Python refuses thousands of decimal digits
    return clip(dump({"": value[:61] if isinstance(value, str) else value}).removeprefix("'': "))


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Representer = _Resolver, _Representer
    yaml.default_flow_style = False
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    yaml.composer.warn_double_anchors = yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width, yaml.max_depth = 10 * MOST_CHARACTERS, DEEPEST  # a value on a line, however long
    return yaml


def _measure(node: Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values and depth of a node with every alias written out; what was met before is known: aliases cost nothing."""
    if id(node) in known:
        values, depth = known[id(node)]
    else:
        known[id(node)] = (MOST_NODES + 1, 0)  # met again below itself, it would have no end
        inner = [_measure(each, known) for each in _children(node)]
        values, depth = 1 + sum(size for size, _ in inner), 1 + max((deep for _, deep in inner), default=0)
        known[id(node)] = (values, depth)
    if values > MOST_NODES or depth > DEEPEST:
        what = f"{DEEPEST} levels" if depth > DEEPEST else f"{MOST_NODES:,} values"
        raise ConstructorError(None, None, f"more than {what} with every alias written out", node.start_mark)
    return values, depth


def _children(node: Node) -> list[Node]:
    """The nodes below a node, which by itself is found to be plain data."""
    kind, problem, inner = str(node.tag).removeprefix(_PREFIX), "", []
    if isinstance(node, ScalarNode):
        problem = "" if kind in ("str", _kind_of(node.value)) else f"{kind} {node.value} is no plain data"
        if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
            problem = f"a number of {len(node.value):,} characters; expected at most {LONGEST_NUMBER}"
    elif kind not in ("seq", "map"):
        problem = f"{kind} is no plain data"
    elif isinstance(node, MappingNode):
        inner = [value for _, value in node.value]
        for key, _ in node.value:
            if str(key.tag) != f"{_PREFIX}str":
                shown = key.value if isinstance(key, ScalarNode) else "of several values"
                raise ConstructorError(None, None, f"key {shown} is not text; put it in quotes", key.start_mark)
    else:
        inner = node.value
    if problem:
        raise ConstructorError(None, None, problem, node.start_mark)
    return inner
