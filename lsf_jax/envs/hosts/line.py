"""The connection between the trainer and the games of a node: frames of numbers, nothing that could be run.

A frame is its kind, the length of what follows, and that. A node listens on its own address until the first connection
that begins with the secret it was told; Ray carries the secret, and nobody else can connect.
"""

import hmac
import secrets
import select
import socket
import struct
import time

EVENTS, COUNTERS, PROBLEM, REPLAY, NO_REPLAY, ORDERS, END = range(7)
"""Kinds of frames. From a node: rows of events (none: it is there), counters, why its games cannot go on, the name of a
replay and its contents, why there is none. To a node: rows of orders, a slot of which a replay is wanted, and the end.
"""
HEADER = struct.Struct("!BI")
SECRET = 32  # bytes
CHUNK = 2**18  # bytes that are read at a time
CONNECT = 10.0  # seconds that a connection may take


class HangUpError(OSError):
    """The other end is gone."""


class Line:
    """One end of a connection.

    Args:
      connection: a connected socket, which it owns from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(None)
        self._socket, self._rest = connection, bytearray()

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to receive."""
        return self._socket.fileno()

    def send(self, kind: int, content: bytes = b"") -> None:
        """Send a frame.

        Raises:
          OSError: the other end is gone.
        """
        self._socket.sendall(HEADER.pack(kind, len(content)) + content)

    def receive(self) -> list[tuple[int, bytes]]:
        """All whole frames that have arrived; does not wait.

        Raises:
          OSError: the other end is gone.
        """
        try:
            data = self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            raise HangUpError("the connection was closed")
        self._rest += data
        return list(iter(self._next_frame, None))

    def wait(self, seconds: float) -> None:
        """Until there is something to receive, or time is up."""
        select.select([self._socket], [], [], seconds)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _next_frame(self) -> tuple[int, bytes] | None:
        if len(self._rest) < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(self._rest)
        end = HEADER.size + length
        if len(self._rest) < end:
            return None
        content = bytes(self._rest[HEADER.size : end])
        del self._rest[:end]
        return kind, content


def new_secret() -> bytes:
    """What a connection must begin with."""
    return secrets.token_bytes(SECRET)


def call_up(host: str, port: int, secret: bytes) -> Line:
    """A connection to a node that listens.

    Raises:
      OSError: there is no way to it.
    """
    connection = socket.create_connection((host, port), CONNECT)
    connection.sendall(secret)
    return Line(connection)


def listen(host: str) -> socket.socket:
    """A socket on one address of this machine, at a port that is free.

    Raises:
      OSError: this machine has no such address.
    """
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def await_call(listener: socket.socket, secret: bytes, seconds: float) -> Line | None:
    """The first connection that begins with the secret, None if none has come in time; others are closed."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return None
        connection.settimeout(min(left, 5.0))
        if hmac.compare_digest(_first_bytes(connection), secret):
            return Line(connection)
        connection.close()
    return None


def _first_bytes(connection: socket.socket) -> bytes:
    data = b""
    try:
        while len(data) < SECRET and (more := connection.recv(SECRET - len(data))):
            data += more
    except OSError:
        return b""
    return data
