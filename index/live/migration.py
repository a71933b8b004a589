"""Migrate the changes of one version of a shard to the version that follows it. Reads and writes files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from index.live.live_shard import LiveShard
from index.live.migration_loss import MigrationLoss, keep_vectors, loss_reasons, shared_spaces
from index.live.updates import PATCHABLE
from lookalike.v1.index_pb2 import Patch, Update, Upsert
from lookalike.v1.types_pb2 import SpaceVector
from lookalike.vectors import pack

_BATCH = 256  # Changes in one write.
# Migrations after which the tombstone of a product that the new version does not have is dropped. Until then an older
# update that arrives late cannot bring the product back.
MAX_TOMBSTONE_GENERATION = 8


def migrate_changes(old: LiveShard, new: LiveShard) -> MigrationLoss:
    """Apply to `new` each change of `old` that is newer than its own revision of the product.

    A vector is migrated only where the same encoder made the vectors of both versions. The tombstone of a product that
    `new` does not have is migrated up to MAX_TOMBSTONE_GENERATION times. If `old` changes meanwhile, some changes may
    be missing; another call migrates them.
    """
    shared = shared_spaces(old, new)
    updates, reasons = _newer_updates(old, new), list[str]()
    while True:
        if new.compaction_due:
            new.compact()
        if not (batch := [*islice(updates, min(new.free_rows, _BATCH))]):
            break
        outcomes = new.apply([keep_vectors(update, shared) for update in batch])
        reasons += loss_reasons(batch, outcomes, shared)
    return MigrationLoss(len(reasons), frozenset(reasons))


def _newer_updates(old: LiveShard, new: LiveShard) -> Iterator[Update]:
    """An update for each product whose newest revision in `old` is newer than in `new`."""
    for product_id, revision in old.changes():
        if new.revision(product_id) >= revision:
            continue
        ref = old.view.find(product_id.decode())
        in_base = ref is None or ref.segment is old.view.segments[0]
        if in_base and (patched := old.patched_product(product_id)) is not None:
            # The other version's own vectors stay; a product that it does not have is not made of a patch.
            yield Update(revision=revision, patch=Patch(product=patched, fields=sorted(PATCHABLE)))
            continue
        if ref is None:
            generation = old.generation(product_id)
            if generation < MAX_TOMBSTONE_GENERATION or new.knows(product_id):
                yield Update(revision=revision, remove=product_id.decode(), generation=generation + 1)
            continue
        stored = {space: ref.vector(space) for space in old.encoders}
        vectors = [SpaceVector(space=space, vector=pack(each)) for space, each in stored.items() if each is not None]
        upsert = Upsert(product=ref.whole_product(), stored_vectors=vectors)
        yield Update(revision=revision, upsert=upsert)
