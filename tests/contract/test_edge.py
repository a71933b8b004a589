"""What every implementation of the gRPC server does, as its callers and its handlers see it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from lookalike.channels import aio_channel, aio_channels
from lookalike.errors import InvalidRequest, NotFound, OperatorError, Overloaded, PermissionDenied, Unauthenticated
from lookalike.limits import MAX_MESSAGE_BYTES
from lookalike.runtime import edge, lifecycle, listening, standard_services
from lookalike.runtime.call import Call, Guard, current
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.listening import GOAWAY
from lookalike.runtime.settings import ProcessSettings
from lookalike.runtime.standard_services import NOT_SERVING, SERVING, HealthService, reflection_handler
from lookalike.status import INTERNAL_MESSAGE, to_error
from tests.edges import IMPLEMENTATIONS
from tests.fuzz import http2

PARENT_S = 30.0  # No test waits that long; one that would fails.
health_messages: Any = health_pb2  # Its stubs are older than it.
INFO = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
UNARY, STREAM, BOTH = "/edge_test.Echo/Unary", "/edge_test.Echo/Stream", "/edge_test.Echo/Both"


def _service() -> Any:
    message = ".google.protobuf.BytesValue"
    file = descriptor_pb2.FileDescriptorProto(
        name="edge_test.proto", package="edge_test", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    service = file.service.add(name="Echo")
    service.method.add(name="Unary", input_type=message, output_type=message)
    service.method.add(name="Stream", input_type=message, output_type=message, server_streaming=True)
    service.method.add(
        name="Both", input_type=message, output_type=message, client_streaming=True, server_streaming=True
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName("edge_test.Echo")


SERVICE = _service()
Server = Callable[..., Any]


async def echo(request: BytesValue, deadline: Deadline) -> Message:
    return request


async def no_stream(request: BytesValue, deadline: Deadline) -> AsyncIterator[Message]:
    nothing: tuple[Message, ...] = ()
    for reply in nothing:
        yield reply


async def echo_each(requests: AsyncIterator[BytesValue], deadline: Deadline) -> AsyncGenerator[Message | bytes, None]:
    async for request in requests:
        yield request


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(implementation: str) -> Server:
    @asynccontextmanager
    async def serve(
        unary: Any = echo, stream: Any = no_stream, both: Any = echo_each, guard: Guard | None = None
    ) -> AsyncIterator[Any]:
        handler = edge.handler(SERVICE, {"Unary": unary, "Stream": stream, "Both": both})
        server = edge.server([handler], implementation, guard=guard)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio_channel(f"127.0.0.1:{port}") as channel:
                yield channel, server
        finally:
            await server.stop(None)

    return serve


def request(data: bytes = b"x") -> bytes:
    return BytesValue(value=data).SerializeToString()


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, PARENT_S)
    return caught.value


async def test_a_channel_to_several_servers_calls_them_by_turns(implementation: str) -> None:
    asked = [0, 0]

    def count(number: int) -> Any:
        async def answer(request: BytesValue, deadline: Deadline) -> Message:
            asked[number] += 1
            return request

        return edge.handler(SERVICE, {"Unary": answer, "Stream": no_stream, "Both": echo_each})

    servers = [edge.server([count(number)], implementation) for number in range(2)]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    await asyncio.gather(*(server.start() for server in servers))
    try:
        async with aio_channel("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as channel:
            call: Any = channel.unary_unary(UNARY)
            while not all(asked):  # At first one of them may not be connected yet.
                assert await call(request(), timeout=PARENT_S) == request()
    finally:
        await asyncio.gather(*(server.stop(None) for server in servers))


def see_current_call() -> Message:
    call = current()
    return BytesValue(value=f"{call.method} {call.value('x-name')} {call.peer.partition(':')[0]}".encode())


async def see_unary(request: BytesValue, deadline: Deadline) -> Message:
    return see_current_call()


async def see_stream(request: BytesValue, deadline: Deadline) -> AsyncIterator[Message]:
    yield see_current_call()


async def see_each(requests: AsyncIterator[BytesValue], deadline: Deadline) -> AsyncGenerator[Message | bytes, None]:
    async for _ in requests:
        yield see_current_call()


SEEN_ON_A_THREAD = edge.ThreadedUnary(lambda request, deadline: see_current_call().SerializeToString())


@pytest.mark.parametrize("unary", [see_unary, SEEN_ON_A_THREAD, edge.ThreadedUnary(lambda *_: None, see_unary)])
async def test_a_method_can_look_up_the_call_that_it_answers(serve: Server, unary: Any) -> None:
    metadata = (("x-name", "anna"), ("x-bytes-bin", b"\x00\xff"))
    async with serve(unary, see_stream, see_each) as (channel, _):
        reply = BytesValue.FromString(await channel.unary_unary(UNARY)(request(), metadata=metadata)).value.decode()
        streamed = [each async for each in channel.unary_stream(STREAM)(request(), metadata=metadata)]
        both = [each async for each in channel.stream_stream(BOTH)(iter([request()]), metadata=metadata)]
    assert reply == f"{UNARY} anna ipv4"
    assert BytesValue.FromString(streamed[0]).value.decode().startswith(f"{STREAM} anna ")
    assert BytesValue.FromString(both[0]).value.decode().startswith(f"{BOTH} anna ")


@pytest.mark.parametrize("unary", [echo, edge.ThreadedUnary(lambda request, _: request.SerializeToString())])
async def test_a_guard_refuses_calls_of_any_kind_before_their_requests_are_parsed(serve: Server, unary: Any) -> None:
    asked = []

    def guard(call: Call) -> None:
        asked.append(call.method)
        if call.value("x-key") == "stranger":
            raise PermissionDenied("not you")
        if call.value("x-key") != "secret":
            raise Unauthenticated("no key")

    async with serve(unary, see_stream, guard=guard) as (channel, _):
        for key, code in (("", "UNAUTHENTICATED"), ("stranger", "PERMISSION_DENIED")):
            metadata = (("x-key", key),)
            calls = [
                await failure(channel.unary_unary(UNARY)(b"\xff", metadata=metadata)),
                await failure(channel.unary_stream(STREAM)(b"\xff", metadata=metadata).read()),
                await failure(channel.stream_stream(BOTH)(iter([b"\xff"]), metadata=metadata).read()),
            ]
            assert [error.code().name for error in calls] == [code] * 3
        asked.clear()
        assert await channel.unary_unary(UNARY)(request(), metadata=(("x-key", "secret"),)) == request()
        assert asked == [UNARY]


async def test_a_message_and_bytes_are_both_answers(serve: Server) -> None:
    async def serialized(request: BytesValue, deadline: Deadline) -> bytes:
        return request.SerializeToString()

    for method in (echo, serialized):
        async with serve(method) as (channel, _):
            assert await channel.unary_unary(UNARY)(request(b"hello")) == request(b"hello")


async def test_a_request_and_an_answer_may_be_empty(serve: Server) -> None:
    async with serve() as (channel, _):
        assert await channel.unary_unary(UNARY)(b"") == b""


async def test_an_error_has_its_code_its_message_and_its_details(serve: Server) -> None:
    async def refuse(request: BytesValue, deadline: Deadline) -> Message:
        raise {b"full": Overloaded("busy, 満", retry_after_s=0.5), b"bad": InvalidRequest("field", "too\nlong")}.get(
            request.value, NotFound("no 100% product")
        )

    async with serve(refuse) as (channel, _):
        call = channel.unary_unary(UNARY)
        full, bad, missing = [await failure(call(request(each))) for each in (b"full", b"bad", b"missing")]

    def details(error: grpc.aio.AioRpcError, message: Message) -> Message:
        trailer = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailer["grpc-status-details-bin"])
        assert (status.code, status.message) == (error.code().value[0], error.details())
        assert status.details[0].Unpack(message)
        return message

    assert (full.code(), full.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy, 満")
    assert details(full, error_details_pb2.RetryInfo()).retry_delay.nanos == 500_000_000  # type: ignore[attr-defined]
    assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(bad, error_details_pb2.BadRequest()).field_violations[0].field == "field"  # type: ignore[attr-defined]
    assert (missing.code(), missing.details()) == (grpc.StatusCode.NOT_FOUND, "no 100% product")


async def test_an_error_tells_the_id_of_the_call_that_failed(serve: Server) -> None:
    async def fail(request: BytesValue, deadline: Deadline) -> Message:
        raise {b"bug": KeyError("a bug"), b"late": Overloaded("busy")}[request.value]

    async with serve(fail) as (channel, _):
        call = channel.unary_unary(UNARY)
        errors = [await failure(call(request(each), metadata=(("x-request-id", "r7"),))) for each in (b"bug", b"late")]
    assert [to_error(error).request_id for error in errors] == ["r7", "r7"]


async def test_a_bug_is_internal_and_its_message_stays_on_the_server(
    serve: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: BytesValue, deadline: Deadline) -> Message:
        raise KeyError("secret")

    async with serve(fail) as (channel, _):
        error = await failure(channel.unary_unary(UNARY)(request()))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)
    assert "secret" in caplog.text


async def test_malformed_bytes_are_the_callers_error(serve: Server) -> None:
    async with serve() as (channel, _):
        unary = await failure(channel.unary_unary(UNARY)(b"\xff\xff"))
        stream = await failure(channel.unary_stream(STREAM)(b"\xff\xff").read())
        both = await failure(channel.stream_stream(BOTH)(iter([b"\xff\xff"])).read())
    assert {each.code() for each in (unary, stream, both)} == {grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.parametrize("path", ["/edge_test.Echo/Unknown", "/edge_test.Unknown/Unary"])
async def test_an_unknown_method_or_service_is_unimplemented(serve: Server, path: str) -> None:
    async with serve() as (channel, _):
        error = await failure(channel.unary_unary(path)(request()))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_a_handler_knows_the_callers_deadline(serve: Server) -> None:
    left_s: list[float] = []

    async def note(request: BytesValue, deadline: Deadline) -> Message:
        left_s.append(deadline.remaining_s())
        return request

    async with serve(note) as (channel, _):
        await channel.unary_unary(UNARY)(request(), timeout=1000)
        await channel.unary_unary(UNARY)(request())
    assert 900 < left_s[0] < 1100  # A timeout is rounded up on its way.
    assert left_s[1] > 1e9


class Waiting:
    """A handler that waits until it is cancelled, or released."""

    def __init__(self) -> None:
        self.started, self.cancelled, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def unary(self, request: BytesValue, deadline: Deadline) -> Message:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def stream(self, request: BytesValue, deadline: Deadline) -> AsyncIterator[Message]:
        yield request
        await self.unary(request, deadline)

    async def both(self, requests: AsyncIterator[BytesValue], deadline: Deadline) -> AsyncGenerator[Message, None]:
        async for request in requests:
            yield request
            await self.unary(request, deadline)


async def test_a_deadline_that_passes_ends_the_call_and_the_handler(serve: Server) -> None:
    waiting = Waiting()
    async with serve(waiting.unary) as (channel, _):
        error = await failure(channel.unary_unary(UNARY)(request(), timeout=0.2))
        await asyncio.wait_for(waiting.cancelled.wait(), PARENT_S)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", ["unary", "stream", "both"])
async def test_a_caller_that_cancels_cancels_the_handler(serve: Server, kind: str) -> None:
    waiting = Waiting()
    async with serve(waiting.unary, waiting.stream, waiting.both) as (channel, _):
        if kind == "unary":
            call = channel.unary_unary(UNARY)(request())
            sent = asyncio.ensure_future(call)  # Without it grpc.aio does not send the request.
        else:
            call = channel.unary_stream(STREAM)(request()) if kind == "stream" else channel.stream_stream(BOTH)()
            if kind == "both":
                await call.write(request())
            await call.read()
            sent = None
        await asyncio.wait_for(waiting.started.wait(), PARENT_S)
        call.cancel()
        await asyncio.wait_for(waiting.cancelled.wait(), PARENT_S)
        if sent is not None:
            await asyncio.wait([sent])


class Threads:
    """A ThreadedUnary of one thread, which a test can hold up; it echoes, but for b"fail" and b"large"."""

    def __init__(self) -> None:
        self.replies: list[Future[bytes]] = []
        self.busy, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.unary = edge.ThreadedUnary(self.submit, otherwise=echo)
        self._executor = ThreadPoolExecutor(1)

    def submit(self, request: BytesValue, deadline: Deadline) -> bytes | Future[bytes] | None:
        if request.value == b"refuse":
            raise Overloaded("busy", retry_after_s=0.5)
        if request.value == b"otherwise":
            return None
        if request.value == b"at once":
            return request.SerializeToString()
        self.replies.append(self._executor.submit(self._work, request))
        return self.replies[-1]

    def _work(self, request: BytesValue) -> bytes:
        self.busy.set()
        assert self.open.wait(PARENT_S)
        if request.value == b"fail":
            raise NotFound("after all")
        return bytes(MAX_MESSAGE_BYTES + 1) if request.value == b"large" else request.SerializeToString()

    def hold(self) -> None:
        self.busy.clear()
        self.open.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PARENT_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.005)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.open.set()


async def test_threads_answer_and_fail_as_coroutines_do(serve: Server, threads: Threads) -> None:
    async with serve(threads.unary) as (channel, _):
        call = channel.unary_unary(UNARY)
        requests = [request(each) for each in (b"here", b"at once", b"otherwise")]
        assert [await call(each) for each in requests] == requests
        errors = [await failure(call(each)) for each in map(request, (b"fail", b"refuse", b"large"))]
        malformed = await failure(call(b"\xff\xff"))
    assert [each.code() for each in errors] == [
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ]
    assert [each.details() for each in errors[:2]] == ["after all", "busy"]
    assert "larger than max" in (errors[2].details() or "")
    assert malformed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(threads.replies) == 3


@pytest.mark.parametrize("cancels", [True, False], ids=["cancelled", "late"])
async def test_a_call_that_waits_for_a_thread_is_given_up_with_its_caller(
    serve: Server, threads: Threads, cancels: bool
) -> None:
    threads.hold()
    async with serve(threads.unary) as (channel, _):
        first = asyncio.ensure_future(channel.unary_unary(UNARY)(request(b"first")))
        await threads.until(threads.busy.is_set)
        call = channel.unary_unary(UNARY)(request(b"second"), timeout=None if cancels else 0.2)
        second = asyncio.ensure_future(call)
        await threads.until(lambda: len(threads.replies) == 2)
        if cancels:
            call.cancel()
        await threads.until(threads.replies[1].cancelled)
        threads.open.set()
        assert await asyncio.wait_for(first, PARENT_S) == request(b"first")
        await asyncio.wait([second])


async def test_a_stop_lets_threads_finish_and_refuses_new_calls(serve: Server, threads: Threads) -> None:
    threads.hold()
    async with serve(threads.unary) as (channel, server):
        calls = [asyncio.ensure_future(channel.unary_unary(UNARY)(request(each))) for each in (b"first", b"fail")]
        await threads.until(lambda: len(threads.replies) == 2)
        stop = asyncio.ensure_future(server.stop(PARENT_S))
        await asyncio.sleep(0)
        refused = await failure(channel.unary_unary(UNARY)(request(b"late")))
        assert not stop.done()
        threads.open.set()
        assert await asyncio.wait_for(calls[0], PARENT_S) == request(b"first")
        assert (await failure(calls[1])).code() is grpc.StatusCode.NOT_FOUND
        await asyncio.wait_for(stop, PARENT_S)
    assert refused.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert len(threads.replies) == 2


async def test_a_stop_cancels_what_threads_have_not_finished_in_time(serve: Server, threads: Threads) -> None:
    threads.hold()
    async with serve(threads.unary) as (channel, server):
        calls = [asyncio.ensure_future(channel.unary_unary(UNARY)(request(each))) for each in (b"runs", b"waits")]
        await threads.until(lambda: len(threads.replies) == 2 and threads.busy.is_set())
        await server.stop(0.01)
        codes = {(await failure(call)).code() for call in calls}
        await threads.until(threads.replies[1].cancelled)
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_request_of_the_largest_size_is_answered(serve: Server) -> None:
    head = len(request(bytes(MAX_MESSAGE_BYTES))) - MAX_MESSAGE_BYTES
    largest = request(bytes(MAX_MESSAGE_BYTES - head))
    assert len(largest) == MAX_MESSAGE_BYTES
    lengths: list[int] = []

    async def length(request: BytesValue, deadline: Deadline) -> Message:
        lengths.append(len(request.value))
        return BytesValue()

    async with serve(length) as (channel, _):
        await channel.unary_unary(UNARY)(largest)
    assert lengths == [MAX_MESSAGE_BYTES - head]


async def test_messages_beyond_the_bound_are_refused_both_ways(implementation: str) -> None:
    async def large(request: BytesValue, deadline: Deadline) -> bytes:
        return bytes(MAX_MESSAGE_BYTES + 1)

    async def large_stream(request: BytesValue, deadline: Deadline) -> AsyncIterator[bytes]:
        yield bytes(MAX_MESSAGE_BYTES + 1)

    server = edge.server(
        [edge.handler(SERVICE, {"Unary": large, "Stream": large_stream, "Both": echo_each})], implementation
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    unbounded = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    try:
        channel: Any
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=unbounded) as channel:  # noqa: TID251
            errors = [
                await failure(channel.unary_unary(UNARY)(bytes(MAX_MESSAGE_BYTES + 1))),
                await failure(channel.unary_unary(UNARY)(b"")),
                await failure(channel.unary_stream(STREAM)(b"").read()),
            ]
    finally:
        await server.stop(None)
    assert {each.code() for each in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    over = f"larger than max ({MAX_MESSAGE_BYTES + 1} vs. {MAX_MESSAGE_BYTES})"
    assert [over in (each.details() or "") for each in errors] == [True, True, True]


async def test_calls_are_answered_while_others_wait(serve: Server) -> None:
    together, arrived = 100, asyncio.Event()
    waiting: list[bytes] = []

    async def meet(request: BytesValue, deadline: Deadline) -> Message:
        waiting.append(request.value)
        if len(waiting) == together:
            arrived.set()
        await arrived.wait()
        return request

    async with serve(meet) as (channel, _):
        call = channel.unary_unary(UNARY)
        requests = [request(str(i).encode()) for i in range(together)]
        replies = await asyncio.wait_for(asyncio.gather(*(call(each) for each in requests)), PARENT_S)
    assert replies == requests


async def test_a_stream_arrives_whole_and_in_order_and_may_end_with_an_error(serve: Server) -> None:
    async def numbers(request: BytesValue, deadline: Deadline) -> AsyncIterator[Message]:
        for i in range(200):
            yield BytesValue(value=str(i).encode())
        if request.value == b"fail":
            raise NotFound("after all")

    async with serve(stream=numbers) as (channel, _):
        stream = channel.unary_stream(STREAM)
        assert [each async for each in stream(request())] == [request(str(i).encode()) for i in range(200)]
        call = stream(request(b"fail"))
        assert [await call.read() for _ in range(200)] == [request(str(i).encode()) for i in range(200)]
        error = await failure(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "after all")


async def test_a_slow_reader_holds_its_stream_up_and_no_other(serve: Server) -> None:
    made: dict[bytes, int] = {}

    async def blocks(request: BytesValue, deadline: Deadline) -> AsyncIterator[Message]:
        for i in range(256):
            made[request.value] = i + 1
            yield BytesValue(value=bytes(1 << 20))

    async with serve(stream=blocks) as (channel, _):
        slow = channel.unary_stream(STREAM)(request(b"slow"))
        await slow.read()
        # The second stream's end takes its server as long as the first would have taken: nothing waits for time.
        assert len([each async for each in channel.unary_stream(STREAM)(request(b"fast"))]) == 256
        assert made[b"fast"] == 256
        assert made[b"slow"] < 64  # MiB: windows and buffers, but not the stream.
        slow.cancel()


async def test_a_bidirectional_stream_answers_before_its_requests_end(serve: Server) -> None:
    async with serve() as (channel, _):
        call = channel.stream_stream(BOTH)()
        for i in range(10):
            await call.write(request(str(i).encode()))
            assert await call.read() == request(str(i).encode())
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_stop_lets_calls_finish_and_refuses_new_ones(serve: Server) -> None:
    waiting = Waiting()
    async with serve(waiting.unary) as (channel, server):
        call = asyncio.ensure_future(channel.unary_unary(UNARY)(request(b"first")))
        await asyncio.wait_for(waiting.started.wait(), PARENT_S)
        stop = asyncio.ensure_future(server.stop(PARENT_S))
        await asyncio.sleep(0)
        refused = await failure(channel.unary_unary(UNARY)(request(b"late")))
        assert not stop.done()
        waiting.release.set()
        assert await asyncio.wait_for(call, PARENT_S) == request(b"first")
        await asyncio.wait_for(stop, PARENT_S)
    # grpcio cancels a call that reaches it while it closes its port.
    assert refused.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_stop_cancels_what_has_not_finished_in_time(serve: Server, implementation: str) -> None:
    waiting = Waiting()
    async with serve(waiting.unary) as (channel, server):
        call = asyncio.ensure_future(channel.unary_unary(UNARY)(request()))
        await asyncio.wait_for(waiting.started.wait(), PARENT_S)
        await server.stop(0.01)
        error = await failure(call)
        await asyncio.wait_for(waiting.cancelled.wait(), PARENT_S)
    # grpcio says itself what becomes of a call that it ends, the one or the other.
    allowed = {grpc.StatusCode.UNAVAILABLE} | ({grpc.StatusCode.CANCELLED} if implementation == "grpcio" else set())
    assert error.code() in allowed


async def listen(
    implementation: str, unary: Any, port: int = 0, *, stream: Any = no_stream, stall_s: float = PARENT_S
) -> tuple[Any, int]:
    handler = edge.handler(SERVICE, {"Unary": unary, "Stream": stream, "Both": echo_each}, stall_s=stall_s)
    server = edge.server([handler], implementation)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


async def until(count: Callable[[], int], least: int) -> None:
    async with asyncio.timeout(PARENT_S):
        while count() < least:  # noqa: ASYNC110  # Nobody would set an event.
            await asyncio.sleep(0.005)


async def brief(request: BytesValue, deadline: Deadline) -> Message:
    await asyncio.sleep(0.002)
    return request


async def test_no_call_fails_while_one_of_two_servers_is_drained_again_and_again(implementation: str) -> None:
    (first, port), (second, other) = await listen(implementation, brief), await listen(implementation, brief)
    answers, stop = list[bytes](), asyncio.Event()

    async def caller(channel: Any) -> None:
        while not stop.is_set():
            answers.append(await channel.unary_unary(UNARY)(request(), timeout=PARENT_S))

    async with aio_channel(f"ipv4:127.0.0.1:{port},127.0.0.1:{other}") as channel:
        callers = [asyncio.create_task(caller(channel)) for _ in range(16)]
        for _ in range(5):
            await until(answers.__len__, len(answers) + 50)
            await lifecycle.drain(first, port, PARENT_S)
            first, _ = await listen(implementation, brief, port)
        stop.set()
        await asyncio.gather(*callers)  # Raises what a call raised.
    await first.stop(None)
    await second.stop(None)


async def test_a_drain_lets_calls_and_streams_end_and_refuses_new_connections(implementation: str) -> None:
    waiting = Waiting()
    server, port = await listen(implementation, waiting.unary, stream=waiting.stream)
    channel: Any
    late: Any
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stream = channel.unary_stream(STREAM)(request(b"stream"))
        assert await stream.read() == request(b"stream")
        call = asyncio.ensure_future(channel.unary_unary(UNARY)(request(b"unary")))
        await asyncio.wait_for(waiting.started.wait(), PARENT_S)
        drained = asyncio.create_task(lifecycle.drain(server, port, PARENT_S))
        await asyncio.sleep(0)
        async with aio_channels(f"127.0.0.1:{port}", 1)[0] as late:
            refused = await failure(late.unary_unary(UNARY)(request(b"late")))
        assert not drained.done()
        waiting.release.set()
        assert await asyncio.wait_for(call, PARENT_S) == request(b"unary")
        assert await stream.read() is grpc.aio.EOF
        del call, stream  # A client of grpcio keeps a connection open for as long as it has a call of it.
        gc.collect()
        await asyncio.wait_for(drained, PARENT_S)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_stays_is_answered_until_the_drain_is_nearly_over(implementation: str) -> None:
    server, port = await listen(implementation, brief)
    # A connection that never goes away: whoever is on it may have ignored the GOAWAY.
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # And no settings.
    received = await asyncio.wait_for(reader.read(1024), PARENT_S)
    drained = asyncio.create_task(lifecycle.drain(server, port, 1.0))
    while GOAWAY not in received:
        received += await asyncio.wait_for(reader.read(1024), PARENT_S)
    assert not drained.done()
    await asyncio.wait_for(drained, PARENT_S)
    writer.close()


async def test_a_stream_that_nobody_reads_is_ended_and_one_that_is_read_slowly_is_not(implementation: str) -> None:
    ended: list[bytes] = []

    async def blocks(request: BytesValue, deadline: Deadline) -> AsyncIterator[Message]:
        try:
            for _ in range(64 if request.value == b"unread" else 4):
                yield BytesValue(value=bytes(1 << 20))
        finally:
            ended.append(request.value)

    server, port = await listen(implementation, echo, stream=blocks, stall_s=0.5)
    channel: Any
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        unread = channel.unary_stream(STREAM)(request(b"unread"))
        await unread.read()
        await until(ended.__len__, 1)
        error = await failure(drained_stream(unread))
        slow = channel.unary_stream(STREAM)(request(b"slow"))
        for _ in range(4):
            await slow.read()
            await asyncio.sleep(0.2)
        assert await slow.read() is grpc.aio.EOF
    await server.stop(None)
    assert ended == [b"unread", b"slow"]
    assert (error.code(), error.details()) == (grpc.StatusCode.CANCELLED, "no reply was read for 0.5 s")


async def drained_stream(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


class EchoSettings(ProcessSettings):
    PREFIX = "LOOKALIKE_ECHO_"


async def test_a_port_that_is_taken_is_the_operators_error(implementation: str, serve: Server) -> None:
    handler = edge.handler(SERVICE, {"Unary": echo, "Stream": no_stream, "Both": echo_each})
    blocker = edge.server([handler], implementation)
    port = blocker.add_insecure_port("127.0.0.1:0")
    with pytest.raises(OperatorError, match=str(port)):
        await lifecycle.serve(EchoSettings(port=port, grpc_server=implementation), [handler], services=())
    await blocker.stop(None)


async def test_connections_beyond_the_bound_are_closed_and_those_before_them_stay(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MAX_CONNECTIONS", 3)
    handler = edge.handler(SERVICE, {"Unary": echo, "Stream": no_stream, "Both": echo_each})
    server = edge.server([handler], implementation)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel: Any
    async with aio_channel(f"127.0.0.1:{port}") as channel, AsyncExitStack() as on_exit:
        on_exit.push_async_callback(server.stop, None)
        assert await channel.unary_unary(UNARY)(request()) == request()
        others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in others:
            on_exit.callback(writer.close)
        refused = [asyncio.create_task(drained(reader)) for reader, _ in others]
        while sum(each.done() for each in refused) < 6:  # noqa: ASYNC110  # the server closes them when it looks
            await asyncio.sleep(0.01)
        assert await channel.unary_unary(UNARY)(request()) == request()
        for each in refused:
            each.cancel()


async def drained(reader: asyncio.StreamReader) -> None:
    """Until the connection is closed."""
    with suppress(ConnectionError):
        while await reader.read(1024):
            pass


@asynccontextmanager
async def with_standard_services(implementation: str) -> AsyncIterator[tuple[Any, HealthService]]:
    """A channel to a server of the echo with health and reflection, and what tells the health."""
    health = HealthService()
    echo_handler = edge.handler(SERVICE, {"Unary": echo, "Stream": no_stream, "Both": echo_each})
    handlers = [echo_handler, health.handler(), reflection_handler(["edge_test.Echo"])]
    server = edge.server(handlers, implementation)
    health.set("edge_test.Echo", SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio_channel(f"127.0.0.1:{port}") as channel:
            yield channel, health
    finally:
        await server.stop(None)


async def test_health_and_reflection_are_served_beside_the_methods(implementation: str) -> None:
    async with with_standard_services(implementation) as (channel, health):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="edge_test.Echo")
        assert (await stub.Check(asked)).status == SERVING
        watch = stub.Watch(asked)
        assert (await watch.read()).status == SERVING
        health.stop_serving()
        assert (await watch.read()).status == NOT_SERVING
        assert dict((await stub.List(health_messages.HealthListRequest())).statuses) == {
            "edge_test.Echo": health_pb2.HealthCheckResponse(status=NOT_SERVING)
        }
        watch.cancel()
        unknown = health_pb2.HealthCheckRequest(service="another")
        assert (await failure(stub.Check(unknown))).code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(unknown)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        reflected = channel.stream_stream(INFO)()
        await reflected.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
        reply = reflection_pb2.ServerReflectionResponse.FromString(await reflected.read())
        names = [each.name for each in reply.list_services_response.service]
        assert names == ["edge_test.Echo", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
        reflected.cancel()
        assert await channel.unary_unary(UNARY)(request()) == request()


async def test_malformed_bytes_to_health_and_reflection_are_the_callers_error(implementation: str) -> None:
    async with with_standard_services(implementation) as (channel, _):
        calls = [
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff"),
            channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff\xff").read(),
            channel.stream_stream(INFO)(iter([b"\xff\xff"])).read(),
        ]
        assert {(await failure(call)).code() for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}


async def test_no_more_callers_watch_the_health_than_may(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_services, "_MAX_WATCHERS", 1)
    async with with_standard_services(implementation) as (channel, _):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="edge_test.Echo")
        first = stub.Watch(asked)
        assert (await first.read()).status == SERVING
        assert (await failure(stub.Watch(asked).read())).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        while True:  # Its place is free when the server knows.
            again = stub.Watch(asked)
            try:
                assert (await again.read()).status == SERVING
                break
            except grpc.aio.AioRpcError:
                continue
        again.cancel()


async def test_a_call_whose_path_is_no_utf_8_ends_nobody_elses(implementation: str) -> None:
    waiting = Waiting()
    handler = edge.handler(SERVICE, {"Unary": echo, "Stream": waiting.stream, "Both": echo_each})
    server = edge.server([handler], implementation)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel: Any
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        before = channel.unary_stream(STREAM)(request(b"before"))
        assert await before.read() == request(b"before")
        for _ in range(3):
            await asyncio.to_thread(call_bad_path, f"127.0.0.1:{port}")
            await answered_again(channel)
        waiting.release.set()
        assert await before.read() is grpc.aio.EOF
        await server.stop(None)


async def answered_again(channel: Any) -> None:
    """Returns when a call is answered; one that comes while another server takes over may be told to come again."""
    async with asyncio.timeout(PARENT_S):
        while True:
            try:
                assert await channel.unary_unary(UNARY)(request(), wait_for_ready=True) == request()
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)  # noqa: PT017  # not the end
                await asyncio.sleep(0.01)
            else:
                return


def call_bad_path(address: str) -> None:
    """Returns when the call has ended."""
    fields = [(name, b"/\xfc" if name == b":path" else value) for name, value in http2.request_fields("/")]
    with http2.Connection(address) as connection:
        connection.send(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, http2.literal(fields)))
        assert connection.ended(1).how != "open"
