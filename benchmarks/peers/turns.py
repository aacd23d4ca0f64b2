"""Processes that wait for their turn: how `compare.py` starts them and talks to them."""

import json
import os
import subprocess
import sys
import tempfile
from typing import IO, Any, NamedTuple

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
EMULATION = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # kernels of another processor would falsify the probe


class Worker(NamedTuple):
    """A program that waits in a process of its own."""

    name: str
    process: subprocess.Popen
    errors: IO[bytes]  # all that it and the code it runs have to say
    facts: dict[str, Any]


def start(name: str, python: str, command: list[str], path: str, cores: list[int]) -> Worker:
    """Start a process and wait until its program is built; the others idle meanwhile.

    Args:
      name: for people.
      python: interpreter.
      command: script and arguments.
      path: PYTHONPATH.
      cores: that this process runs on already; one core means one thread.
    """
    environment = {name: value for name, value in os.environ.items() if name not in EMULATION}
    environment |= dict.fromkeys(THREADS, str(len(cores))) | {"PYTHONPATH": path}
    if len(cores) == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process lives)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [python, *command], stdin=pipe, stdout=pipe, stderr=errors, env=environment, encoding="utf-8"
    )
    waiting = Worker(name, process, errors, {})
    return waiting._replace(facts=_answer(waiting))


def ask(worker: Worker, times: int) -> list[dict[str, Any]]:
    """Have a program run so many times and return its measurements."""
    if worker.process.stdin is not None:
        worker.process.stdin.write(f"{times}\n")
        worker.process.stdin.flush()
    return _answer(worker)


def stop(worker: Worker) -> None:
    """End its process and close what leads to it."""
    worker.process.kill()
    worker.process.communicate()
    worker.errors.close()


def _answer(worker: Worker) -> Any:
    """The next line that a process writes; if it ends instead, show why and exit."""
    line = worker.process.stdout.readline() if worker.process.stdout is not None else ""
    if line:
        return json.loads(line)
    worker.errors.seek(0)
    sys.stderr.write(f"{worker.errors.read().decode(errors='replace')[-3000:]}\n{worker.name} ended too early\n")
    stop(worker)
    raise SystemExit(1)
