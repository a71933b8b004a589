"""Compute the query vectors: one per searched space, from all examples that count in it. I/O to the encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from encoders.clients import EncodedVector, Encoders, InputVectors
from lookalike.errors import FailedPrecondition
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from lookalike.vectors import F32
from server.query import COMPARABLE_IN, ExampleSource, QueryExample, SearchQuery
from server.stored_product import StoredProduct
from server.topology import Snapshot, SpaceInfo
from server.vector_math import combine, unit_vector


class UnknownTexts(Exception):
    """The text encoder knows no word of some texts. `fields` are the fields of their examples."""

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__(*fields)
        self.fields = fields


# The example products of a query, by id.
ExampleProducts = Mapping[str, StoredProduct]
# The spaces that a query is searched in, by number.
SearchedSpaces = Mapping[Space.ValueType, SpaceInfo]
# The vectors of the photos and texts of a query, by the field of the example.
EncodedExamples = Mapping[str, EncodedVector]


class QueryInputs(NamedTuple):
    """What query vectors are made of."""

    query: SearchQuery
    spaces: SearchedSpaces
    products: ExampleProducts
    encoded: EncodedExamples


async def encode_examples(
    encoders: Encoders, query: SearchQuery, snapshot: Snapshot, deadline: Deadline
) -> EncodedExamples:
    """Encode each photo and text of the query once, whatever spaces it counts in, and concurrently with the others.

    By the encoders that the version was built with. Raises UnknownTexts, InvalidRequest, and what the encoders raise.
    """
    examples = _to_encode(query)
    vectors = await run_concurrently([_encode_one(encoders, example, snapshot, deadline) for example in examples])
    encoded = {example.field: vector for example, vector in zip(examples, vectors, strict=True)}
    if unknown := [field for field, each in encoded.items() if not each.vector.any()]:
        raise UnknownTexts(unknown)
    return encoded


async def compose_query_vectors(encoders: Encoders, inputs: QueryInputs, deadline: Deadline) -> list[F32]:
    """A unit vector (dim,) float32 for each of the searched spaces, in their order.

    Every space must have an example that counts in it (`policy.drop_empty_spaces`). Raises InvalidRequest,
    FailedPrecondition, and what the encoders raise.
    """
    vectors = []
    for space, info in inputs.spaces.items():
        parts = _unfused_vectors(inputs, space, info)
        if space == SPACE_PRODUCT:
            parts += await _fused_vectors(encoders, _to_encode(inputs.query), inputs.encoded, info, deadline)
        vectors.append(_combine(parts))
    return vectors


def combine_vectors(inputs: QueryInputs) -> list[F32]:
    """As `compose_query_vectors`, for a query that has no photo and no text."""
    return [_combine(_unfused_vectors(inputs, space, info)) for space, info in inputs.spaces.items()]


def _combine(parts: Sequence[tuple[F32, float]]) -> F32:
    return combine([vector for vector, _ in parts], [weight for _, weight in parts])


def _to_encode(query: SearchQuery) -> list[QueryExample]:
    return [example for example in query.examples if example.source in COMPARABLE_IN]


async def _encode_one(
    encoders: Encoders, example: QueryExample, snapshot: Snapshot, deadline: Deadline
) -> EncodedVector:
    match example.source, example.value:
        case ExampleSource.IMAGE, bytes(data):
            return await encoders.encode_image(example.field, data, deadline, snapshot.encoder(SPACE_IMAGE))
        case ExampleSource.TEXT, str(text):
            return await encoders.encode_text(text, deadline, snapshot.encoder(SPACE_TEXT))
    raise TypeError(f"{example.source} with a {type(example.value).__name__}")


def _unfused_vectors(inputs: QueryInputs, space: Space.ValueType, info: SpaceInfo) -> list[tuple[F32, float]]:
    """The vectors, with their weights, of the examples that have one in the space without the product encoder."""
    parts = []
    for _, field, source, value, weight in inputs.query.examples:
        if source is ExampleSource.VECTOR:
            parts.append((unit_vector(field, value, info.dim), weight))  # type: ignore[arg-type]  # its value is bytes
        elif source is ExampleSource.PRODUCT:
            if (stored := inputs.products[str(value)].vector(space, info.dim)) is not None:
                parts.append((stored, weight))
        elif COMPARABLE_IN[source][0] == space:
            parts.append((require_encoder(inputs.encoded[field], info), weight))
    return parts


async def _fused_vectors(
    encoders: Encoders, examples: Sequence[QueryExample], encoded: EncodedExamples, info: SpaceInfo, deadline: Deadline
) -> list[tuple[F32, float]]:
    """Product vectors, with their weights, made of the photos and texts.

    Examples of positive weight are taken as one product, which weighs as much as all of them: the product encoder gets
    the weighted mean of the photos and that of the texts. Each example of negative weight is a product of its own:
    "less like this photo" says nothing about a text beside it.
    """
    positive = [example for example in examples if example.weight > 0]
    groups = [*([positive] if positive else []), *([example] for example in examples if example.weight < 0)]
    vectors = await run_concurrently(
        [encoders.encode_product(_fusion_inputs(group, encoded), deadline, info.encoder) for group in groups]
    )
    weights = [sum(example.weight for example in group) for group in groups]
    return [(require_encoder(vector, info), weight) for vector, weight in zip(vectors, weights, strict=True)]


def _fusion_inputs(group: Sequence[QueryExample], encoded: EncodedExamples) -> InputVectors:
    return InputVectors(
        image=_weighted_mean(group, ExampleSource.IMAGE, encoded),
        text=_weighted_mean(group, ExampleSource.TEXT, encoded),
    )


def _weighted_mean(
    group: Sequence[QueryExample], source: ExampleSource, encoded: EncodedExamples
) -> EncodedVector | None:
    """The mean vector of the group's photos, or of its texts, scaled to unit norm; None if it has none."""
    examples = [example for example in group if example.source is source]
    if not examples:
        return None
    vectors, encoders = zip(*(encoded[example.field] for example in examples), strict=True)
    if len(set(encoders)) > 1:
        raise FailedPrecondition(f"the encoder changed during the query: {' and '.join(sorted(set(encoders)))}")
    return EncodedVector(combine(vectors, [abs(example.weight) for example in examples]), encoders[0])


def require_encoder(encoded: EncodedVector, space: SpaceInfo) -> F32:
    """The vector. Raises FailedPrecondition unless the encoder that made it is the one the index was built with."""
    if encoded.encoder != space.encoder:
        raise FailedPrecondition(f"the encoder is {encoded.encoder}, the index was built with {space.encoder}")
    return encoded.vector
