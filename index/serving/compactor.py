"""Run compactions in the background, one at a time, on a thread of their own. Writes files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context

from index.live.live_shard import LiveShard
from index.serving import metrics
from index.serving.threads import lower_thread_priority, run_in_thread
from index.serving.versions import ShardVersions

log = logging.getLogger(__name__)

RETRY_S = 5.0  # After a compaction that failed, so that not every update tries again.


class Compactor:
    """Compacts versions that are due, and waits after a failure; for one event loop."""

    def __init__(self, served: ShardVersions) -> None:
        self._served = served
        self._thread = ThreadPoolExecutor(1, "compact", initializer=lower_thread_priority)
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    def start_if_due(self, versions: Iterable[LiveShard]) -> None:
        """Start compacting the first of the versions that is due, unless a compaction is running."""
        for live in versions:
            if live.compaction_due and self._running is None and not self._closed:
                self._running = asyncio.create_task(self._compact(live.version), context=Context())  # Of no call.

    def close(self) -> None:
        """Return when a running compaction has ended; none begins any more."""
        self._closed = True
        self._thread.shutdown(wait=True)

    async def _compact(self, version: str) -> None:
        try:
            with self._served.lease(version) as shard:
                while shard.live is not None and shard.live.compaction_due and not self._closed:
                    with metrics.COMPACTION_SECONDS.time():
                        await run_in_thread(self._thread, shard.live.compact)
                    metrics.set_live(shard.shard, shard.live)
        except Exception:  # Most likely the disk is full. Nothing is lost; the next update tries again.
            log.exception("compaction failed")
            metrics.COMPACTION_FAILURES.inc()
            await asyncio.sleep(RETRY_S)
        finally:
            self._running = None
