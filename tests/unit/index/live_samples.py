"""A shard that takes updates, and an oracle that says what it must contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.building.build import build
from index.live.live_shard import LiveLimits, LiveShard
from index.search.queries import parse_query
from index.serving.shard_version import ShardVersion, open_shard
from lookalike.v1.index_pb2 import Patch, ShardQuery, Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import Filter, Product, Space, SpaceVector
from tests.product_states import ABSENT, ProductState, after
from tests.unit.index.samples import IMAGE, TEXT, catalogue, query_vector, unit_vectors, vectors_of

COUNT = 60  # Products of the version as it was built, "p0" to "p59"; those after p39 have revision 5.
DIMS: dict[Space.ValueType, int] = {IMAGE: 8, TEXT: 4}
LIMITS = LiveLimits(delta_rows=64, changes=1000)
NAMES = [f"p{row}" for row in range(COUNT + 30)]


def build_version(location: Path, seed: int = 0) -> ShardVersion:
    table = catalogue(COUNT).append_column("revision", pa.array([5 * (row >= 40) for row in range(COUNT)]))
    rows = np.arange(0, COUNT, 2)
    build(
        location,
        table,
        {IMAGE: vectors_of(unit_vectors(COUNT, 8, seed)), TEXT: vectors_of(unit_vectors(30, 4), rows)},
        shards=1,
    )
    return open_shard(location, 0)


def open_live(shard: ShardVersion, directory: Path, limits: LiveLimits = LIMITS) -> LiveShard:
    return LiveShard(shard.base, shard.manifest, 0, directory, limits)


def upsert(
    product_id: str,
    revision: int,
    *,
    seed: int | None = None,
    spaces: Sequence[Space.ValueType] = (IMAGE, TEXT),
    keep_vectors: bool = False,
) -> Update:
    """An upsert whose product and vectors are derived from the id and the seed (default: the revision)."""
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
    return Update(revision=revision, upsert=Upsert(product=product, vectors=vectors, keep_vectors=keep_vectors))


def patch(product_id: str, revision: int) -> Update:
    """A patch of the price and the tags, derived from the revision."""
    product = Product(id=product_id, price=revision * 7, tags=[f"tag {revision % 4}"])
    return Update(revision=revision, patch=Patch(product=product, fields=["price", "tags"]))


def remove(product_id: str, revision: int) -> Update:
    return Update(revision=revision, remove=product_id)


def random_updates(random: np.random.Generator, count: int, *, above: int = 0) -> list[Update]:
    """Updates of few products and revisions (above `above`), so that many are late or duplicates."""
    updates = []
    for _ in range(count):
        product_id, revision = str(random.choice(NAMES)), above + int(random.integers(1, 12))
        spaces = [each for each in (IMAGE, TEXT) if random.random() < 0.8]
        match random.choice(["remove", "upsert", "keep", "patch"], p=[0.3, 0.4, 0.1, 0.2]):
            case "remove":
                updates.append(remove(product_id, revision))
            case "patch":
                updates.append(patch(product_id, revision))
            case kind:
                updates.append(upsert(product_id, revision, spaces=spaces, keep_vectors=kind == "keep"))
    return updates


@dataclass
class Oracle:
    """The expected products: for each the newest revision."""

    products: dict[str, ProductState] = field(default_factory=dict)

    @classmethod
    def of(cls, shard: ShardVersion) -> Oracle:
        """The products of a version as it was built."""
        products = {}
        for product_id, ref in shard.view.page(b"", "", COUNT):
            product = Product.FromString(ref.product)
            product.description = ref.description
            vectors = {each: vector for each in (IMAGE, TEXT) if (vector := ref.vector(each)) is not None}
            products[product_id] = ProductState(5 * (int(product_id[1:]) >= 40), product, vectors)
        return cls(products)

    def apply(self, update: Update) -> UpdateResult.Outcome.ValueType:
        product_id = update.remove or update.upsert.product.id or update.patch.product.id
        outcome, state = after(self.products.get(product_id, ABSENT), update)
        if outcome == UpdateResult.APPLIED:
            self.products[product_id] = state
        return outcome

    def check(self, shard: LiveShard) -> None:
        """Raise AssertionError if a listing, a lookup, a count or a search differs from what is expected."""
        view = shard.view
        alive = {product_id: expected for product_id, expected in self.products.items() if expected.product is not None}
        page = view.page(b"", "", 10_000)
        assert [product_id for product_id, _ in page] == sorted(alive)
        assert len(view) == view.count(b"") == len(alive)
        for product_id, ref in page:
            product = Product.FromString(ref.product)
            product.description = ref.description
            assert product == alive[product_id].product
            looked_up = view.find(product_id)
            assert looked_up is not None
            assert looked_up.product == ref.product
            for space in (IMAGE, TEXT):
                vector, expected = ref.vector(space), alive[product_id].vectors.get(space)
                assert (vector is None) == (expected is None)
                assert vector is None or (vector == expected).all()
        for product_id in self.products.keys() - alive.keys():
            assert view.find(product_id) is None
        self._check_searches(shard)

    def _check_searches(self, shard: LiveShard) -> None:
        condition = Filter(shop_in=["shop 1"], in_stock=True, tags_none=["tag 3"], none_of=[Filter(created_after=9000)])
        for space in (IMAGE, TEXT):
            vector = unit_vectors(1, DIMS[space], seed=99)[0]
            for each in (None, condition):
                query = parse_query(ShardQuery(vectors=[query_vector(space, vector)], k=15, filter=each), DIMS)
                (hits,) = shard.view.nearest([query])
                scores = {
                    product_id: float(expected.vectors[space] @ vector)
                    for product_id, expected in self.products.items()
                    if expected.product is not None and space in expected.vectors
                    if each is None or _passes(expected.product)
                }
                best = sorted(scores, key=lambda product_id: -scores[product_id])[:15]
                assert sorted(hits.ids) == sorted(best)
                assert np.allclose(hits.scores, [scores[product_id] for product_id in hits.ids], atol=1e-5)
        assert shard.view.count(condition.SerializeToString()) == sum(
            each.product is not None and _passes(each.product) for each in self.products.values()
        )


def _passes(product: Product) -> bool:
    """Whether a product passes the filter of `_check_searches`."""
    recent, tagged = product.created_at > 9000, "tag 3" in product.tags
    return product.shop == "shop 1" and product.in_stock and not tagged and not recent
