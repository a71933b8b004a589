"""Writes changes through a gateway, those that arrive during a call together in the next. I/O through `call`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from lookalike.errors import LookalikeError
from lookalike.limits import MAX_CHANGES, MAX_WRITE_BYTES
from lookalike.runtime.coalescer import Coalescer
from lookalike.status import from_request_error
from lookalike.v1.catalog_pb2 import BatchWriteRequest, BatchWriteResponse, Change, ChangeResponse

TIMEOUT_S: Final = 30.0  # Of a call: a gateway waits for a compaction to make room.
_IN_FLIGHT: Final = 2  # While the shards write one batch, the gateway checks the next.
# The gateway counts a change that it encodes as a call, of which it admits 64 by default, searches included.
_MAX_ENCODED: Final = 24
_BYTES_OF_SMALL: Final = -(-MAX_WRITE_BYTES // MAX_CHANGES)  # So that no batch has more than MAX_CHANGES.
_UNBOUNDED: Final = 1 << 62  # The worker bounds what waits by what it polls.

Call = Callable[[BatchWriteRequest, float], Awaitable[BatchWriteResponse]]


class ChangeWriter:
    """Makes changes by `call`; for use on one event loop."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._plain = Coalescer(
            self._write,
            max_in_flight=_IN_FLIGHT,
            max_batch=MAX_WRITE_BYTES,
            max_waiting=_UNBOUNDED,
            size=lambda change: max(change.ByteSize(), _BYTES_OF_SMALL),
            name="write changes",
        )
        self._encoded = Coalescer(
            self._write,
            max_in_flight=_IN_FLIGHT,
            max_batch=_MAX_ENCODED,
            max_waiting=_UNBOUNDED,
            name="write changes",
        )

    async def __call__(self, change: Change) -> ChangeResponse:
        """Make a change; it is durable when this returns. Raises LookalikeError."""
        encoded = change.upsert.encode or change.patch.encode
        return await (self._encoded if encoded else self._plain).submit(change)

    async def _write(self, changes: list[Change]) -> Sequence[ChangeResponse | LookalikeError]:
        response = await self._call(BatchWriteRequest(changes=changes), TIMEOUT_S)
        return [
            result.response if result.HasField("response") else from_request_error(result.error)
            for result in response.results
        ]
