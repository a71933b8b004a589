"""What differs between two releases: products, and whom a sample of them has for neighbours. Reads both, mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from pipeline.gate.neighbours import ComparedNeighbours, compare_neighbours
from pipeline.mapped_release import MappedRelease, RankedProducts

SHOWN = 5  # Products whose neighbours changed most, and of each as many neighbours.
_HALF = 5  # Of ten.


class Neighbour(NamedTuple):
    id: str
    title: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedProduct:
    """A product, and its nearest in both releases."""

    id: str
    title: str
    overlap: float
    before: Sequence[Neighbour]
    now: Sequence[Neighbour]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceDiff:
    """How far the ten nearest to a sample of products are the same ones."""

    space: str
    retrained: bool  # By another encoder.
    products: int
    mean_overlap: float  # Of the ten nearest.
    changed: float  # The share of products whose ten are not the same ones.
    fewer_than_half: float  # The share of products that keep fewer than 5 of 10.
    worst: Sequence[ChangedProduct]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDiff:
    """Numbers of products that are in one release only, or differ in a field; and the spaces of both."""

    before: str
    now: str
    new: int
    gone: int
    changed: int
    same: int
    spaces: Sequence[SpaceDiff]
    spaces_gone: Sequence[str]
    spaces_new: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_releases(before: MappedRelease, now: MappedRelease, *, sample: int, seed: int = 0) -> ReleaseDiff:
    """sample: at most so many products of both are searched for in each space."""
    old, new = (_contents(release) for release in (before, now))
    shared, old_at, new_at = np.intersect1d(old[0], new[0], assume_unique=True, return_indices=True)
    same = int(np.count_nonzero(old[1][old_at] == new[1][new_at]))
    old_spaces, new_spaces = ([space.name for space in release.manifest.spaces] for release in (before, now))
    return ReleaseDiff(
        before=before.manifest.version,
        now=now.manifest.version,
        new=len(new[0]) - len(shared),
        gone=len(old[0]) - len(shared),
        changed=len(shared) - same,
        same=same,
        spaces=[_space_diff(before, now, each) for each in compare_neighbours(before, now, sample, seed)],
        spaces_gone=[name for name in old_spaces if name not in new_spaces],
        spaces_new=[name for name in new_spaces if name not in old_spaces],
    )


def _contents(release: MappedRelease) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(n,) digests of ids, and (n,) of all fields: 16 bytes a product, so that a large catalogue has room in memory."""
    ids = np.empty(len(release), dtype=np.uint64)
    fields = np.empty(len(release), dtype=np.uint64)
    at = 0
    for shard in range(release.manifest.shards):
        table = release.table(shard)
        for row in range(len(table)):
            ids[at] = _digest(table.ids[row])
            fields[at] = _digest(table.products[row] + table.descriptions[row])
            at += 1
    return ids, fields


def _digest(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _space_diff(before: MappedRelease, now: MappedRelease, compared: ComparedNeighbours) -> SpaceDiff:
    overlaps = np.array(
        [
            len({*_ids(before, old)} & {*_ids(now, new)}) / max(1, len(old.products), len(new.products))
            for old, new in zip(compared.before, compared.now, strict=True)
        ]
    )
    worst = np.argsort(overlaps, kind="stable")[:SHOWN].tolist()
    return SpaceDiff(
        space=compared.space,
        retrained=compared.retrained,
        products=len(overlaps),
        mean_overlap=float(overlaps.mean()) if len(overlaps) else 1.0,
        changed=float((overlaps < 1).mean()) if len(overlaps) else 0.0,
        fewer_than_half=float((overlaps < _HALF / 10).mean()) if len(overlaps) else 0.0,
        worst=[_changed_product(before, now, compared, i, float(overlaps[i])) for i in worst if overlaps[i] < 1],
    )


def _changed_product(
    before: MappedRelease, now: MappedRelease, compared: ComparedNeighbours, i: int, overlap: float
) -> ChangedProduct:
    product = now.product(compared.products[i][1])
    return ChangedProduct(
        id=product.id,
        title=product.title,
        overlap=overlap,
        before=_neighbours(before, compared.before[i]),
        now=_neighbours(now, compared.now[i]),
    )


def _ids(release: MappedRelease, ranked: RankedProducts) -> list[str]:
    return [release.id(at) for at in ranked.products]


def _neighbours(release: MappedRelease, ranked: RankedProducts) -> list[Neighbour]:
    found = zip(map(release.product, ranked.products[:SHOWN]), ranked.scores[:SHOWN].tolist(), strict=True)
    return [Neighbour(product.id, product.title, round(score, 4)) for product, score in found]
