"""A gRPC server whose HTTP/2 is pygrpc-native's, in Rust, without the GIL. gRPC; one thread; no other I/O.

A thread takes the calls that have arrived, all at once. Those of a ThreadedUnary go on to the threads that answer them,
the others to the event loop, in one wake-up; each is a task there. All that is not a unary method of ours (streams,
reflection, unknown methods) goes on to a grpcio server behind it, over a Unix socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from lookalike.errors import LookalikeError
from lookalike.limits import (
    KEEPALIVE_TIME_MS,
    KEEPALIVE_TIMEOUT_MS,
    MAX_CONCURRENT_STREAMS,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
)
from lookalike.runtime.call import Call, Guard, begin, carried, end
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.listening import ServerSockets, max_connections
from lookalike.runtime.methods import Method, ThreadedUnary, serialize, status_of
from lookalike.status import Trailer

log = logging.getLogger(__name__)

# Of calls and cancellations that one wake-up gives to the loop; the next ones wait for the next.
_MAX_EVENTS = 256
# Closing drops replies that are not written to their connections yet, and nothing tells when the last of them is.
_LAST_REPLIES_S = 0.2
# Between looks at the number of connections, which pygrpc-native does not bound.
_LOOK_S = 0.25


@dataclass(slots=True)  # Not frozen: see Call.
class _Call:
    """A call that has arrived, and that the guard has let pass, or refuses after a while."""

    method: Method
    payload: bytes
    call: Call
    deadline: Deadline
    refusal: LookalikeError | None = None


_Event = tuple[int, "_Call | None"]  # A call and its id, or the id of one that was cancelled.


class NativeServer(grpc.aio.Server):
    """A server of one port. Unary methods are native, the rest is the grpcio server's.

    pygrpc-native can stream replies as well, but nothing tells an event loop that a reader has room again: to look
    every millisecond takes twice the CPU of the way through the grpcio server, at a twelfth of the rate.
    """

    def __init__(self, methods: Sequence[Method], grpcio_server: grpc.aio.Server, guard: Guard | None = None) -> None:
        self._guard = guard
        self._methods = [method for method in methods if not (method.streams_requests or method.streams_replies)]
        self._grpcio_server = grpcio_server
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._submitted: dict[int, Future[bytes]] = {}  # Calls of threads.
        self._submitting = threading.Lock()  # Held while a call is submitted: no call is missed by `stop`.
        self._stopping = False
        self._stopped = asyncio.Event()
        self._front: NativeGrpcFront
        self._bounding: asyncio.Task[None] | None = None

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        self._grpcio_server.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        self._grpcio_server.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Listen on `host:port`, once. Raises RuntimeError, as grpcio does."""
        try:
            self._front = NativeGrpcFront(
                address,
                [(method.path, False) for method in self._methods],
                io_threads=1,
                call_details=True,  # Deadlines, and that a caller has gone.
                keepalive_time_ms=KEEPALIVE_TIME_MS,
                keepalive_timeout_ms=KEEPALIVE_TIMEOUT_MS,
                keepalive_permit_without_calls=True,
                max_concurrent_streams=MAX_CONCURRENT_STREAMS,
                max_metadata_size=MAX_METADATA_BYTES,
            )
        except OSError as error:
            raise RuntimeError(f"Failed to bind to address {address}: {error}") from error
        return self._front.bound_port

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise NotImplementedError("the native gRPC server has no TLS")

    async def start(self) -> None:
        # An abstract name: the root file system of a container may be read-only.
        name = f"lookalike-{secrets.token_hex(16)}"
        self._grpcio_server.add_insecure_port(f"unix-abstract:{name}")
        await self._grpcio_server.start()
        self._front.set_fallback(f"\0{name}")
        self._front.start()
        loop = asyncio.get_running_loop()
        self._bounding = loop.create_task(_bound_connections(self._front.bound_port))
        threading.Thread(target=self._receive, args=(loop,), name="native-grpc-receive", daemon=True).start()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls; those in progress have `grace` seconds to finish, and are then UNAVAILABLE."""
        if self._stopping:
            await self._stopped.wait()
            return
        with self._submitting:
            self._stopping = True
        grpcio_stop = asyncio.ensure_future(self._grpcio_server.stop(grace))
        if grace:
            replies = map(asyncio.wrap_future, self._submitted.copy().values())
            calls: list[asyncio.Future[Any]] = [*self._tasks.values(), asyncio.gather(*replies, return_exceptions=True)]
            await asyncio.wait(calls, timeout=grace)
        for call_id, reply in self._submitted.copy().items():
            if not reply.cancel():  # A thread is at work, and may go on: nobody waits for it.
                self._fail_ended(call_id)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await grpcio_stop
        if self._bounding is not None:
            self._bounding.cancel()
        if grace:
            await asyncio.sleep(min(grace, _LAST_REPLIES_S))
        if hasattr(self, "_front"):
            # Blocks for a tenth of a second while clients close their connections.
            await asyncio.get_running_loop().run_in_executor(None, self._front.close)
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # grpcio's signature
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return True
        return False

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand on what arrives until the server is closed. Without this thread the process is of no use."""
        try:
            while (events := self._front.recv_batch_details(_MAX_EVENTS)) is not None:
                if others := [other for event in events if (other := self._take(event)) is not None]:
                    loop.call_soon_threadsafe(self._accept, others)
        except Exception:
            if not loop.is_closed():
                log.critical("receiving calls failed; stopping", exc_info=True)
                signal.raise_signal(signal.SIGTERM)

    def _take(self, event: tuple[Any, ...]) -> _Event | None:
        """Refuse a call, submit it to the threads that answer it, or cancel it there; else it is the event loop's."""
        kind, call_id, method_id, payload, _, details = event
        if kind == EVENT_CANCEL:
            if (submitted := self._submitted.get(call_id)) is None:
                return call_id, None
            submitted.cancel()  # No effect where a thread is at work: its reply is dropped.
            return None
        method = self._methods[method_id]
        metadata, peer, left_s = details
        call, deadline = Call(method.path, metadata, peer), Deadline.after(left_s)
        if len(payload) > MAX_MESSAGE_BYTES:
            self._fail(call_id, grpc.StatusCode.RESOURCE_EXHAUSTED, _too_large("Received", payload))
            return None
        try:
            begin(call, self._guard)
        except Exception as error:
            return self._refuse(call_id, _Call(method, payload, call, deadline), error)
        if isinstance(method.function, ThreadedUnary):
            with self._submitting:
                if not self._stopping and self._submit(call_id, method, payload, call, deadline):
                    return None
        return call_id, _Call(method, payload, call, deadline)

    def _refuse(self, call_id: int, call: _Call, error: Exception) -> _Event | None:
        """Refuse a call that the guard does, at once; or after a while, on the event loop."""
        if isinstance(error, LookalikeError) and error.delay_s:
            call.refusal, call.payload = error, b""  # Nobody without a key fills the memory.
            return call_id, call
        end(call.call, error)
        self._fail(call_id, *status_of(error))
        return None

    def _submit(self, call_id: int, method: Method, payload: bytes, call: Call, deadline: Deadline, /) -> bool:
        """Whether the threads of its method answer it."""
        reply: bytes | Future[bytes] | None
        try:
            reply = method.function.submit(method.parse(payload), deadline)
        except Exception as error:
            end(call, error)
            self._fail(call_id, *status_of(error))
            return True
        if isinstance(reply, Future):
            self._submitted[call_id] = reply
            reply.add_done_callback(carried(partial(self._reply, call_id, call)))
        elif reply is not None:
            if call.span is not None:
                end(call)
            self._respond(call_id, reply)
        return reply is not None

    def _reply(self, call_id: int, call: Call, reply: Future[bytes]) -> None:
        """Answer a call that was submitted, on the thread that did, or that cancelled it."""
        del self._submitted[call_id]
        if reply.cancelled():
            end(call, asyncio.CancelledError())
            self._fail_ended(call_id)
        elif isinstance(error := reply.exception(), Exception):
            end(call, error)
            self._fail(call_id, *status_of(error))
        else:
            end(call)
            self._respond(call_id, reply.result())

    def _accept(self, events: Sequence[_Event]) -> None:
        for call_id, call in events:
            if call is None:
                self._cancel(call_id)
            elif self._stopping:
                self._fail_ended(call_id)
            else:
                self._tasks[call_id] = asyncio.create_task(self._answer(call_id, call))

    def _cancel(self, call_id: int) -> None:
        """Cancel the task of a call whose caller has gone, or whose deadline has passed."""
        if (task := self._tasks.get(call_id)) is not None:
            # A task that is cancelled before its first step does not run at all.
            task.add_done_callback(lambda _: self._tasks.pop(call_id, None))
            task.cancel()

    async def _answer(self, call_id: int, call: _Call) -> None:
        begin(call.call, None)  # The guard was asked when it arrived.
        try:
            if call.refusal is not None:
                await asyncio.sleep(call.refusal.delay_s)
                raise call.refusal
            reply = serialize(await call.method.function(call.method.parse(call.payload), call.deadline))
            end(call.call)
            self._respond(call_id, reply)
        except Exception as error:
            end(call.call, error)
            self._fail(call_id, *status_of(error))
        except asyncio.CancelledError as error:
            end(call.call, error)
            self._fail_ended(call_id)
            raise
        finally:
            self._tasks.pop(call_id, None)

    def _fail_ended(self, call_id: int) -> None:
        """Answer a call that this server does not begin or go on with, or whose caller does not wait any more."""
        if self._stopping:
            self._fail(call_id, grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        else:
            self._fail(call_id, grpc.StatusCode.CANCELLED, "cancelled")

    def _respond(self, call_id: int, reply: bytes) -> None:
        if len(reply) > MAX_MESSAGE_BYTES:
            self._fail(call_id, grpc.StatusCode.RESOURCE_EXHAUSTED, _too_large("Sent", reply))
        else:
            self._front.respond(call_id, reply)

    def _fail(self, call_id: int, code: grpc.StatusCode, message: str, trailer: Trailer = ()) -> None:
        self._front.fail(call_id, code.value[0], message, trailer or None)


async def _bound_connections(port: int) -> None:
    """Close the newest connections beyond the bound, as grpcio does with `grpc.max_allowed_incoming_connections`.

    A descriptor is kept to look with, for when a flood between two looks has taken all others.
    """
    sockets, bound, spare = ServerSockets(port), max_connections(), os.open(os.devnull, os.O_RDONLY)
    try:
        while True:
            await asyncio.sleep(_LOOK_S)
            os.close(spare)
            spare = -1
            with suppress(OSError):  # The flood was faster; at the next look.
                if len(os.listdir("/proc/self/fd")) > bound and (closed := sockets.close_beyond(bound)):
                    log.warning("closed %d connections beyond %d", closed, bound)
            while spare < 0:
                with suppress(OSError):
                    spare = os.open(os.devnull, os.O_RDONLY)
                    break
                await asyncio.sleep(_LOOK_S)
    finally:
        if spare >= 0:
            os.close(spare)


def _too_large(verb: str, message: bytes) -> str:
    return f"SERVER: {verb} message larger than max ({len(message)} vs. {MAX_MESSAGE_BYTES})"
