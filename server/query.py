"""Parse and check a SearchRequest. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_LIMIT
from lookalike.runtime.product_fields import check_product_id
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1 import search_pb2, types_pb2
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, DuplicatesThreshold, Space
from server.checks import check_image, check_text, check_vector_size
from server.filters import check_filter

MAX_EXAMPLES = 16
DEFAULT_LIMIT = 10
DEFAULT_DUPLICATES_LIMIT = 100
DEFAULT_DUPLICATES_MIN_SCORE = 0.95  # In a space for which the version has measured none.
MAX_DIVERSE_LIMIT = 100  # With `diversity`: choosing each hit costs a comparison with all candidates.
MIN_SHARE = 1e-6  # Of a space in a late fusion: a smaller one would not change float32 scores.


class ExampleSource(Enum):
    """The kind of an example; the value is the field of `Example` that holds it."""

    PRODUCT = "product_id"
    IMAGE = "image"
    TEXT = "text"
    VECTOR = "vector"

    __hash__ = object.__hash__  # Of Enum it is a Python function, and members are looked up with every query.


_SOURCES = tuple((source, source.value) for source in ExampleSource)
_SPACES = frozenset(types_pb2.Space.values())
_CHECKS: Mapping[ExampleSource, Callable[[str, Any], None]] = {
    ExampleSource.PRODUCT: check_product_id,
    ExampleSource.IMAGE: check_image,
    ExampleSource.TEXT: check_text,
    ExampleSource.VECTOR: check_vector_size,
}
EXAMPLE_FIELDS = tuple(f"examples[{i}]" for i in range(MAX_EXAMPLES))
NO_FILTER = types_pb2.Filter()  # Shared by all queries without one.
# The spaces that a photo or a text can be compared in, its own first; a product can be in every space.
COMPARABLE_IN: Mapping[ExampleSource, tuple[Space.ValueType, ...]] = {
    ExampleSource.IMAGE: (SPACE_IMAGE, SPACE_PRODUCT),
    ExampleSource.TEXT: (SPACE_TEXT, SPACE_PRODUCT),
}


# What an encoder makes a vector of.
ENCODED = frozenset(COMPARABLE_IN)


class QueryExample(NamedTuple):
    """An example that hits should be similar to or, with a negative weight, dissimilar to."""

    position: int  # Among the examples of the request.
    field: str  # Its path in the request: "examples[0].text".
    source: ExampleSource
    value: str | bytes
    weight: float


class SearchQuery(NamedTuple):
    """A checked SearchRequest, with its defaults filled in."""

    examples: tuple[QueryExample, ...]
    sources: frozenset[ExampleSource]  # Of the examples.
    space: Space.ValueType
    # Late fusion: the spaces by number, and the share of each, together 1; None: one space.
    shares: tuple[tuple[Space.ValueType, ...], tuple[float, ...]] | None
    limit: int
    filter: types_pb2.Filter
    exclude_same_shop: bool
    exact: bool
    min_coverage: float
    explain: bool
    max_per_shop: int  # 0: any number.
    min_score: float | None
    diversity: float  # 0: by score alone.
    unknown_texts: tuple[str, ...] = ()  # Fields of texts that say nothing to the text encoder: no examples any more.

    def examples_by(self, source: ExampleSource) -> list[QueryExample]:
        return [example for example in self.examples if example.source is source]


def parse_query(request: search_pb2.SearchRequest, *, example_fields: Sequence[str] = EXAMPLE_FIELDS) -> SearchQuery:
    """Parse a request. Raises InvalidRequest naming the first invalid field.

    example_fields: the names that errors give the examples.
    """
    messages = request.examples
    if not messages:
        raise InvalidRequest("examples", "give at least one example to be similar to")
    if len(messages) > MAX_EXAMPLES:
        raise InvalidRequest("examples", f"{len(messages)} examples, at most {MAX_EXAMPLES} are allowed")
    if request.space not in _SPACES:
        raise InvalidRequest("space", f"there is no space {request.space}")
    examples = tuple(map(_parse_example, range(len(messages)), example_fields, messages))
    query = SearchQuery(
        examples=examples,
        sources=frozenset(example.source for example in examples),
        space=request.space,
        shares=_parse_shares(request, examples) if request.weights else None,
        limit=_parse_limit(request),
        filter=check_filter(request.filter) if request.HasField("filter") else NO_FILTER,
        exclude_same_shop=request.exclude_same_shop,
        exact=request.exact,
        min_coverage=request.min_coverage,
        explain=request.explain,
        max_per_shop=_parse_max_per_shop(request),
        min_score=request.min_score if request.HasField("min_score") else None,
        diversity=request.diversity,
    )
    if not 0 <= query.diversity <= 1:
        raise InvalidRequest("diversity", f"{query.diversity} is not in 0..1")
    if query.diversity and query.limit > MAX_DIVERSE_LIMIT:
        raise InvalidRequest("limit", f"is {query.limit}, with `diversity` at most {MAX_DIVERSE_LIMIT} is allowed")
    if not -1 <= request.min_score <= 1:  # NaN fails, too.
        raise InvalidRequest("min_score", f"{request.min_score} is not in -1..1")
    if not 0 <= query.min_coverage <= 1:
        raise InvalidRequest("min_coverage", f"{query.min_coverage} is not in 0..1")
    if query.exclude_same_shop and not query.examples_by(ExampleSource.PRODUCT):
        raise InvalidRequest("exclude_same_shop", "needs an example with a product_id: no other has a shop")
    return query


def duplicates_search(
    request: search_pb2.FindDuplicatesRequest, measured: Mapping[Space.ValueType, DuplicatesThreshold]
) -> tuple[search_pb2.SearchRequest, DuplicatesThreshold]:
    """The SearchRequest that finds the duplicates, and what to say of its least score.

    measured: that of each space for which the version states it. Raises InvalidRequest if the example has a weight.
    """
    if request.example.HasField("weight"):
        raise InvalidRequest("example.weight", "leave it out: there is one example")
    space = request.space or (SPACE_TEXT if request.example.HasField(ExampleSource.TEXT.value) else SPACE_IMAGE)
    if request.HasField("min_score"):
        threshold = DuplicatesThreshold(min_score=request.min_score)
    else:
        threshold = measured.get(space) or DuplicatesThreshold(min_score=DEFAULT_DUPLICATES_MIN_SCORE)
    search = search_pb2.SearchRequest(
        examples=[request.example],
        space=space,
        limit=request.limit if request.HasField("limit") else DEFAULT_DUPLICATES_LIMIT,
        min_score=threshold.min_score,
        filter=request.filter,
        exclude_same_shop=request.exclude_same_shop,
        exact=request.exact,
        min_coverage=request.min_coverage,
        explain=request.explain,
    )
    return search, threshold


def _parse_shares(
    request: search_pb2.SearchRequest, examples: Sequence[QueryExample]
) -> tuple[tuple[Space.ValueType, ...], tuple[float, ...]]:
    if request.space != SPACE_AUTO:
        raise InvalidRequest("space", "leave it out: `weights` names the spaces")
    weights: dict[Space.ValueType, float] = {}
    for i, each in enumerate(request.weights):
        if each.space not in VECTOR_SPACES.values():
            raise InvalidRequest(f"weights[{i}].space", f"name one of {', '.join(VECTOR_SPACES)}")
        if each.space in weights:
            raise InvalidRequest(f"weights[{i}].space", f"{space_name(each.space)} has a weight already")
        if not (math.isfinite(each.weight) and each.weight > 0):
            raise InvalidRequest(f"weights[{i}].weight", f"{each.weight} is not a finite number above 0")
        if not any(_is_comparable(example, (each.space,)) for example in examples):
            reason = f"no example can be compared in the {space_name(each.space)} space"
            raise InvalidRequest(f"weights[{i}].space", reason)
        weights[each.space] = each.weight
    for example in examples:
        if example.source is ExampleSource.VECTOR:
            raise InvalidRequest(example.field, "cannot be combined with `weights`: its space is not named")
        if not _is_comparable(example, weights):
            names = " or ".join(map(space_name, weights))
            raise InvalidRequest(example.field, f"cannot be compared in the {names} space")
    total, spaces = sum(weights.values()), tuple(sorted(weights))
    shares = tuple(weights[space] / total for space in spaces)
    if min(shares) < MIN_SHARE:
        raise InvalidRequest("weights", f"one is less than {MIN_SHARE} of their sum: it would have no effect")
    return spaces, shares


def _is_comparable(example: QueryExample, spaces: Collection[Space.ValueType]) -> bool:
    """Whether the example can count in one of the spaces; a product can in any."""
    if example.source is ExampleSource.PRODUCT:
        return True
    return any(space in spaces for space in COMPARABLE_IN.get(example.source, ()))


def _parse_limit(request: search_pb2.SearchRequest) -> int:
    if not request.HasField("limit"):
        return DEFAULT_LIMIT
    if not 1 <= request.limit <= MAX_LIMIT:
        raise InvalidRequest("limit", f"{request.limit} is not in 1..{MAX_LIMIT}")
    return request.limit


def _parse_max_per_shop(request: search_pb2.SearchRequest) -> int:
    if request.HasField("max_per_shop") and not 1 <= request.max_per_shop <= MAX_LIMIT:
        reason = f"{request.max_per_shop} is not in 1..{MAX_LIMIT}; leave it out for any number"
        raise InvalidRequest("max_per_shop", reason)
    return request.max_per_shop


def _parse_example(position: int, path: str, example: search_pb2.Example) -> QueryExample:
    sources = [source for source, name in _SOURCES if example.HasField(name)]  # type: ignore[arg-type]  # they are
    if len(sources) != 1:
        names = " and ".join(source.value for source in sources) or "none"
        raise InvalidRequest(path, f"set exactly one of product_id, image, text, vector; set: {names}")
    weight = example.weight if example.HasField("weight") else 1.0
    if not math.isfinite(weight) or weight == 0:
        raise InvalidRequest(f"{path}.weight", f"{weight} is not a finite number other than 0")
    (source,) = sources
    field, value = f"{path}.{source.value}", getattr(example, source.value)
    _CHECKS[source](field, value)
    return QueryExample(position, field, source, value, weight)
