"""Check a filter and bring it into a canonical form, so that equivalent filters have equal bytes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from google.protobuf.unknown_fields import UnknownFieldSet

from lookalike.errors import InvalidRequest
from lookalike.product_rules import normalise_category, normalise_label
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1.types_pb2 import Filter

MAX_VALUES = 100
# Each nested filter costs a shard a pass over its columns.
MAX_DEPTH = 4
MAX_FILTERS = 32

_LISTS: Mapping[str, Callable[[str], str]] = {
    "category_in": normalise_category,
    "category_not_in": normalise_category,
    "shop_in": normalise_label,
    "shop_not_in": normalise_label,
    "tags_any": normalise_label,
    "tags_all": normalise_label,
    "tags_none": normalise_label,
    "currency_in": normalise_label,
}
_GROUPS = ("any_of", "all_of", "none_of")


def check_filter(filter: Filter) -> Filter:
    """The filter in canonical form: values as products have them, lists and groups sorted, without repetition.

    Filters that differ only in order and repetition have equal bytes. Raises InvalidRequest naming the field: too many
    values, an empty value, a number that is not finite, an empty range, a nested filter that is empty or too deep, or a
    field of a newer client: if it were ignored, products would pass that the client excludes.
    """
    if not filter.ByteSize():
        return filter
    if (count := sum(1 for _ in _walk(filter, "filter", 0))) > MAX_FILTERS + 1:
        raise InvalidRequest("filter", f"{count - 1} nested filters, at most {MAX_FILTERS} are allowed")
    return _canonical(filter, "filter")


def _walk(filter: Filter, field: str, depth: int) -> Iterator[Filter]:
    """The filter and all nested ones. Raises InvalidRequest for one that is too deep or has an unknown field."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(field, f"is nested {depth} deep, at most {MAX_DEPTH} is allowed")
    if len(unknown := UnknownFieldSet(filter)):
        raise InvalidRequest(field, f"field {unknown[0].field_number} is unknown to this server")
    yield filter
    for name in _GROUPS:
        for i, each in enumerate(getattr(filter, name)):
            yield from _walk(each, f"{field}.{name}[{i}]", depth + 1)


def _canonical(filter: Filter, field: str) -> Filter:
    canonical = Filter()
    canonical.CopyFrom(filter)
    for name, normalise in _LISTS.items():
        values = getattr(canonical, name)
        if not values:
            continue
        if len(values) > MAX_VALUES:
            raise InvalidRequest(f"{field}.{name}", f"{len(values)} values, at most {MAX_VALUES} are allowed")
        unique = sorted(set(map(normalise, values)))
        if "" in unique:
            raise InvalidRequest(f"{field}.{name}", "has an empty value")
        del values[:]
        values.extend(unique)
    _check_numbers(canonical, field)
    for name in _GROUPS:
        if group := getattr(filter, name):
            members = _sort_unique(_canonical_members(group, f"{field}.{name}"))
            del getattr(canonical, name)[:]
            getattr(canonical, name).extend(members)
    return canonical


def _check_numbers(filter: Filter, field: str) -> None:
    for name in ("min_price", "max_price"):
        if not math.isfinite(getattr(filter, name)):
            raise InvalidRequest(f"{field}.{name}", "is not a finite number")
    if filter.HasField("min_price") and filter.HasField("max_price") and filter.min_price > filter.max_price:
        raise InvalidRequest(f"{field}.max_price", "is below min_price: no product could pass")
    if not 0 <= filter.created_after <= MAX_UNIX_S:
        raise InvalidRequest(f"{field}.created_after", f"{filter.created_after} is not in 0..{MAX_UNIX_S} seconds")


def _canonical_members(group: Iterable[Filter], field: str) -> Iterator[Filter]:
    for i, each in enumerate(group):
        if not each.ByteSize():
            raise InvalidRequest(f"{field}[{i}]", "is empty: every product would pass it")
        yield _canonical(each, f"{field}[{i}]")


def _sort_unique(filters: Iterable[Filter]) -> list[Filter]:
    by_bytes = {each.SerializeToString(deterministic=True): each for each in filters}
    return [by_bytes[key] for key in sorted(by_bytes)]
