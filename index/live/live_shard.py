"""A shard that takes updates: one writer at a time, and readers that never wait for it. Does file I/O.

Readers use `view`, an immutable snapshot. A write is checked, logged, and then published as another view. When an
eighth of the delta is full it is frozen and compacted, with the segment of earlier compactions, into one segment on
disk; another delta and another log take the updates meanwhile, the more the faster they come. A patch leaves a product
where its vectors are: the tables of the segments on disk have the patches in memory beside them (`PatchedTable`), and a
compaction writes them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa
from google.protobuf.message import DecodeError

from index.backends.vector_index import VectorIndex
from index.live import compaction, live_directory
from index.live.compaction import CompactedSegment, CompactionSource, TrainedIndex
from index.live.delta import Delta, empty_segment
from index.live.live_directory import Checkpoint
from index.live.patched_table import PatchedTable, Patches, take
from index.live.place import Place
from index.live.recent_changes import AppliedChange, RecentChanges
from index.live.segment_changes import delete_products, patch_products, patch_rows, patched_table, unpatched
from index.live.updates import (
    Change,
    NoProduct,
    Tombstone,
    brings_vectors,
    change_kind,
    changes_in_part,
    check_owner,
    keeps_all_vectors,
    parse_update,
    resolve,
    updated_id,
)
from index.live.write_ahead_log import WriteAheadLog, head_size, read_frames
from index.search.segment import Segment
from index.search.view import DocumentRef, View
from index.storage import attributes
from lookalike.errors import BadArtifact, Overloaded
from lookalike.releases import version
from lookalike.releases.manifest import Manifest, dump_manifest, parse_manifest
from lookalike.runtime.partition import product_hash
from lookalike.spaces import space_number
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import UpdateResult
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import I64

_COMPACTIONS_PER_DELTA = 8  # The rest of the delta takes what comes while a compaction runs.


class LiveLimits(NamedTuple):
    """Bounds of what a shard keeps of updates."""

    delta_rows: (
        int  # Changes waiting for a compaction; beyond it updates are refused. A compaction begins at an eighth.
    )
    changes: int  # Products changed since the version was built; beyond it updates are refused until the next version.


class LiveShard:
    """One shard of a version as built (the base), and all updates since."""

    def __init__(self, base: Segment, manifest: Manifest, shard: int, directory: Path, limits: LiveLimits) -> None:
        """Recover the acknowledged updates of `directory`.

        Raises BadArtifact, naming the file; OperatorError if another process has the directory open.
        """
        self._manifest = manifest
        self._shard = shard
        self._dims = {space_number(entry.name): entry.dim for entry in manifest.spaces}
        self._directory = directory
        self._limits = limits
        self._writing = threading.Lock()
        self._compacting = threading.Lock()
        self._base = base
        self._compacted: CompactedSegment | None = None
        self._joint_indexes: Mapping[Space.ValueType, VectorIndex] = {}  # Over base and compacted segment, once made.
        self._frozen: Delta | None = None  # Being compacted.
        self._delta = Delta(self._manifest.spaces, limits.delta_rows)
        self.sequence = self._frozen_sequence = 0  # Updates applied since the version was built.
        self._lost: dict[bytes, str] = {}  # Why a change of another version could not be taken whole, by product.
        self._other_losses: frozenset[str] = frozenset()
        self.compactions = 0
        self._lock = live_directory.lock(directory)
        try:
            self._save_manifest()
            self._log, self._log_number = self._recover()
        except BaseException:
            self._lock.release()
            raise
        self._recent = RecentChanges(self.sequence)
        self.view = self._make_view()

    @classmethod
    def open_changes(cls, directory: Path, shard: int, limits: LiveLimits) -> LiveShard:
        """Open the changes of a version without its base, which may be gone. Raises as the constructor does."""
        path = directory / version.MANIFEST
        try:
            manifest = parse_manifest(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise BadArtifact(f"{path}: {error}") from error
        return cls(empty_segment(manifest.spaces), manifest, shard, directory, limits)

    def close(self) -> None:
        """Call it when no write and no compaction is running."""
        self._log.close()
        self._lock.release()

    def apply(self, updates: Sequence[index_pb2.Update]) -> list[UpdateResult]:
        """The outcome of each update. Returns when the applied ones are synced to disk and in `view`.

        Raises Overloaded when the disk accepts no write: then none was applied.
        """
        with self._writing:
            outcomes, newest, applied = self._check(updates)
            if newest:
                sequence = self.sequence + len(applied)
                record = index_pb2.LogRecord(sequence=sequence, updates=[each.update for each in newest.values()])
                try:
                    self._log.append(record.SerializeToString())
                except OSError as error:
                    full = Overloaded(f"the update could not be logged: {error}", retry_after_s=1)
                    raise full.hidden_as("the disk takes no update") from error
                refs = {product_id: each.place.ref for product_id, each in newest.items() if each.place.ref}
                self._publish([each.change for each in newest.values()], refs)
                self._recent.add(applied)
                self.sequence = sequence
                if self._lost:
                    self._forget_losses(updates, outcomes)
            return outcomes

    @property
    def version(self) -> str:
        return self._manifest.version

    @property
    def encoders(self) -> dict[Space.ValueType, str]:
        """Fingerprint of the encoder that made the vectors of each space."""
        return {space_number(entry.name): entry.encoder for entry in self._manifest.spaces}

    def recent_changes(self, known: int, sequence: int) -> index_pb2.RecentChanges:
        """The updates after number `known` up to number `sequence`; the last of them where not all are remembered."""
        return self._recent.between(known, sequence)

    def changes(self) -> Iterator[tuple[bytes, int]]:
        """Ids and revisions of the products changed since the version was built, removed ones included.

        A product that changes meanwhile comes with its earlier revision.
        """
        with self._writing:  # Else those of a compaction that ends now could be in neither.
            deltas = [[*delta.revisions.items()] for delta in (self._delta, self._frozen) if delta is not None]
            compacted = self._compacted
        changed = dict(change for delta in reversed(deltas) for change in delta)
        if compacted is not None:
            for product_id in compacted.ids():
                if product_id not in changed and (revision := compacted.revision(product_id)) is not None:
                    yield product_id, revision
            for row, revision in enumerate(compacted.patches.revisions.tolist()):
                product_id = compacted.patches.ids[row]
                if product_id not in changed and compacted.revision(product_id) is None:
                    yield product_id, revision
        yield from changed.items()

    def changes_after(self, known: int) -> Iterator[tuple[bytes, int]]:
        """As `changes`, of the products that changed after update number `known`.

        Of all changed ones where the shard does not remember which came after that number.
        """
        recent = self.recent_revisions(known)
        return self.changes() if recent is None else recent

    def recent_revisions(self, known: int) -> Iterator[tuple[bytes, int]] | None:
        """As `changes_after`; None: it is not remembered which products changed after that number."""
        ids = self._recent.ids_between(known, self.sequence)
        return None if ids is None else ((each, self.revision(each)) for each in ids)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """No write is published while the context is open: a product and its revision are of one state."""
        with self._writing:
            yield

    def patched_product(self, product_id: bytes) -> Product | None:
        """A product of a segment on disk, which may be gone, as it was patched; None: its last change was no patch."""
        row: int | None
        table: Patches
        if deltas := [
            each for each in (self._delta, self._frozen) if each is not None and product_id in each.revisions
        ]:
            row, table = deltas[0].patched.get(product_id), deltas[0].patches
        elif self._compacted is not None and self._compacted.revision(product_id) is None:
            row, table = self._compacted.patches.ids.find(product_id), self._compacted.patches
        else:
            return None
        if row is None:
            return None
        product = Product.FromString(table.products[row])
        product.description = table.description(row)
        return product

    def generation(self, product_id: bytes) -> int:
        """How many times the tombstone of a removed product was migrated to the next version; 0 without a tombstone."""
        for delta in (self._delta, self._frozen):
            if delta is not None and product_id in delta.revisions:
                tombstone = delta.tombstones.get(product_id)
                return tombstone.generation if tombstone else 0
        tombstone = self._compacted.tombstones.get(product_id) if self._compacted else None
        return tombstone.generation if tombstone else 0

    def knows(self, product_id: bytes) -> bool:
        """Whether the base has the product, or an update of it was applied."""
        return self._base.table.ids.find(product_id) is not None or self.revision(product_id) > 0

    @property
    def free_rows(self) -> int:
        """How many more changes fit into the delta."""
        return max(0, self._limits.delta_rows - self._delta.changes)

    @property
    def compaction_due(self) -> bool:
        """Whether the delta is full enough, or an earlier compaction failed."""
        return self._frozen is not None or _COMPACTIONS_PER_DELTA * self._delta.changes >= self._limits.delta_rows

    def compact(self) -> None:
        """Compact all changes until now; reads and writes go on. Raises OSError, and then changes nothing."""
        with self._compacting:
            with self._writing:
                frozen = self._freeze()
                trained = self._trained_indexes()
            directory = live_directory.segment_path(self._directory, frozen.log_number)
            if frozen.unchanged is not None:
                compacted = compaction.with_patches(directory, frozen.unchanged, frozen.patches)
                joint_indexes = self._joint_indexes
            else:
                compacted = compaction.compact(
                    directory,
                    frozen.sources,
                    frozen.tombstones,
                    self._manifest.spaces,
                    trained,
                    patches=frozen.patches,
                )
                joint_indexes = compaction.join_indexes(self._base, compacted.segment)
            with self._writing:
                checkpoint = Checkpoint(log=frozen.log_number, segment=directory.name, sequence=frozen.sequence)
                live_directory.write_checkpoint(self._directory, checkpoint)
                self._install(compacted, frozen.patched_rows, joint_indexes)
            live_directory.remove_obsolete(self._directory, checkpoint)

    def state(self) -> index_pb2.LiveState:
        """Current figures; not a snapshot."""
        deltas = [delta for delta in (self._frozen, self._delta) if delta is not None]
        compacted, base, lost, others = self._compacted, self._base, dict(self._lost), self._other_losses
        return index_pb2.LiveState(
            delta_rows=sum(map(len, deltas)),
            segment_rows=len(compacted.segment) if compacted else 0,
            superseded_rows=len(base.table) - len(base),
            tombstones=sum(len(delta.tombstones) for delta in deltas) + (len(compacted.tombstones) if compacted else 0),
            compactions=self.compactions,
            log_bytes=self._log.size,
            lost_changes=len(lost) + len(others),
            lost_reasons=sorted({*lost.values(), *others}),
        )

    def note_loss(self, by_product: Mapping[bytes, str]) -> None:
        """Keep in mind of which products a change could not be taken whole, and why.

        Until the product is changed with vectors of this version's encoders, or the process ends.
        """
        self._lost.update(by_product)

    def _forget_losses(self, updates: Sequence[index_pb2.Update], outcomes: Sequence[UpdateResult]) -> None:
        """Products that have vectors by these updates, or are gone, lack none any more."""
        for update, outcome in zip(updates, outcomes, strict=True):
            if outcome.outcome == UpdateResult.APPLIED and brings_vectors(update):
                self._lost.pop(updated_id(update), None)

    def note_losses(self, reasons: Iterable[str]) -> None:
        """Keep in mind, until the process ends, that changes of products which nobody knows could not be taken."""
        self._other_losses |= {*reasons}

    def _check(
        self, updates: Sequence[index_pb2.Update]
    ) -> tuple[list[UpdateResult], dict[bytes, _CheckedUpdate], list[AppliedChange]]:
        """The outcome of each update, the newest update to apply of each product, and all that are applied."""
        outcomes, applied = list[UpdateResult](), list[AppliedChange]()
        newest: dict[bytes, _CheckedUpdate] = {}
        room, refusal = self.room()
        for update in updates:
            latest = 0
            try:
                product_id = updated_id(update)
                hashed = product_hash(product_id)
                check_owner(hashed, self._shard, self._manifest.shards)
                pending = newest.get(product_id)
                place = pending.place if pending else self._locate(product_id)
                latest = pending.change.revision if pending else place.revision
                if not _is_newer(update, latest):
                    kind = change_kind(update, same_expiry=True)  # As far as the update alone tells.
                    outcomes.append(UpdateResult(outcome=UpdateResult.STALE, revision=latest, kind=kind))
                    continue
                if not pending and len(newest) >= room:
                    outcomes.append(refusal)
                    continue
                whole, expiry = self._resolve(update, place, pending.change if pending else None)
                change = parse_update(whole, self._dims)
            except NoProduct as error:
                outcomes.append(UpdateResult(outcome=UpdateResult.NOT_FOUND, error=str(error), revision=latest))
            except ValueError as error:
                outcomes.append(UpdateResult(outcome=UpdateResult.INVALID, error=str(error), revision=latest))
            else:
                newest[product_id] = _CheckedUpdate(change, whole, place)
                spaces = place.spaces() if change.keeps_vectors else sorted(change.vectors)
                kind = change_kind(
                    update, same_expiry=change.product is not None and change.product.expires_at == expiry
                )
                applied.append(AppliedChange(product_id, hashed, kind))
                outcomes.append(
                    UpdateResult(outcome=UpdateResult.APPLIED, revision=change.revision, spaces=spaces, kind=kind)
                )
        return outcomes, newest, applied

    def _locate(self, product_id: bytes) -> Place:
        """Where a product is, and its newest revision."""
        revision = None
        for delta in (self._delta, self._frozen):
            if delta is None:
                continue
            if revision is None:
                revision = delta.revisions.get(product_id)
            if delta.has_row(product_id):
                return Place(revision or 0, self.view.find(product_id.decode()), on_disk=False)
        ref = self._find_on_disk(product_id)
        if revision is None and self._compacted is None and ref is not None:
            revision = self._base_revision(ref.row)
        return Place(self.revision(product_id) if revision is None else revision, ref, on_disk=True)

    def _find_on_disk(self, product_id: bytes) -> DocumentRef | None:
        for segment in (self._base,) if self._compacted is None else (self._compacted.segment, self._base):
            if (row := segment.find(product_id)) is not None:
                return DocumentRef(segment, row)
        return None

    def _resolve(
        self, update: index_pb2.Update, place: Place, pending: Change | None
    ) -> tuple[index_pb2.Update, int | None]:
        """The update as one that says all by itself, applied after a pending one.

        And when the product that it changes expires, as it was; None: it was not there, or is not changed in part.
        Raises NoProduct and ValueError.
        """
        if not changes_in_part(update):
            return update, None
        if pending is None:
            product = None if place.ref is None else place.ref.whole_product()
        elif pending.product is None:
            product = None
        else:
            product = Product()
            product.CopyFrom(pending.product)
        expiry = None if product is None else product.expires_at
        if pending is not None and not pending.keeps_vectors:
            return resolve(update, product, lambda: pending.vectors), expiry
        if product is None or not place.on_disk or not keeps_all_vectors(update):
            return resolve(update, product, place.vectors), expiry
        if update.upsert.require_vector and not place.spaces():
            raise ValueError("the product would have no vector: no search would find it")
        return resolve(update, product, None), expiry

    def room(self) -> tuple[int, UpdateResult]:
        """How many more changes there is room for, and the outcome of the others."""
        applied = sum(len(delta.revisions) for delta in (self._frozen, self._delta) if delta is not None)
        if (compacted := self._compacted) is not None:
            applied += len(compacted.segment.table) + len(compacted.tombstones) + len(compacted.patches)
        until_rebuilt, until_compacted = self._limits.changes - applied, self.free_rows
        if until_rebuilt <= until_compacted:
            reason = (
                f"{applied} products have changed since this version was built, at most {self._limits.changes} can: "
                "build another version"
            )
            return until_rebuilt, UpdateResult(outcome=UpdateResult.EXHAUSTED, error=reason)
        reason = f"{self._limits.delta_rows} changes are waiting for a compaction; try again later"
        return until_compacted, UpdateResult(outcome=UpdateResult.FULL, error=reason)

    def revision(self, product_id: bytes) -> int:
        """The newest revision of a product; 0: the product is unknown."""
        for delta in (self._delta, self._frozen):
            if delta is not None and (revision := delta.revisions.get(product_id)) is not None:
                return revision
        if (compacted := self._compacted) is not None:
            for revision in (compacted.revision(product_id), compacted.patch_revision(product_id)):
                if revision is not None:
                    return revision
        row = self._base.table.ids.find(product_id)
        return 0 if row is None else self._base_revision(row)

    def _base_revision(self, row: int) -> int:
        """Of a product in the version as it was built."""
        table = self._base.table
        return int((table.base if isinstance(table, PatchedTable) else table.parts[0]).revisions[row])

    def _publish(self, changes: Sequence[Change], refs: Mapping[bytes, DocumentRef]) -> None:
        """Add the changes to the delta, delete their products elsewhere, and replace the view.

        refs: where products are, as far as it is known.
        """
        replaced = [change.id for change in changes if not change.keeps_vectors]
        base, compacted = delete_products(self._base, replaced), self._compacted
        if compacted is not None:
            compacted = replace(compacted, segment=delete_products(compacted.segment, replaced))
        self._delta.apply(changes)
        patched = [change.id for change in changes if change.keeps_vectors]
        self._base, self._compacted = self._with_patches(base, compacted, patched, refs)
        if self._frozen is not None:
            for product_id in replaced:
                self._frozen.delete(product_id)
        self.view = self._make_view()

    def _with_patches(
        self,
        base: Segment,
        compacted: CompactedSegment | None,
        ids: Iterable[bytes],
        refs: Mapping[bytes, DocumentRef] = MappingProxyType({}),
    ) -> tuple[Segment, CompactedSegment | None]:
        """The segments on disk with the patches of these products, which the delta has."""
        rows = [(product_id, refs.get(product_id), self._delta.patched[product_id]) for product_id in ids]
        if not rows:
            return base, compacted
        in_memory: list[Patches] = [delta.patches for delta in (self._frozen, self._delta) if delta is not None]
        if compacted is not None:
            base = patch_products(base, [compacted.patches, *in_memory], rows)
            compacted = replace(compacted, segment=patch_products(compacted.segment, in_memory, rows))
            return base, compacted
        return patch_products(base, in_memory, rows), None

    def _make_view(self) -> View:
        segments = [self._base]
        if self._compacted is not None:
            segments.append(self._compacted.segment)
        segments += [delta.segment() for delta in (self._frozen, self._delta) if delta is not None and len(delta)]
        return View(segments, self._joint_indexes)

    def _freeze(self) -> _FrozenState:
        """Freeze the delta and begin another with another log, unless a failed compaction has left a frozen one."""
        if self._frozen is None:
            next_log = WriteAheadLog.create(live_directory.log_path(self._directory, self._log_number + 1))
            self._log.close()
            self._log, self._log_number = next_log, self._log_number + 1
            self._frozen, self._delta = self._delta, Delta(self._manifest.spaces, self._limits.delta_rows)
            self._frozen_sequence = self.sequence
        deltas = [delta for delta in (self._frozen, self._delta) if delta is not None]
        in_memory = [delta.patches.table() for delta in deltas]
        sources = [CompactionSource(self._frozen.table(), self._frozen.segment())]
        tombstones = self._frozen.tombstones.copy()
        on_disk = [attributes.empty_serialized()]
        before_changes = len(self._frozen) or len(self._frozen.tombstones)
        if (before := self._compacted) is not None:
            before_changes = before_changes or isinstance(before.segment.table, PatchedTable)
            table = patched_table(before.segment)
            sources.append(CompactionSource(take(before.table(), in_memory, table.part_rows), before.segment))
            frozen_revisions = self._frozen.revisions
            tombstones |= {
                key: tombstone for key, tombstone in before.tombstones.items() if key not in frozen_revisions
            }
            on_disk = [before.patch_table()]
        base = patched_table(self._base)
        alive = self._base.live_rows()
        patched_rows = alive[base.part_rows[alive] >= len(base)]
        patches = take(pa.concat_tables(on_disk), in_memory, base.part_rows[patched_rows] - len(base))
        return _FrozenState(
            self._log_number,
            tombstones,
            sources,
            self._frozen_sequence,
            patches=patches,
            patched_rows=patched_rows,
            unchanged=None if before is None or before_changes else before,
        )

    def _trained_indexes(self) -> dict[Space.ValueType, TrainedIndex]:
        """The ANN index of each space to reuse for compacted vectors: the last segment's, or else the base's."""
        trained = {}
        for number, base in self._base.spaces.items():
            if base.ann_index is None or not base.entry.operating_points:
                continue
            latest = self._compacted.segment.spaces[number] if self._compacted else base
            # All changes are searched with the base's training where they are in its lists.
            latest = base if latest.ann_index is None or compaction.is_joinable(base.ann_index) else latest
            assert latest.ann_index is not None, "the base has one"  # noqa: S101  # for the type checker
            trained[number] = TrainedIndex(
                latest.ann_index,
                latest.entry.recipe,
                base.entry.recipe,
                min(point.recall for point in base.entry.operating_points),
                latest.entry.operating_points,
                latest is not base,
            )
        return trained

    def _save_manifest(self) -> None:
        """Copy the manifest beside the changes, so that they can be read without the version."""
        if not (path := self._directory / version.MANIFEST).exists():
            version.replace_file(path, dump_manifest(self._manifest))

    def _install(
        self, compacted: CompactedSegment, patched_rows: I64, joint_indexes: Mapping[Space.ValueType, VectorIndex]
    ) -> None:
        """Replace the frozen delta and the last segment by the new one. Later changes are in the current delta."""
        self._joint_indexes = joint_indexes
        self._frozen = None
        segment = delete_products(compacted.segment, self._delta.superseding())
        base = unpatched(self._base)
        if len(patched_rows):
            base = patch_rows(
                base, [compacted.patches], zip(patched_rows.tolist(), range(len(patched_rows)), strict=True)
            )
        patched = [*self._delta.patched]
        self._base, self._compacted = self._with_patches(base, replace(compacted, segment=segment), patched)
        self.compactions += 1
        self.view = self._make_view()

    def _recover(self) -> tuple[WriteAheadLog, int]:
        """Load the checkpoint and replay the logs after it. Returns the log to append to, and its number."""
        checkpoint = live_directory.read_checkpoint(self._directory)
        live_directory.remove_obsolete(self._directory, checkpoint)
        self.sequence = self._frozen_sequence = checkpoint.sequence
        if checkpoint.segment:
            self._compacted = compaction.open_compacted(self._directory / checkpoint.segment)
            self._base = delete_products(self._base, self._compacted.ids())
            patches = self._compacted.patches
            patched = ((patches.ids[row], None, row) for row in range(len(patches)))
            self._base = patch_products(self._base, [patches], patched)
            self._joint_indexes = compaction.join_indexes(self._base, self._compacted.segment)
        numbers = live_directory.logs_to_replay(self._directory, checkpoint)
        if not numbers:
            return WriteAheadLog.create(live_directory.log_path(self._directory, checkpoint.log)), checkpoint.log
        size = 0
        for number in numbers:
            if number > checkpoint.log:
                self._frozen, self._frozen_sequence = self._delta, self.sequence
            size = self._replay(live_directory.log_path(self._directory, number), last=number == numbers[-1])
        return WriteAheadLog.reopen(live_directory.log_path(self._directory, numbers[-1]), size), numbers[-1]

    def _replay(self, path: Path, *, last: bool) -> int:
        """Apply a log to a new delta. Returns the size in bytes of its whole frames."""
        size, groups = head_size(path), []
        for payload, end in read_frames(path, last=last):
            try:
                record = index_pb2.LogRecord.FromString(payload)
                groups.append([(parse_update(update, self._dims), update) for update in record.updates])
            except (DecodeError, ValueError) as error:
                raise BadArtifact(f"{path}: no valid updates before byte {end}: {error}") from error
            size, self.sequence = end, record.sequence
        # The limit may have been higher when they were written.
        self._delta = Delta(self._manifest.spaces, max(self._limits.delta_rows, sum(map(len, groups))))
        for group in groups:
            # An update that was logged but failed to be published may be newer than one logged after it.
            self._publish([change for change, update in group if _is_newer(update, self.revision(change.id))], {})
        return size


class _CheckedUpdate(NamedTuple):
    change: Change
    update: index_pb2.Update
    place: Place  # Of the product, before the update.


class _FrozenState(NamedTuple):
    """The input of a compaction."""

    log_number: int  # Of the log that later updates go to.
    tombstones: dict[bytes, Tombstone]
    sources: list[CompactionSource]
    sequence: int
    patches: pa.Table  # Of the products of the base: each as its last patch made it,
    patched_rows: I64  # and its row in the base, rising.
    unchanged: CompactedSegment | None  # The last segment where all changes since are patches of the base; or None.


def _is_newer(update: index_pb2.Update, revision: int) -> bool:
    """Whether an update wins over this revision of the product."""
    return update.revision > revision or 0 < update.max_revision < revision
