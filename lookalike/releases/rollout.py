"""The reconcile loop that follows the location's CURRENT version without interrupting service. Polls the location.

The version that CURRENT names is loaded beside the one that serves, which is dropped when no gateway pins it and its
last request has ended. If a new version cannot be loaded, the old one serves on, and the reason is logged, counted, and
reported to gateways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from lookalike.errors import BadArtifact, LookalikeError
from lookalike.releases.served_versions import MAX_VERSIONS, Loaded, ServedVersions, VersionHandle, VersionUse

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_RETRY_S = 300.0


class NoPart(BadArtifact):
    """A version has nothing for this process, as it is of another number of shards."""


class RolloutMetrics(Protocol[Loaded]):
    """What a rollout reports."""

    def loaded(self, handle: VersionHandle[Loaded], seconds: float) -> None:
        """A version was loaded, which took so long."""

    def served(self, handle: VersionHandle[Loaded], versions: int) -> None:
        """A version is served; so many are now."""

    def dropped(self, versions: int) -> None:
        """A version was dropped; so many are left."""

    def failed(self) -> None:
        """CURRENT could not be read, or a version not be loaded or dropped."""


class Rollout(Generic[Loaded]):
    """Loads and drops the versions of `served`; for one event loop. Loads and frees on a thread of its own.

    read_target:  the name of the version to serve, from the location. May take long.
    load:         a version, verified and warm. May take long.
    admit:        prepares a loaded version and adds it to `served`; default: only adds it.
    before_drop:  called before a version is dropped.
    metrics:      what is told of every step.
    begin_thread: called on the thread that loads, before anything else.
    """

    def __init__(
        self,
        served: ServedVersions[Loaded],
        *,
        read_target: Callable[[], str],
        load: Callable[[str], VersionHandle[Loaded]],
        clock: Callable[[], float],
        retry_s: float,
        metrics: RolloutMetrics[Loaded],
        begin_thread: Callable[[], None] | None = None,
        admit: Callable[[VersionHandle[Loaded]], Awaitable[None]] | None = None,
        before_drop: Callable[[str], None] | None = None,
    ) -> None:
        self._served = served
        self._read_target = read_target
        self._load = load
        self._admit = admit or _add_to(served)
        self._before_drop = before_drop
        self._clock = clock
        self._retry_s = retry_s
        self._metrics = metrics
        self._target = ""
        self._no_part = ""  # The version that has no part for this process.
        self._failures = 0
        self._retry_at_s = 0.0
        self._started = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "load", initializer=begin_thread)

    async def start(self) -> None:
        """Load the first version. Raises if it cannot be loaded: a process without its version must not start.

        One of which no version has a part starts, and waits for one that has.
        """
        self._set_target(await self._run_in_thread(self._read_target))
        try:
            await self._add(await self._run_in_thread(partial(self._load_timed, self._target)))
        except NoPart as nothing:
            self._note_no_part(nothing)
        self._started.set()

    async def watch(self, poll_s: float) -> None:
        """Once started, reconcile every `poll_s`, for ever."""
        await self._started.wait()
        while True:
            await asyncio.sleep(poll_s)
            await self.reconcile()

    async def reconcile(self) -> None:
        """Read the target version once; drop what is no longer needed, and load the target if it is missing."""
        await self._drop_unneeded()
        try:
            self._set_target(await self._run_in_thread(self._read_target))
        except LookalikeError as error:
            self._report_failure(str(error))
            return
        uses = self._served.uses()
        if self._target in uses or self._target == self._no_part:
            self._served.refusal = ""
        elif len(uses) < MAX_VERSIONS and self._clock() >= self._retry_at_s:
            await self._try_to_load()

    def close(self) -> None:
        """Return when a load in progress has ended; loaded versions are freed by the end of the process."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _set_target(self, name: str) -> None:
        self._served.set_target(name)
        if name != self._target:
            self._target, self._failures, self._retry_at_s = name, 0, 0.0

    async def _try_to_load(self) -> None:
        name = self._target
        try:
            with ExitStack() as unless_served:
                handle = await self._run_in_thread(partial(self._load_timed, name))
                unless_served.callback(handle.release)
                self._set_target(await self._run_in_thread(self._read_target))
                if name == self._target:  # Else CURRENT has changed while it was loaded.
                    await self._add(handle)
                    unless_served.pop_all()
        except NoPart as nothing:
            self._note_no_part(nothing)
        except Exception as error:
            # Whatever the error is, the loaded versions must serve on.
            unexpected = None if isinstance(error, (LookalikeError, OSError, MemoryError)) else error
            self._report_failure(f"version {name}: {error}", unexpected)
            self._retry_at_s = self._clock() + min(self._retry_s * 2**self._failures, MAX_RETRY_S)
            self._failures += 1

    def _note_no_part(self, nothing: NoPart) -> None:
        self._no_part, self._served.refusal = self._target, ""
        log.info("nothing to serve of version %s: %s", self._target, nothing)

    async def _add(self, handle: VersionHandle[Loaded]) -> None:
        await self._admit(handle)
        self._served.refusal = ""
        self._metrics.served(handle, len(self._served.uses()))
        log.info("version %s is served", handle.name)

    async def _drop_unneeded(self) -> None:
        idle = versions_to_drop(
            self._served.uses(),
            self._target,
            self._served.current,
            self._clock(),
            has_part=self._target != self._no_part,
        )
        for name in idle:
            if self._before_drop is not None:
                try:
                    await self._run_in_thread(partial(self._before_drop, name))
                except OSError as error:
                    self._report_failure(f"version {name} cannot be dropped: {error}")
                    return
            if (handle := self._served.remove(name)) is not None:
                last_reference = [handle]
                del handle
                await self._run_in_thread(partial(_free, last_reference))
                self._metrics.dropped(len(self._served.uses()))
                log.info("version %s is dropped", name)

    def _report_failure(self, reason: str, unexpected: Exception | None = None) -> None:
        if reason != self._served.refusal:
            log.error("the loaded versions serve on: %s", reason, exc_info=unexpected)
        self._served.refusal = reason
        self._metrics.failed()

    def _load_timed(self, name: str) -> VersionHandle[Loaded]:
        began_s = self._clock()
        handle = self._load(name)
        self._metrics.loaded(handle, self._clock() - began_s)
        return handle

    async def _run_in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def versions_to_drop(
    uses: Mapping[str, VersionUse], target: str, current: str, now_s: float, *, has_part: bool = True
) -> list[str]:
    """The versions to drop: not the target, leased by no call and pinned by no gateway.

    While the target is not loaded, one is dropped only to make room for it, and one of those that serve always stays:
    the current one, unless another is in use.
    has_part: whether this process has a part of the target; without one it serves nothing in the end.
    """
    idle = [name for name, use in uses.items() if name != target and not use.calls and use.pinned_until_s <= now_s]
    if target in uses or not has_part:
        return idle
    if len(uses) < MAX_VERSIONS:
        return []
    return [name for name in idle if name != current or len(idle) < len(uses)]


def _add_to(served: ServedVersions[Loaded]) -> Callable[[VersionHandle[Loaded]], Awaitable[None]]:
    async def add(handle: VersionHandle[Loaded]) -> None:
        served.add(handle)

    return add


def _free(last_reference: list[VersionHandle[Any]]) -> None:
    """Nothing else refers to what was loaded: this frees its memory and mappings, and then releases its files."""
    release = last_reference.pop().release
    release()
