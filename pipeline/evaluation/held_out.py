"""The products that a report judges, and those that may vote on them. Reads an index, memory-mapped.

Judged are held-out products alone (`encoders.splits`), as queries and as neighbours, and only those that have a
vector in every space: all spaces are then measured on the same products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.splits import Split, splits_of
from index.serving.loaded import LoadedShard, opened
from index.storage import version
from lookalike.errors import OperatorError
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, I64

# At most so many vote, and choose thresholds: 80 MB of 1,024-d vectors, whatever the index has.
VOTERS, CALIBRATING = 20_000, 5_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some products by rising id, and for each space their vectors (n, dim) float32, rows of unit norm."""

    products: Sequence[Product]
    vectors: Mapping[str, F32]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    version: str
    encoders: Mapping[str, str]  # The fingerprint of each space's encoder; spaces in the order of the contract.
    products: int  # In the index.
    held_out: int  # Of these.
    lacking: Mapping[str, int]  # Held-out products without a vector in a space.
    complete: int  # Held-out products with a vector in every space: judged are these, or a sample of them.
    judged: Part
    # With a vector in every space too, or samples of these:
    voters: Part  # Products to learn from.
    calibrating: Part  # Products to choose thresholds by.
    known: Mapping[str, int]  # Judged products with the very vector of a voter in a space: the same photo, or title.


def read(location: Path, *, sample: int, seed: int) -> HeldOut:
    """Of the version that serves. Raises BadArtifact where there is none, OperatorError where nothing can be judged."""
    name = version.current(location)
    manifest = version.read(location, name)
    spaces = sorted((entry.name for entry in manifest.spaces), key=space_number)
    places = _Places([opened(location, shard, name) for shard in range(manifest.shards)], spaces)
    complete = places.has.all(axis=0)
    held_out, learnt, calibrating = (places.splits == split for split in (Split.TEST, Split.TRAIN, Split.CALIBRATE))
    if not (held_out & complete).any():
        raise OperatorError(
            f"{location}: none of its {len(held_out):,} products is held out (every fifth is, by its id) and has a "
            f"vector in every space ({', '.join(spaces)}): there is nothing to judge by"
        )
    random = np.random.default_rng(seed)
    judged = places.part(_sampled(held_out & complete, sample, random))
    voters = places.part(_sampled(learnt & complete, VOTERS, random))
    return HeldOut(
        version=name,
        encoders={entry.name: entry.encoder for entry in sorted(manifest.spaces, key=lambda it: space_number(it.name))},
        products=len(held_out),
        held_out=int(held_out.sum()),
        lacking={space: int((held_out & ~has).sum()) for space, has in zip(spaces, places.has, strict=True)},
        complete=int((held_out & complete).sum()),
        judged=judged,
        voters=voters,
        calibrating=places.part(_sampled(calibrating & complete, CALIBRATING, random)),
        known={space: _known(judged.vectors[space], voters.vectors[space]) for space in spaces},
    )


def _known(vectors: F32, among: F32) -> int:
    """How many of the vectors are among others."""
    others = {other.tobytes() for other in among}
    return sum(vector.tobytes() in others for vector in vectors)


def _sampled(mask: npt.NDArray[np.bool_], size: int, random: np.random.Generator) -> I64:
    rows = np.flatnonzero(mask)
    return np.sort(random.choice(rows, size, replace=False)) if len(rows) > size else rows


class _Places:
    """Every product of an index by rising id: where it is, which split it belongs to, which spaces have it."""

    def __init__(self, shards: Sequence[LoadedShard], spaces: Sequence[str]) -> None:
        self._shards = shards
        self._spaces = {name: space_number(name) for name in spaces}
        ids = [shard.base.table.ids.text(row) for shard in shards for row in range(len(shard.base.table))]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        sizes = [len(shard.base.table) for shard in shards]
        self._shard_of = np.repeat(np.arange(len(shards)), sizes)[order]
        self._row_of = np.concatenate([np.arange(size) for size in sizes])[order]
        self.splits = splits_of([ids[place] for place in order])
        # (spaces, products)
        self.has = np.stack([self._having(number)[order] for number in self._spaces.values()])

    def _having(self, number: Space.ValueType) -> npt.NDArray[np.bool_]:
        bases = [shard.base for shard in self._shards]
        return np.concatenate([np.isin(np.arange(len(base)), base.spaces[number].rows) for base in bases])

    def part(self, places: I64) -> Part:
        at = [(self._shards[self._shard_of[place]], int(self._row_of[place])) for place in places]
        products = [Product.FromString(shard.base.table.products[row]) for shard, row in at]
        vectors = {name: self._vectors(at, number) for name, number in self._spaces.items()}
        return Part(products=products, vectors=vectors)

    def _vectors(self, at: Sequence[tuple[LoadedShard, int]], number: Space.ValueType) -> F32:
        """(n, dim) of rows that all have one."""
        vectors = [shard.base.spaces[number].vector(row) for shard, row in at]
        return np.array(vectors, dtype=np.float32).reshape(len(at), self._shards[0].base.spaces[number].dim)
