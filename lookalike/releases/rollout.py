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
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from lookalike.errors import BadArtifact, LookalikeError
from lookalike.releases.canary import Canary
from lookalike.releases.served_versions import MAX_VERSIONS, Loaded, ServedVersions, VersionHandle, VersionUse

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_RETRY_S = 300.0


class NoPart(BadArtifact):
    """A version has nothing for this process, as it is of another number of shards."""


class _Failures(NamedTuple):
    """To load a version."""

    so_far: int
    retry_at_s: float


_NONE = _Failures(0, 0.0)


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
    read_canary:  a version to serve beside it, or None; default: there is none. May take long.
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
        read_canary: Callable[[], Canary | None] | None = None,
        begin_thread: Callable[[], None] | None = None,
        admit: Callable[[VersionHandle[Loaded]], Awaitable[None]] | None = None,
        before_drop: Callable[[str], None] | None = None,
    ) -> None:
        self._served = served
        self._read_target = read_target
        self._read_canary = read_canary
        self._load = load
        self._admit = admit or _add_to(served)
        self._before_drop = before_drop
        self._clock = clock
        self._retry_s = retry_s
        self._metrics = metrics
        self._target = ""
        self._no_part = ""  # The version that has no part for this process.
        self._failures: dict[str, _Failures] = {}  # By version, of those that are to be served.
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
            self._note_no_part(self._target, nothing)
        self._started.set()

    async def until_started(self) -> None:
        """Return when the first version is loaded, or there is none for this process."""
        await self._started.wait()

    async def watch(self, poll_s: float) -> None:
        """Once started, reconcile every `poll_s`, for ever."""
        await self._started.wait()
        while True:
            await asyncio.sleep(poll_s)
            await self.reconcile()

    async def reconcile(self) -> None:
        """Read the target version once; drop what is no longer needed, and load the target if it is missing.

        Where it is there, load the canary.
        """
        await self._drop_unneeded()
        try:
            await self._read_targets()
        except LookalikeError as error:
            self._report_failure(str(error))
            return
        uses, canary = self._served.uses(), self._served.canary
        name = self._target
        if name in uses or name == self._no_part:
            if canary is None or canary.version in uses or canary.version == self._no_part:
                self._served.refusal = ""
                return
            name = canary.version
        if len(uses) < MAX_VERSIONS and self._clock() >= self._failures.get(name, _NONE).retry_at_s:
            await self._try_to_load(name)

    def close(self) -> None:
        """Return when a load in progress has ended; loaded versions are freed by the end of the process."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _read_targets(self) -> None:
        """Read the target and the canary. Raises LookalikeError."""
        self._set_target(await self._run_in_thread(self._read_target))
        canary = await self._run_in_thread(self._read_canary) if self._read_canary is not None else None
        self._served.canary = None if canary is None or canary.version == self._target else canary

    def _set_target(self, name: str) -> None:
        self._served.set_target(name)
        if name != self._target:
            self._target, self._failures = name, {}

    def _is_wanted(self, name: str) -> bool:
        canary = self._served.canary
        return name == self._target or (canary is not None and name == canary.version)

    async def _try_to_load(self, name: str) -> None:
        try:
            with ExitStack() as unless_served:
                handle = await self._run_in_thread(partial(self._load_timed, name))
                unless_served.callback(handle.release)
                await self._read_targets()
                if self._is_wanted(name):  # Else CURRENT has changed while it was loaded.
                    await self._add(handle)
                    unless_served.pop_all()
        except NoPart as nothing:
            self._note_no_part(name, nothing)
        except Exception as error:
            # Whatever the error is, the loaded versions must serve on.
            unexpected = None if isinstance(error, (LookalikeError, OSError, MemoryError)) else error
            self._report_failure(f"version {name}: {error}", unexpected)
            failures = self._failures.get(name, _NONE).so_far
            retry_at_s = self._clock() + min(self._retry_s * 2**failures, MAX_RETRY_S)
            self._failures[name] = _Failures(failures + 1, retry_at_s)

    def _note_no_part(self, name: str, nothing: NoPart) -> None:
        self._no_part, self._served.refusal = name, ""
        log.info("nothing to serve of version %s: %s", name, nothing)

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
            canary=self._served.canary.version if self._served.canary else "",
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
    uses: Mapping[str, VersionUse],
    target: str,
    current: str,
    now_s: float,
    *,
    has_part: bool = True,
    canary: str = "",
) -> list[str]:
    """The versions to drop: not the target, leased by no call and pinned by no gateway.

    While the target is not loaded, one is dropped only to make room for it, and one of those that serve always stays:
    the current one, unless another is in use.
    has_part: whether this process has a part of the target; without one it serves nothing in the end.
    canary: the version that is served beside the target; it makes room for that.
    """
    idle = [name for name, use in uses.items() if name != target and not use.calls and use.pinned_until_s <= now_s]
    if target in uses or not has_part:
        return [name for name in idle if name != canary]
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
