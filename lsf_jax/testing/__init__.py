"""The suites that every algorithm and every environment passes, for those of third parties too.

In a test file of one's own, after the import of the module that registers them:

    from lsf_jax.testing import conformance, contract

    TestContract = contract("mine")
    TestConformance = conformance("corridor")

or without a file: `pytest --pyargs lsf_jax.testing --plugin mine --algo mine --env corridor`. It takes pytest alone; to
compile in seconds what would take minutes, call `lsf_jax.testing.cheap.compile_cheaply` first in a conftest.py.
Our own tests are these, with nothing beside them that they hold already.
"""

import pkgutil
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest

from lsf_jax.registry import Entry
from lsf_jax.testing.suite import Marks, Suite, no_marks

pytest.register_assert_rewrite(
    *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__) if module.name != "suite")
)

NOTHING: Mapping[str, Any] = MappingProxyType({})


def contract(
    *names: str,
    small: Mapping[str, Any] = NOTHING,
    learning: Mapping[str, Any] = NOTHING,
    exempt: Mapping[str, str] = NOTHING,
    marks: Marks = no_marks,
) -> type:
    """The contract suite over algorithms: a class of tests, to be given a name that begins with "Test".

    Args:
      *names: registered algorithms; none: all that plug-ins have registered.
      small: settings of narrow networks, beside `cases.SMALL`: an update and the acting functions compile with them.
      learning: settings with which the additive game is learned in 350 updates, beside `cases.WIDE`.
      exempt: name of a test -> why these algorithms need not pass it.
      marks: `(name of a test, algorithm) -> marks of pytest`, for example to leave slow ones out.

    Raises:
      ConfigError: a name is not registered.
    """
    from lsf_jax.config import layers
    from lsf_jax.registry import ALGO, plugins
    from lsf_jax.testing import acting, training, updates

    chosen = names or tuple(plugins.added(ALGO))
    for name in chosen:
        layers.known(ALGO, name, "lsf_jax.testing.contract")
    suite = Suite(
        names=chosen,
        entries={name: layers.entries_of(ALGO)[name] for name in chosen},
        configs={},
        small=dict(small),
        learning=dict(learning),
        exempt=dict(exempt),
        marks=marks,
    )
    bases = (training.Training, acting.Acting, updates.Updates)  # pytest begins with the last of them
    return type("Contract", bases, {"suite": suite})


def conformance(
    *names: str,
    variants: Mapping[str, tuple[str | Entry, Mapping[str, Any]]] = NOTHING,
    exempt: Mapping[str, str] = NOTHING,
    marks: Marks = no_marks,
) -> type:
    """The conformance suite over environments: a class of tests, to be given a name that begins with "Test".

    Environments on the device are played as functions; of those on the host a few games are opened.

    Args:
      *names: registered environments, with their default settings; none, and no variants: all of plug-ins.
      variants: label -> (name or entry, settings) of further ones.
      exempt: name of a test -> why these environments need not pass it.
      marks: `(name of a test, name or label) -> marks of pytest`.

    Raises:
      ConfigError: a name is not registered.
    """
    from lsf_jax.registry import ENV, plugins
    from lsf_jax.testing import device_games, host_games

    chosen: Sequence[str] = names or (() if variants else tuple(plugins.added(ENV)))
    cases: dict[str, tuple[str | Entry, Mapping[str, Any]]] = {**{name: (name, {}) for name in chosen}, **variants}
    entries = {label: _environment(which) for label, (which, _) in cases.items()}
    suite = Suite(
        names=tuple(cases),
        entries=entries,
        configs={label: entries[label].config(**settings) for label, (_, settings) in cases.items()},
        small={},
        learning={},
        exempt=dict(exempt),
        marks=marks,
    )
    hosted = {entry.hosted is not None for entry in entries.values()}
    bases = [device_games.DeviceGames] * (False in hosted) + [host_games.HostGames] * (True in hosted)
    return type("Conformance", tuple(bases), {"suite": suite})


def _environment(which: str | Entry) -> Entry:
    from lsf_jax.config import layers
    from lsf_jax.registry import ENV

    if isinstance(which, Entry):
        return which
    return layers.entries_of(ENV)[layers.known(ENV, which, "lsf_jax.testing.conformance")]
