"""The loaded versions that requests may name, with the number of calls that use each. In memory.

Freeing an index while it is searched crashes the process. So a call leases its version, from any thread, until its last
thread has finished; the owner, `lookalike.releases.rollout`, drops only versions that nobody leases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.releases.canary import Canary

Loaded = TypeVar("Loaded")
MAX_VERSIONS = 2  # Loaded beside each other: twice the memory of one. A third waits until one of them is dropped.


def _do_nothing() -> None:
    return None


class VersionHandle(NamedTuple, Generic[Loaded]):
    """A loaded version, for its owner, and how to release its files."""

    name: str
    loaded: Loaded
    release: Callable[[], None] = _do_nothing  # Call it when `loaded` is freed: its files are no longer in use.


class VersionUse(NamedTuple):
    """What keeps a version from being dropped."""

    calls: int  # That lease it now.
    pinned_until_s: float  # By gateways.


@dataclass(slots=True)
class _Entry(Generic[Loaded]):
    handle: VersionHandle[Loaded]
    pinned_until_s: float
    calls: int = 0


class ServedVersions(Generic[Loaded]):
    """The loaded versions that requests may name. Thread-safe.

    clock:   returns monotonic seconds.
    lease_s: how long a version is kept after a gateway pinned it.
    who:     what serves them, for messages: "shard".
    """

    def __init__(self, clock: Callable[[], float], lease_s: float, who: str) -> None:
        self._who = who
        self.clock = clock
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry[Loaded]] = {}
        self._target = ""
        self._current = ""
        self.canary: Canary | None = None  # The version that some requests may name before it is the current one.
        self.refusal = ""  # Why the target version is not served; empty: it is, or is being loaded.

    def set_target(self, name: str) -> None:
        """Set the version that the location names, loaded or not; gateways should move to it when it is loaded."""
        with self._lock:
            self._target = name
            if name in self._entries:
                self._current = name

    def add(self, handle: VersionHandle[Loaded]) -> None:
        """Serve a version: requests may name it now, and it is the current one unless another is the target."""
        name = handle.name
        with self._lock:
            if name in self._entries or len(self._entries) == MAX_VERSIONS:
                raise RuntimeError(f"version {name} cannot be added to {sorted(self._entries)}")
            self._entries[name] = _Entry(handle, self.clock() + self._lease_s)
            if self._target in ("", name) or not self._current:
                self._current = name

    @contextmanager
    def lease(self, name: str) -> Iterator[Loaded]:
        """The version that a call names, kept while the context is open. Raises Unavailable, FailedPrecondition."""
        with self._lock:
            if not self._entries:
                raise Unavailable(f"the {self._who} is still loading")
            if (entry := self._entries.get(name)) is None:
                raise FailedPrecondition(
                    f"this {self._who} serves version {' and '.join(sorted(self._entries))}, not {name!r}"
                )
            entry.calls += 1
        try:
            yield entry.handle.loaded
        finally:
            with self._lock:
                entry.calls -= 1

    def pin(self, name: str) -> list[VersionHandle[Loaded]]:
        """Keep the version that a gateway names, target and canary, for `lease_s`; returns all, the current one first.

        Raises Unavailable while no version is loaded.
        """
        with self._lock:
            if not self._entries:
                raise Unavailable(f"the {self._who} is still loading")
            canary = self.canary.version if self.canary else ""
            for each in {name, self._target, canary} & self._entries.keys():
                self._entries[each].pinned_until_s = self.clock() + self._lease_s
            return [self._entries[each].handle for each in self._names()]

    def loaded(self) -> list[Loaded]:
        """What is loaded, that of the current version first. Raises Unavailable while nothing is."""
        with self._lock:
            if not self._entries:
                raise Unavailable(f"the {self._who} is still loading")
            return [self._entries[each].handle.loaded for each in self._names()]

    @property
    def current(self) -> str:
        return self._current

    def uses(self) -> Mapping[str, VersionUse]:
        with self._lock:
            return {name: VersionUse(entry.calls, entry.pinned_until_s) for name, entry in self._entries.items()}

    def remove(self, name: str) -> VersionHandle[Loaded] | None:
        """Stop serving a version and return its handle; None, and nothing is done, if a call leases it."""
        with self._lock:
            if self._entries[name].calls:
                return None
            handle = self._entries.pop(name).handle
            if name == self._current:
                self._current = next(iter(self._entries), "")
            return handle

    def _names(self) -> list[str]:
        """The current version first; call it with the lock held."""
        return sorted(self._entries, key=lambda each: (each != self._current, each))
