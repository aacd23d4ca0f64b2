"""From Python values to a configuration that sweeps them: what comma lists are on the command line."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config, check, swept_keys
from lsf_jax.settings import ConfigError, freeze, nearest, type_problem


def swept_over(config: Config, values: Mapping[str, Sequence[Any]], *, paired: bool = False) -> Config:
    """A configuration with some settings of its algorithm swept.

    Args:
      config: a checked configuration; what it sweeps already stays, as further axes of the grid.
      values: dotted key, such as "algo.lr", -> its values; of a single value there is nothing to sweep.
      paired: the values at one place of all keys make a point; False: every combination is one.

    Returns:
      A checked copy; its algorithm has the first point's values.

    Raises:
      ConfigError: a key that cannot be swept, no values, values that the setting refuses, or points given one by one
        beside a grid.
    """
    if config.grid and (paired or config.paired):
        keys = ", ".join(config.swept.values)
        raise ConfigError(f"{keys} is swept by the configuration already; expected one without; give it one value")
    grid = dict(config.grid)
    for key, given in values.items():
        check_key(config, key)
        listed = [] if isinstance(given, str) else np.ravel(np.asarray(given, object)).tolist()
        if not listed:
            raise ConfigError(f"{key} is {yaml12.shorten(given)}; expected a list of numbers")
        grid[key.removeprefix("algo.")] = tuple(_frozen(config, key, value) for value in listed)
    algo = dataclasses.replace(config.algo, **{name: each[0] for name, each in grid.items()})
    kept = {name: each for name, each in grid.items() if len(each) > 1}
    swept = dataclasses.replace(config, algo=algo, grid=tuple(sorted(kept.items())), paired=paired and bool(kept))
    check(swept)
    return swept


def check_key(config: Config, key: str) -> None:
    """Nothing, where a dotted key names a setting that can be swept.

    Raises:
      ConfigError: it does not.
    """
    names = swept_keys(config.algo_name)
    section, _, name = key.rpartition(".") if isinstance(key, str) else ("", "", repr(key))
    if section == "algo" and name in names:
        return
    known = section in ("algo", "env", "train") and name in vars(getattr(config, section))
    every = f"; keys that can be swept: {', '.join(f'algo.{each}' for each in names)}"
    raise ConfigError(
        f"{key} cannot be swept{', as it shapes the program' + every if known else nearest(name, names, 'algo.')}"
    )


def annotation_of(config: Config, key: str) -> Any:
    """The type of a setting of the algorithm, by its dotted key."""
    return typing.get_type_hints(type(config.algo))[key.removeprefix("algo.")]


def _frozen(config: Config, key: str, value: Any) -> Any:
    """A value as the setting holds it; what does not fit stays as it is, for the check that follows."""
    plain = value.item() if isinstance(value, np.generic) else value
    annotation = annotation_of(config, key)
    return plain if type_problem(annotation, plain) else freeze(annotation, plain)
