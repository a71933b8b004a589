"""Evaluate a `Filter` to a mask of rows, over whole columns and their dictionary codes. Pure."""

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


def filter_mask(attributes: Attributes, condition: Filter) -> Mask:
    """The rows that meet every condition of the filter. A contradictory filter, which gateways refuse, passes none."""
    mask = np.ones(len(attributes), dtype=np.bool_)
    masks = chain(
        _column_masks(attributes, condition), _tag_masks(attributes, condition), _group_masks(attributes, condition)
    )
    for condition_mask in masks:
        mask &= condition_mask
    return mask


def _column_masks(attributes: Attributes, condition: Filter) -> Iterator[Mask]:
    if condition.category_in:
        yield _subtree_codes(attributes.categories, condition.category_in)[attributes.category_codes]
    if condition.category_not_in:
        yield ~_subtree_codes(attributes.categories, condition.category_not_in)[attributes.category_codes]
    if condition.shop_in:
        yield _codes_of(attributes.shops, condition.shop_in)[attributes.shop_codes]
    if condition.shop_not_in:
        yield ~_codes_of(attributes.shops, condition.shop_not_in)[attributes.shop_codes]
    if condition.currency_in:
        yield _codes_of(attributes.currencies, condition.currency_in)[attributes.currency_codes]
    if condition.HasField("has_price"):
        yield np.isnan(attributes.prices) != condition.has_price
    if condition.HasField("min_price"):  # An unknown price, NaN, passes neither bound.
        yield attributes.prices >= condition.min_price
    if condition.HasField("max_price"):
        yield attributes.prices <= condition.max_price
    if condition.HasField("in_stock"):
        yield attributes.in_stock == condition.in_stock
    if condition.HasField("created_after"):
        yield attributes.created > condition.created_after


def _tag_masks(attributes: Attributes, condition: Filter) -> Iterator[Mask]:
    if condition.tags_any:
        yield _tag_counts(attributes, condition.tags_any) > 0
    if condition.tags_all:
        yield _tag_counts(attributes, condition.tags_all) == len(set(condition.tags_all))
    if condition.tags_none:
        yield _tag_counts(attributes, condition.tags_none) == 0


def _group_masks(attributes: Attributes, condition: Filter) -> Iterator[Mask]:
    if condition.any_of:
        yield np.logical_or.reduce([filter_mask(attributes, inner) for inner in condition.any_of])
    yield from (filter_mask(attributes, inner) for inner in condition.all_of)
    yield from (~filter_mask(attributes, inner) for inner in condition.none_of)


def _tag_counts(attributes: Attributes, tags: Iterable[str]) -> npt.NDArray[np.int32]:
    """How many of `tags` each row has; a row has each tag at most once."""
    matches = _codes_of(attributes.tags, tags)[attributes.tag_codes]
    running_count = np.zeros(len(matches) + 1, dtype=np.int32)
    np.cumsum(matches, out=running_count[1:])
    offsets = attributes.tag_offsets
    return running_count[offsets[1:]] - running_count[offsets[:-1]]


def _codes_of(dictionary: SortedStrings, values: Iterable[str]) -> Mask:
    """Mask of the dictionary codes whose string is one of `values`."""
    mask = np.zeros(len(dictionary), dtype=np.bool_)
    for value in values:
        if (code := dictionary.find(value.encode())) is not None:
            mask[code] = True
    return mask


def _subtree_codes(dictionary: SortedStrings, paths: Iterable[str]) -> Mask:
    """Mask of the dictionary codes whose string is one of `paths` or a path below one."""
    mask = _codes_of(dictionary, paths := list(paths))
    for path in paths:
        mask[dictionary.starting_with(f"{path}/".encode())] = True
    return mask


class FilterCache:
    """LRU cache of filter bitmaps by space and serialized filter: at most `size` entries of n/8 bytes. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[int, bytes], FilterBitmap] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, space: int, key: bytes, compute: Callable[[], FilterBitmap]) -> FilterBitmap:
        """Return the entry, computed if missing, outside the lock: two threads may compute it twice, but none waits."""
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
