"""pytest's way to the options of `lsf_jax.testing`; nothing of that is imported unless these suites are asked for."""

from typing import Any

import pytest

SUITES = ("lsf_jax.testing", "lsf_jax/testing", "lsf_jax\\testing")
"""How the arguments of pytest name them."""


@pytest.hookimpl(trylast=True)
def pytest_load_initial_conftests(early_config: Any, parser: Any, args: list[str]) -> None:
    """Give pytest the options, and JAX the settings of tests, where the suites are among the arguments."""
    del parser  # the options reach it by registration
    if not any(suites in word for word in args for suites in SUITES):
        return
    from lsf_jax.testing import pytest_options
    from lsf_jax.testing.cheap import compile_cheaply

    compile_cheaply()
    early_config.pluginmanager.register(pytest_options, "lsf_jax_options")
