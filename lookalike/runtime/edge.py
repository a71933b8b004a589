"""gRPC servers and handlers: bytes to messages, timeouts to deadlines, errors to status codes. gRPC; no other I/O."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from lookalike.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    Unavailable,
)
from lookalike.limits import MAX_MESSAGE_BYTES
from lookalike.runtime.deadline import Deadline
from lookalike.status import INTERNAL_MESSAGE, STATUS, code_of, rich_status, to_error

log = logging.getLogger(__name__)

Unary = Callable[[Any, Deadline], Awaitable[Message | bytes]]
Streaming = Callable[[Any, Deadline], AsyncIterator[Message | bytes]]
Bidirectional = Callable[[AsyncIterator[Any], Deadline], AsyncGenerator[Message | bytes, None]]
Methods = Mapping[str, Unary | Streaming | Bidirectional]


def peer_error(error: grpc.RpcError, peer: str, deadline: Deadline | None = None) -> LookalikeError:
    """The error to raise after a failed call to another process of the system, from the call's status code.

    A peer that was late means DeadlineExceeded only if the caller's own deadline has passed; else Unavailable.
    """
    refusal = to_error(error)
    retry_after_s = refusal.retry_after_s if isinstance(refusal, Overloaded) else 0.0
    return error_of_peer(error.code(), error.details() or "", peer, deadline, retry_after_s=retry_after_s)


def error_of_peer(
    code: grpc.StatusCode, details: str, peer: str, deadline: Deadline | None = None, *, retry_after_s: float
) -> LookalikeError:
    """As `peer_error`, from the status code, the message, and, if the peer is overloaded, its retry delay."""
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            if deadline is not None and deadline.at_s <= time.monotonic():
                return DeadlineExceeded(f"{peer} did not answer before the deadline")
            return Unavailable(f"{peer} did not answer in time")
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(f"{peer}: {details}")
        case grpc.StatusCode.FAILED_PRECONDITION:
            return FailedPrecondition(f"{peer}: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(f"{peer}: {details}", retry_after_s=retry_after_s)
    return Unavailable(f"{peer}: {code.name}: {details}")


def handler(service: ServiceDescriptor, methods: Methods, *, name: str = "") -> grpc.GenericRpcHandler:
    """The gRPC handler of one service. Each method is a coroutine or async generator of request and deadline.

    name: the full name that the service is served under, if it is not the descriptor's.

    A method may return a message, or its bytes if it is already serialized.
    """
    if set(methods) != set(service.methods_by_name):
        raise ValueError(
            f"{service.full_name} has the methods {sorted(service.methods_by_name)}, got {sorted(methods)}"
        )
    handlers = {name: _method(service.methods_by_name[name], method) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(name or service.full_name, handlers)


def _method(descriptor: MethodDescriptor, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
    request_type = GetMessageClass(descriptor.input_type)
    if descriptor.client_streaming:  # And the server, too: there is no client stream with one reply.
        return grpc.stream_stream_rpc_method_handler(_bidirectional_handler(method, request_type), None, _serialize)
    if descriptor.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_streaming_handler(method, request_type), None, _serialize)
    return grpc.unary_unary_rpc_method_handler(_unary_handler(method, request_type), None, _serialize)


def _parse(request_type: type[Message], data: bytes) -> Message:
    """Parse a request. gRPC itself would report malformed bytes as INTERNAL, the server's fault."""
    try:
        return request_type.FromString(data)
    except DecodeError:
        reason = f"not a valid {request_type.DESCRIPTOR.full_name} message, or nested more than 100 levels deep"
        raise InvalidRequest("request", reason) from None


def _serialize(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _unary_handler(method: Unary, request_type: type[Message]) -> Callable[..., Awaitable[Message | bytes]]:
    async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message | bytes:
        try:
            return await method(_parse(request_type, request), Deadline.after(context.time_remaining()))
        except Exception as error:
            await _abort(context, error)

    return call


def _streaming_handler(method: Streaming, request_type: type[Message]) -> Callable[..., AsyncIterator[Message | bytes]]:
    async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message | bytes]:
        try:
            async for reply in method(_parse(request_type, request), Deadline.after(context.time_remaining())):
                yield reply
        except Exception as error:
            await _abort(context, error)

    return call


def _bidirectional_handler(
    method: Bidirectional, request_type: type[Message]
) -> Callable[..., AsyncIterator[Message | bytes]]:
    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for request in requests:
            yield _parse(request_type, request)

    async def call(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Message | bytes]:
        try:
            async with aclosing(method(parsed(requests), Deadline.after(context.time_remaining()))) as replies:
                async for reply in replies:
                    yield reply
        except Exception as error:
            await _abort(context, error)

    return call


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    if isinstance(error, LookalikeError) and type(error) in STATUS:
        status = rich_status(error)
        trailer = (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()
        await context.abort(code_of(error), str(error), trailer)
    if isinstance(error, grpc.aio.AbortError):
        raise error
    log.error("unexpected error", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)


_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two processes on one port by mistake must be an error: calls would go to either at random.
    ("grpc.so_reuseport", 0),
)


def server(handlers: Sequence[grpc.GenericRpcHandler]) -> grpc.aio.Server:
    """A gRPC server with these handlers; it has no port yet."""
    return grpc.aio.server(handlers=handlers, options=_SERVER_OPTIONS)
