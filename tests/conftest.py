"""Test-wide settings: a warm compilation cache, cheap compilation, and JAX's strictest checks."""

import gc
import os

from lsf_jax.testing.cheap import compile_cheaply

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
compile_cheaply()

import jax  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test with `default(...)` the other cases are slow."""
    unseen: dict[str, set[str]] = {}
    for item in items:
        marker = item.get_closest_marker("default")
        if marker is not None:
            case = item.callspec.id  # pyright: ignore[reportAttributeAccessIssue]
            unseen.setdefault(item.nodeid.split("[")[0], set(marker.args)).discard(case)
            if case not in marker.args:
                item.add_marker(pytest.mark.slow)
    for test, cases in unseen.items():
        if cases and not any("::" in argument for argument in config.args):
            raise pytest.UsageError(f"{test} has no case {sorted(cases)}, which its mark `default` names")


LARGE = 1.5 * 2**30  # bytes of a test process


def _memory_maps() -> int:
    """Regions of memory of this process; Linux allows 65,530, and a compiled program takes several."""
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def _few_programs_at_a_time():
    """Forget compiled programs between files before there are so many that compiling one more ends the process.

    Or before they fill the memory: a few hundred programs are gigabytes.
    """
    yield
    if _memory_maps() > 12_000 or psutil.Process().memory_info().rss > LARGE:
        jax.clear_caches()
        gc.collect()
