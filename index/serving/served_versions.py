"""The versions of a shard that requests may name, with the number of calls that use each. In memory.

Freeing an index while it is searched crashes the process. So a call leases its version, from any thread, until its last
thread has finished; the owner, `index.serving.rollout`, drops only versions that nobody leases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from index.serving.shard_version import ShardVersion
from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.v1 import index_pb2

MAX_VERSIONS = 2  # Loaded beside each other: twice the memory of one. A third waits until one of them is dropped.


def _do_nothing() -> None:
    return None


class VersionHandle(NamedTuple):
    """A loaded version, for its owner: the shard, and how to release its files."""

    shard: ShardVersion
    release: Callable[[], None] = _do_nothing  # Call it when the shard is freed: its files are no longer in use.


class VersionUse(NamedTuple):
    """What keeps a version from being dropped."""

    calls: int  # That lease it now.
    pinned_until_s: float  # By gateways.


@dataclass(slots=True)
class _Entry:
    handle: VersionHandle
    pinned_until_s: float
    calls: int = 0


class ServedVersions:
    """The loaded versions that requests may name. Thread-safe.

    clock:   returns monotonic seconds.
    lease_s: how long a version is kept after a gateway pinned it.
    """

    def __init__(self, clock: Callable[[], float], lease_s: float) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._target = ""
        self._current = ""
        self.refusal = ""  # Why the target version is not served; empty: it is, or is being loaded.

    def set_target(self, name: str) -> None:
        """Set the version that the location names, loaded or not; gateways should move to it when it is loaded."""
        with self._lock:
            self._target = name
            if name in self._entries:
                self._current = name

    def add(self, handle: VersionHandle) -> None:
        """Serve a version: requests may name it now, and it is the current one."""
        name = handle.shard.manifest.version
        with self._lock:
            if name in self._entries or len(self._entries) == MAX_VERSIONS:
                raise RuntimeError(f"version {name} cannot be added to {sorted(self._entries)}")
            self._entries[name] = _Entry(handle, self._clock() + self._lease_s)
            self._current = name

    @contextmanager
    def lease(self, name: str) -> Iterator[ShardVersion]:
        """The version that a call names, kept while the context is open. Raises Unavailable, FailedPrecondition."""
        with self._lock:
            if not self._entries:
                raise Unavailable("the shard is still loading")
            if (entry := self._entries.get(name)) is None:
                raise FailedPrecondition(
                    f"this shard serves version {' and '.join(sorted(self._entries))}, not {name!r}"
                )
            entry.calls += 1
        try:
            yield entry.handle.shard
        finally:
            with self._lock:
                entry.calls -= 1

    def describe(self, pinned: str, known_sequence: int = 0) -> index_pb2.DescribeResponse:
        """Describe the versions, the current one first; pin the one that the gateway names, and the target.

        With the updates after `known_sequence` of that one, or of the current one where the gateway names none.

        Raises Unavailable while no version is loaded.
        """
        with self._lock:
            if not self._entries:
                raise Unavailable("the shard is still loading")
            for name in {pinned, self._target} & self._entries.keys():
                self._entries[name].pinned_until_s = self._clock() + self._lease_s
            names = sorted(self._entries, key=lambda name: (name != self._current, name))
            states = [
                self._entries[name].handle.shard.state(known_sequence if name == (pinned or self._current) else None)
                for name in names
            ]
            return index_pb2.DescribeResponse(versions=states, refusal=self.refusal)

    @property
    def current(self) -> str:
        return self._current

    def uses(self) -> Mapping[str, VersionUse]:
        with self._lock:
            return {name: VersionUse(entry.calls, entry.pinned_until_s) for name, entry in self._entries.items()}

    def remove(self, name: str) -> VersionHandle | None:
        """Stop serving a version and return its handle; None, and nothing is done, if a call leases it."""
        with self._lock:
            if self._entries[name].calls:
                return None
            handle = self._entries.pop(name).handle
            if name == self._current:
                self._current = next(iter(self._entries), "")
            return handle
