"""Which rows pass a `Filter`: over dictionary codes, as bits for faiss. Pure."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from index.kinds.passing import Mask, Passing
from index.storage.attributes import Attributes
from index.storage.strings import SortedStrings
from protos.lookalike.v1 import types_pb2


def mask_of(attributes: Attributes, condition: types_pb2.Filter) -> Mask:
    """Which rows meet every condition that is set. A filter that makes no sense passes nothing."""
    passes = np.ones(len(attributes), dtype=np.bool_)
    if condition.category_in:
        passes &= _below(attributes.categories, condition.category_in)[attributes.category_codes]
    if condition.category_not_in:
        passes &= ~_below(attributes.categories, condition.category_not_in)[attributes.category_codes]
    if condition.shop_in:
        passes &= _equal(attributes.shops, condition.shop_in)[attributes.shop_codes]
    if condition.shop_not_in:
        passes &= ~_equal(attributes.shops, condition.shop_not_in)[attributes.shop_codes]
    if condition.HasField("min_price"):
        passes &= attributes.prices >= condition.min_price
    if condition.HasField("max_price"):
        passes &= attributes.prices <= condition.max_price
    if condition.HasField("in_stock"):
        passes &= attributes.in_stock == condition.in_stock
    return passes


def _equal(known: SortedStrings, values: Iterable[str]) -> Mask:
    """Which codes stand for one of `values`."""
    chosen = np.zeros(len(known), dtype=np.bool_)
    for value in values:
        if (code := known.find(value.encode())) is not None:
            chosen[code] = True
    return chosen


def _below(known: SortedStrings, paths: Iterable[str]) -> Mask:
    """Which codes stand for one of `paths` or for a path below it."""
    chosen = _equal(known, paths := list(paths))
    for path in paths:
        chosen[known.starting_with(f"{path}/".encode())] = True
    return chosen


class PassingCache:
    """The filters used last, by space and serialized filter. For many threads; at most `size` entries of n/8 bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[int, bytes], Passing] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, space: int, key: bytes, compute: Callable[[], Passing]) -> Passing:
        """The entry, computed outside the lock if it is missing: two threads may compute the same, none waits."""
        with self._lock:
            if (entry := self._entries.get((space, key))) is not None:
                self._entries.move_to_end((space, key))
                return entry
        entry = compute()
        with self._lock:
            self._entries[space, key] = entry
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return entry
