"""A filter as it may reach the shards: checked, and in the form that filters of one meaning share. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from google.protobuf.unknown_fields import UnknownFieldSet

from lookalike.errors import InvalidRequest
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1.types_pb2 import Filter

MAX_VALUES = 100
# Each filter in a filter costs a shard a pass over its columns.
MAX_DEPTH = 4
MAX_FILTERS = 32

_LISTS = ("category_in", "category_not_in", "shop_in", "shop_not_in", "tags_any", "tags_all", "tags_none")
_GROUPS = ("any_of", "all_of", "none_of")


def check_filter(given: Filter) -> Filter:
    """The filter in canonical form: lists and groups sorted, without repetition.

    Filters that differ in order and repetition alone have equal bytes. Raises InvalidRequest naming the field: too many
    values, an empty value, a number that is none, a range that is empty, a filter in it that is empty or too deep, a
    field of a newer client: without it, more would pass than is wanted.
    """
    if not given.ByteSize():
        return given
    if (count := sum(1 for _ in _tree(given, "filter", 0))) > MAX_FILTERS + 1:
        raise InvalidRequest("filter", f"{count - 1} filters in it; {MAX_FILTERS} are the most")
    return _canonical(given, "filter")


def _tree(given: Filter, field: str, depth: int) -> Iterator[Filter]:
    """The filter and all in it. Raises InvalidRequest for one that is too deep, or not known whole."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(field, f"is {depth} deep; {MAX_DEPTH} is the most")
    if len(unknown := UnknownFieldSet(given)):
        raise InvalidRequest(field, f"field {unknown[0].field_number} is unknown to this server")
    yield given
    for name in _GROUPS:
        for i, each in enumerate(getattr(given, name)):
            yield from _tree(each, f"{field}.{name}[{i}]", depth + 1)


def _canonical(given: Filter, field: str) -> Filter:
    canonical = Filter()
    canonical.CopyFrom(given)
    for name in _LISTS:
        values = getattr(canonical, name)
        if len(values) > MAX_VALUES:
            raise InvalidRequest(f"{field}.{name}", f"{len(values)} values; {MAX_VALUES} are the most")
        if "" in values:
            raise InvalidRequest(f"{field}.{name}", "has an empty value")
        unique = sorted(set(values))
        del values[:]
        values.extend(unique)
    _check_numbers(canonical, field)
    for name in _GROUPS:
        if group := getattr(given, name):
            members = _sorted(_members(group, f"{field}.{name}"))
            del getattr(canonical, name)[:]
            getattr(canonical, name).extend(members)
    return canonical


def _check_numbers(given: Filter, field: str) -> None:
    for name in ("min_price", "max_price"):
        if not math.isfinite(getattr(given, name)):
            raise InvalidRequest(f"{field}.{name}", "is not a finite number")
    if given.HasField("min_price") and given.HasField("max_price") and given.min_price > given.max_price:
        raise InvalidRequest(f"{field}.max_price", "is below min_price: nothing can pass")
    if not 0 <= given.created_after <= MAX_UNIX_S:
        raise InvalidRequest(f"{field}.created_after", f"{given.created_after} is not in 0..{MAX_UNIX_S} seconds")


def _members(group: Iterable[Filter], field: str) -> Iterator[Filter]:
    for i, each in enumerate(group):
        if not each.ByteSize():
            raise InvalidRequest(f"{field}[{i}]", "is empty: it would let everything pass")
        yield _canonical(each, f"{field}[{i}]")


def _sorted(filters: Iterable[Filter]) -> list[Filter]:
    by_bytes = {each.SerializeToString(deterministic=True): each for each in filters}
    return [by_bytes[key] for key in sorted(by_bytes)]
