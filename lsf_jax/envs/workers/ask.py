"""What one worker says about its game: it is started, asked once and gone."""

import selectors
import time
from typing import Any

from lsf_jax.envs.host import HostError
from lsf_jax.envs.workers.config import WorkersConfig
from lsf_jax.envs.workers.pool import KILL_TIMEOUT, PoolGame
from lsf_jax.envs.workers.process import PoolFolder, WorkerProcess

IMPORT, DESCRIBE = "import", "describe"
"""Tasks: import the code of the game, no more; open the game and tell its sizes."""


def ask_worker(game: PoolGame, cfg: WorkersConfig, task: str, seed: int = 0) -> dict[str, Any]:
    """The answer of a worker to a task other than to play.

    Args:
      game: what is asked about; its sizes may be any.
      cfg: how workers are started, and how long one may take (`launch_deadline`).
      task: IMPORT or DESCRIBE.
      seed: of the game.

    Raises:
      HostError: the game cannot be imported or opened; one line with the cause, the rest is in a log that it names.
    """
    folder = PoolFolder()
    try:
        process = _start(game, cfg, task, seed, folder)
        try:
            answer = _wait(process, cfg.launch_deadline)
            if answer["kind"] in ("found", "description"):
                return answer
            log = process.keep_log()
        finally:
            process.abandon()
            while not process.is_gone(KILL_TIMEOUT):
                time.sleep(0.005)
    finally:
        folder.remove()
    raise HostError(f"{game.label}: {answer['text']}" + (f"; its log is {log}" if log else ""))


def _start(game: PoolGame, cfg: WorkersConfig, task: str, seed: int, folder: PoolFolder) -> WorkerProcess:
    settings = {**game.settings(seed, 1.0), "task": task}
    try:
        return WorkerProcess(folder.path / "asked", settings, game.spec, python=cfg.python, variables=game.variables)
    except OSError as error:
        raise HostError(f"{game.label}: no process could be started: {error}") from None


def _wait(process: WorkerProcess, seconds: float) -> dict[str, Any]:
    """The worker's last message, or what takes its place."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            selector.select(left)
            messages, closed = process.receive()
            for message in messages:
                if message["kind"] != "hello":
                    return message
                process.pid = message["pid"]
            if closed:
                return {"kind": "fault", "text": "the process ended"}
    return {"kind": "fault", "text": f"no answer within {seconds:g} s"}
