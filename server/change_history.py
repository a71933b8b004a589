"""What a gateway knows of the changes to one version of the index: which products changed, and in which order. Pure.

The updates of a shard are numbered (`ShardState.sequence`). The gateway learns of them when it polls the shard, and of
those that it sends with their acknowledgement.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import CHANGE_KIND_PATCH, CHANGE_KIND_UPSERT, ChangeKind

REMEMBERED = 1 << 16  # Products; twice as many have 20 MB.


class Effect(Enum):
    """The effect of all changes since an answer on what a search would find now."""

    NONE = "none"
    MORE_HITS = "more hits"  # Products that a search did not find may be found.
    CHANGED = "changed"  # A product that the answer depends on was changed.
    FORGOTTEN = "forgotten"  # Not all of the changes are known any more.


class Known(NamedTuple):
    """What is known at one moment. The first five have a number for each shard."""

    sequences: tuple[int, ...]  # Of the last update that is known to be applied.
    forgotten: tuple[int, ...]  # All updates after this number, up to the last poll, are known.
    upserts: tuple[int, ...]  # Of the last update that any search may find; 0: none is known.
    patches: tuple[int, ...]  # Of the last one that searches may find by their filter.
    packed: bytes  # `sequences`, as answers in the cache have them.
    # The number of the last update of a product by `product_hash`, of those in the latest and in an earlier period.
    latest: dict[int, int]
    earlier: dict[int, int]


class ChangeHistory:
    """Remembers the last update of at least `capacity` products. One thread writes, any thread reads."""

    def __init__(self, shards: int, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._start(shards)

    def _start(self, shards: int) -> None:
        none = (0,) * shards
        self.polled = none  # Per shard: the number of the last update at the last poll.
        self._period_start = none  # `sequences` when the latest period began.
        self.known = Known(none, none, none, none, pack_sequences(none), {}, {})

    def add_polled(self, states: Mapping[int, index_pb2.ShardState]) -> None:
        """Add what shards, by their ordinals, say of the updates after `polled`."""
        if any(state.sequence < self.polled[shard] for shard, state in states.items()):
            self._start(len(self.polled))  # A shard has lost its updates: they are numbered anew.
        known, polled = self.known, [*self.polled]
        sequences, forgotten, upserts, patches = map(list, known[:4])
        for shard, state in states.items():
            changes = state.changes
            first = state.sequence - len(changes.products)
            if first > polled[shard]:
                forgotten[shard] = first
            _add(known.latest, zip(changes.products, range(first + 1, state.sequence + 1), strict=True))
            for numbers, kind in ((upserts, CHANGE_KIND_UPSERT), (patches, CHANGE_KIND_PATCH)):
                if last := changes.kinds.rfind(kind) + 1:
                    numbers[shard] = max(numbers[shard], first + last)
            polled[shard] = state.sequence
            sequences[shard] = max(sequences[shard], state.sequence)
        self.polled = tuple(polled)
        self._publish(sequences, forgotten, upserts, patches)

    def add_own(self, shard: int, sequence: int, changes: Sequence[tuple[int, ChangeKind.ValueType]]) -> None:
        """Add updates that this gateway sent, by `product_hash`; after them `sequence` updates have been applied."""
        known = self.known
        sequences, forgotten, upserts, patches = map(list, known[:4])
        _add(known.latest, ((product, sequence) for product, _ in changes))
        kinds = {kind for _, kind in changes}
        for numbers, kind in ((upserts, CHANGE_KIND_UPSERT), (patches, CHANGE_KIND_PATCH)):
            if kind in kinds:
                numbers[shard] = max(numbers[shard], sequence)
        sequences[shard] = max(sequences[shard], sequence)
        self._publish(sequences, forgotten, upserts, patches)

    def _publish(self, sequences: list[int], forgotten: list[int], upserts: list[int], patches: list[int]) -> None:
        """Replace `known`, after its products have been added: readers may know of a change early, never late."""
        latest, earlier = self.known.latest, self.known.earlier
        if len(latest) >= self._capacity:
            forgotten = [*map(max, forgotten, self._period_start)]
            latest, earlier = {}, latest
            self._period_start = tuple(sequences)
        packed = pack_sequences(sequences)
        self.known = Known(tuple(sequences), tuple(forgotten), tuple(upserts), tuple(patches), packed, latest, earlier)


def effect_of_changes(known: Known, since: Sequence[int], products: Iterable[int], *, filtered: bool) -> Effect:
    """The effect on an answer of the updates after the numbers `since`, one of each shard.

    products: what the answer depends on, by `product_hash`.
    filtered: whether a change of a product's fields could make it a hit.
    """
    if any(map(int.__lt__, since, known.forgotten)):
        return Effect.FORGOTTEN
    shards, latest, earlier = len(since), known.latest.get, known.earlier.get
    for product in products:
        if max(latest(product, 0), earlier(product, 0)) > since[product % shards]:
            return Effect.CHANGED
    if any(map(int.__lt__, since, known.upserts)) or (filtered and any(map(int.__lt__, since, known.patches))):
        return Effect.MORE_HITS
    return Effect.NONE


def pack_sequences(sequences: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(sequences)}Q", *sequences)


def _add(products: dict[int, int], changes: Iterable[tuple[int, int]]) -> None:
    for product, sequence in changes:
        if products.get(product, 0) < sequence:
            products[product] = sequence
