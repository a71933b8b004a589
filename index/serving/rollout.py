"""From one version to the next without a ripple: what the location names is loaded beside what serves, then the old
one goes when no gateway pins it and its last request has ended. Polls the location.

Whatever is wrong with a new version, the old one serves on; why is logged, counted, and told to gateways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram

from index.serving.pool import yield_to_others
from index.serving.served import AT_ONCE, Loaded, Served, Use
from lookalike.errors import LookalikeError
from lookalike.spaces import space_name

log = logging.getLogger(__name__)
Result = TypeVar("Result")

VERSIONS = Gauge("lookalike_shard_versions", "Versions loaded: two while one follows the other.")
DOCUMENTS = Gauge("lookalike_shard_documents", "Vectors in this shard, of the version loaded last.", ["space"])
LOAD_SECONDS = Histogram(
    "lookalike_shard_load_seconds",
    "Time to fetch, verify, map and warm up a version.",
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
REFUSALS = Counter("lookalike_shard_refusals", "Looks at the location, and loads, that failed.")

RETRY_MOST_S = 300.0


class Rollout:
    """wanted: which version the location names; load: the version, verified and warm. Both may take long.

    admit: adds what was loaded to `served`, when something that must come before is done; leave: what must be done
    before a version is dropped.

    For one event loop; loads and frees on a thread of its own.
    """

    def __init__(
        self,
        served: Served,
        *,
        wanted: Callable[[], str],
        load: Callable[[str], Loaded],
        clock: Callable[[], float],
        retry_s: float,
        admit: Callable[[Loaded], Awaitable[None]] | None = None,
        leave: Callable[[str], None] | None = None,
    ) -> None:
        self._served = served
        self._find_wanted = wanted
        self._load = load
        self._admit = admit or _added_to(served)
        self._leave = leave
        self._clock = clock
        self._retry_s = retry_s
        self._wanted = ""
        self._failures = 0
        self._again_s = 0.0
        self._started = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "load", initializer=yield_to_others)

    async def start(self) -> None:
        """Load the first version. Raises what is wrong with it: a shard that serves nothing had better not start."""
        self._want(await self._aside(self._find_wanted))
        await self._add(await self._aside(partial(self._timed, self._wanted)))
        self._started.set()

    async def watch(self, poll_s: float) -> None:
        """Once started, follow the location for ever."""
        await self._started.wait()
        while True:
            await asyncio.sleep(poll_s)
            await self.settle()

    async def settle(self) -> None:
        """One look at the location, and what follows from it."""
        await self._drop()
        try:
            self._want(await self._aside(self._find_wanted))
        except LookalikeError as error:
            self._refuse(str(error))
            return
        uses = self._served.uses()
        if self._wanted in uses:
            self._served.refused = ""
        elif len(uses) < AT_ONCE and self._clock() >= self._again_s:
            await self._try()

    def close(self) -> None:
        """Returns when a version that is being loaded is; the rest is left to the end of the process."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _want(self, name: str) -> None:
        self._served.want(name)
        if name != self._wanted:
            self._wanted, self._failures, self._again_s = name, 0, 0.0

    async def _try(self) -> None:
        name = self._wanted
        try:
            with ExitStack() as unless_served:
                loaded = await self._aside(partial(self._timed, name))
                unless_served.callback(loaded.release)
                self._want(await self._aside(self._find_wanted))
                if name == self._wanted:  # Else somebody went back from it while it was loaded.
                    await self._add(loaded)
                    unless_served.pop_all()
        except Exception as error:
            # Whatever it is, what serves must serve on.
            unexpected = None if isinstance(error, (LookalikeError, OSError, MemoryError)) else error
            self._refuse(f"version {name}: {error}", unexpected)
            self._again_s = self._clock() + min(self._retry_s * 2**self._failures, RETRY_MOST_S)
            self._failures += 1

    async def _add(self, loaded: Loaded) -> None:
        await self._admit(loaded)
        self._served.refused = ""
        VERSIONS.set(len(self._served.uses()))
        for number, space in loaded.shard.base.spaces.items():
            DOCUMENTS.labels(space_name(number)).set(len(space))
        log.info("version %s is served", loaded.shard.manifest.version)

    async def _drop(self) -> None:
        for name in superseded(self._served.uses(), self._wanted, self._served.current, self._clock()):
            if self._leave is not None:
                try:
                    await self._aside(partial(self._leave, name))
                except OSError as error:
                    self._refuse(f"version {name} cannot be left: {error}")
                    return
            if (loaded := self._served.remove(name)) is not None:
                gone = [loaded]
                del loaded
                await self._aside(partial(_free, gone))
                VERSIONS.set(len(self._served.uses()))
                log.info("version %s is dropped", name)

    def _refuse(self, why: str, unexpected: Exception | None = None) -> None:
        if why != self._served.refused:
            log.error("what serves, serves on: %s", why, exc_info=unexpected)
        self._served.refused = why
        REFUSALS.inc()

    def _timed(self, name: str) -> Loaded:
        began_s = self._clock()
        loaded = self._load(name)
        LOAD_SECONDS.observe(self._clock() - began_s)
        return loaded

    async def _aside(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def superseded(uses: Mapping[str, Use], wanted: str, current: str, now_s: float) -> list[str]:
    """The versions to drop: not the wanted one, used by no call and kept by no gateway.

    Where the wanted one is yet to come, only to make room for it, and one of those that serve always stays: the
    current one, unless another is in use.
    """
    idle = [name for name, use in uses.items() if name != wanted and not use.calls and use.until_s <= now_s]
    if wanted in uses:
        return idle
    if len(uses) < AT_ONCE:
        return []
    return [name for name in idle if name != current or len(idle) < len(uses)]


def _added_to(served: Served) -> Callable[[Loaded], Awaitable[None]]:
    async def add(loaded: Loaded) -> None:
        served.add(loaded)

    return add


def _free(gone: list[Loaded]) -> None:
    """Nothing else refers to the shard: its memory and mappings go here, then its files may."""
    release = gone.pop().release
    release()
