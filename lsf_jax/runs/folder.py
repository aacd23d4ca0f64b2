"""The folder of a run on disk: making it, locking it, writing small files into it safely, and describing the machine.

Everything here is host code without JAX arrays. Files are written so that a crash leaves the old file or the new one,
never half of one.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import psutil

try:
    import fcntl
except ImportError:  # Windows: runs work there, two processes in one folder are not noticed
    fcntl = None

LOCK_NAME = ".lock"
PACKAGES = ("lsf-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunFolderError(ValueError):
    """A run folder that cannot be made or used; the message is one line that names the key and the remedy."""


def create(run_dir: str | Path, name: str) -> Path:
    """Make the new, empty folder of a run; an existing one is never touched.

    Args:
      run_dir: the folder that holds runs (key `train.run_dir`); made if missing.
      name: the run's name (key `train.name`), one path component.

    Returns:
      The path `run_dir/name`.

    Raises:
      RunFolderError: the name is not one path component, the folder exists, or it cannot be made.
    """
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise RunFolderError(f"train.name {name!r} is not a folder name; choose a name without '/' and other than '.'")
    path = Path(run_dir).expanduser() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError as error:
        if not path.parent.is_dir():
            raise RunFolderError(f"train.run_dir {str(run_dir)!r} is a file; set it to a folder") from error
        raise RunFolderError(
            f"train.name {name!r}: {path} exists and is left as it is; choose another train.name or train.run_dir,"
            " or continue that run with `lsf-jax resume`"
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"train.run_dir {str(run_dir)!r}: cannot make {path} ({error.strerror}); choose a folder you can write to"
        ) from error
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a run folder for this process while the `with` block lasts.

    The lock belongs to the open file, so it vanishes with the process however that ends; the small file `.lock` stays
    and means nothing by itself. On Windows this does nothing.

    Args:
      path: an existing run folder.

    Raises:
      RunFolderError: another process holds the folder, or the folder cannot be locked.
    """
    try:
        file = open(path / LOCK_NAME, "a+", encoding="utf-8")  # noqa: SIM115 (closed below, after the body)
    except OSError as error:
        raise RunFolderError(f"run folder {path} cannot be locked ({error.strerror}); is it writable?") from error
    with file:
        _take(file, path)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace a file's content; after a crash it holds all of the old or all of the new.

    Args:
      path: the file; its folder exists.
      data: the new content.

    Raises:
      OSError: the file could not be written; the old one is untouched.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file's content (UTF-8) as `write_bytes_atomic` does.

    Args:
      path: the file; its folder exists.
      text: the new content.

    Raises:
      OSError: the file could not be written; the old one is untouched.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file's content (indented, keys in the order given) as `write_bytes_atomic` does.

    Args:
      path: the file; its folder exists.
      value: anything `json.dumps` takes.

    Raises:
      OSError: the file could not be written; the old one is untouched.
      TypeError: the value is not JSON; nothing is written.
    """
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def fsync_directory(path: Path) -> None:
    """Make the names in a folder durable: after a rename, the rename itself.

    Args:
      path: an existing folder.

    Raises:
      OSError: the folder cannot be opened or flushed.
    """
    if os.name == "nt":  # folders cannot be opened there; the file system journals names
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def card() -> dict[str, Any]:
    """Describe what a run ran on, for its folder: versions, hardware, source commit, date and command line.

    Holds no user name, host name or home path: absolute paths on the command line keep only their last part.

    Returns:
      A JSON-ready dict with keys `date_utc` (ISO 8601, seconds), `command`, `versions`, `platform`, `cpu`, `devices`
      and `git` (`commit`, `dirty`; None where the package does not run from a source checkout). Memory is in bytes.
    """
    return {
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *(_without_folders(argument) for argument in sys.argv[1:])],
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


def _take(file: Any, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip()
        raise RunFolderError(
            f"run folder {path} is in use by process {holder or 'unknown'}; wait for it or stop it, then try again"
        ) from error
    except OSError as error:
        raise RunFolderError(f"run folder {path} cannot be locked ({error.strerror}); choose another disk") from error


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
