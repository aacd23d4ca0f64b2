"""A configuration as text: resolved for a run's folder, documented for a person who starts from it."""

import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config, swept_keys
from lsf_jax.config.layers import PLUGINS
from lsf_jax.registry import plugins
from lsf_jax.settings import default_of, range_text, type_text

SWEPT = "[sweep]"
"""What marks a setting that may be given several values."""


class KeyDoc(NamedTuple):
    """One line of documentation about one setting."""

    key: str  # with its section: "algo.lr"
    default: str  # as YAML
    doc: str  # what it means, with the unit
    allowed: str  # type and range in words
    swept: bool  # a traced number: may be given as a comma list, and changing it compiles nothing


def to_yaml(config: Config) -> str:
    """Every setting of a configuration as YAML 1.2 text; `from_yaml` gives back an equal configuration."""
    used = plugins_of(config)
    content: dict[str, Any] = {PLUGINS: list(used)} if used else {}
    content |= {section: dict(lines) for section, lines in _sections(config).items()}
    return "# Fully resolved configuration; pass it to --config to repeat the run.\n" + yaml12.dump(content)


def plugins_of(config: Config) -> tuple[str, ...]:
    """The plug-ins that a configuration's names come from: whoever reads a run needs them."""
    return plugins.used_by(config.algo_name, config.env_name, config.train.sinks)


def to_documented_yaml(config: Config) -> str:
    """As `to_yaml`, with a comment above every key: what it means, its range and, the default of what was changed."""
    docs = {entry.key: entry for entry in documentation(config)}
    blocks = [
        f"# {config.algo_name} on {config.where}: every setting with its meaning and range.",
        "# Change what you like and pass this file to --config; lines left out take their defaults.",
    ]
    if used := plugins_of(config):
        note = "# Where the names below come from; imported only where installed, or named with --plugin."
        blocks += ["", f"{note}\n{yaml12.dump({PLUGINS: list(used)})}".rstrip("\n")]
    for section, lines in _sections(config).items():
        blocks += ["", f"{section}:"]
        for key, value in lines.items():
            line = yaml12.dump({key: value})
            comment = _comment_text(docs.get(f"{section}.{key}"), value)
            blocks.append(textwrap.indent(comment + line.rstrip("\n"), "  "))
    return "\n".join(blocks) + "\n"


def documentation(config: Config) -> list[KeyDoc]:
    """Documentation of every setting of a configuration, section by section; see `describe`."""
    swept = swept_keys(config.algo_name)
    sections = (("algo", config.algo, swept), ("env", config.env, ()), ("train", config.train, ()))
    return [entry for section, part, keys in sections for entry in describe(section, type(part), keys)]


def describe(section: str, config_class: type, swept: Iterable[str] = ()) -> list[KeyDoc]:
    """Documentation of every setting of a section: what its declaration, or the comment on its line, says.

    Args:
      section: "algo", "env" or "train".
      config_class: the section's frozen dataclass.
      swept: keys that are traced numbers (`swept_keys`).

    Returns:
      One entry per setting, in the order of declaration.
    """
    return [
        KeyDoc(
            key=f"{section}.{field.name}",
            default=yaml12.shorten(default_of(field)),
            doc=field.metadata.get("doc") or _comment(config_class, field.name),
            allowed=_names_text(field)
            or range_text(field)
            or type_text(typing.get_type_hints(config_class)[field.name]),
            swept=field.name in set(swept),
        )
        for field in dataclasses.fields(config_class)
    ]


def _names_text(field: dataclasses.Field) -> str:
    """What is allowed where values are names of registered things."""
    return f"any of {', '.join(plugins.names_of(field.metadata['names']))}" if "names" in field.metadata else ""


def _comment(config_class: type, key: str) -> str:
    try:
        lines = inspect.getsource(config_class).splitlines()
    except (OSError, TypeError):  # a class of a notebook's cell
        return ""
    line = next((line for line in lines if line.strip().startswith(f"{key}:")), "")
    return line.partition("  # ")[2].strip()


def _sections(config: Config) -> dict[str, dict[str, Any]]:
    sections = {
        "algo": {"name": config.algo_name, **vars(config.algo)},
        "env": {"name": config.env_name, **vars(config.env)},
        "train": dict(vars(config.train)),
    }
    swept = {key: list(values) for key, values in config.swept.values.items()}
    return sections | ({config.swept.section: swept} if swept else {})


def _comment_text(entry: KeyDoc | None, value: Any) -> str:
    """The comment lines above a key, "" for a name or a row of the grid."""
    if entry is None:
        return ""
    default = "" if yaml12.shorten(value) == entry.default else f"; default {entry.default}"
    mark = f" {SWEPT}" if entry.swept else ""
    return f"# {' '.join(entry.doc.split())} ({entry.allowed}{default}){mark}\n"
