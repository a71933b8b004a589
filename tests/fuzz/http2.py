"""A connection that speaks HTTP/2 as badly as one likes: frames by hand. Network I/O."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from hpack import Decoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
# Settings.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)
Fields = Sequence[tuple[bytes, bytes]]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class Ended(NamedTuple):
    """How a stream ended: with the last headers, or without an answer."""

    fields: dict[str, str]  # Of all headers of the stream; of none where it was reset, or the connection closed.
    how: str  # "answered", "reset", "goaway", "closed", "open": nothing came in time.

    @property
    def status(self) -> int | None:
        """The gRPC status code."""
        return int(self.fields["grpc-status"]) if "grpc-status" in self.fields else None


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *each) for each in values.items()))


def literal(fields: Fields) -> bytes:
    """A header block without indexes and Huffman coding, in which names and values are any bytes."""
    return b"".join(b"\x10" + _string(name) + _string(value) for name, value in fields)


def _string(value: bytes) -> bytes:
    """Its length in a prefix of seven bits, and the value (RFC 7541, 5.1 and 5.2)."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, head = len(value) - 127, bytearray([127])
    while rest >= 128:
        head.append(rest % 128 + 128)
        rest //= 128
    return bytes([*head, rest]) + value


def request_fields(path: str, *more: tuple[bytes, bytes]) -> Fields:
    """The headers of a gRPC call, and more."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]


def message(data: bytes) -> bytes:
    """A gRPC message, uncompressed."""
    return b"\0" + struct.pack(">I", len(data)) + data


def _connected(host: str, port: int) -> socket.socket:
    """A connection, for which a server that is being replaced may take a moment."""
    give_up_s = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((host, port), timeout=20)
        except ConnectionRefusedError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)


class Connection:
    """A connection to `host:port`; of what the server sends, only what is read is taken."""

    def __init__(self, address: str, first: bytes = PREFACE + settings({})) -> None:
        host, _, port = address.rpartition(":")
        self._socket = _connected(host, int(port))
        self._decoder = Decoder()
        self._received = b""
        self.send(first)

    def send(self, data: bytes) -> bool:
        """False: the server has closed the connection, or takes no more."""
        with suppress(OSError):
            self._socket.sendall(data)
            return True
        return False

    def frames(self, timeout_s: float) -> Iterator[Frame]:
        """Those that come until then, or until the connection ends."""
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            while len(self._received) >= 9:
                size = int.from_bytes(self._received[:3], "big")
                if len(self._received) < 9 + size:
                    break
                kind, flags, stream = struct.unpack_from(">BBI", self._received, 3)
                payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
                yield Frame(kind, flags, stream & 0x7FFFFFFF, payload)
            self._socket.settimeout(left_s)
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            self._received += data

    def ended(self, stream: int, timeout_s: float = 20.0) -> Ended:
        """How a stream ended."""
        fields: dict[str, str] = {}
        started_s = time.monotonic()
        for each in self.frames(timeout_s):
            if each.kind == HEADERS:  # Of any stream: the decoder has a state.
                with suppress(HPACKError, UnicodeDecodeError):
                    decoded = {str(name): str(value) for name, value in self._decoder.decode(each.payload)}
                    fields |= decoded if each.stream == stream else {}
            if each.kind == SETTINGS and not each.flags & ACK:
                self.send(frame(SETTINGS, ACK))
            if each.stream == stream and each.kind in (HEADERS, DATA) and each.flags & END_STREAM:
                return Ended(fields, "answered")
            if each.stream == stream and each.kind == RST_STREAM:
                return Ended(fields, "reset")
            if each.kind == GOAWAY:
                return Ended(fields, "goaway")
        return Ended(fields, "open" if time.monotonic() - started_s >= timeout_s * 0.95 else "closed")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
