"""Code and places that a run folder names: they are not run and not written to before the user has named them too.

A folder may come from anybody. Settings declared with `code` make this package import or run what they say, and those
declared with `place` make it write, and read back, outside the folder. Of a configuration that was read from a run's
text they count only once they are confirmed: without its code a run is refused, a place is left alone.
"""

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    return _as_words((found for found in _marked("code", parts) if not _is_in(found[2], modules)), words)


def unfollowed(parts: Mapping[str, Any], words: Sequence[str]) -> tuple[str, ...]:
    """The places that a configuration names and its user does not, as words for the command line.

    Args:
      parts: section -> its frozen dataclass, `words` laid over.
      words: overrides that the user gave.
    """
    return _as_words(_marked("place", parts), words)


def _as_words(found: Iterable[tuple[str, str, Any]], words: Sequence[str]) -> tuple[str, ...]:
    named = {place for word in words for place in override_layer(word)}
    return tuple(
        shlex.quote(f"{section}.{key}={_text(value)}") for section, key, value in found if (section, key) not in named
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


def _marked(mark: str, parts: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Settings so declared, unless they have their defaults: those are named by whoever made the environment."""
    for section, part in parts.items():
        for field in fields(part):
            harmless, value = field.metadata.get(mark), getattr(part, field.name)
            if harmless is not None and value != default_of(field) and value not in harmless:
                yield section, field.name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_in(value: Any, modules: Collection[str]) -> bool:
    place = value.partition(":")[0] if isinstance(value, str) else ""
    return any(place == module or place.startswith(f"{module}.") for module in modules)
