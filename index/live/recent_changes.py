"""The last updates that a shard applied: of which products, and how each may change answers. In memory, bounded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import ChangeKind

REMEMBERED = 1 << 14  # Two seconds of 8,000 updates a second; a gateway asks every second.


class AppliedChange(NamedTuple):
    id: bytes
    product: int  # The `product_hash` of the id.
    kind: ChangeKind.ValueType


class RecentChanges:
    """Remembers the last `capacity` updates. Thread-safe."""

    def __init__(self, sequence: int, capacity: int = REMEMBERED) -> None:
        """sequence: how many updates were applied before: they are not known."""
        self._lock = threading.Lock()
        self._capacity = capacity
        self._start = self._sequence = sequence
        self._products = np.zeros(capacity, np.uint64)  # Update n is at (n - 1) % capacity.
        self._kinds = np.zeros(capacity, np.uint8)
        self._ids = [b""] * capacity

    def add(self, changes: Sequence[AppliedChange]) -> None:
        with self._lock:
            slots = np.arange(self._sequence, self._sequence + len(changes)) % self._capacity
            self._products[slots] = [change.product for change in changes]  # Of equal slots the last value stays.
            self._kinds[slots] = [change.kind for change in changes]
            for slot, change in zip(slots.tolist(), changes, strict=True):
                self._ids[slot] = change.id
            self._sequence += len(changes)

    def between(self, known: int, sequence: int) -> index_pb2.RecentChanges:
        """The updates after number `known` up to number `sequence`; the last of them where not all are remembered."""
        with self._lock:
            first = max(known, self._start, self._sequence - self._capacity)
            slots = np.arange(first, sequence) % self._capacity
            return index_pb2.RecentChanges(products=self._products[slots].tolist(), kinds=self._kinds[slots].tobytes())

    def ids_between(self, known: int, sequence: int) -> Sequence[bytes] | None:
        """The products of the updates after number `known` up to number `sequence`; None: not all are remembered."""
        with self._lock:
            if known < max(self._start, self._sequence - self._capacity):
                return None
            slots = np.arange(known, sequence) % self._capacity
            return [*dict.fromkeys(self._ids[slot] for slot in slots.tolist())]
