"""Explain hits: what each part of a query contributed to their scores, by leaving it out. I/O to shards and encoders.

The contribution of a part is the hit's score less the score that it would have if the part were left out of the query:
the query's vectors are composed without it, by the functions that composed them with it, and compared with the vectors
of the hits. So it means the same for every encoder and every space.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from encoders.clients import EncodedVector, Encoders, InputVectors
from lookalike.errors import InvalidRequest, LookalikeError
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told
from lookalike.v1.index_pb2 import FetchedProduct
from lookalike.v1.search_pb2 import Contribution, Hit
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from lookalike.vectors import F32, pack
from server.diversity import hit_vectors
from server.policy import Route, has_example_in
from server.query import ExampleSource, QueryExample
from server.query_vectors import QueryInputs, compose_query_vectors, require_encoder
from server.shard_group import ShardGroup, ShardResults
from server.topology import Snapshot

MAX_EXPLAINED_HITS = 100
MAX_CONTRIBUTIONS = 32  # Of a hit.
# An explanation may take this share of the time left; the rest is for answering without it.
_DEADLINE_SHARE = 0.8
# Queries composed at once: each asks the product encoder for at most 16 vectors, and it is shared with other searches.
_AT_ONCE = 16
_SIDES = {SPACE_IMAGE: "photo", SPACE_TEXT: "words"}


class LeftOut(NamedTuple):
    """A part of a query, and the query without it."""

    example: QueryExample
    inputs: QueryInputs
    side: str = ""
    word: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explainer:
    """Explains the hits of one search."""

    shards: ShardGroup
    encoders: Encoders
    snapshot: Snapshot
    route: Route
    inputs: QueryInputs
    vectors: Sequence[F32]  # The query's, of the route's spaces.

    async def explain(
        self, ids: Sequence[str], results: ShardResults, deadline: Deadline
    ) -> tuple[ShardResults, Sequence[bytes]]:
        """The field `contributions` of each of the first MAX_EXPLAINED_HITS hits, serialized.

        ids: of the hits. If the contributions cannot be told, there are none, and the returned results state a failure.
        """
        try:
            deadline = Deadline.after(deadline.remaining_s() * _DEADLINE_SHARE)
            return results, await self._contributions(ids[:MAX_EXPLAINED_HITS], deadline)
        except LookalikeError as error:
            return results.with_failure(f"not explained: {told(error)}"), ()

    async def _contributions(self, ids: Sequence[str], deadline: Deadline) -> Sequence[bytes]:
        left_out = await self._leave_out(deadline) if ids else ()
        if not left_out:
            return ()
        fetched = await self.shards.fetch(self.snapshot, ids, self.route.spaces, deadline)
        without: list[F32] = []
        for start in range(0, len(left_out), _AT_ONCE):
            chunk = left_out[start : start + _AT_ONCE]
            without += await run_concurrently([self._compose(each.inputs, deadline) for each in chunk])
        differences = self._scale(self.vectors) - np.stack(without)
        # On a thread: 100 hits and 528 parts take 15 ms at 1024 dimensions, in which this loop can serve other calls.
        return await asyncio.to_thread(self._compare, fetched, left_out, differences)

    def _compare(
        self, fetched: Sequence[FetchedProduct], left_out: Sequence[LeftOut], differences: F32
    ) -> Sequence[bytes]:
        """differences: (parts, sum of dims). A hit that has been removed meanwhile has no vectors to compare."""
        rows = hit_vectors(fetched, self.snapshot.spaces, self.route)
        # Row by row: one product of matrices rounds a hit's contributions differently beside other hits.
        return [
            _serialize(left_out, differences @ row) if hit.vectors else b""
            for hit, row in zip(fetched, rows, strict=True)
        ]

    async def _leave_out(self, deadline: Deadline) -> Sequence[LeftOut]:
        """The parts of the query: its examples, if they are several, the sides of products and the words of texts."""
        examples, texts = self.inputs.query.examples, self.inputs.query.examples_by(ExampleSource.TEXT)
        whole = [LeftOut(each, _without(self.inputs, each)) for each in examples] if len(examples) > 1 else []
        sides = await self._leave_out_sides(deadline)
        words = await run_concurrently([self._leave_out_words(each, deadline) for each in texts])
        return [*whole, *sides, *chain(*words)]

    async def _leave_out_words(self, example: QueryExample, deadline: Deadline) -> list[LeftOut]:
        """The words of a text. Without its last known word the text is no example any more."""
        words = await self.encoders.leave_out_words(str(example.value), deadline, self.snapshot.encoder(SPACE_TEXT))
        if len(words) == 1 and len(self.inputs.query.examples) > 1:
            return []  # It is the whole example, which is a part already.
        left_out = []
        for word, rest in words:
            encoded = {**self.inputs.encoded, example.field: rest}
            known = rest.vector.any()
            inputs = self.inputs._replace(encoded=encoded) if known else _without(self.inputs, example)
            left_out.append(LeftOut(example, inputs, word=word))
        return left_out

    async def _leave_out_sides(self, deadline: Deadline) -> list[LeftOut]:
        """The photo and the words of each example product, if it has both and both are compared."""
        examples, spaces = self.inputs.query.examples_by(ExampleSource.PRODUCT), self.inputs.spaces.keys()
        compared = SPACE_PRODUCT in spaces or spaces >= _SIDES.keys()
        if not (examples and compared and self.snapshot.spaces.keys() >= _SIDES.keys()):
            return []
        ids = [str(example.value) for example in examples]
        fetched = await self.shards.fetch(self.snapshot, ids, [*_SIDES], deadline)
        left_out = []
        for example, product in zip(examples, fetched, strict=True):
            vectors = {each.space: each.vector for each in product.vectors}
            for side in _SIDES if vectors.keys() >= _SIDES.keys() else ():
                ((other, vector),) = ((space, vector) for space, vector in vectors.items() if space != side)
                inputs = await self._with_side(str(example.value), other, vector, deadline)
                left_out.append(LeftOut(example, inputs, side=_SIDES[side]))
        return left_out

    async def _with_side(
        self, product_id: str, side: Space.ValueType, vector: bytes, deadline: Deadline
    ) -> QueryInputs:
        """The query if the example product had this vector of its photo, or of its words, and not the other."""
        stored = self.inputs.products[product_id]
        vectors = {space: each for space, each in stored.vectors.items() if space in (side, SPACE_PRODUCT)}
        if SPACE_PRODUCT in vectors and (info := self.inputs.spaces.get(SPACE_PRODUCT)) is not None:
            encoded = EncodedVector(np.frombuffer(vector, dtype="<f4"), self.snapshot.spaces[side].encoder)
            image, text = (encoded if side == space else None for space in _SIDES)
            fused = await self.encoders.encode_product(InputVectors(image, text), deadline, info.encoder)
            vectors[SPACE_PRODUCT] = pack(require_encoder(fused, info))
        products = {**self.inputs.products, product_id: replace(stored, vectors=vectors)}
        return self.inputs._replace(products=products)

    async def _compose(self, inputs: QueryInputs, deadline: Deadline) -> F32:
        """The query's vectors, scaled; zeros in a space where no example is left, or those that are cancel out."""
        product_spaces = {product_id: stored.vectors for product_id, stored in inputs.products.items()}
        vectors = []
        for space, info in inputs.spaces.items():
            vector: F32 = np.zeros(info.dim, np.float32)
            if has_example_in(space, inputs.query, product_spaces):
                with suppress(InvalidRequest):
                    alone = inputs._replace(spaces={space: info})
                    (vector,) = await compose_query_vectors(self.encoders, alone, deadline)
            vectors.append(vector)
        return self._scale(vectors)

    def _scale(self, vectors: Sequence[F32]) -> F32:
        """(sum of dims,): its inner product with a row of `hit_vectors` is the hit's score."""
        shares = [np.float32(math.sqrt(share)) for share in self.route.shares]
        return np.concatenate([share * vector for share, vector in zip(shares, vectors, strict=True)])


def _without(inputs: QueryInputs, example: QueryExample) -> QueryInputs:
    examples = tuple(each for each in inputs.query.examples if each is not example)
    return inputs._replace(query=inputs.query._replace(examples=examples))


def _serialize(parts: Sequence[LeftOut], scores: F32) -> bytes:
    """The field `contributions` of one hit; scores: (parts,)."""
    order = np.argsort(-np.abs(scores), kind="stable")[:MAX_CONTRIBUTIONS].tolist()
    contributions = (
        Contribution(example=parts[i].example.position, side=parts[i].side, word=parts[i].word, score=float(scores[i]))
        for i in order
    )
    return Hit(contributions=contributions).SerializeToString()
