"""The sockets of a gRPC server that has a TCP port: stop listening, and ask clients to move on. I/O: sockets.

Neither grpcio nor pygrpc-native can send a GOAWAY and go on answering: grpcio cancels calls that arrive after it, and
pygrpc-native drops its connections. A drain that fails no call needs both, so the frame is sent here, on the server's
sockets as the kernel lists them in /proc. To the server nothing has changed: it answers what still arrives. Without
/proc (not Linux) no GOAWAY is sent, and clients that do not watch the server's health stay until the end of the drain.
Nor is it on a connection with TLS, whose stream a frame in between would break: grpcio ends those by their age.
"""

from __future__ import annotations

import array
import fcntl
import os
import resource
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.limits import MAX_CONNECTIONS

_DESCRIPTORS = Path("/proc/self/fd")
# RFC 9113, 6.8: a graceful shutdown begins with a GOAWAY of NO_ERROR whose last stream is 2^31-1: the client opens no
# more streams on this connection, and those that are on their way are answered.
_TYPE, _NO_FLAGS, _CONNECTION, _LAST_STREAM, _NO_ERROR = 0x7, 0, 0, 2**31 - 1, 0
GOAWAY = struct.pack(">I", 8)[1:] + struct.pack(">BBIII", _TYPE, _NO_FLAGS, _CONNECTION, _LAST_STREAM, _NO_ERROR)
# A frame that the server has written only half of fills the buffer to the brim. Bytes are counted without the kernel's
# own for each packet, which for small ones are 20 times as many.
_EMPTY_SHARE = 1 / 32


@dataclass(slots=True)
class ServerSockets:
    """The sockets of this process's server on one TCP port. For use by one thread."""

    port: int
    encrypted: bool = False
    _empty: set[int] = field(default_factory=set)  # Inodes of connections with an empty buffer at the last look,
    _away: set[int] = field(default_factory=set)  # and of those that have the GOAWAY.

    def stop_listening(self) -> None:
        """New connections are refused from now on. The server keeps its descriptor, which listens to nothing."""
        for descriptor, _, each in self._sockets():
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                with socket.socket(each.family) as deaf:
                    os.dup2(deaf.fileno(), descriptor, inheritable=False)

    def send_goaways(self) -> int:
        """Ask the clients that have not been asked to open no more calls here; the number of connections that are left.

        To be called repeatedly, tens of milliseconds apart: a frame must not come between the halves of another, so a
        connection is sent one when its buffer was nearly empty at two looks.
        """
        connections = 0
        empty = set()
        for _, inode, each in self._sockets():
            if not _is_connected(each):
                continue
            connections += 1
            if not self.encrypted and inode not in self._away and _is_nearly_empty(each):
                empty.add(inode)
                if inode in self._empty:
                    self._send_goaway(inode, each)
        self._empty = empty
        return connections

    def close_beyond(self, connections: int) -> int:
        """Close the newest connections where there are more than so many; their number. Needs one free descriptor."""
        inodes = sorted(inode for _, inode, each in self._sockets() if _is_connected(each))[connections:]
        if inodes:
            for _, inode, each in self._sockets():
                if inode >= inodes[0] and _is_connected(each):
                    with suppress(OSError):  # It is closed by now.
                        each.shutdown(socket.SHUT_RDWR)
        return len(inodes)

    def _send_goaway(self, inode: int, connection: socket.socket) -> None:
        with suppress(OSError):  # It is closed by now.
            if connection.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(GOAWAY):
                self._away.add(inode)

    def _sockets(self) -> Iterator[tuple[int, int, socket.socket]]:
        """Descriptor, inode and a duplicate of each socket of the port."""
        for name in os.listdir(_DESCRIPTORS) if _DESCRIPTORS.is_dir() else ():
            with suppress(OSError), _duplicate(int(name)) as each:
                if each.family in (socket.AF_INET, socket.AF_INET6) and each.getsockname()[1] == self.port:
                    yield int(name), os.fstat(each.fileno()).st_ino, each


def max_connections() -> int:
    """Of a server of this process: beyond it new ones are closed, and files can still be opened."""
    return min(MAX_CONNECTIONS, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


@contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket]:
    """Raises OSError where it is no socket, or closed."""
    duplicate = os.dup(descriptor)
    try:
        each = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
    with each:
        yield each


def _is_connected(each: socket.socket) -> bool:
    try:
        each.getpeername()
    except OSError:
        return False
    return True


def _is_nearly_empty(connection: socket.socket) -> bool:
    queued = array.array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, queued)
    return queued[0] <= connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) * _EMPTY_SHARE
