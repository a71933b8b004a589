"""Every kind of call, drawn at random, and what each cannot be answered without. Network I/O through the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.faults.oracle import Oracle
from lookalike.client import AsyncClient
from lookalike.requests import example
from lookalike.runtime.partition import shard_of
from lookalike.v1.search_pb2 import SearchResponse
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32

# How many of a hundred calls are of each kind. Photos and texts cost the most by far.
SHARES: Final[Mapping[str, int]] = {
    "id": 22,
    "text": 12,
    "photo": 3,
    "vector": 20,
    "mixed": 5,
    "classify": 6,
    "duplicates": 6,
    "get": 10,
    "count": 2,
    "list": 2,
    "upsert": 5,
    "patch": 5,
    "remove": 2,
}
CHANGES: Final = frozenset({"upsert", "patch", "remove"})
CHEAP: Final = frozenset({"id", "vector", "get", *CHANGES})  # They need shards only.
GATEWAY, TEXT_ENCODER, MODEL_SERVER = "gateway", "text encoder", "model server"
_WRITTEN = 300  # Products that upserts add and removals take away.


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What calls ask for.

    ids:     products of every version, that nobody removes
    vectors: (n, dim) float32 of a space
    titles, photos: of products; empty: there are no such calls
    """

    ids: Sequence[str]
    space: str
    vectors: F32
    titles: Sequence[str] = ()
    photos: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call brought: how much of the index answered, and whether it was older than what was acknowledged."""

    coverage: float = 1.0
    is_stale: bool = False


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that is ready to be made, and the names of what nothing else can stand in for."""

    kind: str
    needs: frozenset[str]
    make: Callable[[AsyncClient], Awaitable[Answer]]


class Calls:
    """Draws calls by their shares; the same seed draws the same ones."""

    def __init__(
        self, samples: Samples, oracle: Oracle, *, shards: int, seed: int, kinds: frozenset[str] = frozenset(SHARES)
    ) -> None:
        self._samples, self._oracle, self._shards = samples, oracle, shards
        self._random = np.random.default_rng(seed)
        missing = set() if samples.titles else {"text", "mixed", "classify"}
        missing |= set() if samples.photos else {"photo"}
        self._kinds = [each for each in SHARES if each in kinds - missing]
        shares = np.array([SHARES[each] for each in self._kinds], float)
        self._shares = shares / shares.sum()

    def draw(self) -> Call:
        kind = self._kinds[int(self._random.choice(len(self._kinds), p=self._shares))]
        product_id = self._samples.ids[self._draw(len(self._samples.ids))]
        needs: set[str]
        make: Callable[[AsyncClient], Awaitable[object]]
        match kind:
            case "upsert" | "patch" | "remove":
                return self._change(kind, product_id)
            case "get":
                return self._get(product_id)
            case "count":
                needs, make = self._all_shards(), lambda client: client.count(in_stock=True)
            case "list":
                needs, make = self._all_shards(), lambda client: _list(client, product_id)
            case "classify":
                needs = {TEXT_ENCODER, *self._shard(product_id)}  # Whose process has the product encoder.
                make = lambda client: client.classify(product_id=product_id)  # noqa: E731
            case "duplicates":
                space = self._samples.space
                needs = self._shard(product_id)
                make = lambda client: client.find_duplicates(product_id=product_id, space=space, limit=10)  # noqa: E731
            case _:
                needs, arguments = self._query(kind, product_id)
                make = lambda client: client.search(limit=10, **arguments)  # noqa: E731
        return Call(kind=kind, needs=frozenset(needs), make=lambda client: _answer(make(client)))

    def _query(self, kind: str, product_id: str) -> tuple[set[str], Any]:
        """What a search cannot be answered without, and its arguments."""
        match kind:
            case "id":
                return self._shard(product_id), {"product_id": product_id}
            case "text":
                return {TEXT_ENCODER}, {"text": self._title()}
            case "mixed":
                examples = [example(product_id=product_id), example(text=self._title(), weight=0.5)]
                return {TEXT_ENCODER, *self._shard(product_id)}, {"examples": examples}
            case "photo":
                photo = self._samples.photos[self._draw(len(self._samples.photos))]
                return {MODEL_SERVER}, {
                    "image": photo,
                    "space": "image",
                }  # In `product` it needs the text encoder, too.
        return set(), {"vector": self._vector(), "space": self._samples.space}

    def _get(self, product_id: str) -> Call:
        promised = self._oracle.promised

        async def make(client: AsyncClient) -> Answer:
            at_least = promised(product_id)  # When it is sent: what is acknowledged later may be missing.
            return Answer(is_stale=(await client.get(product_id)).revision < at_least)

        return Call(kind="get", needs=frozenset(self._shard(product_id)), make=make)

    def _change(self, kind: str, product_id: str) -> Call:
        oracle, revision = self._oracle, self._oracle.next_revision()
        price = None if kind == "remove" else float(revision)
        if kind != "patch":
            product_id = f"written{self._draw(_WRITTEN)}"
        vectors = {self._samples.space: self._vector()}

        async def make(client: AsyncClient) -> Answer:
            oracle.sent(product_id, revision, price)
            if kind == "patch":
                answer = await client.patch(product_id, revision=revision, price=price)
            elif kind == "upsert":
                product = Product(id=product_id, title=f"written by change {revision}", category="home", price=price)
                answer = await client.upsert(product, revision=revision, vectors=vectors)
            else:
                answer = await client.remove(product_id, revision=revision)
            oracle.answered(product_id, max(revision, answer.revision))
            return Answer()

        needs = {*self._shard(product_id), disk_of(shard_of(product_id, self._shards))}
        return Call(kind=kind, needs=frozenset(needs), make=make)

    def _shard(self, product_id: str) -> set[str]:
        return {name_of(shard_of(product_id, self._shards))}

    def _all_shards(self) -> set[str]:
        return {name_of(each) for each in range(self._shards)}

    def _title(self) -> str:
        return self._samples.titles[self._draw(len(self._samples.titles))]

    def _vector(self) -> F32:
        near = self._samples.vectors[self._draw(len(self._samples.vectors))]
        drawn: F32 = (near + self._random.normal(scale=0.02, size=near.shape)).astype(np.float32)
        return drawn

    def _draw(self, count: int) -> int:
        return int(self._random.integers(count))


def name_of(shard: int) -> str:
    return f"shard {shard}"


def disk_of(shard: int) -> str:
    """What changes of a shard need beside the shard."""
    return f"disk {shard}"


async def _answer(answer: Awaitable[object]) -> Answer:
    response = await answer
    return Answer(coverage=response.provenance.coverage) if isinstance(response, SearchResponse) else Answer()


async def _list(client: AsyncClient, after: str) -> int:
    return len([product.id async for product in client.list(after=after, limit=20, timeout_s=10.0)])
