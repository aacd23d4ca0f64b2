"""Code that a run folder names: it is not run before the user has named it too.

A folder may come from anybody. Settings declared with `code` make this package import or run what they say, so of a
configuration that was read from a run's text they count only once they are confirmed.
"""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lsf_jax.config.layers import override_layer
from lsf_jax.settings import ConfigError, default_of


def unconfirmed(parts: Mapping[str, Any], words: Sequence[str], modules: Collection[str] = ()) -> tuple[str, ...]:
    """The code that a configuration names and its user does not, as words for the command line.

    Args:
      parts: section -> its frozen dataclass, `words` laid over.
      words: overrides that the user gave, such as "env.make=my_games:make": what they name is confirmed.
      modules: modules that the user has named otherwise: code in them is confirmed.
    """
    named = {place for word in words for place in override_layer(word)}
    return tuple(
        shlex.quote(f"{section}.{key}={_text(value)}")
        for section, key, value in _code_in(parts)
        if (section, key) not in named and not _is_in(value, modules)
    )


def refuse(found: Sequence[str]) -> None:
    """Nothing, if there is no unconfirmed code.

    Raises:
      ConfigError: there is; one line with what to name.
    """
    if found:
        raise ConfigError(
            "the run's config.yaml names code to run, which a run folder alone may not; "
            f"if you trust it, name it again: {' '.join(found)}"
        )


def _code_in(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Settings that name code, unless they have their defaults: those are named by whoever made the environment."""
    for section, part in parts.items():
        for field in fields(part):
            harmless, value = field.metadata.get("code"), getattr(part, field.name)
            if harmless is not None and value != default_of(field) and value not in harmless:
                yield section, field.name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_in(value: Any, modules: Collection[str]) -> bool:
    place = value.partition(":")[0] if isinstance(value, str) else ""
    return any(place == module or place.startswith(f"{module}.") for module in modules)
