"""Appends events to a stream in batches, and waits where it is full or cannot be reached. I/O through the stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from lookalike.errors import Overloaded, Unavailable
from lookalike.stream import event as events
from lookalike.stream.product_stream import Handle, ProductStream
from lookalike.v1.event_pb2 import ProductEvent

_BATCH = 500  # Events in one append, which is on disk after one fsync.
_BATCH_BYTES = 1 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0


class Publisher:
    """Appends what it is given, in order. wait_s: for how long it tries one batch before it raises the error.

    note: is told once, in words, each time that it has to wait.
    """

    def __init__(
        self,
        stream: ProductStream,
        *,
        wait_s: float,
        note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._wait_s = wait_s
        self._note = note
        self._clock = clock
        self._batch: list[ProductEvent] = []
        self._batch_bytes = 0
        self.published = 0

    async def add(self, event: ProductEvent) -> Sequence[Handle]:
        """Append the event, with those before it, once they are enough. Returns the handles of what was appended."""
        size_bytes = len(events.encode(event))
        handles = await self.flush() if self._batch and self._batch_bytes + size_bytes > _BATCH_BYTES else ()
        self._batch.append(event)
        self._batch_bytes += size_bytes
        return [*handles, *(await self.flush())] if len(self._batch) == _BATCH else handles

    def clear(self) -> None:
        """Forget what is not appended."""
        self._batch, self._batch_bytes = [], 0

    async def flush(self) -> Sequence[Handle]:
        """Append what is left. Raises Overloaded, Unavailable."""
        if not self._batch:
            return ()
        give_up_s, pause_s, noted = self._clock() + self._wait_s, _FIRST_PAUSE_S, False
        while True:
            try:
                handles = await self._stream.append(self._batch)
                break
            except (Overloaded, Unavailable) as error:
                if self._clock() >= give_up_s:
                    raise
                if not noted:
                    self._note(f"{error}; trying again for {self._wait_s:g} s")
                    noted = True
                await asyncio.sleep(max(pause_s, error.retry_after_s if isinstance(error, Overloaded) else 0.0))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.published += len(self._batch)
        self._batch, self._batch_bytes = [], 0
        return handles


async def publish_all(publisher: Publisher, found: Iterable[ProductEvent]) -> None:
    """Append all events, to the last."""
    for event in found:
        await publisher.add(event)
    await publisher.flush()
