"""One worker: a script that owns one environment. It runs under any Python from 3.8 on and needs nothing installed.

    python worker.py CONTROL LIFELINE MEMORY FOLDER      (three inherited file descriptors, and a folder to remove)

Two processes. The one that is started, the supervisor, forks before anything is imported; its child plays. The
supervisor waits for the end of LIFELINE, whose other end the trainer holds: then, however that came about, it kills the
child's process group (the game is in it), collects the dead and removes FOLDER. A child that hangs or holds Python's
lock cannot keep it from doing so, and if the supervisor itself is killed, Linux kills the child.

The child reads JSON lines from CONTROL and answers with JSON lines. Observations do not travel there: it writes them
into MEMORY, an unlinked file that both sides map, in turn into one of two slots. After the last step of an episode it
begins the next one by itself, so at most two answers are unread, one in each slot.

    in:   settings, once; then {"step": [action, ...]} or {"replay": folder}
    out:  hello, first, step, replay, no_replay; and the final messages: spent, fault, refused

Whatever goes wrong ends the child: nothing is repaired in here, the pool starts a fresh worker.
"""

from __future__ import annotations

import array
import ctypes
import importlib
import importlib.util
import json
import math
import mmap
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from typing import Any, Callable, NoReturn  # noqa: UP035  (Python 3.8)

DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # Linux: PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER
RESET_LOOPS = 3  # game loops of an episode's start, at most
KILL_TIMEOUT = 5.0  # seconds that killed processes get to disappear
INFO = ("battle_won", "dead_allies", "dead_enemies")


class Fault(Exception):
    """The environment did something that voids the episode; `kind` is crash or stale_reset."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


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
            raise Fault("crash", f"{len(obs)} observations and {len(avail)} masks of {self._agents} agents")
        for agent in range(self._agents):
            self._put(floats, agent * self._obs, self._obs, obs[agent])
            bits = bytes(map(bool, avail[agent]))
            if len(bits) != self._actions or 1 not in bits:
                raise Fault("crash", f"agent {agent} has the mask {list(bits)}")
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
            raise Fault("crash", f"{len(values)} numbers where {length} were expected")
        floats[start : start + length] = values


def find_class(factory: str) -> Callable[..., Any]:
    """The environment's class, from "path/to/file.py:Class" or "module:Class"."""
    place, _, name = factory.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    spec = importlib.util.spec_from_file_location("environment_of_the_worker", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {place}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def size_problems(info: dict[str, Any], spec: dict[str, int]) -> list[str]:
    """Where `get_env_info()` differs from the sizes that the trainer was built for."""
    names = {"obs_shape": "obs_dim", "state_shape": "state_dim"}
    keys = ("n_agents", "n_actions", "obs_shape", "state_shape", "episode_limit")
    pairs = [(key, info.get(key), spec[names.get(key, key)]) for key in keys]
    return [f"{key} is {found}, expected {wanted}" for key, found, wanted in pairs if found != wanted]


def count_restarts(env: Any) -> int:
    """How often SMAC has restarted the game behind our back."""
    if hasattr(env, "force_restarts"):
        return int(env.force_restarts)
    try:
        return int(env.get_stats().get("restarts", 0))
    except ZeroDivisionError:  # SMAC's win rate before the first finished battle
        return 0


def save_replay(env: Any, folder: str) -> str:
    """Lets the environment save its replay and moves the file, whose name SMAC does not return, to `folder`."""
    scratch = tempfile.mkdtemp(prefix="replay-")
    env.replay_dir = scratch  # an absolute path wins over StarCraft II's own folder
    env.save_replay()
    (name,) = os.listdir(scratch)
    os.makedirs(folder, exist_ok=True)
    stem, end = os.path.splitext(name)
    path, number = os.path.join(folder, name), 1
    while os.path.exists(path):  # SMAC's names hold the second, and workers may share a folder
        number += 1
        path = os.path.join(folder, f"{stem}-{number}{end}")
    shutil.move(os.path.join(scratch, name), path)
    return path


class Game:
    """The environment, what it has used up of its game loops, and the two ways to the trainer."""

    def __init__(self, env: Any, settings: dict[str, Any], channel: Channel, memory: SharedMemory) -> None:
        self._env, self._channel, self._memory = env, channel, memory
        self._step_mul, self._most_loops = settings["step_mul"], settings["relaunch_loops"]
        self._loops = 0

    def play(self) -> None:
        """Episode after episode, until the game has run for so long that it should be started afresh."""
        while self._loops < self._most_loops:
            self._begin()
            while not self._step(self._next_actions()):
                pass
        self._channel.send("spent", loops=self._loops)

    def _begin(self) -> None:
        env, restarts = self._env, count_restarts(self._env)
        obs, state = env.reset()
        if count_restarts(env) != restarts:
            raise Fault("stale_reset", "the game was restarted inside reset(), which leaves stale units")
        self._loops += RESET_LOOPS
        slot = self._memory.write(obs, state, env.get_avail_actions())
        reward = getattr(env, "max_reward", None)
        self._channel.send("first", slot=slot, max_reward=None if reward is None else float(reward))

    def _next_actions(self) -> list[int]:
        while True:
            message = self._channel.receive()
            if "step" in message:
                return message["step"]
            try:
                self._channel.send("replay", path=save_replay(self._env, message["replay"]))
            except Exception as error:
                traceback.print_exc()
                self._channel.send("no_replay", text=describe(error))

    def _step(self, actions: list[int]) -> bool:
        env, restarts = self._env, count_restarts(self._env)
        reward, done, info = env.step(actions)
        self._loops += self._step_mul
        if "battle_won" not in info or count_restarts(env) != restarts:
            raise Fault("crash", "the game was restarted inside step()")
        if not math.isfinite(reward):
            raise Fault("crash", f"the reward is {reward}")
        slot = self._memory.write(env.get_obs(), env.get_state(), env.get_avail_actions())
        content = {name: float(info.get(name, 0)) for name in INFO}
        truncated = bool(info.get("episode_limit", False))
        self._channel.send("step", slot=slot, reward=float(reward), done=bool(done), truncated=truncated, info=content)
        return bool(done)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:1000]


def work(control: int, memory: int) -> None:
    """The child: builds the environment and plays until something ends it. Its final message is sent, not raised."""
    channel = Channel(control)
    channel.send("hello", pid=os.getpid())
    settings = channel.receive()
    try:
        factory = find_class(settings["factory"])
    except BaseException as error:  # a package that cannot be imported, for whatever reason
        traceback.print_exc()
        return channel.send("refused", text=f"cannot import {settings['factory']}: {describe(error)}")
    try:
        env = factory(**settings["arguments"])
        problems = size_problems(env.get_env_info(), settings["spec"])
        if problems:
            return channel.send("refused", text=f"the environment has other sizes: {'; '.join(problems)}")
        Game(env, settings, channel, SharedMemory(memory, settings["spec"], settings["layout"])).play()
    except BaseException as error:
        traceback.print_exc()
        kind = error.kind if isinstance(error, Fault) else "crash"
        channel.send("fault", fault=kind, text=str(error) if isinstance(error, Fault) else describe(error))
    return None


def supervise(child: int, lifeline: int, ended: int, folder: str) -> None:
    """The supervisor: sees to it that nothing survives the trainer, or the child.

    Args:
      child: the process that plays, which leads a process group.
      lifeline: becomes readable when the trainer wants an end (a byte) or is gone (nothing).
      ended: becomes readable when the child is gone.
      folder: removed at the end. Without the trainer so is its parent, when nothing else is left in it.
    """
    trainer, watched, is_asked = os.getppid(), [lifeline, ended], False
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
        if not is_asked:
            with suppress(OSError):  # other workers may still be in it
                os.rmdir(os.path.dirname(folder))


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
