"""A gRPC server that answers each call with the same bytes: the minimum cost of a call.

python -m benchmarks.echo PORT REPLY_BYTES
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio

from lookalike.runtime import edge

METHOD = "/benchmark.Echo/Say"


def handler(reply: bytes) -> grpc.GenericRpcHandler:
    async def say(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return reply

    return grpc.method_handlers_generic_handler("benchmark.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})


async def main(port: int, reply_bytes: int) -> None:
    server = edge.server([handler(bytes(reply_bytes))])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
