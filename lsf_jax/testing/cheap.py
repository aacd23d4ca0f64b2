"""JAX as tests want it: on the CPU, compiling in a tenth of the time, and from a warm cache the next time."""

import os
import subprocess
import sys
import tempfile

PLAIN_LOOPS = "--xla_cpu_use_fusion_emitters=false"
"""XLA's newer code generator takes three times as long to compile."""


def compile_cheaply() -> None:
    """Set environment variables; call it before JAX is imported, for example first thing in a conftest.py.

    Flags that are set already stay. Programs are slower then, and their last bits are others than in a run.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "lsf_jax-test-cache"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in flags:
        flags += " --xla_backend_optimization_level=0"
    if "xla_cpu_use_fusion_emitters" not in flags and "PYTEST_XDIST_WORKER" not in os.environ:
        # An XLA that does not know a flag ends the process, so one of its own is asked; workers inherit the answer.
        asked = {**os.environ, "XLA_FLAGS": f"{flags} {PLAIN_LOOPS}"}
        ask = [sys.executable, "-c", "import jax; jax.devices()"]
        if subprocess.run(ask, env=asked, capture_output=True).returncode == 0:
            flags += f" {PLAIN_LOOPS}"
    os.environ["XLA_FLAGS"] = flags.strip()
