"""The changing state of one shard: one writer at a time, readers that never wait for it. Does file I/O.

Readers take `view`, which nothing changes. A write is judged, logged, and then shown by another view. When enough has
come, the delta is frozen, and it is compacted with what was compacted before into one segment on disk, beside which
another delta and another log go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from index.live import compaction, state
from index.live.compaction import Compacted, Learnt, Source
from index.live.delta import Delta, nothing
from index.live.log import Log, frames, size_of_head
from index.live.state import State
from index.live.updates import Change, Removal, changed, refuse_foreign
from index.search.segment import Segment
from index.search.view import View
from index.storage import version
from index.storage.manifest import Manifest, dump_manifest, parse_manifest
from lookalike.errors import BadArtifact, Overloaded
from lookalike.spaces import space_number
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import UpdateResult
from lookalike.v1.types_pb2 import Space


class Bounds(NamedTuple):
    delta_rows: int  # Changes that may wait for a compaction; beyond it updates are refused. At half it begins.
    changes: int  # Products changed since the version was built; beyond it updates are refused until another is.


class Live:
    def __init__(self, base: Segment, manifest: Manifest, shard: int, directory: Path, bounds: Bounds) -> None:
        """Recover what was acknowledged. Raises BadArtifact, naming the file; OperatorError where another has it."""
        self._manifest = manifest
        self._shard = shard
        self._dims = {space_number(entry.name): entry.dim for entry in manifest.spaces}
        self._directory = directory
        self._bounds = bounds
        self._writing = threading.Lock()
        self._compacting = threading.Lock()
        self._base = base
        self._compacted: Compacted | None = None
        self._frozen: Delta | None = None  # Being compacted.
        self._delta = Delta(self._manifest.spaces, bounds.delta_rows)
        self.sequence = self._frozen_sequence = 0  # Updates applied since the version was built.
        self.compactions = 0
        self._lock = state.lock(directory)
        try:
            self._keep_manifest()
            self._log, self._number = self._recovered()
        except BaseException:
            self._lock.release()
            raise
        self.view = self._seen()

    @classmethod
    def stopped(cls, directory: Path, shard: int, bounds: Bounds) -> Live:
        """What a version took, without what it was built with, which may be gone. Raises as the constructor does."""
        path = directory / version.MANIFEST
        try:
            manifest = parse_manifest(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise BadArtifact(f"{path}: {error}") from error
        return cls(nothing(manifest.spaces), manifest, shard, directory, bounds)

    def close(self) -> None:
        """To be called when no write and no compaction is under way."""
        self._log.close()
        self._lock.release()

    def apply(self, updates: Sequence[index_pb2.Update]) -> list[UpdateResult]:
        """The outcome of each. Returns when those that were applied are on the disk and in `view`.

        Raises Overloaded when the disk takes no more: then none was applied.
        """
        with self._writing:
            outcomes, newest = self._judged(updates)
            if newest:
                sequence = self.sequence + sum(each.outcome == UpdateResult.APPLIED for each in outcomes)
                logged = index_pb2.LogRecord(sequence=sequence, updates=[update for _, update in newest.values()])
                try:
                    self._log.append(logged.SerializeToString())
                except OSError as error:
                    raise Overloaded(f"the update could not be logged: {error}", retry_after_s=1) from error
                self._show([change for change, _ in newest.values()])
                self.sequence = sequence
            return outcomes

    @property
    def version(self) -> str:
        return self._manifest.version

    @property
    def encoders(self) -> dict[Space.ValueType, str]:
        """By space: whose vectors these are."""
        return {space_number(entry.name): entry.encoder for entry in self._manifest.spaces}

    def changes(self) -> Iterator[tuple[bytes, int]]:
        """The products changed since the version was built, removed ones included, with their revisions.

        Of about now: a product that changes meanwhile may come with its revision of before.
        """
        deltas = [[*delta.revisions.items()] for delta in (self._delta, self._frozen) if delta is not None]
        changed = dict(change for delta in reversed(deltas) for change in delta)
        if (compacted := self._compacted) is not None:
            for product_id in compacted.ids():
                if product_id not in changed and (revision := compacted.revision(product_id)) is not None:
                    yield product_id, revision
        yield from changed.items()

    def generation(self, product_id: bytes) -> int:
        """Of a product that was removed: how many versions have taken that over from another."""
        for delta in (self._delta, self._frozen):
            if delta is not None and product_id in delta.revisions:
                removal = delta.removed.get(product_id)
                return removal.generation if removal else 0
        removal = self._compacted.removed.get(product_id) if self._compacted else None
        return removal.generation if removal else 0

    def knows(self, product_id: bytes) -> bool:
        """Whether the version was built with the product, or took a change of it."""
        return self._base.table.ids.find(product_id) is not None or self.revision(product_id) > 0

    @property
    def room(self) -> int:
        """For so many changes until a compaction."""
        return max(0, self._bounds.delta_rows - self._delta.changes)

    @property
    def compaction_due(self) -> bool:
        """Whether enough has come, or an earlier compaction failed."""
        return self._frozen is not None or 2 * self._delta.changes >= self._bounds.delta_rows

    def compact(self) -> None:
        """Compact what has come until now. Reads and writes go on. Raises OSError; everything stays as it was then."""
        with self._compacting:
            with self._writing:
                number, removed, sources, sequence = self._freeze()
                learnt = self._learnt()
            directory = state.segment_path(self._directory, number)
            made = compaction.made(directory, sources, removed, self._manifest.spaces, learnt)
            with self._writing:
                after = State(log=number, segment=directory.name, sequence=sequence)
                state.write(self._directory, after)
                self._swap(made)
            state.tidy(self._directory, after)

    def state(self) -> index_pb2.LiveState:
        """Figures, each of about now."""
        deltas = [delta for delta in (self._frozen, self._delta) if delta is not None]
        compacted, base = self._compacted, self._base
        return index_pb2.LiveState(
            delta_rows=sum(map(len, deltas)),
            segment_rows=len(compacted.segment) if compacted else 0,
            superseded_rows=len(base.table) - len(base),
            tombstones=sum(len(delta.removed) for delta in deltas) + (len(compacted.removed) if compacted else 0),
            compactions=self.compactions,
            log_bytes=self._log.size,
        )

    def _judged(self, updates: Sequence[index_pb2.Update]) -> tuple[list[UpdateResult], dict[bytes, _Judged]]:
        """The outcome of each update, and the newest of each product that is to be applied."""
        outcomes: list[UpdateResult] = []
        newest: dict[bytes, _Judged] = {}
        for update in updates:
            try:
                change = changed(update, self._dims)
                refuse_foreign(change, self._shard, self._manifest.shards)
            except ValueError as error:
                outcomes.append(UpdateResult(outcome=UpdateResult.INVALID, error=str(error)))
                continue
            known = newest[change.id].change.revision if change.id in newest else self.revision(change.id)
            if known >= change.revision:
                outcomes.append(UpdateResult(outcome=UpdateResult.STALE))
            elif full := "" if change.id in newest else self.full(len(newest)):
                outcomes.append(UpdateResult(outcome=UpdateResult.FULL, error=full))
            else:
                newest[change.id] = _Judged(change, update)
                outcomes.append(UpdateResult(outcome=UpdateResult.APPLIED))
        return outcomes, newest

    def full(self, coming: int) -> str:
        """Why there is no room for one more change than are coming; empty: there is."""
        if self._delta.changes + coming >= self._bounds.delta_rows:
            return f"{self._bounds.delta_rows} changes wait for a compaction; try again later"
        before = sum(delta.changes for delta in (self._frozen, self._delta) if delta is not None)
        before += len(self._compacted.segment.table) + len(self._compacted.removed) if self._compacted else 0
        if before + coming >= self._bounds.changes:
            return f"{before} products changed since this version was built, {self._bounds.changes} may: build another"
        return ""

    def revision(self, product_id: bytes) -> int:
        """The newest known; 0: there never was such a product."""
        for delta in (self._delta, self._frozen):
            if delta is not None and (revision := delta.revisions.get(product_id)) is not None:
                return revision
        if self._compacted is not None and (revision := self._compacted.revision(product_id)) is not None:
            return revision
        (built,) = self._base.table.parts
        row = built.ids.find(product_id)
        return 0 if row is None else int(built.revisions[row])

    def _show(self, changes: Sequence[Change]) -> None:
        """Let the view have them: each product is in the delta or nowhere."""
        ids = [change.id for change in changes]
        base, compacted = _without(self._base, ids), self._compacted
        if compacted is not None:
            compacted = replace(compacted, segment=_without(compacted.segment, ids))
        self._delta.apply(changes)
        self._base, self._compacted = base, compacted
        if self._frozen is not None:
            for product_id in ids:
                self._frozen.delete(product_id)
        self.view = self._seen()

    def _seen(self) -> View:
        segments = [self._base]
        if self._compacted is not None:
            segments.append(self._compacted.segment)
        segments += [delta.segment() for delta in (self._frozen, self._delta) if delta is not None and len(delta)]
        return View(segments)

    def _freeze(self) -> _Frozen:
        """Begin another delta with another log, unless an earlier compaction failed after it did."""
        if self._frozen is None:
            following = Log.create(state.log_path(self._directory, self._number + 1))
            self._log.close()
            self._log, self._number = following, self._number + 1
            self._frozen, self._delta = self._delta, Delta(self._manifest.spaces, self._bounds.delta_rows)
            self._frozen_sequence = self.sequence
        sources = [Source(self._frozen.table(), self._frozen.segment())]
        removed = self._frozen.removed.copy()
        if (before := self._compacted) is not None:
            sources.append(Source(before.table(), before.segment))
            removed |= {each: at for each, at in before.removed.items() if each not in self._frozen.revisions}
        return _Frozen(self._number, removed, sources, self._frozen_sequence)

    def _learnt(self) -> dict[Space.ValueType, Learnt]:
        """What codes the vectors that are compacted get: those of before, where the version was built with any."""
        learnt = {}
        for number, built in self._base.spaces.items():
            latest = self._compacted.segment.spaces[number] if self._compacted else built
            latest = built if latest.codes is None else latest
            if latest.codes is not None and built.entry.operating_points:
                recall = min(rung.recall for rung in built.entry.operating_points)
                learnt[number] = Learnt(latest.codes, latest.entry.recipe, recall)
        return learnt

    def _keep_manifest(self) -> None:
        """So that the changes can be read without the version."""
        if not (path := self._directory / version.MANIFEST).exists():
            version.replace_file(path, dump_manifest(self._manifest))

    def _swap(self, made: Compacted) -> None:
        """Show what was made in place of what it was made of. What changed meanwhile is in the delta."""
        self._compacted = replace(made, segment=_without(made.segment, self._delta.revisions))
        self._frozen = None
        self.compactions += 1
        self.view = self._seen()

    def _recovered(self) -> tuple[Log, int]:
        """The log that goes on, and its number."""
        kept = state.read(self._directory)
        state.tidy(self._directory, kept)
        self.sequence = self._frozen_sequence = kept.sequence
        if kept.segment:
            self._compacted = compaction.opened(self._directory / kept.segment)
            self._base = _without(self._base, self._compacted.ids())
        numbers = state.logs(self._directory, kept)
        if not numbers:
            return Log.create(state.log_path(self._directory, kept.log)), kept.log
        size = 0
        for number in numbers:
            if number > kept.log:
                self._frozen, self._frozen_sequence = self._delta, self.sequence
            size = self._replay(state.log_path(self._directory, number), last=number == numbers[-1])
        return Log.reopen(state.log_path(self._directory, numbers[-1]), size), numbers[-1]

    def _replay(self, path: Path, *, last: bool) -> int:
        """Apply a log to a delta of its own; how many bytes of it count."""
        size, groups = size_of_head(path), []
        for payload, end in frames(path, last=last):
            try:
                logged = index_pb2.LogRecord.FromString(payload)
                groups.append([changed(update, self._dims) for update in logged.updates])
            except (DecodeError, ValueError) as error:
                raise BadArtifact(f"{path}: no updates before byte {end}: {error}") from error
            size, self.sequence = end, logged.sequence
        # The bound may have been higher when they were written.
        self._delta = Delta(self._manifest.spaces, max(self._bounds.delta_rows, sum(map(len, groups))))
        for group in groups:
            # One that could not be shown when it was logged may be newer than what came after it.
            self._show([change for change in group if change.revision > self.revision(change.id)])
        return size


class _Judged(NamedTuple):
    change: Change
    update: index_pb2.Update


class _Frozen(NamedTuple):
    number: int  # Of the log that goes on.
    removed: dict[bytes, Removal]
    sources: list[Source]
    sequence: int


def _without(segment: Segment, ids: Iterable[bytes]) -> Segment:
    rows = [row for product_id in ids if (row := segment.find(product_id)) is not None]
    return segment.without(rows) if rows else segment
