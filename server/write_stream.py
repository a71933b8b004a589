"""Write: batches of changes and their responses on one stream, in order. I/O through the writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from google.protobuf.message import Message

from lookalike.errors import LookalikeError
from lookalike.limits import MAX_WRITE_AHEAD
from lookalike.runtime.deadline import Deadline
from lookalike.v1.catalog_pb2 import BatchWriteRequest
from server.admission import Admission
from server.audit_log import AuditLog
from server.audited_changes import batch_outcome, describe_batch
from server.changes import CatalogWriter, calls_of, count_of
from server.metrics import time_request
from server.open_streams import OpenStreams


class WriteStreamer:
    """The handler of Write. A stream holds no permit; each of its batches does, as a call of its own."""

    def __init__(
        self, writer: CatalogWriter, admission: Admission, streams: OpenStreams, audit: AuditLog | None = None
    ) -> None:
        self._write = writer.write if audit is None else audit.audited(writer.write, describe_batch, batch_outcome)
        self._admission = admission
        self._streams = streams

    async def write(
        self, requests: AsyncIterator[BatchWriteRequest], deadline: Deadline
    ) -> AsyncGenerator[Message | bytes, None]:
        """Yield a BatchWriteResponse per request, in order. Raises Overloaded, InvalidRequest.

        Batches are written one after the other; MAX_WRITE_AHEAD of them are read ahead, and then no more: HTTP/2's flow
        control holds the caller back. A batch counts as applied only when its response says so.
        """
        slots = asyncio.Semaphore(MAX_WRITE_AHEAD)
        batches: asyncio.Queue[BatchWriteRequest | None] = asyncio.Queue()

        async def read() -> None:
            try:
                async for request in requests:
                    await slots.acquire()
                    batches.put_nowait(request)
            finally:
                batches.put_nowait(None)  # Without waiting for room, which nobody makes once the stream has ended.

        with self._streams.one_more() as stream:
            reader = stream.read(read())
            try:
                while (request := await batches.get()) is not None:
                    slots.release()
                    with (
                        time_request("Write") as timer,
                        self._admission.permit(timer, calls_of(request), request.ByteSize(), items=count_of(request)),
                    ):
                        response = await self._write(request, deadline)
                    yield response
                await reader  # Raises what ended the stream.
            finally:
                reader.cancel()
                with suppress(asyncio.CancelledError, LookalikeError):
                    await reader
