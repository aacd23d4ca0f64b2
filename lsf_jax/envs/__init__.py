"""Environments: `make(name, **settings)`, and the one dict of all of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from lsf_jax.envs import jaxmarl_games as _jaxmarl
from lsf_jax.envs import matrix_game as _games
from lsf_jax.envs import predator_prey as _hunt
from lsf_jax.envs import smax as _smax
from lsf_jax.envs.base import nearest, require
from lsf_jax.envs.hosted import Hosted
from lsf_jax.envs.smac import hosted as _smac
from lsf_jax.fields import freeze, range_problem, type_problem
from lsf_jax.types import Env

payoff_of = _games.payoff_of
start_payoffs = _games.start_payoffs

ENVS: dict[str, tuple[type, Callable[[Any], Env]]] = {
    "predator_prey": (_hunt.PredatorPreyConfig, _hunt.predator_prey),
    "matrix_game": (_games.MatrixGameConfig, _games.matrix_game),
    "two_state": (_games.TwoStateConfig, _games.two_state),
    "two_step": (_games.TwoStepConfig, _games.two_step),
    "climbing": (_games.RepeatedConfig, _games.climbing),
    "penalty": (_games.PenaltyConfig, _games.penalty),
    "linear_game": (_games.RepeatedConfig, _games.linear_game),
    "nonlinear_game": (_games.RepeatedConfig, _games.nonlinear_game),
    "m_step": (_games.MStepConfig, _games.m_step),
    "smax": (_smax.SmaxConfig, _smax.smax),
    "jaxmarl": (_jaxmarl.JaxmarlConfig, _jaxmarl.jaxmarl_game),
    "smac": (_smac.SmacConfig, _smac.smac),
}
"""Every environment by name: its config class, and the factory that makes an `Env` from one."""

HOSTED: dict[str, Callable[[Any], Hosted]] = {"smac": _smac.hosted}
"""Of environments whose games are played on the host: what makes a `Hosted` from a config."""


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
    if name not in ENVS:
        raise ValueError(f"env is {name!r}; {nearest(name, list(ENVS))}.")
    config_class, factory = ENVS[name]
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    chosen = {}
    for key, value in settings.items():
        if key not in fields:
            raise ValueError(f"env.{key} is not a setting of {name}; {nearest(key, list(fields))}.")
        problem = type_problem(fields[key].type, value) or range_problem(fields[key], value)
        require(problem is None, key, value, problem or "")
        chosen[key] = freeze(fields[key].type, value)
    return factory(config_class(**chosen))
