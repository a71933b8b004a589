"""From a request to a query or a subject that can be answered, or to the field that is wrong. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_ID_BYTES, MAX_IMAGE_BYTES, MAX_LIMIT, MAX_TEXT_BYTES
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1 import search_pb2, types_pb2
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from lookalike.vectors import F32, normalised, unpack
from server.filters import check_filter

MAX_EXAMPLES = 16
DEFAULT_LIMIT = 10
DEFAULT_DUPLICATES = 100
DUPLICATE_SCORE = 0.95
MAX_DIVERSE = 100  # Hits unlike each other: each costs a comparison with all that may be the next.
MAX_DIM = 65536
MAX_CATEGORIES = 100
DEFAULT_CATEGORIES = 5
MIN_PRECISION, DEFAULT_PRECISION, MAX_PRECISION = 0.5, 0.9, 0.99
MIN_SHARE = 1e-6  # Of a space in a late fusion: a cosine times this is below what float32 scores tell apart.


class Source(Enum):
    PRODUCT = "product_id"
    IMAGE = "image"
    TEXT = "text"
    VECTOR = "vector"


_SOURCES = tuple(Source)
# The spaces that a photo or a text can be compared in, its own first; a product counts wherever it has a vector.
COUNTED_IN: Mapping[Source, tuple[Space.ValueType, ...]] = {
    Source.IMAGE: (SPACE_IMAGE, SPACE_PRODUCT),
    Source.TEXT: (SPACE_TEXT, SPACE_PRODUCT),
}


@dataclass(frozen=True, slots=True)
class Example:
    field: str  # Where it stands in the request: "examples[0].text".
    source: Source
    value: str | bytes
    weight: float


@dataclass(frozen=True, slots=True)
class Query:
    examples: tuple[Example, ...]
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

    def of(self, source: Source) -> list[Example]:
        return [example for example in self.examples if example.source is source]


def parse_query(request: search_pb2.SearchRequest, *, example: str = "examples[{}]") -> Query:
    """The query that the request states. Raises InvalidRequest naming the first field at fault.

    example: what the field of an example is called, of that number.
    """
    if not request.examples:
        raise InvalidRequest("examples", "give at least one example to be similar to")
    if len(request.examples) > MAX_EXAMPLES:
        raise InvalidRequest("examples", f"{len(request.examples)} examples; {MAX_EXAMPLES} are the most")
    if request.space not in types_pb2.Space.values():
        raise InvalidRequest("space", f"no such space: {request.space}")
    examples = tuple(_example(example.format(i), given) for i, given in enumerate(request.examples))
    query = Query(
        examples=examples,
        space=request.space,
        shares=_shares(request, examples),
        limit=_limit(request),
        filter=check_filter(request.filter),
        exclude_same_shop=request.exclude_same_shop,
        exact=request.exact,
        min_coverage=request.min_coverage,
        explain=request.explain,
        max_per_shop=_max_per_shop(request),
        min_score=request.min_score if request.HasField("min_score") else None,
        diversity=request.diversity,
    )
    if not 0 <= query.diversity <= 1:
        raise InvalidRequest("diversity", f"{query.diversity} is not in 0..1")
    if query.diversity and query.limit > MAX_DIVERSE:
        raise InvalidRequest("limit", f"{query.limit} hits; with `diversity` {MAX_DIVERSE} are the most")
    if not -1 <= request.min_score <= 1:  # Nor is NaN.
        raise InvalidRequest("min_score", f"{request.min_score} is not in -1..1")
    if not 0 <= query.min_coverage <= 1:
        raise InvalidRequest("min_coverage", f"{query.min_coverage} is not in 0..1")
    if query.exclude_same_shop and not query.of(Source.PRODUCT):
        raise InvalidRequest("exclude_same_shop", "needs an example given by product_id: nothing else has a shop")
    return query


def search_for_duplicates(request: search_pb2.FindDuplicatesRequest) -> search_pb2.SearchRequest:
    """The search that finds them. Raises InvalidRequest where there is a weight."""
    if request.example.HasField("weight"):
        raise InvalidRequest("example.weight", "leave it out: there is one example")
    space = SPACE_TEXT if request.example.HasField(Source.TEXT.value) else SPACE_IMAGE
    return search_pb2.SearchRequest(
        examples=[request.example],
        space=request.space or space,
        limit=request.limit if request.HasField("limit") else DEFAULT_DUPLICATES,
        min_score=request.min_score if request.HasField("min_score") else DUPLICATE_SCORE,
        filter=request.filter,
        exclude_same_shop=request.exclude_same_shop,
        exact=request.exact,
        min_coverage=request.min_coverage,
        explain=request.explain,
    )


def _shares(
    request: search_pb2.SearchRequest, examples: Sequence[Example]
) -> tuple[tuple[Space.ValueType, ...], tuple[float, ...]] | None:
    if not request.weights:
        return None
    if request.space != SPACE_AUTO:
        raise InvalidRequest("space", "leave it out: `weights` names the spaces")
    weights: dict[Space.ValueType, float] = {}
    for i, each in enumerate(request.weights):
        if each.space not in VECTOR_SPACES.values():
            raise InvalidRequest(f"weights[{i}].space", f"name one of {', '.join(VECTOR_SPACES)}")
        if each.space in weights:
            raise InvalidRequest(f"weights[{i}].space", f"{space_name(each.space)} is there already")
        if not (math.isfinite(each.weight) and each.weight > 0):
            raise InvalidRequest(f"weights[{i}].weight", f"{each.weight} is not a weight: it must be finite, above 0")
        if not any(_counts(example, (each.space,)) for example in examples):
            raise InvalidRequest(f"weights[{i}].space", f"no example counts in the {space_name(each.space)} space")
        weights[each.space] = each.weight
    for example in examples:
        if example.source is Source.VECTOR:
            raise InvalidRequest(example.field, "does not go with `weights`: the space that it is of is not named")
        if not _counts(example, weights):
            raise InvalidRequest(example.field, f"does not count in {' and '.join(map(space_name, weights))}")
    total, spaces = sum(weights.values()), tuple(sorted(weights))
    shares = tuple(weights[space] / total for space in spaces)
    if min(shares) < MIN_SHARE:
        raise InvalidRequest("weights", f"one is less than {MIN_SHARE} of their sum: nothing would tell it from 0")
    return spaces, shares


def _counts(example: Example, spaces: Collection[Space.ValueType]) -> bool:
    """Whether it can count in one of the spaces; a product can in any."""
    if example.source is Source.PRODUCT:
        return True
    return any(space in spaces for space in COUNTED_IN.get(example.source, ()))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be classified: a product of the catalogue, or a photo or a text or both of one that need not be."""

    product_id: str | None
    image: bytes | None
    text: str | None
    limit: int
    precision: float


def parse_subject(request: search_pb2.ClassifyRequest) -> Subject:
    """Raises InvalidRequest naming the first field at fault."""
    given = [source for source in (Source.PRODUCT, Source.IMAGE, Source.TEXT) if request.HasField(source.value)]
    if not given:
        raise InvalidRequest("product_id", "set it, or image, or text, or image and text")
    if Source.PRODUCT in given and len(given) > 1:
        raise InvalidRequest(given[1].value, "does not go with product_id: the catalogue knows the product's own")
    for source in given:
        _CHECKS[source](source.value, getattr(request, source.value))
    limit = request.limit if request.HasField("limit") else DEFAULT_CATEGORIES
    if not 1 <= limit <= MAX_CATEGORIES:
        raise InvalidRequest("limit", f"{limit} is not in 1..{MAX_CATEGORIES}")
    precision = request.precision if request.HasField("precision") else DEFAULT_PRECISION
    if not MIN_PRECISION <= precision <= MAX_PRECISION:  # NaN is not, either.
        raise InvalidRequest("precision", f"{precision} is not in {MIN_PRECISION}..{MAX_PRECISION}")
    return Subject(
        product_id=request.product_id if Source.PRODUCT in given else None,
        image=request.image if Source.IMAGE in given else None,
        text=request.text if Source.TEXT in given else None,
        limit=limit,
        precision=precision,
    )


def _limit(request: search_pb2.SearchRequest) -> int:
    if not request.HasField("limit"):
        return DEFAULT_LIMIT
    if not 1 <= request.limit <= MAX_LIMIT:
        raise InvalidRequest("limit", f"{request.limit} is not in 1..{MAX_LIMIT}")
    return request.limit


def _max_per_shop(request: search_pb2.SearchRequest) -> int:
    if request.HasField("max_per_shop") and not 1 <= request.max_per_shop <= MAX_LIMIT:
        raise InvalidRequest("max_per_shop", f"{request.max_per_shop} is not in 1..{MAX_LIMIT}; leave it out for any")
    return request.max_per_shop


def _example(at: str, example: search_pb2.Example) -> Example:
    given = [source for source in _SOURCES if example.HasField(source.value)]
    if len(given) != 1:
        names = " and ".join(source.value for source in given) or "none"
        raise InvalidRequest(at, f"set exactly one of product_id, image, text, vector; set: {names}")
    weight = example.weight if example.HasField("weight") else 1.0
    if not math.isfinite(weight) or weight == 0:
        raise InvalidRequest(f"{at}.weight", f"{weight} is not a weight: it must be finite and not 0")
    source = given[0]
    field = f"{at}.{source.value}"
    value = getattr(example, source.value)
    _CHECKS[source](field, value)
    return Example(field, source, value, weight)


def check_product_id(field: str, product_id: str) -> None:
    """Raises InvalidRequest unless the id is 1..256 bytes of UTF-8."""
    if not 1 <= len(product_id.encode()) <= MAX_ID_BYTES:
        raise InvalidRequest(field, f"a product id has 1..{MAX_ID_BYTES} bytes")


def check_image(field: str, image: bytes) -> None:
    if not image:
        raise InvalidRequest(field, "is empty")
    if len(image) > MAX_IMAGE_BYTES:
        raise InvalidRequest(field, f"{len(image)} bytes; {MAX_IMAGE_BYTES} are the most")


def _check_text(field: str, text: str) -> None:
    if not text or text.isspace():
        raise InvalidRequest(field, "is empty")
    check_text_length(field, text)


def check_text_length(field: str, text: str) -> None:
    """Raises InvalidRequest for more than the text encoder takes."""
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise InvalidRequest(field, f"{len(text.encode())} bytes; {MAX_TEXT_BYTES} are the most")


def _check_vector(field: str, vector: bytes) -> None:
    if not vector or len(vector) % 4 or len(vector) > 4 * MAX_DIM:
        raise InvalidRequest(field, f"{len(vector)} bytes are no float32 vector")


_CHECKS: Mapping[Source, Callable[[str, Any], None]] = {
    Source.PRODUCT: check_product_id,
    Source.IMAGE: check_image,
    Source.TEXT: _check_text,
    Source.VECTOR: _check_vector,
}


def unit_vector(field: str, data: bytes, dim: int) -> F32:
    """(dim,) float32 of unit norm. Raises InvalidRequest for a wrong dimension, NaN, infinity or the zero vector."""
    if len(data) != 4 * dim:
        raise InvalidRequest(field, f"{len(data) // 4} dimensions; the space has {dim}")
    vector = unpack(data, dim)[0]
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(vector @ vector)
    if 1e-20 < square < 1e30:  # Far from where float32 loses digits, and never NaN: the one branch that is ever taken.
        unit: F32 = vector / np.float32(math.sqrt(square))
        return unit
    if not np.isfinite(vector).all():
        raise InvalidRequest(field, "has a component that is NaN or infinite")
    if not vector.any():
        raise InvalidRequest(field, "is the zero vector, which is similar to nothing")
    unit = normalised(vector[None, :])[0]
    return unit


def combined(vectors: Sequence[F32], weights: Sequence[float]) -> F32:
    """The unit vector (dim,) of the weighted sum. Raises InvalidRequest when the examples cancel each other out."""
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    # Weights only count relative to each other; scaled, the largest float32 weights cannot overflow.
    scaled = np.asarray(weights, dtype=np.float64) / max(abs(weight) for weight in weights)
    total = scaled @ np.stack(vectors).astype(np.float64)
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise InvalidRequest("examples", "cancel each other out: their weighted sum is the zero vector")
    return (total / norm).astype(np.float32)
