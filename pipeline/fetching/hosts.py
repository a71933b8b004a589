"""What one host is asked at a time: a bounded number of fetches, and none for as long as it asks for patience."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from pipeline.fetching.failures import FetchCause, FetchError

MAX_PAUSE_S: Final = 300.0  # Whatever a server asks for.
_MAX_IDLE_HOSTS: Final = 4096


@dataclass(slots=True)
class _Host:
    slots: asyncio.Semaphore
    users: int = 0
    paused_until_s: float = field(default=0.0)


class HostLimits:
    """Permits to fetch from a host; for use on one event loop.

    max_in_flight: fetches at a time; others wait.
    per_host:      of them, those of one host: a slow one does not take all places.
    """

    def __init__(self, max_in_flight: int, per_host: int, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._slots = asyncio.Semaphore(max_in_flight)
        self._per_host = per_host
        self._now_s = now_s
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    @asynccontextmanager
    async def permit(self, host: str) -> AsyncIterator[None]:
        """Wait for a place. Raises FetchError at once while the host is paused, with what is left of the pause."""
        state = self._hosts.setdefault(host, _Host(asyncio.Semaphore(self._per_host)))
        self._hosts.move_to_end(host)
        state.users += 1
        try:
            self._check_pause(host, state)
            async with state.slots, self._slots:
                self._check_pause(host, state)
                yield
        finally:
            state.users -= 1
            self._forget_idle()

    def pause(self, host: str, seconds: float) -> None:
        """Let nobody fetch from a host for a while, because it asked for that."""
        if (state := self._hosts.get(host)) is not None:
            state.paused_until_s = max(state.paused_until_s, self._now_s() + min(seconds, MAX_PAUSE_S))

    def _check_pause(self, host: str, state: _Host) -> None:
        if (left_s := state.paused_until_s - self._now_s()) > 0:
            raise FetchError(FetchCause.BUSY, f"{host} asked for a pause", retry_after_s=left_s)

    def _forget_idle(self) -> None:
        while len(self._hosts) > _MAX_IDLE_HOSTS:
            idle = next((name for name, state in self._hosts.items() if not state.users), None)
            if idle is None:
                return
            del self._hosts[idle]
