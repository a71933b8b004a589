"""Enqueue and Wait: changes put on the stream of product events, and what became of them. I/O to the stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from lookalike.errors import (
    BadSettings,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    Unavailable,
)
from lookalike.limits import MAX_CHANGES
from lookalike.product_rules import max_revision, revision_at
from lookalike.runtime.deadline import Deadline
from lookalike.status import to_request_error
from lookalike.stream import event as events
from lookalike.stream.product_stream import EventState, Handle, ProductStream
from lookalike.timestamps import unix_time_s
from lookalike.v1 import catalog_pb2
from lookalike.v1.catalog_pb2 import AcceptedChange, Change, EnqueuedChange, EnqueueResult
from lookalike.v1.event_pb2 import ProductEvent
from server.admission import Permit
from server.metrics import time_request
from server.open_streams import OpenStreams

log = logging.getLogger(__name__)

MAX_WAIT_S = 60.0
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 0.5  # Between two looks at what is pending; they become rarer.
_SOURCE = "enqueue"
_NOT_USABLE = "the stream of product events cannot be used as it is set up; see the server's log"
_STATES: Mapping[EventState, catalog_pb2.EventState.ValueType] = {
    EventState.UNKNOWN: catalog_pb2.EVENT_STATE_UNSPECIFIED,
    EventState.PENDING: catalog_pb2.EVENT_STATE_PENDING,
    EventState.DONE: catalog_pb2.EVENT_STATE_SEARCHABLE,
    EventState.DEAD: catalog_pb2.EVENT_STATE_DEAD,
}

_Result = TypeVar("_Result")
OpenStream = Callable[[], Awaitable[ProductStream]]


class Enqueuer:
    """The handlers of Enqueue and Wait. The stream is opened when it is first needed: it may be down at the start.

    open_stream: None where the gateway has no stream.
    waits:       bounds the calls of Wait, which hold no permit: they do nothing most of the time.
    """

    def __init__(
        self, open_stream: OpenStream | None, waits: OpenStreams, *, group: str, deadline_s: float, revision_unit: str
    ) -> None:
        self._open_stream = open_stream
        self._waits = waits
        self._group = group
        self._deadline_s = deadline_s
        self._revision_unit = revision_unit
        self._stream: ProductStream | None = None
        self._opening = asyncio.Lock()

    async def start(self) -> None:
        """Open the stream, if there is one and it is up. Raises BadSettings for one that must not be used."""
        if self._open_stream is not None:
            try:
                await self._opened()
            except Unavailable as error:
                log.warning("no changes can be enqueued yet: %s", error)

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.close()

    async def enqueue(
        self, request: catalog_pb2.EnqueueRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.EnqueueResponse:
        _check_count("changes", len(request.changes))
        stream = await self._opened_for_a_call()
        now_s = unix_time_s()
        greatest, stamp = max_revision(self._revision_unit, now_s), revision_at(self._revision_unit, now_s)
        response, valid = catalog_pb2.EnqueueResponse(), list[ProductEvent]()
        for change in request.changes:
            try:
                result = EnqueueResult(accepted=_accept(change, stamp, greatest))
                event = events.new_event(change, source=_SOURCE, published_at_s=now_s)
                events.encode(event)
                valid.append(event)
            except InvalidRequest as error:
                result = EnqueueResult(error=to_request_error(error))
            response.results.append(result)
        handles = await self._within(deadline, partial(stream.append, valid)) if valid else ()
        accepted = (each.accepted for each in response.results if each.HasField("accepted"))
        for each, handle in zip(accepted, handles, strict=True):
            each.handle = str(handle)
        return response

    async def wait(self, request: catalog_pb2.WaitRequest, deadline: Deadline) -> Message:
        with time_request("Wait"), self._waits.one_more():
            _check_count("handles", len(request.handles))
            if not 0 <= request.timeout_s <= MAX_WAIT_S:
                raise InvalidRequest("timeout_s", f"{request.timeout_s:g} is not in 0..{MAX_WAIT_S:g}")
            handles = [_parse(i, text) for i, text in enumerate(request.handles)]
            stream = await self._opened_for_a_call()
            until = Deadline.after(request.timeout_s)
            return catalog_pb2.WaitResponse(changes=await self._until_settled(stream, handles, until, deadline))

    async def _until_settled(
        self, stream: ProductStream, handles: Sequence[Handle], until: Deadline, deadline: Deadline
    ) -> Sequence[EnqueuedChange]:
        """What became of each event when none is pending any more, or when the time is over."""
        found: list[EnqueuedChange] = [EnqueuedChange()] * len(handles)
        open_, pause_s = [*range(len(handles))], _FIRST_LOOK_S
        while True:
            statuses = await self._within(deadline, partial(stream.statuses, self._group, [handles[i] for i in open_]))
            for i, status in zip(open_, statuses, strict=True):
                found[i] = EnqueuedChange(state=_STATES[status.state], reason=status.reason)
            open_ = [i for i in open_ if found[i].state == catalog_pb2.EVENT_STATE_PENDING]
            if not open_:
                return found
            try:
                await asyncio.sleep(until.capped(pause_s))
            except DeadlineExceeded:
                return found
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    async def _within(self, deadline: Deadline, call: Callable[[], Awaitable[_Result]]) -> _Result:
        try:
            async with asyncio.timeout(deadline.or_after(self._deadline_s).timeout_s()):
                return await call()
        except BadSettings as error:  # It was made anew with other partitions.
            raise FailedPrecondition(str(error)).hidden_as(_NOT_USABLE) from error
        except TimeoutError:
            raise DeadlineExceeded("the stream did not answer in time; what was enqueued may be on it") from None

    async def _opened_for_a_call(self) -> ProductStream:
        if self._open_stream is None:
            raise FailedPrecondition("the gateway has no stream of product events (LOOKALIKE_GATEWAY_STREAM)")
        try:
            return await self._opened()
        except BadSettings as error:
            raise FailedPrecondition(str(error)).hidden_as(_NOT_USABLE) from error

    async def _opened(self) -> ProductStream:
        async with self._opening:
            if self._stream is None:
                assert self._open_stream is not None, "asked before"  # noqa: S101  # for the type checker
                self._stream = await self._open_stream()
        return self._stream


def _accept(change: Change, stamp: int, greatest: int) -> AcceptedChange:
    """Check a change, and give it a revision where it has none. Raises InvalidRequest."""
    kind = change.WhichOneof("change")
    request = getattr(change, kind) if kind else None
    if request is not None and not request.revision:
        request.revision = stamp
    notices = events.check_change(change, greatest)
    return AcceptedChange(revision=events.revision_of(change), notices=notices)


def _parse(position: int, text: str) -> Handle:
    try:
        return Handle.parse(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"handles[{position}]", error.reason) from None


def _check_count(field: str, count: int) -> None:
    if not 1 <= count <= MAX_CHANGES:
        raise InvalidRequest(field, f"has {count}, must have 1 to {MAX_CHANGES}")
