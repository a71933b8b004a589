"""What one version of a shard takes over of the changes of another, when it follows it. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from index.live.live import Live
from lookalike.vectors import pack
from protos.lookalike.v1.index_pb2 import Applied, Update, Upsert
from protos.lookalike.v1.types_pb2 import Product, Space, SpaceVector

_TOGETHER = 256  # Changes in one write.


class Lost(NamedTuple):
    """Of the changes of a version, those that another could not take, whole or in part."""

    changes: int
    reasons: frozenset[str]


def carry(old: Live, new: Live) -> Lost:
    """Apply to `new` what changed in `old` and is newer.

    A vector goes along only where the same encoder made the vectors of both; of removals only those of products that
    `new` was built with. While `old` changes meanwhile, some changes may be missing, which another call brings.
    """
    common = comparable(old, new)
    updates, count, reasons = _newer(old, new), 0, set[str]()
    while True:
        if new.compaction_due:
            new.compact()
        if not (group := [*islice(updates, min(new.room, _TOGETHER))]):
            break
        outcomes = new.apply([following(update, common) for update in group])
        for update, outcome in zip(group, outcomes, strict=True):
            if outcome.outcome in (Applied.INVALID, Applied.FULL):
                reasons.add(outcome.error)
                count += 1
            elif _loses(update, common):
                reasons.add("an encoder is another: its vectors are left out")
                count += 1
    return Lost(count, frozenset(reasons))


def following(update: Update, common: set[Space.ValueType]) -> Update:
    """The update without the vectors that mean nothing to another version."""
    if not _loses(update, common):
        return update
    kept = Update(revision=update.revision, upsert=Upsert(product=update.upsert.product))
    kept.upsert.vectors.extend(each for each in update.upsert.vectors if each.space in common)
    return kept


def comparable(old: Live, new: Live) -> set[Space.ValueType]:
    """The spaces that have vectors of the same encoder in both."""
    return {space for space, encoder in old.encoders.items() if new.encoders.get(space) == encoder}


def _loses(update: Update, common: set[Space.ValueType]) -> bool:
    return any(each.space not in common for each in update.upsert.vectors)


def _newer(old: Live, new: Live) -> Iterator[Update]:
    for product_id, revision in old.changes():
        if new.revision(product_id) >= revision:
            continue
        if (place := old.view.find(product_id.decode())) is None:
            if new.was_built_with(product_id):
                yield Update(revision=revision, remove=product_id.decode())
            continue
        product = Product.FromString(place.product)
        product.description = place.description
        found = {space: place.vector(space) for space in old.encoders}
        vectors = [SpaceVector(space=space, vector=pack(each)) for space, each in found.items() if each is not None]
        yield Update(revision=revision, upsert=Upsert(product=product, vectors=vectors))
