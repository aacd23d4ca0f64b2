"""Environments, one file each: `make(name, **settings)`, and the table of all of them."""

import dataclasses
import typing
from typing import Any

from lsf_jax.envs.base import require
from lsf_jax.registry import ENV, TABLES, Entry, collect, plugins
from lsf_jax.settings import freeze, nearest, range_problem, type_problem
from lsf_jax.types import Env

ENVS: dict[str, Entry] = TABLES[ENV]
"""Every environment by name; those of plug-ins once they are loaded."""
ENVS.update(collect(__name__, __path__))


def make(name: str, **settings: Any) -> Env:
    """Builds an environment by name, for example `make("predator_prey", punishment=0)`.

    Args:
      name: a key of `ENVS`.
      **settings: fields of its config, in plain data: lists do for tuples, whole numbers for numbers.

    Returns:
      The environment.

    Raises:
      ValueError: for an unknown name or setting (with the nearest valid one), or a value that is not allowed.
    """
    plugins.load_plugins()
    if name not in ENVS:
        raise ValueError(f"env is {name!r}{nearest(name, ENVS)}")
    entry = ENVS[name]
    fields = {field.name: field for field in dataclasses.fields(entry.config)}
    kinds, chosen = typing.get_type_hints(entry.config), {}
    for key, value in settings.items():
        if key not in fields:
            raise ValueError(f"env.{key} is not a setting of {name}{nearest(key, fields)}")
        problem = type_problem(kinds[key], value) or range_problem(fields[key], value)
        require(problem is None, key, value, problem or "")
        chosen[key] = freeze(kinds[key], value)
    return plugins.build(ENV, entry, entry.config(**chosen), expected=Env)
