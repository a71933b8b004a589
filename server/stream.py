"""SearchStream: searches and their responses on one stream, out of order. I/O through the search handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from google.protobuf.message import Message

from lookalike.errors import LookalikeError
from lookalike.limits import MAX_STREAM_AHEAD
from lookalike.runtime import tracing
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told_as_message
from lookalike.status import INTERNAL_MESSAGE, to_request_error
from lookalike.v1.index_pb2 import OpaqueSearchStreamResponse
from lookalike.v1.search_pb2 import SearchStreamRequest
from server.admission import Admission
from server.metrics import time_request
from server.open_streams import OpenStreams
from server.search import Searcher

log = logging.getLogger(__name__)


class SearchStreamer:
    """The handler of SearchStream. A stream holds no permit; each of its searches does, as a call of its own."""

    def __init__(self, searcher: Searcher, admission: Admission, streams: OpenStreams) -> None:
        self._searcher = searcher
        self._admission = admission
        self._streams = streams

    async def search_stream(
        self, requests: AsyncIterator[SearchStreamRequest], deadline: Deadline
    ) -> AsyncGenerator[Message | bytes, None]:
        """Yield a serialized SearchStreamResponse per request, as they are ready. Raises Overloaded.

        At most MAX_STREAM_AHEAD searches have no response that the caller has taken: then no more is read, and HTTP/2's
        flow control holds the caller back. When the stream ends or is cancelled, so do its searches.
        """
        slots = asyncio.Semaphore(MAX_STREAM_AHEAD)
        responses: asyncio.Queue[bytes | None] = asyncio.Queue()
        with self._streams.one_more() as stream:
            reader = stream.read(self._read(requests, deadline, slots, responses))
            try:
                while (response := await responses.get()) is not None:
                    yield response
                    slots.release()
                await reader  # Raises what ended the stream.
            finally:
                reader.cancel()
                with suppress(asyncio.CancelledError, LookalikeError):
                    await reader

    async def _read(
        self,
        requests: AsyncIterator[SearchStreamRequest],
        deadline: Deadline,
        slots: asyncio.Semaphore,
        responses: asyncio.Queue[bytes | None],
    ) -> None:
        """Start a search per request while there are slots; put None when all have ended."""
        searches: set[asyncio.Task[None]] = set()
        try:
            async for request in requests:
                await slots.acquire()
                search = asyncio.create_task(self._search(request, deadline, responses))
                searches.add(search)
                search.add_done_callback(searches.discard)
            if searches:
                await asyncio.wait(searches)
        finally:
            for search in searches:
                search.cancel()
            responses.put_nowait(None)

    async def _search(
        self, request: SearchStreamRequest, deadline: Deadline, responses: asyncio.Queue[bytes | None]
    ) -> None:
        response = OpaqueSearchStreamResponse(id=request.id)
        try:
            data = request.request.SerializeToString()
            with (
                tracing.span("search"),
                time_request("SearchStream") as timer,
                self._admission.permit(timer, size=len(data)) as permit,
            ):
                response.response = await self._searcher.search(data, deadline, permit)
        except LookalikeError as error:
            response.error = told_as_message(error).SerializeToString()
        except Exception:
            log.exception("unexpected error in a stream")
            response.error = to_request_error(LookalikeError(INTERNAL_MESSAGE)).SerializeToString()
        responses.put_nowait(response.SerializeToString())
