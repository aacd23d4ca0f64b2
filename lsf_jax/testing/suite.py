"""What a suite runs over, and which of its tests are about which name."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import pytest

from lsf_jax.registry import Entry

Marks: TypeAlias = Callable[[str, str], Sequence[Any]]
"""`(name of a test, name of what it is about) -> marks of pytest`."""
Test = TypeVar("Test", bound=Callable[..., Any])


def no_marks(test: str, name: str) -> Sequence[Any]:
    """No marks, whatever the test."""
    del test, name
    return ()


class Suite(NamedTuple):
    """What the tests of a suite run over."""

    names: tuple[str, ...]  # of algorithms, or labels of environments
    entries: dict[str, Entry]
    configs: dict[str, Any]  # of environments: their settings
    small: dict[str, Any]
    learning: dict[str, Any]
    exempt: dict[str, str]
    marks: Marks


def about(applies: Callable[[Entry], bool]) -> Callable[[Test], Test]:
    """Mark a test as one for those entries alone of which `applies` is true."""

    def mark(test: Test) -> Test:
        test.applies = applies  # pyright: ignore[reportFunctionMemberAccess]
        return test

    return mark


class Tests:
    """Tests with an argument `name`, which runs over the names of a suite; see `contract` and `conformance`."""

    suite: ClassVar[Suite]

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Called by pytest for every test of the class."""
        if "name" not in metafunc.fixturenames:
            return
        test, suite = metafunc.function, self.suite
        applies = getattr(test, "applies", lambda entry: True)
        chosen = [name for name in suite.names if applies(suite.entries[name])]
        reason = suite.exempt.get(test.__name__)
        exempt = [] if reason is None else [pytest.mark.skip(reason=reason)]
        cases = [pytest.param(name, marks=[*exempt, *suite.marks(test.__name__, name)]) for name in chosen]
        metafunc.parametrize("name", cases, scope="class")
