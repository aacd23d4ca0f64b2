"""What of a machine decides a run's bits, and whether two are the same in that."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lsf_jax.settings import printable

EXTENSIONS = ("avx", "sse", "ssse", "fma", "f16c", "bmi", "amx", "asimd", "sve", "neon", "fp")
"""How the flags of a CPU begin that say what it can compute."""


class Machine(NamedTuple):
    """What decides bits. On an accelerator CPU and threads are left empty: they compute nothing there."""

    lsf_jax: str  # version, and the first digits of its source's digest
    jax: str
    jaxlib: str
    device: str  # such as "NVIDIA H100 80GB HBM3", or "cpu"
    cpu: str  # architecture, model and the digest of its instruction set
    threads: int  # of a block
    flags: str  # XLA_FLAGS


SOFTWARE = ("lsf_jax", "jax", "jaxlib")
"""Wherein the driver must be like the nodes; it computes nothing itself."""


def describe(device: str, threads: int) -> Machine:
    """This machine; no backend is initialised.

    Args:
      device: what computes there, "cpu" for a CPU.
      threads: of a block, counted on CPUs alone.
    """
    on_cpu = device == "cpu"
    return Machine(
        lsf_jax=f"{_version('lsf-jax')} ({source_digest()})",
        jax=_version("jax"),
        jaxlib=_version("jaxlib"),
        device=device,
        cpu=_instruction_set() if on_cpu else "",
        threads=threads if on_cpu else 0,
        flags=" ".join(os.environ.get("XLA_FLAGS", "").split()),
    )


def difference(here: Machine, there: Machine, keys: Iterable[str] = Machine._fields) -> str | None:
    """The first thing in which two machines differ, for people; None where there is none."""
    for key in keys:
        one, other = getattr(here, key), getattr(there, key)
        if one != other:
            return printable(f"{key} {other or 'none'} there, {one or 'none'} here")
    return None


def machine_text(machine: Machine) -> str:
    """A machine in one phrase, for cards; it holds no name of a host."""
    parts = [machine.device, machine.cpu, f"{machine.threads} thread(s)" if machine.threads else "", machine.flags]
    return ", ".join([*filter(None, parts), f"jaxlib {machine.jaxlib}"])


@cache
def source_digest() -> str:
    """Eight hexadecimal digits of the package's own source: an editable installation has a version that stays.

    The suites for tests are left out: installed, they lie elsewhere in part.
    """
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(name for name in names if not name.startswith("testing/")):
        digest.update(name.encode() + b"\0" + names[name].read_bytes())
    return digest.hexdigest()[:8]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


def _instruction_set() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    first = dict(reversed([(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]))
    flags = sorted(word for word in (first.get("flags") or first.get("Features") or "").split() if _computes(word))
    model = "-".join(filter(None, (first.get("cpu family"), first.get("model")))) or platform.processor()
    return f"{platform.machine()} {model} {hashlib.sha256(' '.join(flags).encode()).hexdigest()[:8]}"


def _computes(flag: str) -> bool:
    return flag.startswith(EXTENSIONS)
