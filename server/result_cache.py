"""The result cache: its interface, its keys (pure), and the cache in this process's memory. No I/O.

A key names the version of the index and the request, so that a new version needs no flush; a value is an answer with
what it depends on, so that changes void it (`server/cached_answer.py`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import NamedTuple, Protocol

from lookalike.runtime.deadline import Deadline
from lookalike.v1 import search_pb2
from lookalike.v1.types_pb2 import SpaceWeight
from server.query import SearchQuery


class Flushed(NamedTuple):
    """What came of a flush."""

    removed: int  # Answers.
    complete: bool  # False: the deadline came first.


class ResultCache(Protocol):
    """A cache of answers. It never raises and never hangs: while it is down, it finds nothing and stores nothing."""

    async def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes) -> None:
        """Store the value in the background; a failure is not reported."""

    async def flush(self, deadline: Deadline) -> Flushed:
        """Forget all answers of this catalogue. Raises Unavailable while it is down."""

    async def close(self) -> None: ...


class KnownRequest(NamedTuple):
    """A request that was seen before: its key, and what decides whether a caller may ask for it."""

    key: str
    exact: bool
    limit: int


class RequestKeys:
    """Keys of requests: equivalent requests have equal keys. Remembers those of requests that were seen lately.

    policy: the AUTO policy, as text: answers under another policy differ.
    """

    def __init__(self, policy: str, max_remembered: int = 1 << 16) -> None:
        self._policy = policy.encode() + b"\0"
        self._max_remembered = max_remembered
        self._keys: dict[bytes, KnownRequest] = {}  # By the digest of the request's bytes.

    def remembered(self, digest: bytes) -> KnownRequest | None:
        """What is known of a request of which `key` has made one, by the digest of its bytes."""
        return self._keys.get(digest)

    def key(self, digest: bytes, request: search_pb2.SearchRequest, query: SearchQuery) -> KnownRequest:
        """The key, with the rest, of a request, parsed as `query`.

        `min_coverage` makes no difference, since only complete answers are cached; nor do defaults that are spelt out,
        the order of filter lists, and the order and the sum of `weights`.
        """
        data = self._policy + _canonical(request, query).SerializeToString(deterministic=True)
        key = blake2b(data, digest_size=16, person=b"search").hexdigest()
        if len(self._keys) >= self._max_remembered:
            del self._keys[next(iter(self._keys))]  # The oldest.
        known = KnownRequest(key, query.exact, query.limit)
        self._keys[digest] = known
        return known


def digest_of(data: bytes) -> bytes:
    """SHA-256: processors have instructions for it, which halve the time that BLAKE2 takes."""
    return sha256(data).digest()


def _canonical(request: search_pb2.SearchRequest, query: SearchQuery) -> search_pb2.SearchRequest:
    canonical = search_pb2.SearchRequest()
    canonical.CopyFrom(request)
    canonical.limit = query.limit
    canonical.ClearField("min_coverage")
    canonical.ClearField("routing_key")
    canonical.ClearField("filter")
    if query.filter.ByteSize():
        canonical.filter.CopyFrom(query.filter)
    if query.shares is not None:
        canonical.ClearField("weights")
        canonical.weights.extend(
            SpaceWeight(space=space, weight=share) for space, share in zip(*query.shares, strict=True)
        )
    for example, parsed in zip(canonical.examples, query.examples, strict=True):
        example.weight = parsed.weight
    return canonical


class MemoryResultCache:
    """A least-recently-used cache of at most `max_bytes` of keys and values; an entry expires after `ttl_s`."""

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        if (value := self.peek(key)) is None and key in self._entries:
            self._drop(key)
        return value

    def peek(self, key: str) -> bytes | None:
        """As `get`, at once and on any thread, beside calls on another: each step is one of the dictionary's own."""
        if (entry := self._entries.get(key)) is None or self._clock() >= entry[1]:
            return None
        try:
            self._entries.move_to_end(key)
        except KeyError:
            return None
        return entry[0]

    def put(self, key: str, value: bytes) -> None:
        if key in self._entries:
            self._drop(key)
        self._entries[key] = (value, self._clock() + self._ttl_s)
        self._bytes += len(key) + len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def flush(self, deadline: Deadline) -> Flushed:
        removed = len(self._entries)
        self._entries.clear()
        self._bytes = 0
        return Flushed(removed, complete=True)

    async def close(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= len(key) + len(value)
