"""Query routing: which spaces a query is searched in, and the share of each in the score. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import BadSettings, InvalidRequest, NotFound
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from server.query import COMPARABLE_IN, ExampleSource, QueryExample, SearchQuery

# The spaces that each example product has a vector in, of those that were fetched, by product id.
ProductSpaces = Mapping[str, Collection[Space.ValueType]]


# Spaces by number, and the share of each in the score; together 1.
Shares = Sequence[tuple[Space.ValueType, float]]

_MEASURED = "measured>"  # In `auto_text`, before the spaces for a version that states no shares.


@dataclass(frozen=True, slots=True)
class Route:
    """The spaces that a query is searched in, and what decided it."""

    spaces: tuple[Space.ValueType, ...]  # By number.
    shares: tuple[float, ...]  # The share of each in the score; together 1.
    policy: str = ""  # The entry of the AUTO policy that chose the space; empty: none did.
    missing_vectors: tuple[
        str, ...
    ] = ()  # Sentences: which products do not count in a space, as they have no vector in it.


SINGLE_SPACE = {space: Route((space,), (1.0,)) for space in VECTOR_SPACES.values()}
HALF_AND_HALF = Route((SPACE_IMAGE, SPACE_TEXT), (0.5, 0.5))


_PHOTOS_AND_TEXTS = {ExampleSource.IMAGE, ExampleSource.TEXT}


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """The spaces that AUTO prefers for one category, or for photos or texts alone."""

    text: str  # As configured: "fashion=product>image".
    spaces: tuple[Space.ValueType, ...]  # The most preferred first.
    measured: bool = False  # Whether what the version states comes before them.


@dataclass(frozen=True, slots=True)
class AutoPolicy:
    """The spaces that SPACE_AUTO stands for.

    A product is searched by the entry of its category: that of the longest category path in the table which equals the
    category or is a prefix of it. The first of the entry's spaces that the version has built and the product has a
    vector in is searched. A query of photos only, or of texts only, has an entry of its own.
    """

    by_category: Mapping[str, PolicyEntry]
    default: PolicyEntry  # Of every other category.
    by_source: Mapping[ExampleSource, PolicyEntry]  # Of photos only, and of texts only.
    text: str  # As configured: part of the cache key, since answers under another policy differ.

    @classmethod
    def parse(cls, entries: Sequence[str], *, photo: str, text: str) -> AutoPolicy:
        """Parse `("fashion=product>image", "*=product>text")`, "product>image", "measured>product>text".

        Raises BadSettings.
        """
        by_category: dict[str, PolicyEntry] = {}
        for entry in entries:
            category, _, names = entry.partition("=")
            if not category:
                raise BadSettings(f"auto policy {entry!r}: expected CATEGORY=SPACE, or CATEGORY=SPACE>SPACE")
            if category in by_category:
                raise BadSettings(f"auto policy {entry!r}: {category} has an entry already")
            by_category[category] = PolicyEntry(entry, _parse_spaces(entry, names, VECTOR_SPACES.values()))
        if "*" not in by_category:
            raise BadSettings("auto policy: no entry for * (every other category)")
        by_source = {}
        for source, name, value in (
            (ExampleSource.IMAGE, "auto_photo", photo),
            (ExampleSource.TEXT, "auto_text", text),
        ):
            entry = f"{name}={value}"
            names = value.removeprefix(_MEASURED) if source is ExampleSource.TEXT else value
            spaces = _parse_spaces(entry, names, COMPARABLE_IN[source])
            by_source[source] = PolicyEntry(entry, spaces, measured=names != value)
        texts = [*entries, *(entry.text for entry in by_source.values())]
        return cls(by_category, by_category.pop("*"), by_source, ",".join(texts))

    def entry_of(self, category: str) -> PolicyEntry:
        path = category
        while path:
            if path in self.by_category:
                return self.by_category[path]
            path = path.rpartition("/")[0]
        return self.default

    def preferred_space(self, category: str, built: Collection[Space.ValueType]) -> Space.ValueType | None:
        """The first of the spaces of the category's entry that is built; None if none is."""
        return _first_built(self.entry_of(category), built)

    def preferred_spaces(self, built: Collection[Space.ValueType]) -> set[Space.ValueType]:
        """What `preferred_space` is, over all categories."""
        entries = (*self.by_category.values(), self.default)
        return {space for entry in entries if (space := _first_built(entry, built)) is not None}

    def route_product(self, category: str, product_id: str, spaces: Collection[Space.ValueType]) -> Route:
        """The route for a product that has vectors in `spaces`.

        If none of its entry's spaces is among them, the route is the first of them by number, and has a sentence in
        `missing_vectors`. Raises NotFound when the product has no vector at all.
        """
        entry = self.entry_of(category)
        for space in entry.spaces:
            if space in spaces:
                return Route((space,), (1.0,), entry.text)
        if not spaces:
            raise NotFound(f"product {product_id} has neither a photo nor a text vector")
        instead = min(spaces)
        missing = f"product {product_id} has no {' or '.join(map(space_name, entry.spaces))} vector"
        reason = f"{missing}: searched in the {space_name(instead)} space instead"
        return Route((instead,), (1.0,), missing_vectors=(reason,))

    def route_source(
        self, source: ExampleSource, built: Collection[Space.ValueType], text_shares: Shares = ()
    ) -> Route:
        """The route for photos only, or for texts only; their own space if none of their entry's spaces is built.

        text_shares: what the version states as best for texts only.
        """
        entry = self.by_source[source]
        if entry.measured and text_shares:
            spaces, shares = zip(*text_shares, strict=True)
            return Route(spaces, shares, entry.text)
        if (space := _first_built(entry, built)) is not None:
            return Route((space,), (1.0,), entry.text)
        return SINGLE_SPACE[COMPARABLE_IN[source][0]]


def _first_built(entry: PolicyEntry, built: Collection[Space.ValueType]) -> Space.ValueType | None:
    return next((space for space in entry.spaces if space in built), None)


def _parse_spaces(entry: str, names: str, allowed_spaces: Collection[Space.ValueType]) -> tuple[Space.ValueType, ...]:
    preferred, allowed = names.split(">"), [*map(space_name, allowed_spaces)]
    for name in preferred:
        if name not in allowed:
            raise BadSettings(f"auto policy {entry!r}: {name!r} is not one of {', '.join(allowed)}")
        if preferred.count(name) > 1:
            raise BadSettings(f"auto policy {entry!r}: {name} is listed twice")
    return tuple(VECTOR_SPACES[name] for name in preferred)


def resolve_route(
    query: SearchQuery, built: Collection[Space.ValueType], policy: AutoPolicy, text_shares: Shares = ()
) -> Route | None:
    """The query's route; None if it depends on the category of the example products, which are not known yet.

    built: the spaces of the version. text_shares: those that it states as best for texts only.
    Raises InvalidRequest for examples that cannot be compared in one space.
    """
    if query.shares:
        return Route(*query.shares)
    if query.space == SPACE_AUTO and query.sources >= _PHOTOS_AND_TEXTS:
        _refuse_vector_without_space(query)
        return SINGLE_SPACE[SPACE_PRODUCT] if SPACE_PRODUCT in built else HALF_AND_HALF
    if query.space == SPACE_AUTO and len(query.sources) == 1:
        (source,) = query.sources
        if source in policy.by_source:
            return policy.route_source(source, built, text_shares)
    space = _common_space(query)
    return None if space == SPACE_AUTO else SINGLE_SPACE[space]


def _common_space(query: SearchQuery) -> Space.ValueType:
    """The space that the request and all its examples agree on; AUTO if none of them names one."""
    common = query.space
    for example in query.examples:
        spaces = COMPARABLE_IN.get(example.source, ())
        if spaces and common == SPACE_AUTO:
            common = spaces[0]
        elif spaces and common not in spaces:
            reason = f"is in the {space_name(spaces[0])} space, the query in the {space_name(common)} space"
            raise InvalidRequest(example.field, reason)
    if common == SPACE_AUTO:
        _refuse_vector_without_space(query)
    return common


def _refuse_vector_without_space(query: SearchQuery) -> None:
    if vectors := query.examples_by(ExampleSource.VECTOR):
        raise InvalidRequest("space", f"name the space of {vectors[0].field}")


def drop_unknown_texts(query: SearchQuery, fields: Collection[str], route: Route) -> SearchQuery:
    """The query without the examples of these fields, texts of which the text encoder knows no word.

    route: that of the whole query. It still names the space of example vectors that the caller gave no space for.
    """
    kept = tuple(example for example in query.examples if example.field not in fields)
    sources = frozenset(example.source for example in kept)
    space = route.spaces[0] if ExampleSource.VECTOR in sources else query.space
    return query._replace(examples=kept, sources=sources, space=space, unknown_texts=tuple(fields))


def drop_empty_spaces(route: Route, query: SearchQuery, product_spaces: ProductSpaces) -> Route:
    """The route without the spaces in which no example has a vector.

    Raises NotFound for a product that has a vector in none of the spaces.
    """
    for product_id, spaces in product_spaces.items():
        if not any(space in spaces for space in route.spaces):
            names = " or ".join(map(space_name, route.spaces))
            raise NotFound(f"product {product_id} has no {names} vector")
    if len(route.spaces) == 1:
        return route
    kept = {
        space: share
        for space, share in zip(route.spaces, route.shares, strict=True)
        if has_example_in(space, query, product_spaces)
    }
    total = sum(kept.values())
    shares = tuple(share / total for share in kept.values())
    return Route(tuple(kept), shares, route.policy, _describe_missing_vectors(route.spaces, kept, product_spaces))


def has_example_in(space: Space.ValueType, query: SearchQuery, product_spaces: ProductSpaces) -> bool:
    """Whether an example counts in the space; a vector does in the one that the query names."""
    return any(
        example.source is ExampleSource.VECTOR or space in _spaces_of(example, product_spaces)
        for example in query.examples
    )


def _spaces_of(example: QueryExample, product_spaces: ProductSpaces) -> Collection[Space.ValueType]:
    if example.source is ExampleSource.PRODUCT:
        return product_spaces[str(example.value)]
    return COMPARABLE_IN[example.source]


def _describe_missing_vectors(
    requested: Sequence[Space.ValueType], searched: Collection[Space.ValueType], product_spaces: ProductSpaces
) -> tuple[str, ...]:
    """A sentence for each space in which some example products have no vector: which, and the effect on the search."""
    reasons = []
    for space in requested:
        without = [product_id for product_id, spaces in product_spaces.items() if space not in spaces]
        if without:
            products = f"product {without[0]} has" if len(without) == 1 else f"products {', '.join(without)} have"
            missing = f"{products} no {space_name(space)} vector"
            effect = "only the other examples count there" if space in searched else "that space was not searched"
            reasons.append(f"{missing}: {effect}")
    return tuple(reasons)
