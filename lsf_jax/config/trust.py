"""Code that a run folder names: it is not run before the user has named it too.

A folder may come from anybody. Settings declared with `code` make this package import or run what they say, so in a
configuration that was read from a folder they count only once they are confirmed; see `lsf_jax.runs.folder.read_run`.
"""

import dataclasses
import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lsf_jax.config.composition import Config
from lsf_jax.config.documents import default_of
from lsf_jax.config.layers import override_layer


def from_folder(config: Config, words: Sequence[str] = (), modules: Collection[str] = ()) -> Config:
    """A configuration that was read from a folder, with the code that it names noted as unconfirmed.

    Args:
      config: the folder's, with `words` laid over.
      words: overrides that the user gave, such as "env.make=my_games:make": what they name is confirmed.
      modules: modules that the user has named otherwise: code in them is confirmed.
    """
    named = {place for word in words for place in override_layer(word)}
    found = tuple(
        shlex.quote(f"{section}.{key}={_text(value)}")
        for section, key, value in _code_in(config)
        if (section, key) not in named and not _is_in(value, modules)
    )
    return dataclasses.replace(config, unconfirmed=found)


def _code_in(config: Config) -> Iterator[tuple[str, str, Any]]:
    """Settings that name code, unless they have their defaults: those are named by whoever made the environment."""
    for section, part in (("algo", config.algo), ("env", config.env), ("train", config.train)):
        for field in dataclasses.fields(part):
            harmless = field.metadata.get("code")
            value = getattr(part, field.name)
            if harmless is not None and value != default_of(field) and value not in harmless:
                yield section, field.name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_in(value: Any, modules: Collection[str]) -> bool:
    place = value.partition(":")[0] if isinstance(value, str) else ""
    return any(place == module or place.startswith(f"{module}.") for module in modules)
