"""A gateway whose methods fail at first, each so many times, and then answer with nothing in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lookalike.errors import LookalikeError, Unavailable
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import catalog_pb2, search_pb2

SERVICES = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"], catalog_pb2.DESCRIPTOR.services_by_name["Catalog"]


@dataclass
class FailingGateway:
    failures: int = 2  # Of each method, before it answers.
    error: LookalikeError = field(default_factory=lambda: Unavailable("between two versions"))
    calls: Counter[str] = field(default_factory=Counter)  # By method.
    address: str = ""

    def handlers(self) -> list[edge.Service]:
        return [
            edge.handler(each, {name: self._method(method) for name, method in each.methods_by_name.items()})
            for each in SERVICES
        ]

    def _method(self, method: MethodDescriptor) -> Any:
        reply = GetMessageClass(method.output_type)()

        def answer() -> Message:
            self.calls[method.name] += 1
            if self.calls[method.name] <= self.failures:
                raise self.error
            return reply

        async def unary(_: Message, __: Deadline) -> Message:
            return answer()

        async def stream(_: Message, __: Deadline) -> AsyncIterator[Message]:
            yield answer()

        async def both(requests: AsyncIterator[Message], _: Deadline) -> AsyncGenerator[Message | bytes, None]:
            async for _request in requests:
                yield answer()

        return both if method.client_streaming else stream if method.server_streaming else unary


@asynccontextmanager
async def failing_gateway(implementation: str, **fields: Any) -> AsyncIterator[FailingGateway]:
    gateway = FailingGateway(**fields)
    server = edge.server(gateway.handlers(), implementation)
    gateway.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(None)
