"""The watch on the shards: which version they serve, asked again every `refresh_s`. I/O through the shard clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from lookalike.errors import Unavailable
from lookalike.v1 import index_pb2
from server import metrics
from server.shard_group import ShardGroup
from server.topology import Snapshot, choose_snapshot

log = logging.getLogger(__name__)


class VersionWatch:
    """Follows which version the shards serve; each request pins the snapshot of it that it begins with."""

    def __init__(self, shards: ShardGroup, refresh_s: float) -> None:
        self._shards = shards
        self._refresh_s = refresh_s
        self._snapshot: Snapshot | None = None
        self._problem = "the shards have not been asked yet"
        self._refusals: dict[str, str] = {}
        self._complete = asyncio.Event()

    def snapshot(self) -> Snapshot:
        """What to pin for one request. Raises Unavailable before any shard has answered."""
        if self._snapshot is None:
            raise Unavailable(self._problem)
        return self._snapshot

    def note_applied(self, version: str, sequences: Mapping[int, int]) -> None:
        """Raise the sequence numbers of the version's shards, and so the cache key: older answers are not found."""
        if self._snapshot is not None and self._snapshot.version == version:
            self._snapshot = self._snapshot.with_sequences(sequences)

    async def refresh(self) -> None:
        """Ask every shard what it serves."""
        pinned = self._snapshot.version if self._snapshot else ""
        responses = await self._shards.describe(pinned)
        self._log_refusals(responses)
        try:
            latest = choose_snapshot(responses, pinned)
        except Unavailable as error:
            self._problem = str(error)
            metrics.SHARDS_SERVING.set(0)
            return
        metrics.SHARDS_SERVING.set(sum(latest.serving))
        if self._snapshot is not None and latest.version == pinned:
            # An update that was applied while the shards were asked may have brought a later sequence number.
            latest = latest.with_sequences(dict(enumerate(self._snapshot.sequences)))
        if self._snapshot is None or (latest.version, latest.serving) != (pinned, self._snapshot.serving):
            log.info("version %s; serving: %s", latest.version, latest.serving)
        self._snapshot = latest
        if all(latest.serving):
            self._complete.set()

    async def keep_fresh(self) -> None:
        """Refresh for ever, `refresh_s` apart."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_s)

    async def until_complete(self) -> None:
        """Return once all shards have served one version: what readiness means."""
        await self._complete.wait()

    def _log_refusals(self, responses: Sequence[index_pb2.DescribeResponse | None]) -> None:
        """Log, once each, why a shard does not serve the version that its location names: it keeps all at another."""
        refusals = {
            address: response.refusal
            for address, response in zip(self._shards.addresses, responses, strict=True)
            if response and response.refusal
        }
        for address, reason in refusals.items() - self._refusals.items():
            log.warning("shard %s does not change its version: %s", address, reason)
        self._refusals = refusals
