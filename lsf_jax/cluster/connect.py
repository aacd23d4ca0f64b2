"""Connecting to a Ray cluster, or to one of this machine alone, and what its nodes have.

    with connected("local:4") as ray:
        nodes_of(ray)

Ray is imported here and nowhere else, its usage statistics are off, and what was started is gone at the end.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from lsf_jax.settings import ConfigError, clip

AUTO, LOCAL = "auto", "local"
"""Words for the cluster that this machine belongs to, and for one that is started here and ends with the command."""
LOOPBACK = "127.0.0.1"
SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Variable that tells Ray, on every system, whether a cluster may span machines."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # else Ray's workers give way to everything else on the machine
}
"""Environment variables that Ray reads when it is imported; what the user has set stays."""
STORE_BYTES = 256 * 2**20
"""Shared memory of a local cluster: checkpoints travel in pieces, so little is needed."""
REACHABLE_SECONDS = 10.0
SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""An empty one, with which an HTTP/2 connection begins: three bytes of length, the type, flags, the stream."""
LONGEST_TEMPORARY = 30
"""Characters of the folder that holds a local cluster's sockets, whose paths a system limits to about 100."""
FOLDER = "lsf_jax-ray-"


class Address(NamedTuple):
    """Which cluster is meant."""

    kind: str  # AUTO, LOCAL or "at"
    at: str = ""  # host:port of its head
    slots: int = 0  # CPUs that a local cluster offers; 0: as many as there are


class Node(NamedTuple):
    """A living machine of a cluster."""

    id: str  # hexadecimal
    ip: str
    resources: dict[str, float]  # in total, whoever holds them


def read_address(text: str) -> Address:
    """What `--cluster` and `env.hosts` name.

    Args:
      text: auto, local, local:N, or HOST:PORT of a cluster's head.

    Raises:
      ConfigError: it is none of these.
    """
    if text in (AUTO, LOCAL):
        return Address(text)
    if found := re.fullmatch(r"local:([1-9]\d{0,3})", text):
        return Address(LOCAL, slots=int(found[1]))
    if text.startswith("ray://"):
        raise ConfigError(
            f"cluster is {clip(text)}; Ray's client protocol cannot stream results; run the command on a node of the "
            "cluster (`ray job submit`, or a shell there) with --cluster auto"
        )
    if re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", text) and not text.startswith("local:"):
        return Address("at", at=text)
    raise ConfigError(f"cluster is {clip(text)}; expected auto, local, local:N or HOST:PORT, the address of its head")


def import_ray() -> Any:
    """The module `ray`, its usage statistics off.

    Raises:
      ConfigError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("a cluster needs Ray, which is not installed: pip install 'lsf-jax[cluster]'")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("ray")


@contextlib.contextmanager
def connected(where: str) -> Iterator[Any]:
    """The module `ray`, connected for as long as the `with` block lasts.

    A process that is connected already keeps its connection with `auto`, and keeps it afterwards.

    Args:
      where: as for `read_address`.

    Raises:
      ConfigError: Ray is not installed, there is no such cluster, or its versions are others.
    """
    address = read_address(where)
    ray = import_ray()
    if ray.is_initialized():
        if address.kind != AUTO:
            raise ConfigError(f"cluster is {clip(where)}; this process is connected to a Ray cluster already: use auto")
        yield ray
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_its_messages())
        _start(ray, address, where, stack)
        stack.callback(ray.shutdown)
        yield ray


def nodes_of(ray: Any) -> list[Node]:
    """The living nodes of the connected cluster, the driver's own first."""
    own = ray.get_runtime_context().get_node_id()
    found = [
        Node(id=each["NodeID"], ip=each["NodeManagerAddress"], resources=dict(each["Resources"]))
        for each in ray.nodes()
        if each["Alive"]
    ]
    return sorted(found, key=lambda node: (node.id != own, node.ip, node.id))


def slots_on(node: Node, needs: Mapping[str, float]) -> int:
    """How many things that need these resources a node can hold at a time, if nobody else uses it."""
    return min((int(node.resources.get(name, 0.0) / amount + 1e-9) for name, amount in needs.items() if amount))


def resources_text(resources: Mapping[str, float]) -> str:
    """Resources for people: "CPU 8, GPU 1"; what Ray counts for itself is left out."""
    shown = {
        name: value for name, value in sorted(resources.items()) if not re.search(r"node:|memory|accelerator", name)
    }
    return ", ".join(f"{name} {value:g}" for name, value in shown.items()) or "nothing"


def _start(ray: Any, address: Address, where: str, stack: contextlib.ExitStack) -> None:
    shared = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lsf_jax"}
    try:
        if address.kind == LOCAL:
            stack.enter_context(_with_token())
            stack.enter_context(_on_loopback())
            folder = stack.enter_context(_temporary_folder())
            ray.init(
                address=LOCAL,
                num_cpus=address.slots or None,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(folder),
                **shared,
            )
            if nodes_of(ray)[0].ip != LOOPBACK:
                raise RuntimeError("Ray would listen to other machines too")
        else:
            _check_reachable(address)
            ray.init(address=address.at or AUTO, **shared)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        ray.shutdown()
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"cluster {clip(where)} cannot be used: {reason}") from error


def _check_reachable(address: Address) -> None:
    """Nothing, if something listens there: Ray itself would try for minutes."""
    if address.at:
        host, _, port = address.at.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE_SECONDS) as connection:
            _check_speech(connection)


def _check_speech(connection: socket.socket) -> None:
    """Nothing, if the other end answers HTTP/2 as gRPC does: with another one Ray may wait for ever."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true"):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME)
        if connection.recv(len(SETTINGS_FRAME))[3:4] != SETTINGS_FRAME[3:4]:
            raise ConnectionError("what listens there is not the head of a Ray cluster")


@cache
def _token() -> str:
    """A secret of this process; one, for Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _with_token() -> Iterator[None]:
    """Ray asks for a token on its local clusters: one that only this command knows, and that no file keeps.

    What the user has set stays: a token, a file with one, or RAY_AUTH_MODE=disabled.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    before = {name: os.environ[name] for name in names if name in os.environ}
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", _token())
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def _without_its_messages() -> Iterator[None]:
    """Ray prints what it notices of lost nodes, with pages of their state: whoever asked for them is told in a line.

    It has no setting for that.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    before = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray puts the machine's own address in the place of 127.0.0.1, and listens everywhere, unless told that there is
    no other machine. It reads the variable when it is imported, which may have been before: its constant counts here.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before, imported = os.environ.get(SEVERAL_MACHINES), getattr(constants, "ENABLE_RAY_CLUSTER", None)
    os.environ[SEVERAL_MACHINES] = "0"
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = imported
        del os.environ[SEVERAL_MACHINES]
        if before is not None:
            os.environ[SEVERAL_MACHINES] = before


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for logs and sockets, removed at the end; those of killed commands are removed first."""
    root = Path(tempfile.gettempdir())
    root = root if len(str(root)) <= LONGEST_TEMPORARY else Path("/tmp")
    for left in root.glob(f"{FOLDER}*"):
        number = left.name.removeprefix(FOLDER)
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{FOLDER}{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
