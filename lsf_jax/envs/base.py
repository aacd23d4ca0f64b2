"""What every environment shares: the checks of settings and sizes."""

import dataclasses
import typing
from typing import Any

from lsf_jax.settings import ConfigError, clip, range_problem, type_problem
from lsf_jax.types import EnvSpec


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raises ConfigError, a ValueError, naming `env.<key>`, its value and what was expected, unless `holds`."""
    if not holds:
        raise ConfigError(f"env.{key} is {clip(repr(value))}; expected {expected}.")


def check_settings(cfg: Any) -> None:
    """Checks type and range of every field of an environment's config, as declared with `lsf_jax.settings.setting`.

    Raises:
      ValueError: naming `env.<key>`, its value and what was expected.
    """
    expected = typing.get_type_hints(type(cfg))
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        problem = type_problem(expected[field.name], value) or range_problem(field, value)
        require(problem is None, field.name, value, problem or "")


def check_spec(spec: EnvSpec) -> EnvSpec:
    """Returns `spec` unchanged if all its sizes are positive integers.

    Raises:
      ValueError: naming the size that is not.
    """
    for key, value in spec._asdict().items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"EnvSpec.{key} is {value!r}; expected an integer of at least 1.")
    return spec
