"""Connections that send prepared requests, for a client that costs little and the same for every server. Network I/O.

A request is bytes made beforehand, an answer the bytes that came back; all that is parsed is where an answer ends. A
gRPC call costs this client two thirds of what it costs grpcio's, which is too slow for the fastest servers here.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

AnswerLength = Callable[[bytearray], int]  # Bytes of the answer at the start of the buffer; 0 while it is incomplete.


class WireError(Exception):
    """An answer that is an error, or not of the protocol."""


class Connection(Protocol):
    """An open connection to a server."""

    async def call(self, request: bytes) -> bytes:
        """Send a request and wait for its answer. Raises WireError."""

    def close(self) -> None: ...


class Wire(Protocol):
    """How to talk to one server: opens the connections of `inflight` callers."""

    async def connect(self, host: str, port: int, inflight: int) -> Connection: ...


@contextlib.asynccontextmanager
async def connected(wire: Wire, address: str, inflight: int) -> AsyncIterator[Connection]:
    """A connection to `host:port`, closed at the end of the block."""
    host, _, port = address.rpartition(":")
    connection = await wire.connect(host, int(port), inflight)
    try:
        yield connection
    finally:
        connection.close()
        await asyncio.sleep(0)  # The event loop closes sockets in its next round.


class OneAtATime:
    """A wire on which a connection answers one request after the other: a pool with a connection per caller.

    greetings: requests that every new connection makes first.
    """

    def __init__(self, answer_length: AnswerLength, greetings: Sequence[bytes] = ()) -> None:
        self._answer_length = answer_length
        self._greetings = greetings

    async def connect(self, host: str, port: int, inflight: int) -> Connection:
        loop = asyncio.get_running_loop()
        pool = _Pool()
        for _ in range(inflight):
            _, connection = await loop.create_connection(lambda: _OneAtATimeConnection(self._answer_length), host, port)
            pool.add(connection)
            for greeting in self._greetings:
                await connection.call(greeting)
        return pool


class _OneAtATimeConnection(asyncio.Protocol):
    def __init__(self, answer_length: AnswerLength) -> None:
        self._answer_length = answer_length
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # create_connection makes no other
        self._transport = transport

    async def call(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            length = self._answer_length(self._buffer)
        except WireError as error:
            self._buffer.clear()
            self._end(error)
            return
        if length:
            answer = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._end(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(WireError(f"connection lost: {exc or 'closed by the server'}"))

    def _end(self, outcome: bytes | WireError) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():  # Nobody waits.
            return
        if isinstance(outcome, WireError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def close(self) -> None:
        self._transport.close()


class _Pool:
    """Idle connections, the last used first. A caller waits while all are in use."""

    def __init__(self) -> None:
        self._all: list[_OneAtATimeConnection] = []
        self._idle: asyncio.LifoQueue[_OneAtATimeConnection] = asyncio.LifoQueue()

    def add(self, connection: _OneAtATimeConnection) -> None:
        self._all.append(connection)
        self._idle.put_nowait(connection)

    async def call(self, request: bytes) -> bytes:
        connection = await self._idle.get()
        try:
            return await connection.call(request)
        finally:
            self._idle.put_nowait(connection)

    def close(self) -> None:
        for connection in self._all:
            connection.close()


def http_answer_length(buffer: bytearray) -> int:
    """HTTP/1.1 with Content-Length (RFC 9112)."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return 0
    lines = bytes(buffer[:head]).lower().split(b"\r\n")
    lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    if not lengths:
        raise WireError(f"no Content-Length: {bytes(buffer[:head])!r}")
    end = head + 4 + lengths[0]
    if len(buffer) < end:
        return 0
    if not lines[0].startswith(b"http/1.1 200"):
        raise WireError(bytes(buffer[:end]).decode(errors="replace"))
    return end


def redis_answer_length(buffer: bytearray) -> int:
    """A RESP2 value."""
    position, values = 0, 1
    while values:
        line_end = buffer.find(b"\r\n", position)
        if line_end < 0:
            return 0
        kind, text = buffer[position : position + 1], bytes(buffer[position + 1 : line_end])
        position, values = line_end + 2, values - 1
        match bytes(kind):
            case b"-":
                raise WireError(text.decode(errors="replace"))
            case b"*":
                values += max(0, int(text))
            case b"$" if int(text) >= 0:
                position += int(text) + 2
    return position if position <= len(buffer) else 0


def postgres_answer_length(buffer: bytearray) -> int:
    """Messages of PostgreSQL's protocol 3.0 up to ReadyForQuery."""
    position = 0
    while len(buffer) >= position + 5:
        kind, length = struct.unpack_from(">cI", buffer, position)
        position += 1 + length
        if kind == b"E" and len(buffer) >= position:
            raise WireError(bytes(buffer[position - length : position]).decode(errors="replace"))
        if kind == b"Z":
            return position if len(buffer) >= position else 0
    return 0


class Grpc:
    """Unary gRPC calls of one method on one HTTP/2 connection (RFC 9113), all calls in flight as its streams.

    Response headers are not decoded, since only a call that fails has no message.
    """

    def __init__(self, method: str) -> None:
        self._method = method

    async def connect(self, host: str, port: int, inflight: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Http2Connection(f"{host}:{port}", self._method), host, port
        )
        return connection


_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_INITIAL_WINDOW_SIZE, _MAX_WINDOW = 4, (1 << 31) - 1
_DEFAULT_WINDOW, _MAX_FRAME = 65_535, 16_384
_CREDIT_BYTES = 64 << 20  # Received before the server's window is topped up.


class _Http2Connection(asyncio.Protocol):
    def __init__(self, authority: str, method: str) -> None:
        self._headers = request_headers(authority, method)
        self._buffer = bytearray()
        self._stream = -1
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._received: dict[int, bytearray] = {}
        self._unsent: deque[tuple[int, memoryview]] = deque()
        self._window, self._initial_window = _DEFAULT_WINDOW, _DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self._uncredited = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # create_connection makes no other
        self._transport = transport
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _MAX_WINDOW)
        credit = struct.pack(">I", _MAX_WINDOW - _DEFAULT_WINDOW)
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, credit)
        )

    async def call(self, request: bytes) -> bytes:
        self._stream += 2
        stream = self._stream
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[stream] = answer
        self._received[stream] = bytearray()
        self._windows[stream] = self._initial_window
        message = b"\0" + struct.pack(">I", len(request)) + request
        head = _frame(_HEADERS, _END_HEADERS, stream, self._headers)
        if not self._unsent and len(message) <= min(_MAX_FRAME, self._window, self._initial_window):
            self._window -= len(message)
            self._transport.write(head + _frame(_DATA, _END_STREAM, stream, message))
        else:
            self._transport.write(head)
            self._unsent.append((stream, memoryview(message)))
            self._send_unsent()
        return await answer

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) >= position + 9:
            length = int.from_bytes(buffer[position : position + 3], "big")
            end = position + 9 + length
            if len(buffer) < end:
                break
            stream = int.from_bytes(buffer[position + 5 : position + 9], "big")
            self._on_frame(buffer[position + 3], buffer[position + 4], stream, bytes(buffer[position + 9 : end]))
            position = end
        del buffer[:position]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._credit(len(payload))
            if stream in self._received:
                self._received[stream] += payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload
        elif kind == _RST_STREAM:
            self._received.pop(stream, None)
            self._end(stream, f"stream reset with code {int.from_bytes(payload, 'big')}")
        elif kind == _SETTINGS and not flags & _ACK:
            self._apply_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._fail_all(f"the server sent GOAWAY: {payload[8:].decode(errors='replace')}")
        elif kind == _WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self._end(stream, "the call failed: no message")

    def _end(self, stream: int, error: str) -> None:
        answer, message = self._answers.pop(stream, None), self._received.pop(stream, bytearray())
        self._windows.pop(stream, None)
        if answer is None or answer.done():
            return
        if len(message) >= 5:
            answer.set_result(bytes(message[5:]))
        else:
            answer.set_exception(WireError(error))

    def _apply_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial_window
                self._initial_window = value
        self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_unsent()

    def _widen(self, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        elif stream in self._windows:
            self._windows[stream] += by
        self._send_unsent()

    def _credit(self, count: int) -> None:
        self._uncredited += count
        if self._uncredited >= _CREDIT_BYTES:
            self._transport.write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._uncredited)))
            self._uncredited = 0

    def _send_unsent(self) -> None:
        for _ in range(len(self._unsent)):
            stream, message = self._unsent.popleft()
            while message and (size := min(len(message), _MAX_FRAME, self._window, self._windows.get(stream, 0))) > 0:
                flags = _END_STREAM if size == len(message) else 0
                self._transport.write(_frame(_DATA, flags, stream, bytes(message[:size])))
                self._window -= size
                self._windows[stream] -= size
                message = message[size:]
            if message and stream in self._windows:
                self._unsent.append((stream, message))

    def _fail_all(self, why: str) -> None:
        for stream in list(self._answers):
            self._end(stream, why)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_all(f"connection lost: {exc or 'closed by the server'}")

    def close(self) -> None:
        self._transport.close()


def request_headers(authority: str, method: str) -> bytes:
    """The HPACK block of a gRPC call, from the static table and literals alone: the same for every call."""
    literals = (
        (b":path", method.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    post, http = b"\x83", b"\x86"
    return post + http + b"".join(b"\0" + _string(name) + _string(value) for name, value in literals)


def _string(text: bytes) -> bytes:
    if len(text) >= 127:
        raise ValueError(f"{text!r}: longer than one byte can say")
    return bytes([len(text)]) + text


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload) << 8 | kind) + struct.pack(">BI", flags, stream) + payload
