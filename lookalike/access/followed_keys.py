"""Keeps the keys of a serving process as its store has them. I/O through the store, on threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lookalike.access.guard import KeyGuard, KeyTable
from lookalike.access.key_store import KeyStore, StoredKeys
from lookalike.access.open_store import open_key_store
from lookalike.errors import BadArtifact, OperatorError, Unavailable
from lookalike.runtime.call import Call, Guard
from lookalike.runtime.lifecycle import background_task

log = logging.getLogger(__name__)

REFRESH_S = 1.0  # A key that is made, changed or revoked is so in every process after this time, and that of a read.

Renew = Callable[[Call], None]


class FollowedKeys:
    """Reads the store, and tells the guard what is in it."""

    def __init__(self, store: KeyStore, guard: KeyGuard, refreshed: Callable[[Renew], None]) -> None:
        """refreshed: called after every look at the store, successful or not, with the check of open calls."""
        self._store = store
        self._guard = guard
        self._refreshed = refreshed
        self._generation = ""
        self._known = self._failed = False

    async def start(self) -> None:
        """Read the keys for the first time. Raises OperatorError where that is not possible."""
        try:
            await self._read()
        except Unavailable as error:
            raise OperatorError(f"the API keys cannot be read: {error}") from error

    async def refresh(self) -> None:
        """Look once. While the store is down, or damaged, the keys as last read go on."""
        try:
            await self._read()
        except (Unavailable, BadArtifact) as error:
            if not self._failed:
                log.error("the API keys cannot be read; those known go on, and none is revoked: %s", error)
            self._failed = True
        else:
            if self._failed:
                log.info("the API keys can be read again")
            self._failed = False
        self._refreshed(self._guard.renew)

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()

    async def _read(self) -> None:
        stored = await asyncio.to_thread(self._store.read, self._generation)
        if stored is None:
            self._guard.confirm()
            return
        if not self._known or stored.generation != self._generation:
            self._report(stored)
        self._generation, self._known = stored.generation, True
        self._guard.confirm(KeyTable(stored.keys))

    def _report(self, stored: StoredKeys) -> None:
        log.info("%d API keys", len(stored.keys))
        if not stored.keys:
            log.warning("there are no API keys: every call is refused")


@asynccontextmanager
async def guarding(
    address: str, max_age_s: float, refreshed: Callable[[Renew], None], then: Guard | None = None
) -> AsyncIterator[KeyGuard | None]:
    """The guard of a process by the keys at an address, which it follows; None: there is no address, and all pass.

    then: as of `KeyGuard`. Raises OperatorError where the keys cannot be read at first.
    """
    if not address:
        yield None
        return
    store, guard = open_key_store(address), KeyGuard(max_age_s=max_age_s, then=then)
    try:
        keys = FollowedKeys(store, guard, refreshed)
        await keys.start()
        async with background_task(keys.follow()):
            yield guard
    finally:
        store.close()
