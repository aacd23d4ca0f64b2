"""What `pytest --pyargs lsf_jax.testing` takes: `--plugin`, `--algo` and `--env`, and what it then runs over.

pytest learns of it through `lsf_jax_pytest` (in entry/), which is installed beside this package: a module inside it
would be imported in every run of pytest, whoever's tests these are.
"""

from typing import Any, NamedTuple

import pytest

from lsf_jax.registry import ALGO, ENV, plugins
from lsf_jax.registry.state import FLAG
from lsf_jax.settings import ConfigError, nearest


class Chosen(NamedTuple):
    """Names that the suites run over, filled in before tests are collected."""

    algorithms: list[str]
    environments: list[str]


CHOSEN = Chosen([], [])


def pytest_addoption(parser: Any) -> None:
    """The options, as the command line has them."""
    group = parser.getgroup("lsf_jax", "suites of lsf_jax")
    group.addoption(
        "--plugin",
        action="append",
        default=[],
        dest="lsf_jax_plugins",
        metavar="MODULE",
        help="a module that calls lsf_jax.register; repeatable",
    )
    for option, names, what in (("--algo", "algorithms", "contract"), ("--env", "environments", "conformance")):
        group.addoption(
            option,
            action="append",
            default=[],
            dest=f"lsf_jax_{names}",
            metavar="NAME",
            help=f"run the {what} suite over it; repeatable; neither --algo nor --env: all that plug-ins register",
        )


def pytest_configure(config: Any) -> None:
    """Load the plug-ins and look up the names."""
    option = config.option
    try:
        plugins.load_plugins(option.lsf_jax_plugins, FLAG)
        asked = {ALGO: option.lsf_jax_algorithms, ENV: option.lsf_jax_environments}
        for kind, names in asked.items():
            for name in names:
                if name not in plugins.names_of(kind):
                    raise ConfigError(f"--{kind} is {name!r}{nearest(name, plugins.names_of(kind))}")
        if not any(asked.values()):
            asked = {kind: list(plugins.added(kind)) for kind in asked}
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    if not any(asked.values()):
        raise pytest.UsageError("nothing to test: name a plug-in with --plugin, or --algo or --env")
    CHOSEN.algorithms[:], CHOSEN.environments[:] = asked[ALGO], asked[ENV]
