"""The edge between gRPC and everything else: channels, servers, and the one table from errors to status codes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from lookalike.deadline import Deadline
from lookalike.errors import (
    DeadlineGone,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    ServiceError,
    Unavailable,
    WrongState,
)

log = logging.getLogger(__name__)

STATUS: Mapping[type[LookalikeError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineGone: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}

Unary = Callable[[Any, Deadline], Awaitable[Message | bytes]]
Streaming = Callable[[Any, Deadline], AsyncIterator[Message | bytes]]
Methods = Mapping[str, Unary | Streaming]


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an exception, whoever raised it."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    return STATUS.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]  # .get takes any type


def error_of(error: grpc.RpcError, what: str, deadline: Deadline | None = None) -> LookalikeError:
    """What a failed call to one of our own processes means to the caller: the way back through the table.

    A callee that was late is DeadlineGone only where the caller's own time is over; else the callee is Unavailable.
    """
    code, details = error.code(), error.details()
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            if deadline is not None and deadline.at_s <= time.monotonic():
                return DeadlineGone(f"{what} did not answer before the deadline")
            return Unavailable(f"{what} did not answer in time")
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(f"{what}: {details}")
        case grpc.StatusCode.FAILED_PRECONDITION:
            return WrongState(f"{what}: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(f"{what}: {details}")
    return Unavailable(f"{what}: {code.name}: {details}")


def error_told(error: grpc.RpcError) -> LookalikeError:
    """What the peer raised, as its own caller should see it: `rich_status` undone, details and all."""
    code, message = error.code(), error.details() or ""
    details = _details_of(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = error_details_pb2.BadRequest()
        _unpack_first(details, bad)
        violation = next(iter(bad.field_violations), None)
        return InvalidRequest(violation.field, violation.description) if violation else InvalidRequest("", message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry = error_details_pb2.RetryInfo()
        told = _unpack_first(details, retry)
        return Overloaded(message, retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if told else 0.1)
    kind = next((kind for kind, its_code in STATUS.items() if its_code is code), None)
    return ServiceError(f"{code.name}: {message}") if kind is None else kind(message)


def _details_of(error: grpc.RpcError) -> Sequence[any_pb2.Any]:
    trailer: Any = error.trailing_metadata() or ()  # Pairs; typed as a single one.
    for key, value in trailer:
        if key == "grpc-status-details-bin":
            try:
                return tuple(status_pb2.Status.FromString(value).details)
            except DecodeError:  # Whoever is at the other end: its code and message still stand.
                return ()
    return ()


def _unpack_first(details: Sequence[any_pb2.Any], into: Message) -> bool:
    return any(detail.TypeName() == into.DESCRIPTOR.full_name and detail.Unpack(into) for detail in details)


def rich_status(error: LookalikeError) -> status_pb2.Status:
    """google.rpc.Status with the details a client can act on."""
    details: list[Message] = []
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_of(error).value[0], message=str(error), details=packed)


def handler(service: ServiceDescriptor, methods: Methods, *, name: str = "") -> grpc.GenericRpcHandler:
    """All methods of one service, each a coroutine (or async generator) of the request and its deadline.

    `name`: the full name it is served under, where that is not the descriptor's.

    A reply given as bytes goes out as it is: an answer that is serialized already is not serialized again.
    """
    if set(methods) != set(service.methods_by_name):
        raise ValueError(
            f"{service.full_name} has the methods {sorted(service.methods_by_name)}, not {sorted(methods)}"
        )
    handlers = {name: _method(service.methods_by_name[name], method) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(name or service.full_name, handlers)


def _method(descriptor: MethodDescriptor, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
    kind = GetMessageClass(descriptor.input_type)
    if descriptor.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_stream_edge(method, kind), None, _serialized)
    return grpc.unary_unary_rpc_method_handler(_unary_edge(method, kind), None, _serialized)


def _parsed(kind: type[Message], data: bytes) -> Message:
    """Parsed here and not by gRPC, which would call bytes that are no message the server's fault."""
    try:
        return kind.FromString(data)
    except DecodeError:
        reason = f"is no {kind.DESCRIPTOR.full_name}, or one of more than 100 messages in each other"
        raise InvalidRequest("request", reason) from None


def _serialized(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _unary_edge(method: Unary, kind: type[Message]) -> Callable[..., Awaitable[Message | bytes]]:
    async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message | bytes:
        try:
            return await method(_parsed(kind, request), Deadline.after(context.time_remaining()))
        except Exception as error:
            await _abort(context, error)

    return call


def _stream_edge(method: Streaming, kind: type[Message]) -> Callable[..., AsyncIterator[Message | bytes]]:
    async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message | bytes]:
        try:
            async for reply in method(_parsed(kind, request), Deadline.after(context.time_remaining())):
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
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")


# Images come to 8 MB each, batches of vectors to 4 KiB each.
MESSAGE_BYTES = 32 << 20

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A replica that comes back is used within a second, not after gRPC's default back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Where a name has several addresses, calls go to all of them in turn; the default would use one and leave the rest.
    ("grpc.lb_policy_name", "round_robin"),
)
_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # Two processes on one port by mistake is an error, not a lottery.
)


def channel(address: str) -> grpc.aio.Channel:
    """A channel to `host:port`; connects when first used and again after every break."""
    return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)  # noqa: TID251  # the factory itself


def channels(address: str, count: int) -> tuple[grpc.aio.Channel, ...]:
    """`count` of them, each with connections of its own; gRPC lets the channels of a process share them otherwise."""
    options = (*_CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    return tuple(grpc.aio.insecure_channel(address, options=options) for _ in range(count))  # noqa: TID251  # the factory itself


def blocking_channel(address: str) -> grpc.Channel:
    """The same for code without an event loop."""
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)  # noqa: TID251  # the factory itself


def server(handlers: Sequence[grpc.GenericRpcHandler]) -> grpc.aio.Server:
    """A server without a port yet."""
    return grpc.aio.server(handlers=handlers, options=_SERVER_OPTIONS)
