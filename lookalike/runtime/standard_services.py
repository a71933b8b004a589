"""gRPC's own services, health and reflection, behind the edge that all others have. gRPC; no other I/O.

The servicers of grpcio's packages answer bytes that are no message as UNKNOWN, and watch for any number of callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from lookalike.errors import NotFound, Overloaded
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline

pb: Any = health_pb2  # Its stubs are older than it.
HEALTH: str = health.SERVICE_NAME
SERVING: int = pb.HealthCheckResponse.SERVING
NOT_SERVING: int = pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = pb.HealthCheckResponse.SERVICE_UNKNOWN
_MAX_WATCHERS = 1024  # Beyond it RESOURCE_EXHAUSTED: a watcher costs a stream for as long as it likes.


class HealthService:
    """The health of each service of a process, by full name; "" is the process. For one event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()  # Set when a status changes, and then replaced.
        self._watchers = 0

    def set(self, name: str, status: int) -> None:
        self._statuses[name] = status
        self._changed.set()
        self._changed = asyncio.Event()

    def stop_serving(self) -> None:
        """Every service is NOT_SERVING from now on."""
        for name in self._statuses:
            self.set(name, NOT_SERVING)

    def handler(self) -> edge.Service:
        descriptor = pb.DESCRIPTOR.services_by_name["Health"]
        return edge.handler(descriptor, {"Check": self._check, "List": self._list, "Watch": self._watch})

    async def _check(self, request: health_pb2.HealthCheckRequest, _: Deadline) -> Message:
        if (status := self._statuses.get(request.service)) is None:
            raise NotFound(f"no service {request.service!r}")
        response: Message = pb.HealthCheckResponse(status=status)
        return response

    async def _list(self, _: Any, __: Deadline) -> Message:
        statuses = {name: pb.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        response: Message = pb.HealthListResponse(statuses=statuses)
        return response

    async def _watch(self, request: health_pb2.HealthCheckRequest, _: Deadline) -> AsyncIterator[Message]:
        """The status now, and each other one from then on; SERVICE_UNKNOWN where there is no such service."""
        if self._watchers >= _MAX_WATCHERS:
            raise Overloaded(f"{self._watchers} callers watch already", retry_after_s=1.0)
        self._watchers += 1
        last = None
        try:
            while True:
                changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
                if status != last:
                    yield pb.HealthCheckResponse(status=status)
                    last = status
                if changed is self._changed:  # None came while the caller read.
                    await changed.wait()
        finally:
            self._watchers -= 1


def reflection_handler(services: Sequence[str]) -> edge.Service:
    """The handler of the reflection of these services, by full name."""
    names = (*services, HEALTH, reflection.SERVICE_NAME)
    servicer: Any = reflection.aio.ReflectionServicer(names)

    async def info(requests: AsyncIterator[Any], _: Deadline) -> AsyncGenerator[Message | bytes, None]:
        async for reply in servicer.ServerReflectionInfo(requests, None):
            yield reply

    descriptor: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    return edge.handler(descriptor, {"ServerReflectionInfo": info})
