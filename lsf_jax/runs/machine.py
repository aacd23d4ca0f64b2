"""What a run ran on: versions, hardware, source commit, date and command line, without a name of user or machine."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import psutil

PACKAGES = ("lsf-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe_machine() -> dict[str, Any]:
    """What a run ran on, for its card: versions, hardware, source commit, date and command line.

    Holds no user name, host name or home path: absolute paths on the command line keep only their last part.

    Returns:
      A JSON-ready dict with keys `date_utc` (ISO 8601, seconds), `command`, `versions`, `platform`, `cpu`, `devices`
      and `git` (`commit`, `dirty`; None where the package does not run from a source checkout). Memory is in bytes.
    """
    return {
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_words(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {
            "model": _cpu_model(),
            "cores": psutil.cpu_count(logical=False),
            "threads": _usable_threads(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "devices": {
            "backend": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
        },
        "git": _git(Path(__file__).resolve().parents[2]),
    }


def command_words() -> list[str]:
    """The command line of this process as a card has it."""
    return [Path(sys.argv[0]).name, *(_without_folders(argument) for argument in sys.argv[1:])]


def plugin_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the plug-ins that a run uses, for its card: beside ours in `versions`.

    Args:
      names: of their modules; imported.

    Returns:
      "plug-in NAME" -> the version that its package was installed with, else its `__version__`, else "no version".
    """
    return {f"plug-in {name}": _plugin_version(name) for name in names}


def _plugin_version(name: str) -> str:
    top = name.partition(".")[0]
    for package in importlib.metadata.packages_distributions().get(top, ()):
        return importlib.metadata.version(package)
    found = (getattr(sys.modules.get(each), "__version__", None) for each in (name, top))
    return next((str(version) for version in found if version is not None), "no version")


def _without_folders(argument: str) -> str:
    home = str(Path.home())
    if len(home) > 1:
        argument = re.sub(re.escape(home) + r"(?=/|$)", "~", argument)
    return re.sub(r"(^|[=,:\[\s\"'~])/(?:[^/\s,\"'\]]+/)*", r"\1.../", argument).replace("~.../", "~/.../")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _usable_threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # a container may use fewer than the machine has
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _git(checkout: Path) -> dict[str, Any] | None:
    if not (checkout / ".git").exists():
        return None
    commit = _git_output(checkout, "rev-parse", "--verify", "HEAD")
    changes = _git_output(checkout, "status", "--porcelain")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def _git_output(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
