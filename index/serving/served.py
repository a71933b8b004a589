"""The versions of a shard that requests may name: each counts the calls that use it, and goes when nobody does.

A search in an index that is freed meanwhile is a crash. So a call leases its version, from any thread, until its last
thread is done with it; the owner, `index.serving.rollout`, lets go only of what nobody leases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from index.serving.loaded import LoadedShard
from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.v1 import index_pb2

AT_ONCE = 2  # Versions loaded beside each other: twice the memory of one. A third waits until one of them goes.


def _nothing() -> None:
    return None


class Loaded(NamedTuple):
    shard: LoadedShard
    release: Callable[[], None] = _nothing  # To be called when the shard is gone: its files are no longer in use.


class Use(NamedTuple):
    calls: int
    until_s: float  # A gateway asked for it to be kept until then.


@dataclass(slots=True)
class _Entry:
    loaded: Loaded
    until_s: float
    calls: int = 0


class Served:
    """`clock` tells monotonic seconds; a gateway that pins a version keeps it for `lease_s`. For any thread."""

    def __init__(self, clock: Callable[[], float], lease_s: float) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._wanted = ""
        self._current = ""
        self.refused = ""  # Why the version that the location names is not served.

    def want(self, name: str) -> None:
        """The version that the location names, loaded or not; gateways should move to it when it is."""
        with self._lock:
            self._wanted = name
            if name in self._entries:
                self._current = name

    def add(self, loaded: Loaded) -> None:
        """From now on requests may name it; it is the current one."""
        name = loaded.shard.manifest.version
        with self._lock:
            if name in self._entries or len(self._entries) == AT_ONCE:
                raise RuntimeError(f"version {name} has no place beside {sorted(self._entries)}")
            self._entries[name] = _Entry(loaded, self._clock() + self._lease_s)
            self._current = name

    @contextmanager
    def lease(self, name: str) -> Iterator[LoadedShard]:
        """The version that a call names, pinned while inside. Raises Unavailable, FailedPrecondition."""
        with self._lock:
            if not self._entries:
                raise Unavailable("the shard is still loading")
            if (entry := self._entries.get(name)) is None:
                raise FailedPrecondition(
                    f"this shard serves version {' and '.join(sorted(self._entries))}, not {name!r}"
                )
            entry.calls += 1
        try:
            yield entry.loaded.shard
        finally:
            with self._lock:
                entry.calls -= 1

    def describe(self, pinned: str) -> index_pb2.DescribeResponse:
        """What is served, the current one first. Keeps the version that the gateway pins, and the one it may move to.

        Raises Unavailable while nothing is served.
        """
        with self._lock:
            if not self._entries:
                raise Unavailable("the shard is still loading")
            for name in {pinned, self._wanted} & self._entries.keys():
                self._entries[name].until_s = self._clock() + self._lease_s
            names = sorted(self._entries, key=lambda name: (name != self._current, name))
            return index_pb2.DescribeResponse(
                versions=[self._entries[name].loaded.shard.state() for name in names], refusal=self.refused
            )

    @property
    def current(self) -> str:
        return self._current

    def uses(self) -> Mapping[str, Use]:
        with self._lock:
            return {name: Use(entry.calls, entry.until_s) for name, entry in self._entries.items()}

    def remove(self, name: str) -> Loaded | None:
        """No request may name it any more; None, and nothing is done, where a call has come to use it."""
        with self._lock:
            if self._entries[name].calls:
                return None
            loaded = self._entries.pop(name).loaded
            if name == self._current:
                self._current = next(iter(self._entries), "")
            return loaded
