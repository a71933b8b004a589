"""Migrate the changes of one version of a shard to the version that follows it. Reads and writes files.

Where both have as many shards, a product has the same owner in both, and its changes never leave the process. Else they
are listed, for gateways to hand over to the new owners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from index.live.live_shard import LiveShard
from index.live.migration_loss import MigrationLoss, keep_vectors, loss_reasons, shared_spaces
from index.live.updates import PATCHABLE
from lookalike.v1.index_pb2 import Patch, Update, Upsert
from lookalike.v1.types_pb2 import Space, SpaceVector
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
    updates, reasons = _newer_updates(old, new), dict[bytes, str]()
    while True:
        if new.compaction_due:
            new.compact()
        if not (batch := [*islice(updates, min(new.free_rows, _BATCH))]):
            break
        outcomes = new.apply([keep_vectors(update, shared) for update in batch])
        reasons |= loss_reasons(batch, outcomes, shared)
    return MigrationLoss(reasons)


def list_changes(
    old: LiveShard, encoders: Mapping[Space.ValueType, str], known_sequence: int
) -> Iterator[tuple[Update, bool]]:
    """An update for each product that changed after `known_sequence`, and whether it lacks vectors that `old` has.

    encoders: of the version that takes them; vectors of others are left out. All changes are listed where the shard
    does not remember which came after that number. If `old` changes meanwhile, some changes may be missing.
    """
    shared = _shared_encoders(old, encoders)
    for product_id, _ in old.changes_after(known_sequence):
        update = _current_update(old, product_id)
        if update.generation <= MAX_TOMBSTONE_GENERATION:
            yield (kept := keep_vectors(update, shared)), kept is not update


def list_changes_of(
    old: LiveShard, encoders: Mapping[Space.ValueType, str], ids: Iterable[bytes]
) -> Iterator[tuple[Update, bool]]:
    """As `list_changes`, of these products, for another replica of the shard: tombstones are as old as they are."""
    shared = _shared_encoders(old, encoders)
    for product_id in ids:
        if old.revision(product_id):  # Else it was never changed; and an id that was, is UTF-8.
            update = _current_update(old, product_id)
            update.generation = max(0, update.generation - 1)
            yield (kept := keep_vectors(update, shared)), kept is not update


def _shared_encoders(old: LiveShard, encoders: Mapping[Space.ValueType, str]) -> set[Space.ValueType]:
    return {space for space, encoder in old.encoders.items() if encoders.get(space) == encoder}


def _current_update(old: LiveShard, product_id: bytes) -> Update:
    """As `_update_of`, with the revision that the product has, though `old` takes updates meanwhile."""
    with old.unchanged():
        return _update_of(old, product_id, old.revision(product_id))


def _newer_updates(old: LiveShard, new: LiveShard) -> Iterator[Update]:
    """An update for each product whose newest revision in `old` is newer than in `new`."""
    for product_id, revision in old.changes():
        if new.revision(product_id) < revision:
            update = _update_of(old, product_id, revision)
            if update.generation <= MAX_TOMBSTONE_GENERATION or new.knows(product_id):
                yield update


def _update_of(old: LiveShard, product_id: bytes, revision: int) -> Update:
    """The last change of a product in a version, as an update for another one."""
    ref = old.view.find(product_id.decode())
    in_base = ref is None or ref.segment is old.view.segments[0]
    if in_base and (patched := old.patched_product(product_id)) is not None:
        # The other version's own vectors stay; a product that it does not have is not made of a patch.
        return Update(revision=revision, patch=Patch(product=patched, fields=sorted(PATCHABLE)))
    if ref is None:
        return Update(revision=revision, remove=product_id.decode(), generation=old.generation(product_id) + 1)
    stored = {space: ref.vector(space) for space in old.encoders}
    vectors = [SpaceVector(space=space, vector=pack(each)) for space, each in stored.items() if each is not None]
    return Update(revision=revision, upsert=Upsert(product=ref.whole_product(), stored_vectors=vectors))
