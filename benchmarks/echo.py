"""A gRPC server that parses a search and answers each call with the same bytes: the minimum cost of a call.

python -m benchmarks.echo PORT REPLY_BYTES [auto|grpcio|native|threads]

Over each implementation of our servers, or over grpcio's own server with four threads (`threads`).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from lookalike.runtime import edge, lifecycle
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.methods import Method
from lookalike.v1.search_pb2 import SearchRequest

SERVICE = "benchmark.Echo"
METHOD, STREAM, BOTH = (f"/{SERVICE}/{name}" for name in ("Say", "Stream", "Both"))
STREAM_MESSAGES = 5000  # Of one call of STREAM.
THREADS = 4


def handler(reply: bytes) -> edge.Service:
    async def say(request: Message, deadline: Deadline) -> bytes:
        return reply

    async def stream(request: Message, deadline: Deadline) -> AsyncIterator[bytes]:
        for _ in range(STREAM_MESSAGES):
            yield reply

    async def both(requests: AsyncIterator[Message], deadline: Deadline) -> AsyncGenerator[bytes, None]:
        async for _ in requests:
            yield reply

    return edge.Service(
        SERVICE,
        [
            Method(METHOD, say, SearchRequest, streams_requests=False, streams_replies=False),
            Method(STREAM, stream, SearchRequest, streams_requests=False, streams_replies=True),
            Method(BOTH, both, SearchRequest, streams_requests=True, streams_replies=True),
        ],
    )


async def main(port: int, reply_bytes: int, implementation: str) -> None:
    server = edge.server([handler(bytes(reply_bytes))], implementation)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def with_threads(port: int, reply_bytes: int) -> None:
    reply = bytes(reply_bytes)

    def say(request: Message, context: grpc.ServicerContext) -> bytes:
        return reply

    def both(requests: Any, context: grpc.ServicerContext) -> Any:
        for _ in requests:
            yield reply

    def stream(request: Message, context: grpc.ServicerContext) -> Any:
        for _ in range(STREAM_MESSAGES):
            yield reply

    parse = SearchRequest.FromString
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Say": grpc.unary_unary_rpc_method_handler(say, parse),
        "Stream": grpc.unary_stream_rpc_method_handler(stream, parse),
        "Both": grpc.stream_stream_rpc_method_handler(both, parse),
    }
    server = grpc.server(
        ThreadPoolExecutor(THREADS), handlers=[grpc.method_handlers_generic_handler(SERVICE, handlers)]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    port, reply_bytes, implementation = int(sys.argv[1]), int(sys.argv[2]), (*sys.argv, "auto")[3]
    if implementation == "threads":
        with_threads(port, reply_bytes)
    else:
        lifecycle.run(main(port, reply_bytes, implementation))
