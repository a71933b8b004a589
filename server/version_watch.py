"""Tracks which version shards and encoders serve, by polling them every `refresh_s`. I/O through their clients."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic

from encoders.clients import Encoders
from lookalike.errors import Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.partition import product_hash
from lookalike.spaces import space_name
from lookalike.v1 import index_pb2
from server import metrics
from server.handover import HandoverRunner
from server.shard_group import ShardGroup
from server.topology import CanarySnapshot, Snapshot, choose_canary, choose_snapshot

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_AWAITED_REFRESH_S = 0.05  # While changes wait for the version that takes them.


class VersionWatch:
    """Tracks which version shards and encoders serve. A request pins the snapshot that is current when it begins."""

    def __init__(self, shards: ShardGroup, encoders: Encoders, handovers: HandoverRunner, refresh_s: float) -> None:
        self._shards = shards
        self._encoders = encoders
        self._handovers = handovers
        self._polling = asyncio.Lock()
        self._moved = asyncio.Event()  # Set when the version changes, and then replaced.
        self._waiting = 0  # Changes that wait for another version.
        self._awaited = asyncio.Event()  # Set while there are any.
        self._polled = asyncio.Event()  # Set when the shards have been polled, and then replaced.
        self._refresh_s = refresh_s
        self._random = random.Random()  # decides nothing that an attacker could gain by
        self._snapshot: Snapshot | None = None
        self.canary: CanarySnapshot | None = None  # The version that some requests pin before it is the current one.
        self._problem = "no shard has been reached yet"
        self._refusals: dict[str, str] = {}
        self._complete = asyncio.Event()

    def snapshot(self) -> Snapshot:
        """The snapshot to pin for one request. Raises Unavailable before any shard has answered."""
        if self._snapshot is None:
            raise Unavailable(self._problem, retry_after_s=self._refresh_s)
        return self._snapshot

    def choose(self, routing_key: str) -> Snapshot:
        """The snapshot to pin for one request while there may be a canary: always the same for one key, if it has one.

        Raises Unavailable before any shard has answered.
        """
        snapshot = self.snapshot()
        if self.canary is None:
            return snapshot
        drawn = product_hash(routing_key.encode()) / 2**64 if routing_key else self._random.random()
        return self.canary.snapshot if drawn < self.canary.share else snapshot

    async def refresh(self) -> None:
        """Poll every shard for the versions that it serves, and choose the snapshot to pin."""
        async with self._polling:
            await self._refresh()
            self._polled.set()
            self._polled = asyncio.Event()

    async def _refresh(self) -> None:
        pinned, changes = (self._snapshot.version, self._snapshot.changes) if self._snapshot else ("", None)
        responses = await self._shards.describe(pinned, changes.polled if changes else ())
        self._log_refusals(responses)
        self._handovers.start_if_due(responses, self._encoders.in_reach, then=self.refresh)
        try:
            latest = choose_snapshot(responses, pinned, changes, self._encoders.in_reach)
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
        for reason in set(latest.waits_for).difference(self._snapshot.waits_for if self._snapshot else ()):
            log.warning("version %s stays: %s", latest.version, reason)
        metrics.WAITING_FOR_ENCODERS.set(len(latest.waits_for))
        self._snapshot = latest
        self._set_canary(choose_canary(responses, latest, self._encoders.in_reach))
        if latest.version != pinned:
            self._moved.set()
            self._moved = asyncio.Event()
        if all(latest.serving):
            self._complete.set()

    def _set_canary(self, canary: CanarySnapshot | None) -> None:
        before = (self.canary.snapshot.version, self.canary.share) if self.canary else None
        if before != (now := (canary.snapshot.version, canary.share) if canary else None):
            log.info("the canary is %s, before %s (version, share of requests)", now, before)
        self.canary = canary

    async def refresh_encoders(self) -> None:
        """Poll every encoder for what it serves, and renew its lease of the pinned version's."""
        await self._encoders.poll(self._snapshot.version if self._snapshot else "")

    async def keep_fresh(self) -> None:
        """Refresh for ever, every `refresh_s`: encoders beside the shards, which need not wait for a slow one.

        More often while changes wait for another version, which another gateway may have handed the changes to.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._shards.watch())
            for refresh in (self.refresh, self.refresh_encoders):
                tasks.create_task(self._repeat(refresh))

    async def _repeat(self, refresh: Callable[[], Awaitable[None]]) -> None:
        while True:
            await refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s):
                    await self._awaited.wait()
                    await asyncio.sleep(_AWAITED_REFRESH_S)

    async def after(self, snapshot: Snapshot, deadline: Deadline) -> Snapshot:
        """The snapshot to send an update to that the version of this one did not take.

        That of another version or, where there is none within a second, of the same: it may take updates again. Raises
        Unavailable at the deadline.
        """
        if self.snapshot().version == snapshot.version:
            await self._wait_for_move(min(_RETRY_S, max(0.0, deadline.at_s - monotonic())))
            if self.snapshot().version == snapshot.version and deadline.at_s <= monotonic():
                problem = f"version {snapshot.version} takes no updates, and no other one does yet: try again"
                raise Unavailable(problem, retry_after_s=self._refresh_s)
        return self.snapshot()

    async def _wait_for_move(self, seconds: float) -> None:
        self._waiting += 1
        self._awaited.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._moved.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._awaited.clear()

    async def until_complete(self) -> None:
        """Wait until all shards have served one version."""
        await self._complete.wait()

    async def until_ready(self, wait_s: float, coverage: float) -> None:
        """Wait until all shards have served one version or, after `wait_s`, this share of them does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._complete.wait()
                return
        while self._snapshot is None or sum(self._snapshot.serving) < coverage * self._snapshot.shards:
            await self._polled.wait()
        log.warning("ready with %d of %d shards", sum(self._snapshot.serving), self._snapshot.shards)

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
