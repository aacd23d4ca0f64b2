"""One worker: a script that owns one game. It runs under any Python from 3.8 on and needs nothing installed.

    python worker.py CONTROL LIFELINE MEMORY FOLDER      (three inherited file descriptors, and a folder to remove)

Two processes. The one that is started, the supervisor, forks before anything is imported; its child plays. The
supervisor waits for the end of LIFELINE, whose other end the trainer holds: then, however that came about, it kills the
child's process group (the game is in it), collects the dead and removes FOLDER. A child that hangs or holds Python's
lock cannot keep it from doing so, and if the supervisor itself is killed, Linux kills the child.

The child reads JSON lines from CONTROL and answers with JSON lines. Observations do not travel there: it writes them
into MEMORY, an unlinked file that both sides map, in turn into one of two slots. After the last step of an episode it
begins the next one by itself, so at most two answers are unread, one in each slot.

    in:   settings, once; then {"step": [action, ...]} or {"replay": folder}
    out:  hello, first, step, replay, no_replay; and the final messages: spent, fault, refused, found, description

Settings name the code of the game and an adapter, a file of ours with a function `open_game(code, settings)`. What that
returns has `describe() -> sizes`, `problems(spec)`, `begin()`, `look() -> (obs, state, avail)`, `step(actions) ->
(reward, done, truncated, info)`, `is_spent()` and `save_replay(folder)`. An exception's attribute `fault` says what it
is counted as, or "refused" where another try is in vain; without one it is a crash.

Whatever goes wrong ends the child: nothing is repaired in here, the pool starts a fresh worker.
"""

from __future__ import annotations

import array
import base64
import ctypes
import fcntl
import importlib
import importlib.util
import json
import math
import mmap
import os
import pickle
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from typing import Any, NoReturn

DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # Linux: PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER
KILL_TIMEOUT = 5.0  # seconds that killed processes get to disappear
LONGEST_TEXT = 300  # characters of an exception in a message; the rest is in the log


class Fault(Exception):
    """The game did something that voids the episode; `fault` is what it is counted as."""

    def __init__(self, fault: str, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Channel:
    """JSON lines over a socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("rb")

    def receive(self) -> dict[str, Any]:
        """The next message; ends the process when the trainer has closed the connection."""
        line = self._lines.readline()
        if not line:
            os._exit(0)
        return json.loads(line)

    def send(self, kind: str, **content: Any) -> None:
        """Sends a message."""
        self._socket.sendall(json.dumps({"kind": kind, **content}).encode() + b"\n")


class SharedMemory:
    """Two slots for what the environment looks like, which the trainer reads."""

    def __init__(self, descriptor: int, spec: dict[str, int], layout: dict[str, int]) -> None:
        self._agents, self._obs, self._state = spec["n_agents"], spec["obs_dim"], spec["state_dim"]
        self._actions = spec["n_actions"]
        memory = memoryview(mmap.mmap(descriptor, 2 * layout["slot"]))
        self._floats, self._masks = [], []
        for start in (0, layout["slot"]):
            self._floats.append(memory[start : start + layout["avail"]].cast("f"))
            self._masks.append(memory[start + layout["avail"] : start + layout["slot"]])
        self._slot = 0

    def write(self, obs: Any, state: Any, avail: Any) -> int:
        """Puts down observations, state and masks; returns the slot.

        Raises:
          Fault: if there are fewer or more numbers than there should be.
        """
        self._slot = 1 - self._slot
        floats, masks = self._floats[self._slot], self._masks[self._slot]
        if len(obs) != self._agents or len(avail) != self._agents:
            raise Fault("crashes", f"{len(obs)} observations and {len(avail)} masks of {self._agents} agents")
        for agent in range(self._agents):
            self._put(floats, agent * self._obs, self._obs, obs[agent])
            bits = bytes(map(bool, avail[agent]))
            if len(bits) != self._actions or 1 not in bits:
                raise Fault("crashes", f"agent {agent} has the mask {list(bits)}")
            masks[agent * self._actions : (agent + 1) * self._actions] = bits
        self._put(floats, self._agents * self._obs, self._state, state)
        return self._slot

    @staticmethod
    def _put(floats: memoryview, start: int, length: int, row: Any) -> None:
        try:
            values = memoryview(row)
        except TypeError:
            values = None
        if values is None or values.format != "f" or values.ndim != 1:
            values = memoryview(array.array("f", list(row)))
        if len(values) != length:
            raise Fault("crashes", f"{len(values)} numbers where {length} were expected")
        floats[start : start + length] = values


def find_code(source: Any) -> Any:
    """What a source of code means: "path/to/file.py:name", "module:name", or {"pickle": text in base 64}."""
    if not isinstance(source, str):
        return pickle.loads(base64.b64decode(source["pickle"]))
    place, _, name = source.rpartition(":")
    found = load_file(place) if place.endswith(".py") else importlib.import_module(place)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def load_file(path: str) -> Any:
    """A Python file as a module, read once however often it is asked for."""
    name = f"file_of_the_worker:{path}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {path}")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def next_actions(game: Any, channel: Channel) -> list[int]:
    """The joint action that the trainer sends next; requests for replays before it are met."""
    while True:
        message = channel.receive()
        if "step" in message:
            return message["step"]
        try:
            channel.send("replay", path=game.save_replay(message["replay"]))
        except Exception as error:
            traceback.print_exc()
            channel.send("no_replay", text=describe(error))


def play_step(game: Any, actions: list[int], channel: Channel, memory: SharedMemory) -> bool:
    """One step and its report; returns whether the episode is done."""
    reward, done, truncated, info = game.step(actions)
    if not math.isfinite(reward):
        raise Fault("crashes", f"the reward is {reward}")
    slot = memory.write(*game.look())
    channel.send("step", slot=slot, reward=reward, done=done, truncated=truncated, info=info)
    return done


def play(game: Any, channel: Channel, memory: SharedMemory) -> None:
    """Episode after episode, until the game has run for so long that it should be started afresh."""
    while not game.is_spent():
        game.begin()
        channel.send("first", slot=memory.write(*game.look()))
        while not play_step(game, next_actions(game, channel), channel, memory):
            pass
    channel.send("spent")


def describe(error: BaseException) -> str:
    """An exception in one line: what it is and says, without the traceback that may be part of that."""
    if hasattr(error, "fault"):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    said = lines[-1:] if any(line.startswith("Traceback (most recent") for line in lines) else lines
    text = " ".join(f"{type(error).__name__}: {' '.join(said)}".split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."


def find_all(sources: dict[str, Any]) -> dict[str, Any]:
    """The code that settings name, by what it is for.

    Raises:
      Fault: some of it cannot be imported, for whatever reason.
    """
    found = {}
    for name, source in sources.items():
        try:
            found[name] = find_code(source)
        except BaseException as error:
            traceback.print_exc()
            shown = source if isinstance(source, str) else f"the pickled {name}"
            raise Fault("refused", f"cannot import {shown}: {describe(error)}") from None
    return found


def work(control: int, memory: int) -> None:
    """The child: opens the game and plays until something ends it. Its final message is sent, not raised."""
    channel = Channel(control)
    channel.send("hello", pid=os.getpid())
    settings = channel.receive()
    sys.path.extend(path for path in settings.get("paths", []) if path not in sys.path)
    try:
        code = find_all(settings["code"])
        if settings["task"] == "import":
            return channel.send("found")
        game = load_file(settings["adapter"]).open_game(code, settings)
        if settings["task"] == "describe":
            return channel.send("description", **game.describe())
        problems = game.problems(settings["spec"])
        if problems:
            raise Fault("refused", f"the environment has other sizes: {'; '.join(problems)}")
        play(game, channel, SharedMemory(memory, settings["spec"], settings["layout"]))
    except BaseException as error:
        traceback.print_exc()
        fault = str(getattr(error, "fault", "crashes"))
        channel.send("refused" if fault == "refused" else "fault", fault=fault, text=describe(error))
    return None


def supervise(child: int, lifeline: int, ended: int, folder: str) -> None:
    """The supervisor: sees to it that nothing survives the trainer, or the child.

    Args:
      child: the process that plays, which leads a process group.
      lifeline: becomes readable when the trainer wants an end (a byte), or that of all workers or is gone (nothing).
      ended: becomes readable when the child is gone.
      folder: removed at the end. Unless only this worker ends so is its parent, when nobody else uses it.
    """
    trainer, watched, is_asked, pool_folder = os.getppid(), [lifeline, ended], False, os.path.dirname(folder)
    held = hold(pool_folder)
    try:
        while os.getppid() == trainer:
            ready = select.select(watched, [], [], 1.0)[0]
            if lifeline in ready:
                is_asked = bool(os.read(lifeline, 1))
                break
            if ended in ready:  # the folder stays: the trainer reads the log
                end_group(child)
                child, watched = 0, [lifeline]
    finally:
        if child:
            end_group(child)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
        if not is_asked or os.getppid() != trainer:
            remove_unused(pool_folder)


def hold(folder: str) -> int:
    """A descriptor that keeps others from removing a folder as unused, as long as it is open."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # the trainer is gone, and the folder too
        return os.open(os.devnull, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def remove_unused(folder: str) -> None:
    """Removes the folder of a pool if it is empty, or if neither the trainer nor another supervisor holds it.

    What is in it then belongs to workers whose processes were just being started.
    """
    with suppress(OSError):
        os.rmdir(folder)
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def end_group(leader: int) -> None:
    """Kills a process group and whatever it has left behind, and waits until all are gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    end = time.monotonic() + KILL_TIMEOUT
    while time.monotonic() < end:
        try:
            gone, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if gone == leader and status:
            how = f"signal {status & 127}" if status & 127 else f"status {status >> 8}"
            sys.stderr.write(f"the process of the environment ended with {how}\n")
        elif not gone:
            _kill_strays()
            time.sleep(0.005)


def _kill_strays() -> None:
    """Ends adopted orphans that had left the process group."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _ask_linux(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(arguments: list[str]) -> NoReturn:
    """Splits into supervisor and child."""
    control, lifeline, memory = map(int, arguments[1:4])
    for descriptor in (control, lifeline, memory):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGHUP):  # of the trainer's terminal: the trainer decides
        signal.signal(number, signal.SIG_IGN)
    supervisor, (ended, alive) = os.getpid(), os.pipe()
    child = os.fork()
    if child:
        for descriptor in (control, memory, alive):
            os.close(descriptor)
        with suppress(OSError):  # it may have done so itself, and then it is too late for us
            os.setpgid(child, child)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        _ask_linux(ADOPT_ORPHANS, 1)
        supervise(child, lifeline, ended, arguments[4])
        sys.exit(0)
    os.close(lifeline)
    os.close(ended)
    os.setpgid(0, 0)
    _ask_linux(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() == supervisor:
        # The environment must find neither our arguments nor, under names such as "config", our files.
        here = os.path.dirname(os.path.abspath(__file__))
        sys.argv, sys.path = sys.argv[:1], [path for path in sys.path if os.path.abspath(path) != here]
        work(control, memory)
    os._exit(0)  # not sys.exit: the game's own clean-up may hang, and the supervisor kills it


if __name__ == "__main__":
    main(sys.argv)
