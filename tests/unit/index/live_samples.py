"""A shard that takes updates, and an oracle that says what it must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.building.build import build
from index.live.live import Bounds, Live
from index.search.queries import parsed
from index.serving.loaded import LoadedShard, opened
from lookalike.v1.index_pb2 import ShardQuery, Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import Filter, Product, Space, SpaceVector
from lookalike.vectors import F32, normalised
from tests.unit.index.samples import IMAGE, TEXT, by, catalogue, unit_vectors, vectors_of

COUNT = 60  # Products of the version as it was built, "p0" to "p59"; those after p39 have revision 5.
DIMS: dict[Space.ValueType, int] = {IMAGE: 8, TEXT: 4}
BOUNDS = Bounds(delta_rows=64, changes=1000)
NAMES = [f"p{row}" for row in range(COUNT + 30)]


def built(location: Path) -> LoadedShard:
    table = catalogue(COUNT).append_column("revision", pa.array([5 * (row >= 40) for row in range(COUNT)]))
    rows = np.arange(0, COUNT, 2)
    build(
        location,
        table,
        {IMAGE: vectors_of(unit_vectors(COUNT, 8)), TEXT: vectors_of(unit_vectors(30, 4), rows)},
        shards=1,
    )
    return opened(location, 0)


def live(shard: LoadedShard, directory: Path, bounds: Bounds = BOUNDS) -> Live:
    return Live(shard.base, shard.manifest, 0, directory, bounds)


def upsert(
    product_id: str, revision: int, *, seed: int | None = None, spaces: Sequence[Space.ValueType] = (IMAGE, TEXT)
) -> Update:
    """All that there is of it follows from its id and the seed, the revision unless given."""
    seed = revision if seed is None else seed
    product = Product(
        id=product_id,
        title=f"{product_id} at {seed}",
        description=f"more of {product_id} at {seed}",
        category=("fashion/shoes", "home")[seed % 2],
        shop=f"shop {seed % 3}",
        price=seed * 1.5,
        in_stock=seed % 3 > 0,
        tags=[f"tag {seed % 4}"],
        created_at=seed * 1000,
    )
    random = np.random.default_rng([*product_id.encode(), seed])
    vectors = [
        SpaceVector(space=each, vector=random.normal(size=DIMS[each]).astype("<f4").tobytes()) for each in spaces
    ]
    return Update(revision=revision, upsert=Upsert(product=product, vectors=vectors))


def remove(product_id: str, revision: int) -> Update:
    return Update(revision=revision, remove=product_id)


def drawn(random: np.random.Generator, count: int, *, newer: int = 0) -> list[Update]:
    """Of few products and revisions (above `newer`), so that many come late, or twice."""
    updates = []
    for _ in range(count):
        product_id, revision = str(random.choice(NAMES)), newer + int(random.integers(1, 12))
        spaces = [each for each in (IMAGE, TEXT) if random.random() < 0.8]
        gone = random.random() < 0.3
        updates.append(remove(product_id, revision) if gone else upsert(product_id, revision, spaces=spaces))
    return updates


@dataclass
class Held:
    revision: int
    product: Product | None  # None: removed.
    vectors: dict[Space.ValueType, F32]


@dataclass
class Oracle:
    """What the newest revisions say; nothing else counts."""

    held: dict[str, Held] = field(default_factory=dict)

    @classmethod
    def of(cls, shard: LoadedShard) -> Oracle:
        """As it was built."""
        held = {}
        for product_id, place in shard.view.page(b"", "", COUNT):
            product = Product.FromString(place.product)
            product.description = place.description
            vectors = {each: found for each in (IMAGE, TEXT) if (found := place.vector(each)) is not None}
            held[product_id] = Held(5 * (int(product_id[1:]) >= 40), product, vectors)
        return cls(held)

    def apply(self, update: Update) -> UpdateResult.Outcome.ValueType:
        product_id = update.remove or update.upsert.product.id
        if (known := self.held.get(product_id)) is not None and known.revision >= update.revision:
            return UpdateResult.STALE
        product = update.upsert.product if update.HasField("upsert") else None
        vectors = {
            each.space: normalised(np.frombuffer(each.vector, "<f4").reshape(1, -1))[0]
            for each in update.upsert.vectors
        }
        self.held[product_id] = Held(update.revision, product, vectors)
        return UpdateResult.APPLIED

    def check(self, shard: Live) -> None:
        """Raises AssertionError where anything that can be asked is not as it must be."""
        view = shard.view
        alive = {product_id: held for product_id, held in self.held.items() if held.product is not None}
        page = view.page(b"", "", 10_000)
        assert [product_id for product_id, _ in page] == sorted(alive)
        assert len(view) == view.count(b"") == len(alive)
        for product_id, place in page:
            product = Product.FromString(place.product)
            product.description = place.description
            assert product == alive[product_id].product
            found = view.find(product_id)
            assert found is not None
            assert found.product == place.product
            for space in (IMAGE, TEXT):
                vector, expected = place.vector(space), alive[product_id].vectors.get(space)
                assert (vector is None) == (expected is None)
                assert vector is None or (vector == expected).all()
        for product_id in self.held.keys() - alive.keys():
            assert view.find(product_id) is None
        self._check_searches(shard)

    def _check_searches(self, shard: Live) -> None:
        condition = Filter(shop_in=["shop 1"], in_stock=True, tags_none=["tag 3"], none_of=[Filter(created_after=9000)])
        for space in (IMAGE, TEXT):
            asked = unit_vectors(1, DIMS[space], seed=99)[0]
            for each in (None, condition):
                query = parsed(ShardQuery(vectors=[by(space, asked)], k=15, filter=each), DIMS)
                (hits,) = shard.view.nearest([query])
                scores = {
                    product_id: float(held.vectors[space] @ asked)
                    for product_id, held in self.held.items()
                    if held.product is not None and space in held.vectors
                    if each is None or _passes(held.product)
                }
                best = sorted(scores, key=lambda product_id: -scores[product_id])[:15]
                assert sorted(hits.ids) == sorted(best)
                assert np.allclose(hits.scores, [scores[product_id] for product_id in hits.ids], atol=1e-5)
        assert shard.view.count(condition.SerializeToString()) == sum(
            held.product is not None and _passes(held.product) for held in self.held.values()
        )


def _passes(product: Product) -> bool:
    """As the condition says that searches are checked with."""
    recent, tagged = product.created_at > 9000, "tag 3" in product.tags
    return product.shop == "shop 1" and product.in_stock and not tagged and not recent
