"""The vectors of a query: one for each space that is searched, of all examples that count there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import TypeVar

from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime.deadline import Deadline
from lookalike.v1.types_pb2 import SPACE_PRODUCT, Space
from lookalike.vectors import F32
from server.encoding import Encoders, Known, Vector
from server.query import COMPARABLE_IN, ExampleSource, QueryExample, SearchQuery
from server.stored import Stored
from server.topology import SpaceInfo
from server.vector_math import combine, unit_vector

Result = TypeVar("Result")
# The example products of a query, by id.
Products = Mapping[str, Stored]
# The spaces that are searched, by number.
Searched = Mapping[Space.ValueType, SpaceInfo]
# What the encoders made of the photos and texts of a query, by the field of the example.
Encoded = Mapping[str, Vector]


async def composed(
    encoders: Encoders, query: SearchQuery, searched: Searched, products: Products, deadline: Deadline
) -> list[F32]:
    """A unit vector (dim,) float32 for each of the searched spaces, in their order.

    Photos and texts are encoded concurrently and once, whatever spaces they count in; every space has an example that
    counts in it (`policy.narrowed`). Raises InvalidRequest, FailedPrecondition, and what the encoders raise.
    """
    given = [example for example in query.examples if example.source in COMPARABLE_IN]
    encoded = await _encoded(encoders, given, deadline) if given else {}
    vectors = []
    for space, info in searched.items():
        parts = _direct(query, space, info, products, encoded)
        if given and space == SPACE_PRODUCT:
            parts += await _fused(encoders, given, encoded, info, deadline)
        vectors.append(combine([vector for vector, _ in parts], [weight for _, weight in parts]))
    return vectors


async def _encoded(encoders: Encoders, given: Sequence[QueryExample], deadline: Deadline) -> Encoded:
    vectors = await concurrently([_vector_of(encoders, example, deadline) for example in given])
    return {example.field: vector for example, vector in zip(given, vectors, strict=True)}


async def _vector_of(encoders: Encoders, example: QueryExample, deadline: Deadline) -> Vector:
    match example.source, example.value:
        case ExampleSource.IMAGE, bytes(data):
            return await encoders.image(example.field, data, deadline)
        case ExampleSource.TEXT, str(text):
            if not (vector := await encoders.text(text, deadline))[0].any():
                raise InvalidRequest(example.field, "has no words that the text encoder knows")
            return vector
    raise TypeError(f"{example.source} with a {type(example.value).__name__}")


def _direct(
    query: SearchQuery, space: Space.ValueType, info: SpaceInfo, products: Products, encoded: Encoded
) -> list[tuple[F32, float]]:
    """The vectors, with their weights, of the examples that have one of the space without being fused."""
    parts = []
    for example in query.examples:
        match example.source, example.value:
            case ExampleSource.PRODUCT, str(product_id):
                if (stored := products[product_id].vector(space, info.dim)) is not None:
                    parts.append((stored, example.weight))
            case ExampleSource.VECTOR, bytes(data):
                parts.append((unit_vector(example.field, data, info.dim), example.weight))
            case source, _ if COMPARABLE_IN[source][0] == space:
                parts.append((of_index(encoded[example.field], info), example.weight))
    return parts


async def _fused(
    encoders: Encoders, given: Sequence[QueryExample], encoded: Encoded, info: SpaceInfo, deadline: Deadline
) -> list[tuple[F32, float]]:
    """Photos and texts as products, with their weights.

    Those of positive weight are one product, that weighs as much as all of them: of its photos, and of its texts, the
    weighted mean goes to the product encoder. Each of the others is a product of its own: "less like this photo" says
    nothing of a text that stands beside it.
    """
    wanted = [example for example in given if example.weight > 0]
    groups = [*([wanted] if wanted else []), *([example] for example in given if example.weight < 0)]
    vectors = await concurrently([encoders.product(_known(group, encoded), deadline) for group in groups])
    weights = [sum(example.weight for example in group) for group in groups]
    return [(of_index(vector, info), weight) for vector, weight in zip(vectors, weights, strict=True)]


def _known(group: Sequence[QueryExample], encoded: Encoded) -> Known:
    return Known(image=_mean(group, ExampleSource.IMAGE, encoded), text=_mean(group, ExampleSource.TEXT, encoded))


def _mean(group: Sequence[QueryExample], source: ExampleSource, encoded: Encoded) -> Vector | None:
    examples = [example for example in group if example.source is source]
    if not examples:
        return None
    vectors, encoders = zip(*(encoded[example.field] for example in examples), strict=True)
    if len(set(encoders)) > 1:
        raise FailedPrecondition(f"the encoder changed meanwhile: {' and '.join(sorted(set(encoders)))}")
    return combine(vectors, [abs(example.weight) for example in examples]), encoders[0]


def of_index(answer: Vector, space: SpaceInfo) -> F32:
    """A query vector only ever meets an index of the same encoder version."""
    vector, encoder = answer
    if encoder != space.encoder:
        raise FailedPrecondition(f"the encoder is {encoder}, the index was built with {space.encoder}")
    return vector


async def concurrently(coroutines: Sequence[Coroutine[None, None, Result]]) -> list[Result]:
    """Their results; one is awaited in place, without a task of its own: the common case and the fast path."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    return await asyncio.gather(*coroutines)
