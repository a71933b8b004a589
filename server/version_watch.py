"""Tracks which version the shards serve, by polling them every `refresh_s`. I/O through the shard clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from lookalike.errors import Unavailable
from lookalike.spaces import space_name
from lookalike.v1 import index_pb2
from server import metrics
from server.shard_group import ShardGroup
from server.topology import Snapshot, choose_snapshot

log = logging.getLogger(__name__)


class VersionWatch:
    """Tracks which version the shards serve. A request pins the snapshot that is current when it begins."""

    def __init__(self, shards: ShardGroup, refresh_s: float) -> None:
        self._shards = shards
        self._refresh_s = refresh_s
        self._snapshot: Snapshot | None = None
        self._problem = "no shard has been reached yet"
        self._refusals: dict[str, str] = {}
        self._complete = asyncio.Event()

    def snapshot(self) -> Snapshot:
        """The snapshot to pin for one request. Raises Unavailable before any shard has answered."""
        if self._snapshot is None:
            raise Unavailable(self._problem)
        return self._snapshot

    async def refresh(self) -> None:
        """Poll every shard for the versions that it serves, and choose the snapshot to pin."""
        pinned, changes = (self._snapshot.version, self._snapshot.changes) if self._snapshot else ("", None)
        responses = await self._shards.describe(pinned, changes.polled if changes else ())
        self._log_refusals(responses)
        try:
            latest = choose_snapshot(responses, pinned, changes)
        except Unavailable as error:
            self._problem = str(error)
            metrics.SHARDS_SERVING.set(0)
            return
        metrics.SHARDS_SERVING.set(sum(latest.serving))
        if self._snapshot is None or (latest.version, latest.serving) != (pinned, self._snapshot.serving):
            log.info("version %s; serving: %s", latest.version, latest.serving)
        if latest.version != pinned:
            promised = {space: info.recall for space, info in latest.spaces.items() if info.recall is not None}
            metrics.show_release(latest.version, {space_name(s): each.recall for s, each in promised.items()})
        for loss in set(latest.losses).difference(self._snapshot.losses if self._snapshot else ()):
            log.warning("version %s: %s", latest.version, loss)
        self._snapshot = latest
        if all(latest.serving):
            self._complete.set()

    async def keep_fresh(self) -> None:
        """Refresh for ever, every `refresh_s`."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_s)

    async def until_complete(self) -> None:
        """Wait until all shards have served one version: then the gateway is ready."""
        await self._complete.wait()

    def _log_refusals(self, responses: Sequence[index_pb2.DescribeResponse | None]) -> None:
        """Log once why a shard refuses the version that CURRENT names: until it serves it, requests pin the old one."""
        refusals = {
            address: response.refusal
            for address, response in zip(self._shards.addresses, responses, strict=True)
            if response and response.refusal
        }
        for address, reason in refusals.items() - self._refusals.items():
            log.warning("shard %s does not change its version: %s", address, reason)
        self._refusals = refusals
