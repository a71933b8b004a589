"""A bound on the streams that are open at once, and the end of those whose callers may go on no more. On one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.message import Message

from lookalike.errors import LookalikeError, Overloaded
from lookalike.runtime.call import Call, current
from lookalike.runtime.deadline import Deadline
from server import metrics
from server.admission import Permit, StreamHandler
from server.key_limits import KeyLimits

_KEY_SHARE = 0.5  # Of the streams, for one API key.


class OpenStream:
    """One stream, or call that may take long. It ends with the task that reads its requests, or with its own."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.refusal: LookalikeError | None = None
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._is_own = True

    def read(self, reading: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start the task that reads."""
        task = self._task = asyncio.create_task(reading)
        self._is_own = False
        return task

    def end(self, refusal: LookalikeError) -> None:
        """End the stream with an error, as soon as what it has answered is sent."""
        self.refusal = refusal
        if self._task is not None:
            self._task.cancel()

    def ended(self) -> LookalikeError | None:
        """With what it was ended; None: it is cancelled by somebody else."""
        if self.refusal is not None and self._is_own and self._task is not None:
            self._task.uncancel()
        return self.refusal


class OpenStreams:
    """Counts open streams of all kinds, at most `limit`."""

    def __init__(self, limit: int, keys: KeyLimits | None = None) -> None:
        self._limit = limit
        self._keys = keys or KeyLimits()
        self._open: set[OpenStream] = set()
        self._replying: set[OpenStream] = set()  # Calls with one request and many replies, which hold permits.

    @contextmanager
    def one_more(self) -> Iterator[OpenStream]:
        """Count one while the context is open. Raises Overloaded, and what the stream was ended with."""
        if len(self._open) >= self._limit:
            raise Overloaded(f"{len(self._open)} streams are open, the limit is {self._limit}")
        stream = OpenStream(current())
        if caller := stream.call.caller.id:
            its = sum(each.call.caller.id == caller for each in self._open)
            if its >= max(1, self._limit * _KEY_SHARE):
                raise Overloaded(f"{its} streams of this key are open, of {self._limit} in all")
            self._keys.count()
        self._open.add(stream)
        metrics.STREAMS.set(len(self._open))
        try:
            yield stream
        except asyncio.CancelledError:
            if (refusal := stream.ended()) is None:
                raise
            raise refusal from None
        finally:
            self._open.discard(stream)
            metrics.STREAMS.set(len(self._open))

    def replying(self, handler: StreamHandler) -> StreamHandler:
        """The handler, whose replies end where its caller may go on no more."""

        async def call(request: Any, deadline: Deadline, permit: Permit) -> AsyncGenerator[Message | bytes, None]:
            stream = OpenStream(current())
            self._replying.add(stream)
            try:
                async with aclosing(handler(request, deadline, permit)) as replies:
                    async for reply in replies:
                        if stream.refusal is not None:
                            raise stream.refusal
                        yield reply
            finally:
                self._replying.discard(stream)

        return call

    def renew(self, check: Callable[[Call], None]) -> None:
        """Check the callers of all open streams again, and end those streams for which `check` raises."""
        for stream in (*self._open, *self._replying):
            try:
                check(stream.call)
            except LookalikeError as refusal:
                if stream.refusal is None and stream in self._open:
                    stream.end(refusal)
                stream.refusal = refusal
