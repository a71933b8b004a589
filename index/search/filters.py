"""Which rows pass a `Filter`: over whole columns and their dictionary codes. Pure."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from index.backends.filter_bitmap import FilterBitmap, Mask
from index.storage.attributes import Attributes
from index.storage.strings import SortedStrings
from lookalike.v1.types_pb2 import Filter


def mask_of(attributes: Attributes, condition: Filter) -> Mask:
    """Which rows meet every condition that is set. One that makes no sense passes nothing: gateways have refused it."""
    passes = np.ones(len(attributes), dtype=np.bool_)
    for mask in chain(_values(attributes, condition), _tags(attributes, condition), _groups(attributes, condition)):
        passes &= mask
    return passes


def _values(attributes: Attributes, condition: Filter) -> Iterator[Mask]:
    if condition.category_in:
        yield _below(attributes.categories, condition.category_in)[attributes.category_codes]
    if condition.category_not_in:
        yield ~_below(attributes.categories, condition.category_not_in)[attributes.category_codes]
    if condition.shop_in:
        yield _equal(attributes.shops, condition.shop_in)[attributes.shop_codes]
    if condition.shop_not_in:
        yield ~_equal(attributes.shops, condition.shop_not_in)[attributes.shop_codes]
    if condition.HasField("min_price"):
        yield attributes.prices >= condition.min_price
    if condition.HasField("max_price"):
        yield attributes.prices <= condition.max_price
    if condition.HasField("in_stock"):
        yield attributes.in_stock == condition.in_stock
    if condition.HasField("created_after"):
        yield attributes.created > condition.created_after


def _tags(attributes: Attributes, condition: Filter) -> Iterator[Mask]:
    if condition.tags_any:
        yield _tagged(attributes, condition.tags_any) > 0
    if condition.tags_all:
        yield _tagged(attributes, condition.tags_all) == len(set(condition.tags_all))
    if condition.tags_none:
        yield _tagged(attributes, condition.tags_none) == 0


def _groups(attributes: Attributes, condition: Filter) -> Iterator[Mask]:
    if condition.any_of:
        yield np.logical_or.reduce([mask_of(attributes, each) for each in condition.any_of])
    yield from (mask_of(attributes, each) for each in condition.all_of)
    yield from (~mask_of(attributes, each) for each in condition.none_of)


def _tagged(attributes: Attributes, tags: Iterable[str]) -> npt.NDArray[np.int32]:
    """How many of `tags` each row has. A row has a tag once."""
    chosen = _equal(attributes.tags, tags)[attributes.tag_codes]
    so_far = np.zeros(len(chosen) + 1, dtype=np.int32)
    np.cumsum(chosen, out=so_far[1:])
    offsets = attributes.tag_offsets
    return so_far[offsets[1:]] - so_far[offsets[:-1]]


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
        self._entries: OrderedDict[tuple[int, bytes], FilterBitmap] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, space: int, key: bytes, compute: Callable[[], FilterBitmap]) -> FilterBitmap:
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
