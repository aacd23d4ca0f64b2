"""The trainer's end of one worker process: starting it, its messages, its memory, ending it."""

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from lsf_jax.envs.host import HostError
from lsf_jax.settings import user_path
from lsf_jax.types import EnvSpec, Observation

WORKER = Path(__file__).with_name("worker.py")
PREFIX = "lsf_jax-games-"
KEPT = "lsf_jax-worker-"
"""What names of logs begin with that outlive their worker."""
LOG = "log.txt"
ALIGNMENT = 64  # bytes
MEMORY_FOLDER = "/dev/shm"


class PoolFolder:
    """The folder of a pool, with a folder for each of its worker processes.

    Locked as long as this process lives, so that another process can see what was left behind (`sweep`), also from
    another container that shares the file system.
    """

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nobody will sweep
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def remove(self) -> None:
        """Removes the folder and what is left in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Removes folders of pools that are no more; their workers normally do so themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                old = time.time() - os.fstat(descriptor).st_mtime > 1.0  # else perhaps just made and not locked yet
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if old and os.fstat(descriptor).st_uid == os.getuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def interpreter(python: str) -> str:
    """The program that `WorkersConfig.python` means."""
    return os.path.expanduser(python) or sys.executable


def absolute(code: str, key: str = "env.factory") -> str:
    """Code as a worker finds it: "path/to/file.py:name" with the whole path, "module:name" as it is.

    Raises:
      ConfigError: the path begins with the home of a user who does not exist; the message names `key`.
    """
    place, _, name = code.rpartition(":")
    return f"{user_path(key, place).absolute()}:{name}" if place.endswith(".py") else code


def as_on_a_node(key: str, code: str) -> str:
    """Code as another machine finds it that has the same files: a relative path is meant from our current folder.

    Raises:
      ConfigError: as for `absolute`.
    """
    return code if code.startswith("~") else absolute(code, key)


def source_version(code: str, key: str) -> str:
    """The beginning of the hash of the file that code is in; "" where it is in a module.

    Raises:
      ConfigError: as for `absolute`.
    """
    place = absolute(code, key).rpartition(":")[0]
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()[:12] if place.endswith(".py") else ""


def worker_environment(folder: Path, python: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a worker.

    Args:
      folder: where it may leave temporary files.
      python: its interpreter, "" for this one. Another one does not inherit PYTHONPATH and PYTHONHOME, which belong to
        this one.
      variables: what else its games want.
    """
    foreign = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__") if python else ()
    inherited = {key: value for key, value in os.environ.items() if key not in foreign}
    threads = {key: "1" for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return threads | inherited | {"TMPDIR": str(folder)} | dict(variables)


def shared_memory(size: int) -> IO[bytes]:
    """A file without a name, so that nothing of it can be left behind: in memory, or on disk if that has no room."""
    for folder in (MEMORY_FOLDER, None):
        with suppress(OSError):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (the caller closes it)
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # touching a page that cannot be had would kill the process
                os.posix_fallocate(file.fileno(), 0, size)
            return file
    raise OSError(f"no room for {size} bytes that workers share, neither in {MEMORY_FOLDER} nor on disk")


class WorkerProcess:
    """A worker and the game it runs.

    `pid` leads the process group of the environment (0 until the worker's first message).

    Raises:
      HostError: there is no such interpreter.
      OSError: the machine has no room for another process, folder or piece of memory.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], spec: EnvSpec, *, python: str, variables: Mapping[str, str]
    ) -> None:
        self.pid = 0
        self._folder, self._rest, self._retired_at = folder, b"", 0.0
        obs, state = spec.n_agents * spec.obs_dim, spec.state_dim
        self._spec, self._avail = spec, 4 * (obs + state)
        self._slot = -(-(self._avail + spec.n_agents * spec.n_actions) // ALIGNMENT) * ALIGNMENT
        folder.mkdir(parents=True)
        with ExitStack() as stack:
            memory = stack.enter_context(shared_memory(2 * self._slot))
            self._bytes = np.frombuffer(mmap.mmap(memory.fileno(), 2 * self._slot), np.uint8)
            self._control, theirs = socket.socketpair()
            stack.enter_context(theirs)
            lifeline, self._lifeline = os.pipe()
            stack.callback(os.close, lifeline)
            inherited = (theirs.fileno(), lifeline, memory.fileno())
            log = stack.enter_context((folder / LOG).open("wb"))
            try:
                self._supervisor = subprocess.Popen(
                    [interpreter(python), "-u", str(WORKER), *map(str, inherited), str(folder)],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # the terminal's Ctrl-C is for the trainer
                    env=worker_environment(folder, python, variables),
                )
            except OSError as error:
                self._close()
                if not isinstance(error, FileNotFoundError | PermissionError):
                    raise  # too many processes, for example
                raise HostError(
                    f"cannot run the workers' interpreter {interpreter(python)!r} ({error.strerror}); "
                    "set env.python to a Python of 3.8 or newer in which the game is installed"
                ) from None
        self._control.setblocking(False)
        layout = {"avail": self._avail, "slot": self._slot}
        self.send({**settings, "spec": spec._asdict(), "layout": layout})

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to receive."""
        return self._control.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message. That a worker is gone is no error here: `receive` will notice."""
        with suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """All messages that have arrived, and whether the worker has closed the connection."""
        try:
            data = self._control.recv(65_536)  # more than a worker ever sends before it is answered
        except BlockingIOError:
            return [], False
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def observation(self, slot: int) -> Observation:
        """A copy of what the worker has written into a slot."""
        spec, start = self._spec, slot * self._slot
        floats: Any = self._bytes[start : start + self._avail].view(np.float32).copy()
        masks: Any = self._bytes[start + self._avail : start + self._avail + spec.n_agents * spec.n_actions]
        n_obs = spec.n_agents * spec.obs_dim
        return Observation(
            obs=floats[:n_obs].reshape(spec.n_agents, spec.obs_dim),
            state=floats[n_obs:],
            avail=masks.reshape(spec.n_agents, spec.n_actions).astype(bool),
        )

    def keep_log(self) -> str:
        """Copies what worker and game have printed to where it outlives them; the new path, "" if there is none."""
        try:
            descriptor, path = tempfile.mkstemp(prefix=KEPT, suffix=".log")
            os.close(descriptor)
            shutil.copyfile(self._folder / LOG, path)
        except OSError:
            return ""
        return path

    def retire(self) -> None:
        """Has worker and game killed, at once and without waiting; see `is_gone`."""
        if not self._retired_at:
            with suppress(OSError):  # the supervisor may be gone
                os.write(self._lifeline, b".")
            self.abandon()

    def abandon(self) -> None:
        """As `retire`, where the pool ends: supervisors remove its folder, even if this process is killed meanwhile."""
        if not self._retired_at:
            self._retired_at = time.monotonic()
            self._close()

    def is_gone(self, timeout: float) -> bool:
        """Whether nothing is left of a retired worker.

        Args:
          timeout: seconds since `retire` after which the worker's supervisor is killed as well.
        """
        if self._supervisor.poll() is None:
            if time.monotonic() - self._retired_at < timeout:
                return False
            self._supervisor.kill()
            self._supervisor.wait()
        if self._supervisor.returncode and self.pid:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _close(self) -> None:
        self._control.close()
        os.close(self._lifeline)
