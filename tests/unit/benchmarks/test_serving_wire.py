"""The benchmark client's connections: where an answer ends, and gRPC against a real server."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from benchmarks.serving.wire import (
    Grpc,
    OneAtATime,
    WireError,
    connected,
    http_answer_length,
    postgres_answer_length,
    redis_answer_length,
)

HTTP = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
REDIS = b"*3\r\n$2\r\n17\r\n$-1\r\n:4\r\n"
POSTGRES = b"2\0\0\0\4" + b"D" + struct.pack(">IhI", 14, 1, 4) + b"1234" + b"Z\0\0\0\5I"
ANSWERS = [(http_answer_length, HTTP), (redis_answer_length, REDIS), (postgres_answer_length, POSTGRES)]


@pytest.mark.parametrize(("length", "answer"), ANSWERS)
def test_an_answer_ends_where_its_protocol_says_and_not_before(
    length: Callable[[bytearray], int], answer: bytes
) -> None:
    assert [length(bytearray(answer[:end])) for end in range(len(answer))] == [0] * len(answer)
    assert length(bytearray(answer + answer[:3])) == len(answer)


@pytest.mark.parametrize(
    ("length", "answer"),
    [
        (http_answer_length, b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"),
        (http_answer_length, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (redis_answer_length, b"-ERR no such key\r\n"),
        (postgres_answer_length, b"E" + struct.pack(">I", 12) + b"SFATAL\0\0"),
    ],
)
def test_an_answer_that_is_an_error_is_raised(length: Callable[[bytearray], int], answer: bytes) -> None:
    with pytest.raises(WireError):
        length(bytearray(answer))


class Echo(grpc.GenericRpcHandler):
    """Answers with the request, or refuses a request that is empty."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        async def say(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            if not request:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "empty")
            return request

        return grpc.unary_unary_rpc_method_handler(say) if details.method == "/test.Echo/Say" else None


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """The address of a gRPC server of grpcio."""
    server = grpc.aio.server(handlers=[Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_grpc_calls_in_flight_together_get_their_own_answers(echo: str) -> None:
    requests = [bytes([i]) * (i + 1) for i in range(64)]
    async with connected(Grpc("/test.Echo/Say"), echo, len(requests)) as connection:
        assert await asyncio.gather(*map(connection.call, requests)) == requests


async def test_grpc_messages_larger_than_a_frame_and_the_servers_window_arrive_whole(echo: str) -> None:
    requests = [bytes([i]) * 1_000_000 for i in range(4)]
    async with connected(Grpc("/test.Echo/Say"), echo, len(requests)) as connection:
        assert await asyncio.gather(*map(connection.call, requests)) == requests


@pytest.mark.parametrize(("method", "request_"), [("/test.Echo/Say", b""), ("/test.Echo/Missing", b"x")])
async def test_a_grpc_call_that_fails_is_an_error(echo: str, method: str, request_: bytes) -> None:
    async with connected(Grpc(method), echo, 1) as connection:
        with pytest.raises(WireError, match="failed"):
            await connection.call(request_)


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The address of a TCP server; at the end every connection has been closed by both sides."""
    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        await answer(reader, writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handlers)


async def test_a_connection_that_the_server_closes_fails_the_call_that_waits() -> None:
    async def read_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)

    async with serving(read_and_close) as address, connected(OneAtATime(http_answer_length), address, 1) as connection:
        with pytest.raises(WireError, match="connection lost"):
            await connection.call(b"x")


async def test_more_callers_than_connections_wait_for_one() -> None:
    busy = most = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, most
        while await reader.read(1):
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.001)
            writer.write(HTTP)
            busy -= 1

    async with serving(answer) as address, connected(OneAtATime(http_answer_length), address, 2) as connection:
        assert await asyncio.gather(*(connection.call(b"x") for _ in range(8))) == [HTTP] * 8
    assert most == 2
