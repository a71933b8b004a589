"""Which spaces a query is searched in, and what counts there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import BadSettings, InvalidRequest, NotFound
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from server.query import COMPARABLE_IN, ExampleSource, SearchQuery

# The spaces that each example product has a vector in, by product id.
Vectors = Mapping[str, Collection[Space.ValueType]]


@dataclass(frozen=True, slots=True)
class Route:
    """The spaces that a query is searched in, and why in these."""

    spaces: tuple[Space.ValueType, ...]  # By number.
    shares: tuple[float, ...]  # Of each; together 1.
    policy: str = ""  # The entry of AUTO's policy that chose; empty: none did.
    lacking: tuple[str, ...] = ()  # What does not count though it was asked for, in words.


ONLY = {space: Route((space,), (1.0,)) for space in VECTOR_SPACES.values()}
HALF_AND_HALF = Route((SPACE_IMAGE, SPACE_TEXT), (0.5, 0.5))


_PHOTOS_AND_TEXTS = {ExampleSource.IMAGE, ExampleSource.TEXT}


@dataclass(frozen=True, slots=True)
class Entry:
    text: str  # As it was given: "fashion=product>image".
    spaces: tuple[Space.ValueType, ...]  # The most wanted first.


@dataclass(frozen=True, slots=True)
class AutoPolicy:
    """The entry of a category is that of the longest path in the table that the category is or lies under.

    Of its spaces it is the first that the version has built and the product has a vector in. Photos alone, and texts
    alone, have no category and an entry of their own.
    """

    table: Mapping[str, Entry]
    rest: Entry
    alone: Mapping[ExampleSource, Entry]  # Of photos, of texts, with nothing else beside them.
    text: str  # As it was given: answers under another policy are other answers.

    @classmethod
    def parse(cls, entries: Sequence[str], *, photo: str, text: str) -> AutoPolicy:
        """From `("fashion=product>image", "*=product>text")`, "product>image", "product>text". Raises BadSettings."""
        table: dict[str, Entry] = {}
        for entry in entries:
            category, _, names = entry.partition("=")
            if not category:
                raise BadSettings(f"auto policy {entry!r}: not CATEGORY=SPACE, or CATEGORY=SPACE>SPACE")
            if category in table:
                raise BadSettings(f"auto policy {entry!r}: {category} is there already")
            table[category] = Entry(entry, _preferences(entry, names, VECTOR_SPACES.values()))
        if "*" not in table:
            raise BadSettings("auto policy: no entry for * (every other category)")
        alone = {
            source: Entry(entry, _preferences(entry, entry.partition("=")[2], COMPARABLE_IN[source]))
            for source, entry in (
                (ExampleSource.IMAGE, f"auto_photo={photo}"),
                (ExampleSource.TEXT, f"auto_text={text}"),
            )
        }
        every = [*entries, *(entry.text for entry in alone.values())]
        return cls(table, table.pop("*"), alone, ",".join(every))

    def entry_of(self, category: str) -> Entry:
        path = category
        while path:
            if path in self.table:
                return self.table[path]
            path = path.rpartition("/")[0]
        return self.rest

    def route(self, category: str, product_id: str, has: Collection[Space.ValueType]) -> Route:
        """For a product that has vectors in the spaces `has`.

        Where none of its entry's is among them it is the first that there is, by number, and said to be.

        Raises NotFound when it has none at all.
        """
        entry = self.entry_of(category)
        for space in entry.spaces:
            if space in has:
                return Route((space,), (1.0,), entry.text)
        if not has:
            raise NotFound(f"product {product_id} has neither a photo nor a text vector")
        instead = min(has)
        lack = f"no {' or '.join(map(space_name, entry.spaces))} vector of product {product_id}"
        return Route((instead,), (1.0,), lacking=(f"{lack}: {space_name(instead)} space instead",))

    def route_alone(self, source: ExampleSource, built: Collection[Space.ValueType]) -> Route:
        """For photos or for texts, nothing else; where none of their entry's spaces is built, their own."""
        entry = self.alone[source]
        for space in entry.spaces:
            if space in built:
                return Route((space,), (1.0,), entry.text)
        return ONLY[COMPARABLE_IN[source][0]]


def _preferences(entry: str, names: str, spaces: Collection[Space.ValueType]) -> tuple[Space.ValueType, ...]:
    wanted, allowed = names.split(">"), [*map(space_name, spaces)]
    for name in wanted:
        if name not in allowed:
            raise BadSettings(f"auto policy {entry!r}: {name!r} is not one of {', '.join(allowed)}")
        if wanted.count(name) > 1:
            raise BadSettings(f"auto policy {entry!r}: {name} is there twice")
    return tuple(VECTOR_SPACES[name] for name in wanted)


def settled(query: SearchQuery, built: Collection[Space.ValueType], policy: AutoPolicy) -> Route | None:
    """The route that needs no category; None: that of the query's products decides.

    built: the spaces of the version. Raises InvalidRequest for examples that cannot be in one space together.
    """
    if query.shares:
        return Route(*query.shares)
    sources = {example.source for example in query.examples}
    if query.space == SPACE_AUTO and sources >= _PHOTOS_AND_TEXTS:
        _refuse_unnamed(query)
        return ONLY[SPACE_PRODUCT] if SPACE_PRODUCT in built else HALF_AND_HALF
    match [*sources]:
        case [ExampleSource.IMAGE | ExampleSource.TEXT as source] if query.space == SPACE_AUTO:
            return policy.route_alone(source, built)
    space = _common_space(query)
    return None if space == SPACE_AUTO else ONLY[space]


def _common_space(query: SearchQuery) -> Space.ValueType:
    wanted = query.space
    for example in query.examples:
        spaces = COMPARABLE_IN.get(example.source, ())
        if spaces and wanted == SPACE_AUTO:
            wanted = spaces[0]
        elif spaces and wanted not in spaces:
            reason = f"is of space {space_name(spaces[0])}, the query of space {space_name(wanted)}"
            raise InvalidRequest(example.field, reason)
    if wanted == SPACE_AUTO:
        _refuse_unnamed(query)
    return wanted


def _refuse_unnamed(query: SearchQuery) -> None:
    if vectors := query.examples_by(ExampleSource.VECTOR):
        raise InvalidRequest("space", f"name the space that {vectors[0].field} is of")


def narrowed(route: Route, query: SearchQuery, has: Vectors) -> Route:
    """The route without the spaces in which nothing but products would count that have no vector there.

    Raises NotFound for a product that has a vector in none of the spaces.
    """
    for product_id, spaces in has.items():
        if not any(space in spaces for space in route.spaces):
            names = " or ".join(map(space_name, route.spaces))
            raise NotFound(f"product {product_id} has no {names} vector")
    if len(route.spaces) == 1:
        return route
    left = {space: share for space, share in zip(route.spaces, route.shares, strict=True) if _any(query, space, has)}
    total = sum(left.values())
    shares = tuple(share / total for share in left.values())
    return Route(tuple(left), shares, route.policy, _lacking(route.spaces, left, has))


def _any(query: SearchQuery, space: Space.ValueType, has: Vectors) -> bool:
    """Whether an example counts in the space."""
    return any(
        space in (has[str(example.value)] if example.source is ExampleSource.PRODUCT else COMPARABLE_IN[example.source])
        for example in query.examples
    )


def _lacking(asked: Sequence[Space.ValueType], searched: Collection[Space.ValueType], has: Vectors) -> tuple[str, ...]:
    reasons = []
    for space in asked:
        without = [product_id for product_id, spaces in has.items() if space not in spaces]
        if without:
            those = f"product{'s' if len(without) > 1 else ''} {', '.join(without)}"
            lack = f"no {space_name(space)} vector of {those}"
            reasons.append(f"{lack}: other examples alone" if space in searched else f"{lack}: space left out")
    return tuple(reasons)
