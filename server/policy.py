"""Which space a query is searched in. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import BadSettings, InvalidRequest, NotFound
from protos.lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_TEXT, Space
from server.requests import Query, Source

_NAMES: Mapping[str, Space.ValueType] = {"image": SPACE_IMAGE, "text": SPACE_TEXT}
_ONLY_SPACE: Mapping[Source, Space.ValueType] = {Source.IMAGE: SPACE_IMAGE, Source.TEXT: SPACE_TEXT}


def space_name(space: Space.ValueType) -> str:
    """ "image" for SPACE_IMAGE, as logs, metrics and errors name it."""
    return Space.Name(space).removeprefix("SPACE_").lower()


@dataclass(frozen=True, slots=True)
class Route:
    """The spaces that a query is searched in, and why in these."""

    shares: tuple[tuple[Space.ValueType, float], ...]  # By the number of the space; together 1.
    policy: str = ""  # The entry of AUTO's policy that chose; empty: none did.

    @property
    def spaces(self) -> tuple[Space.ValueType, ...]:
        return tuple(space for space, _ in self.shares)


@dataclass(frozen=True, slots=True)
class AutoPolicy:
    """The space of a category: that of the longest path in the table that the category is or lies under."""

    table: Mapping[str, Space.ValueType]
    rest: Space.ValueType
    text: str  # As it was given: answers under another policy are other answers.

    @classmethod
    def parse(cls, entries: Sequence[str]) -> AutoPolicy:
        """From `("fashion=image", "*=text")`. Raises BadSettings."""
        table: dict[str, Space.ValueType] = {}
        for entry in entries:
            category, _, name = entry.partition("=")
            if not category or name not in _NAMES:
                raise BadSettings(f"auto policy {entry!r}: not CATEGORY=SPACE with one of {', '.join(_NAMES)}")
            if category in table:
                raise BadSettings(f"auto policy {entry!r}: {category} is there already")
            table[category] = _NAMES[name]
        if "*" not in table:
            raise BadSettings("auto policy: no entry for * (every other category)")
        return cls(table, table.pop("*"), ",".join(entries))

    def space_of(self, category: str) -> Space.ValueType:
        path = category
        while path:
            if path in self.table:
                return self.table[path]
            path = path.rpartition("/")[0]
        return self.rest


def requested_space(query: Query) -> Space.ValueType:
    """The space that the request itself settles, or AUTO where the category of its products decides.

    Raises InvalidRequest for examples that cannot be in one space together.
    """
    wanted = query.space
    for example in query.examples:
        only = _ONLY_SPACE.get(example.source)
        if only is None:
            continue
        if wanted not in (SPACE_AUTO, only):
            reason = f"is of space {space_name(only)}, the query of space {space_name(wanted)}"
            raise InvalidRequest(example.field, reason)
        wanted = only
    if wanted == SPACE_AUTO and (vectors := query.of(Source.VECTOR)):
        raise InvalidRequest("space", f"name the space that {vectors[0].field} is of")
    return wanted


def products_space(
    policy: AutoPolicy, category: str, weightiest: str, has: Collection[Space.ValueType]
) -> Space.ValueType:
    """The space for products alone: the policy's, or another one that the weightiest product has a vector in.

    Raises NotFound when it has none at all.
    """
    preferred = policy.space_of(category)
    if preferred in has:
        return preferred
    if not has:
        raise NotFound(f"product {weightiest} has neither a photo nor a text vector")
    return min(has)
