"""gRPC servers and handlers: bytes to messages, timeouts to deadlines, errors to status codes. gRPC; no other I/O."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc._cython import cygrpc

from lookalike.errors import (
    BadSettings,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    LookalikeError,
    NotFound,
    Overloaded,
    Unavailable,
)
from lookalike.limits import (
    KEEPALIVE_TIME_MS,
    KEEPALIVE_TIMEOUT_MS,
    MAX_CONCURRENT_STREAMS,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
)
from lookalike.runtime.call import Call, Guard, Metadata, answering
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.grpcio_server import grpcio_server
from lookalike.runtime.listening import max_connections
from lookalike.runtime.methods import (
    Bidirectional,
    Method,
    Methods,
    Streaming,
    ThreadedUnary,
    Unary,
    serialize,
    status_of,
)
from lookalike.status import INTERNAL_MESSAGE, retry_delay_s, to_error
from lookalike.tls_failures import explained

__all__ = [
    "Bidirectional",
    "Methods",
    "Streaming",
    "ThreadedUnary",
    "Unary",
    "error_of_peer",
    "handler",
    "peer_error",
    "server",
]


STALL_S = 60.0  # Time for which a reply of a stream may wait for its reader.
_TELLING: set[asyncio.Future[None]] = set()  # Statuses that wait for a reader. A loop keeps no task alive.


def peer_error(error: grpc.RpcError, peer: str, deadline: Deadline | None = None) -> LookalikeError:
    """The error to raise after a failed call to another process of the system, from the call's status code.

    A peer that was late means DeadlineExceeded only if the caller's own deadline has passed; else Unavailable.
    """
    retry_after_s = retry_delay_s(to_error(error))
    return error_of_peer(error.code(), explained(error.details() or ""), peer, deadline, retry_after_s=retry_after_s)


# Of calls that ended with their connection, and not by the peer's method: INTERNAL and UNKNOWN of the C core's making.
_CONNECTION_ENDS = ("Stream removed", "Received RST_STREAM")
# A request that the peer has no method for, or finds malformed, is a bug too: what callers ask is checked before.
_BUGS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
)


def error_of_peer(
    code: grpc.StatusCode,
    details: str,
    peer: str,
    deadline: Deadline | None = None,
    *,
    retry_after_s: float | None = None,
) -> LookalikeError:
    """As `peer_error`, from the status code, the message and the retry delay, if the peer has said one."""
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            if deadline is not None and deadline.at_s <= time.monotonic():
                return DeadlineExceeded(f"{peer} did not answer before the deadline")
            return Unavailable(f"{peer} did not answer in time")
        case grpc.StatusCode.NOT_FOUND | grpc.StatusCode.FAILED_PRECONDITION:
            return (NotFound if code is grpc.StatusCode.NOT_FOUND else FailedPrecondition)(f"{peer}: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(f"{peer}: {details}", retry_after_s=retry_after_s or 0.0)
    # Words of whoever made the status: of the C core, which names addresses, or of another system.
    message = f"{peer}: {code.name}: {details}"
    if code in _BUGS and not details.startswith(_CONNECTION_ENDS):
        return InternalError(message).hidden_as(f"{peer}: {INTERNAL_MESSAGE}")
    return Unavailable(message, retry_after_s=retry_after_s).hidden_as(f"{peer} is not available")


class Service(grpc.ServiceRpcHandler):
    """The gRPC handler of one service, which also tells its methods to a server that calls them without grpcio."""

    def __init__(
        self, name: str, methods: Sequence[Method], stall_s: float = STALL_S, guard: Guard | None = None
    ) -> None:
        self.methods = methods
        self._name = name
        self._stall_s = stall_s
        self._handlers = {method.path: _method_handler(method, stall_s, guard) for method in methods}

    def guarded(self, guard: Guard | None) -> Service:
        """This service, of whose calls only those are answered that the guard lets pass."""
        return Service(self._name, self.methods, self._stall_s, guard)

    def service_name(self) -> str:
        return self._name

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def handler(
    service: ServiceDescriptor,
    methods: Methods,
    *,
    name: str = "",
    take_bytes: Collection[str] = (),
    stall_s: float = STALL_S,
) -> Service:
    """The gRPC handler of one service. Each method is a coroutine or async generator of request and deadline.

    name:       the full name that the service is served under, if it is not the descriptor's.
    take_bytes: the methods that take the bytes of a request, and parse them.
    stall_s:    time for which a reply of a stream may wait for its reader; then the stream is cancelled.

    A method may return a message, or its bytes if it is already serialized.
    """
    if set(methods) != set(service.methods_by_name):
        raise ValueError(
            f"{service.full_name} has the methods {sorted(service.methods_by_name)}, got {sorted(methods)}"
        )
    name = name or service.full_name
    described = service.methods_by_name
    return Service(
        name,
        [Method.of(name, described[each], methods[each], takes_bytes=each in take_bytes) for each in methods],
        stall_s,
    )


def _method_handler(method: Method, stall_s: float, guard: Guard | None) -> grpc.RpcMethodHandler[Any, Any]:
    if method.streams_requests:  # And replies, too: there is no client stream with one reply.
        return grpc.stream_stream_rpc_method_handler(_bidirectional_handler(method, stall_s, guard), None, serialize)
    if method.streams_replies:
        return grpc.unary_stream_rpc_method_handler(_streaming_handler(method, stall_s, guard), None, serialize)
    return grpc.unary_unary_rpc_method_handler(_unary_handler(method, guard), None, serialize)


class _AioCall(Call):
    """A call whose metadata and caller are read when they are asked for: of most calls nobody does."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.method, self._context = method, context

    @property
    def metadata(self) -> Metadata:  # type: ignore[override]  # Read only, as what the guard gets.
        metadata: Any = self._context.invocation_metadata()
        return metadata or ()

    @property
    def peer(self) -> str:  # type: ignore[override]
        return self._context.peer()

    @property
    def identities(self) -> Sequence[str]:  # type: ignore[override]
        return [name.decode("utf-8", "replace") for name in self._context.peer_identities() or ()]


def _unary_handler(method: Method, guard: Guard | None) -> Callable[..., Awaitable[Message | bytes]]:
    async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message | bytes:
        try:
            with answering(_AioCall(method.path, context), guard):
                reply: Message | bytes = await method.function(
                    method.parse(request), Deadline.after(context.time_remaining())
                )
                return reply
        except Exception as error:
            await _abort(context, error)

    return call


def _streaming_handler(
    method: Method, stall_s: float, guard: Guard | None
) -> Callable[..., AsyncIterator[Message | bytes]]:
    async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message | bytes]:
        try:
            with answering(_AioCall(method.path, context), guard):
                replies = method.function(method.parse(request), Deadline.after(context.time_remaining()))
                async with aclosing(replies):
                    async for reply in replies:
                        with _stall(stall_s, context):
                            yield reply
        except Exception as error:
            await _abort(context, error)

    return call


def _bidirectional_handler(
    method: Method, stall_s: float, guard: Guard | None
) -> Callable[..., AsyncIterator[Message | bytes]]:
    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Message | bytes]:
        async for request in requests:
            yield method.parse(request)

    async def call(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Message | bytes]:
        try:
            with answering(_AioCall(method.path, context), guard):
                replies = method.function(parsed(requests), Deadline.after(context.time_remaining()))
                async with aclosing(replies):
                    async for reply in replies:
                        with _stall(stall_s, context):
                            yield reply
        except Exception as error:
            await _abort(context, error)

    return call


@contextmanager
def _stall(stall_s: float, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
    """End the call where the block takes longer, in which grpcio waits for the caller to read."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # A handler runs in one.
    timer = asyncio.get_running_loop().call_later(stall_s, _end_stalled, task, stall_s, context)
    try:
        yield
    finally:
        timer.cancel()


def _end_stalled(task: asyncio.Task[Any], stall_s: float, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """End the handler, and with it what it holds. The status waits behind the replies that are not read yet."""

    async def tell() -> None:
        with suppress(grpc.aio.AbortError, grpc.aio.UsageError, asyncio.InvalidStateError):
            await context.abort(grpc.StatusCode.CANCELLED, f"no reply was read for {stall_s:g} s")

    task.cancel()
    telling = asyncio.ensure_future(tell())
    _TELLING.add(telling)
    telling.add_done_callback(_TELLING.discard)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, LookalikeError) and error.delay_s:
        await asyncio.sleep(error.delay_s)
    await context.abort(*status_of(error))


_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two processes on one port by mistake must be an error: calls would go to either at random.
    ("grpc.so_reuseport", 0),
    # As pygrpc-native: streams of one connection, and bytes of the headers of one call.
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # A peer that vanished without a word is noticed within 15 s; clients may ping as often, with calls and without.
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
)
# Only of a server that clients connect to: they look up names again then, and find new pods. gRPC varies it by 10 %,
# and calls under way end on the old connection.
_CONNECTION_AGE_S = 300.0


def _connection_age(tls_age_s: float) -> tuple[tuple[str, int], ...]:
    return (("grpc.max_connection_age_ms", round(1000 * (tls_age_s or _CONNECTION_AGE_S))),)


def _is_no_callers_doing(record: logging.LogRecord) -> bool:
    hung_up = record.exc_info is not None and isinstance(record.exc_info[1], cygrpc.ExecuteBatchError)
    return not hung_up and not str(record.msg).startswith("Invalid encoding on ")


# grpcio logs tracebacks, as errors, of what any caller may do at any rate: hang up while a reply of a stream is on its
# way, and send metadata that are no UTF-8.
logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_callers_doing)


def auto_implementation() -> str:
    """The implementation that "auto" means: native where it is installed (docs/adr/0008-http2-outside-of-python.md)."""
    return "native" if find_spec("pygrpc_native") else "grpcio"


def server(
    handlers: Sequence[grpc.GenericRpcHandler],
    implementation: str = "auto",
    *,
    guard: Guard | None = None,
    tls_age_s: float = 0.0,
) -> grpc.aio.Server:
    """A gRPC server with these handlers; it has no port yet.

    implementation: "native": the HTTP/2 of pygrpc-native; "grpcio"; "auto": native where that package is installed.
    guard:          refuses calls of the handlers that `handler` makes, whoever speaks HTTP/2; None: all pass.
    tls_age_s:      of a server whose port will be secure, which only grpcio can: after which its connections end.

    Raises BadSettings.
    """
    if implementation == "native" and tls_age_s:
        raise BadSettings("grpc_server=native: the native gRPC server has no TLS")
    if implementation == "auto":
        implementation = "grpcio" if tls_age_s else auto_implementation()
    handlers = [each.guarded(guard) if isinstance(each, Service) else each for each in handlers]
    methods = [method for each in handlers if isinstance(each, Service) for method in each.methods]
    if implementation == "grpcio" or not methods:
        bound = ("grpc.max_allowed_incoming_connections", max_connections())
        return grpcio_server(handlers, (*_SERVER_OPTIONS, *_connection_age(tls_age_s), bound))
    try:
        from lookalike.runtime.native_server import NativeServer
    except ImportError as error:
        reason = f"the native gRPC server needs the package pygrpc-native: pip install 'pygrpc-native<0.6' ({error})"
        raise BadSettings(reason) from error
    return NativeServer(methods, grpcio_server(handlers, _SERVER_OPTIONS), guard)
