"""A release that lies on this machine, mapped: its products, vectors and encoders, and searches over all its shards.

Reads memory-mapped files. A search is the one that shards serve, without the gateway: the best of all shards by score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encoders.product import model as product_encoder
from encoders.product.model import ProductModel
from encoders.text import model as text_encoder
from encoders.text.model import TextModel
from index.search.segment import Segment
from index.search.space import SpaceIndex
from index.serving.shard_version import map_shard
from index.storage.attributes import Attributes
from lookalike.errors import BadArtifact
from lookalike.releases import version
from lookalike.releases.manifest import Manifest, SpaceEntry
from lookalike.releases.names import ENCODERS
from lookalike.runtime.partition import shard_of
from lookalike.spaces import space_name, space_number
from lookalike.v1.types_pb2 import SPACE_PRODUCT, SPACE_TEXT, Product
from lookalike.vectors import F32, I64


class ProductRow(NamedTuple):
    """Where a product is: its shard, and its row in the shard's table."""

    shard: int
    row: int


class RankedProducts(NamedTuple):
    """The nearest products of one query, by falling score, equal scores by rising id."""

    products: Sequence[ProductRow]
    scores: F32


@dataclass(frozen=True)
class MappedRelease:
    """A version of an index with its encoders."""

    manifest: Manifest
    directory: Path
    shards: Sequence[Segment]

    def __len__(self) -> int:
        return sum(self.manifest.products)

    def space(self, name: str) -> SpaceEntry | None:
        return next((space for space in self.manifest.spaces if space.name == name), None)

    def index(self, shard: int, space: str) -> SpaceIndex:
        return self.shards[shard].spaces[space_number(space)]

    def table(self, shard: int) -> Attributes:
        table = self.shards[shard].table
        assert isinstance(table, Attributes), "the table of a segment as it was built"  # noqa: S101  # for the type checker
        return table

    def find(self, product_id: str) -> ProductRow | None:
        shard = shard_of(product_id, self.manifest.shards)
        row = self.shards[shard].find(product_id.encode())
        return None if row is None else ProductRow(shard, row)

    def id(self, at: ProductRow) -> str:
        return self.shards[at.shard].table.ids.text(at.row)

    def product(self, at: ProductRow) -> Product:
        """Without its description."""
        return Product.FromString(self.shards[at.shard].table.products[at.row])

    def description(self, at: ProductRow) -> str:
        return self.table(at.shard).description(at.row)

    def category(self, at: ProductRow) -> str:
        table = self.table(at.shard)
        return table.categories.text(int(table.category_codes[at.row]))

    def vector(self, at: ProductRow, space: str) -> F32 | None:
        return self.index(at.shard, space).vector(at.row)

    def category_counts(self) -> dict[str, int]:
        """Products by category; those without one by the empty text."""
        counts: dict[str, int] = {}
        for shard in range(self.manifest.shards):
            table = self.table(shard)
            of_shard = np.bincount(table.category_codes, minlength=len(table.categories))
            for code, count in enumerate(of_shard.tolist()):
                name = table.categories.text(code)
                counts[name] = counts.get(name, 0) + count
        return {name: count for name, count in counts.items() if count}

    def draw(self, count: int, seed: int) -> list[ProductRow]:
        """At most `count` products in random order."""
        total, starts = len(self), np.cumsum([0, *self.manifest.products])
        drawn: I64 = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
        shards = np.searchsorted(starts, drawn, side="right") - 1
        return [
            ProductRow(shard, row)
            for shard, row in zip(shards.tolist(), (drawn - starts[shards]).tolist(), strict=True)
        ]

    def nearest(self, space: str, queries: F32, k: int, *, exact: bool = False) -> list[RankedProducts]:
        """The k nearest products to each of the unit queries (n, dim), as the release serves them."""
        per_shard = [self.index(shard, space).search(queries, k, exact=exact) for shard in range(self.manifest.shards)]
        results = []
        for of_query in zip(*per_shard, strict=True):
            rows = [ProductRow(shard, row) for shard, found in enumerate(of_query) for row in found.rows.tolist()]
            scores = np.concatenate([found.scores for found in of_query])
            order = np.argsort(-scores, kind="stable")
            falling = scores[order[: k + 1]]
            if (falling[1:] == falling[:-1]).any():
                ids = [self.id(row) for row in rows]
                order = np.array(sorted(range(len(rows)), key=lambda i: (-scores[i], ids[i])))
            results.append(RankedProducts([rows[i] for i in order[:k].tolist()], scores[order[:k]]))
        return results

    def nearest_to(self, space: str, products: Sequence[ProductRow], k: int) -> list[RankedProducts]:
        """The k nearest to each of these products, which all have a vector there, without themselves."""
        vectors = [self.vector(at, space) for at in products]
        queries = np.stack([vector for vector in vectors if vector is not None]) if vectors else np.empty((0, 0), "f4")
        results = []
        for own, found in zip(products, self.nearest(space, queries, k + 1) if vectors else [], strict=True):
            kept = [i for i, each in enumerate(found.products) if each != own][:k]
            results.append(RankedProducts([found.products[i] for i in kept], found.scores[kept]))
        return results

    def artifact(self, space: str) -> Path:
        return self.directory / ENCODERS / space

    @cached_property
    def text_encoder(self) -> TextModel:
        """The one in the release. Raises BadArtifact."""
        model = text_encoder.load(self.artifact(space_name(SPACE_TEXT)))
        self._check_fingerprint(space_name(SPACE_TEXT), model.fingerprint)
        return model

    @cached_property
    def product_encoder(self) -> ProductModel:
        """The one in the release. Raises BadArtifact."""
        model = product_encoder.load(self.artifact(space_name(SPACE_PRODUCT)))
        self._check_fingerprint(space_name(SPACE_PRODUCT), model.fingerprint)
        return model

    def _check_fingerprint(self, space: str, fingerprint: str) -> None:
        entry = self.space(space)
        if entry is None or entry.encoder != fingerprint:
            wanted = "no such space" if entry is None else f"the space is of {entry.encoder}"
            raise BadArtifact(f"{self.artifact(space)}: is {fingerprint}, but {wanted}")


def map_release(location: Path, name: str) -> MappedRelease:
    """Map a version. Its files are not verified. Raises BadArtifact, naming the file at fault."""
    manifest = version.read_manifest(location, name)
    shards = [map_shard(location, manifest, shard).base for shard in range(manifest.shards)]
    return MappedRelease(manifest, location / manifest.version, shards)


def draw_common(
    one: MappedRelease, other: MappedRelease, space: str, count: int, seed: int
) -> list[tuple[ProductRow, ProductRow]]:
    """At most `count` random products that both have, each with a vector in the space: where they are in each."""
    number, found = space_number(space), list[tuple[ProductRow, ProductRow]]()
    # A night replaces a few percent; where half are gone, the sample is as large all the same.
    for at in one.draw(4 * count, seed):
        if len(found) == count:
            break
        there = other.find(one.id(at))
        if there is None or not one.shards[at.shard].spaces[number].has(at.row):
            continue
        if other.shards[there.shard].spaces[number].has(there.row):
            found.append((at, there))
    return found
