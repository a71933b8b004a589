"""Reads the products of an index for evaluation: held-out test products, training and calibration products.

Reads an index, memory-mapped. Only held-out products (`encoders.splits`) are test products, as queries and as
neighbours, and only those with a vector in every space, so that all spaces are measured on the same products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.splits import Split, splits_of
from index.serving.shard_version import ShardVersion, open_shard
from lookalike.errors import OperatorError
from lookalike.releases import version
from lookalike.releases.manifest import DuplicatesThreshold
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, I64

# Bounds memory, whatever the size of the index: 80 MB of 1,024-d training vectors.
MAX_TRAIN, MAX_CALIBRATION = 20_000, 5_000


@dataclass(frozen=True, kw_only=True, eq=False)
class ProductSample:
    """Products in ascending order of id, and their vectors in each space (n, dim) float32, rows of unit norm."""

    products: Sequence[Product]
    vectors: Mapping[str, F32]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationData:
    """The products of one version of an index that an evaluation uses, and counts of them."""

    version: str
    encoders: Mapping[str, str]  # The fingerprint of each space's encoder; spaces in the order of the contract.
    product_count: int  # In the index.
    held_out_count: int  # Of these.
    missing_vectors: Mapping[str, int]  # Held-out products without a vector, by space.
    complete_count: int  # Held-out products with a vector in every space.
    test: ProductSample  # Held-out products with a vector in every space, or a sample of them.
    train: ProductSample  # Training products with a vector in every space, or a sample: the neighbours that vote.
    calibration: ProductSample  # Calibration products, sampled like `train`: thresholds are chosen on them.
    seen_vectors: Mapping[str, int]  # Test products whose vector equals that of a training product, by space.
    duplicates: Mapping[str, DuplicatesThreshold] = field(default_factory=dict)  # Of the spaces for which it is stated.


def read(location: Path, *, sample: int, seed: int) -> EvaluationData:
    """Read the CURRENT version. Raises BadArtifact if there is none, OperatorError if no product can be tested."""
    name = version.read_current(location)
    manifest = version.read_manifest(location, name)
    spaces = sorted((entry.name for entry in manifest.spaces), key=space_number)
    products = _IndexProducts([open_shard(location, shard, name) for shard in range(manifest.shards)], spaces)
    complete = products.has_vector.all(axis=0)
    is_test, is_train, is_calibration = (
        products.splits == split for split in (Split.TEST, Split.TRAIN, Split.CALIBRATE)
    )
    if not (is_test & complete).any():
        raise OperatorError(
            f"{location}: none of its {len(is_test):,} products is held out (every fifth is, by its id) and has a "
            f"vector in every space ({', '.join(spaces)}): there is nothing to evaluate on"
        )
    random = np.random.default_rng(seed)
    test = products.read_sample(_draw_rows(is_test & complete, sample, random))
    train = products.read_sample(_draw_rows(is_train & complete, MAX_TRAIN, random))
    return EvaluationData(
        version=name,
        encoders={
            entry.name: entry.encoder for entry in sorted(manifest.spaces, key=lambda entry: space_number(entry.name))
        },
        product_count=len(is_test),
        held_out_count=int(is_test.sum()),
        missing_vectors={
            space: int((is_test & ~has).sum()) for space, has in zip(spaces, products.has_vector, strict=True)
        },
        complete_count=int((is_test & complete).sum()),
        test=test,
        train=train,
        calibration=products.read_sample(_draw_rows(is_calibration & complete, MAX_CALIBRATION, random)),
        seen_vectors={space: _count_equal(test.vectors[space], train.vectors[space]) for space in spaces},
        duplicates={entry.name: entry.duplicates for entry in manifest.spaces if entry.duplicates is not None},
    )


def _count_equal(vectors: F32, others: F32) -> int:
    """How many of the vectors equal one of the others."""
    keys = {other.tobytes() for other in others}
    return sum(vector.tobytes() in keys for vector in vectors)


def _draw_rows(mask: npt.NDArray[np.bool_], size: int, random: np.random.Generator) -> I64:
    """At most `size` of the rows in the mask, ascending."""
    rows = np.flatnonzero(mask)
    return np.sort(random.choice(rows, size, replace=False)) if len(rows) > size else rows


class _IndexProducts:
    """All products of an index in ascending order of id: their shard and row, their split, and their spaces."""

    def __init__(self, shards: Sequence[ShardVersion], spaces: Sequence[str]) -> None:
        self._shards = shards
        self._spaces = {name: space_number(name) for name in spaces}
        ids = [shard.base.table.ids.text(row) for shard in shards for row in range(len(shard.base.table))]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        sizes = [len(shard.base.table) for shard in shards]
        self._shard_of = np.repeat(np.arange(len(shards)), sizes)[order]
        self._row_of = np.concatenate([np.arange(size) for size in sizes])[order]
        self.splits = splits_of([ids[i] for i in order])
        # (spaces, products)
        self.has_vector = np.stack([self._has_vector(number)[order] for number in self._spaces.values()])

    def _has_vector(self, number: Space.ValueType) -> npt.NDArray[np.bool_]:
        bases = [shard.base for shard in self._shards]
        return np.concatenate([np.isin(np.arange(len(base)), base.spaces[number].rows) for base in bases])

    def read_sample(self, rows: I64) -> ProductSample:
        """Read the products in these rows, which have a vector in every space."""
        shard_rows = [(self._shards[self._shard_of[row]], int(self._row_of[row])) for row in rows]
        products = [Product.FromString(shard.base.table.products[row]) for shard, row in shard_rows]
        vectors = {name: self._vectors(shard_rows, number) for name, number in self._spaces.items()}
        return ProductSample(products=products, vectors=vectors)

    def _vectors(self, shard_rows: Sequence[tuple[ShardVersion, int]], number: Space.ValueType) -> F32:
        """(n, dim) the vectors of rows that all have one."""
        vectors = [shard.base.spaces[number].vector(row) for shard, row in shard_rows]
        return np.array(vectors, dtype=np.float32).reshape(len(shard_rows), self._shards[0].base.spaces[number].dim)
