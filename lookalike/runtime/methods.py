"""The methods of a service as a server calls them: bytes to messages, errors to status codes. Pure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from lookalike.errors import InternalError, InvalidRequest, LookalikeError
from lookalike.runtime.call import NO_CALL, current
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told
from lookalike.status import INTERNAL_MESSAGE, Trailer, code_of, is_stated, trailer_of

log = logging.getLogger(__name__)

Unary = Callable[[Any, Deadline], Awaitable[Message | bytes]]
Streaming = Callable[[Any, Deadline], AsyncIterator[Message | bytes]]
Bidirectional = Callable[[AsyncIterator[Any], Deadline], AsyncGenerator[Message | bytes, None]]
Submit = Callable[[Any, Deadline], "bytes | Future[bytes] | None"]

Parsed = TypeVar("Parsed", bound=Message)


@dataclass(frozen=True, slots=True)
class ThreadedUnary:
    """A Unary whose replies come from threads: a server may call `submit` without a detour over its event loop.

    submit: called on any thread; returns at once the serialized reply, or a future of it, or None: `otherwise` answers.
    """

    submit: Submit
    otherwise: Unary | None = None

    async def __call__(self, request: Any, deadline: Deadline) -> Message | bytes:
        if isinstance(reply := self.submit(request, deadline), Future):
            return await asyncio.wrap_future(reply)
        if reply is not None:
            return reply
        assert self.otherwise is not None, "a call that nothing answers"  # noqa: S101  # for the type checker
        return await self.otherwise(request, deadline)


Methods = Mapping[str, Unary | Streaming | Bidirectional]  # A ThreadedUnary is a Unary.


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service: the function that answers it, and how."""

    path: str  # "/package.Service/Method"
    function: Any  # Unary, Streaming or Bidirectional
    request_type: type[Message] | None  # None: the function takes the bytes.
    streams_requests: bool
    streams_replies: bool

    @classmethod
    def of(
        cls,
        service: str,
        descriptor: MethodDescriptor,
        function: Unary | Streaming | Bidirectional,
        *,
        takes_bytes: bool = False,
    ) -> Method:
        """The method of a descriptor, served under the full name `service`."""
        return cls(
            f"/{service}/{descriptor.name}",
            function,
            None if takes_bytes else GetMessageClass(descriptor.input_type),
            descriptor.client_streaming,
            descriptor.server_streaming,
        )

    def parse(self, data: bytes) -> Message | bytes:
        """The request as the function takes it. Raises InvalidRequest."""
        return data if self.request_type is None else parse_message(self.request_type, data)


def parse_message(message_type: type[Parsed], data: bytes) -> Parsed:
    """Parse a request. gRPC itself would report malformed bytes as INTERNAL, the server's fault: InvalidRequest."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise InvalidRequest("request", f"not a valid {name} message, or nested more than 100 levels deep") from None


def serialize(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, Trailer]:
    """The status code, message and trailing metadata that report an error of the current call. A bug is logged.

    The metadata tell the id of the call, for callers to quote; that of an answer would cost more than a cache hit may.
    """
    request_id = "" if (call := current()) is NO_CALL else call.request_id()
    if isinstance(error, LookalikeError) and is_stated(error):
        return code_of(error), told(error), trailer_of(error, request_id)
    log.error("unexpected error", exc_info=error)
    return grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE, trailer_of(InternalError(INTERNAL_MESSAGE), request_id)
