"""Compact several segments into one on disk: products that are not deleted, by rising id. Reads and writes files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.backends import factory
from index.backends.ivf import IvfIndex
from index.backends.recipe import MIN_INDEXED_VECTORS, IvfRecipe, Recipe, parse_recipe
from index.backends.vector_index import VectorIndex
from index.building.calibration import DEPTHS, calibrate, draw_queries, still_reach
from index.live.segment_recipe import segment_recipe
from index.live.updates import Tombstone
from index.search import segment
from index.search.segment import Segment
from index.storage import attributes, vectors
from index.storage.attributes import Attributes
from index.storage.names import ANN_INDEX, ATTRIBUTES, ROWS, VECTORS
from index.storage.strings import SortedStrings
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.releases import version
from lookalike.releases.manifest import FileEntry, IndexEntry, Manifest, OperatingPoint, SpaceEntry
from lookalike.releases.names import shard_name
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

TOMBSTONES = "tombstones.arrow"
PATCHES = "patches.arrow"  # Products of the base with the patches until the compaction, in the form of `attributes`.
_TOMBSTONES_SCHEMA = pa.schema({"id": pa.large_string(), "revision": pa.uint64(), "generation": pa.uint32()})
_CHUNK_BYTES = 8 << 20
# A segment of few of the vectors has few of a query's neighbours: of 10, 3 at most where it has 5 % of the vectors.
_SHALLOW_DEPTH = 3


class CompactionSource(NamedTuple):
    """A segment to be compacted."""

    table: pa.Table  # All rows, in the form that `attributes.read_serialized` returns.
    segment: Segment  # Over the same rows; knows which are deleted.


class TrainedIndex(NamedTuple):
    """A trained ANN index, whose training is reused for the compacted vectors of the same space."""

    ann_index: VectorIndex
    recipe: str  # Its factory string.
    base_recipe: str  # That of the version as it was built.
    recall: float  # The target: the recall of the version as it was built.
    points: tuple[OperatingPoint, ...]  # Of that index.
    is_segment: bool  # It is that of the last segment, and not the base's.


class TombstoneTable:
    """Memory-mapped tombstones by product id."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids = SortedStrings(batch["id"])
        self._revisions: npt.NDArray[np.uint64] = batch["revision"].to_numpy()
        self._generations: npt.NDArray[np.uint32] = batch["generation"].to_numpy()

    def __len__(self) -> int:
        return len(self.ids)

    def get(self, product_id: bytes) -> Tombstone | None:
        row = self.ids.find(product_id)
        return None if row is None else self._tombstone(row)

    def items(self) -> Iterator[tuple[bytes, Tombstone]]:
        return ((self.ids[row], self._tombstone(row)) for row in range(len(self)))

    def _tombstone(self, row: int) -> Tombstone:
        return Tombstone(int(self._revisions[row]), int(self._generations[row]))


@dataclass(frozen=True, kw_only=True)
class CompactedSegment:
    """A compacted segment on disk, with the tombstones of removals before the compaction."""

    directory: Path
    segment: Segment
    tombstones: TombstoneTable
    patches: Attributes  # Products of the base, as they were patched before the compaction.

    def table(self) -> pa.Table:
        return attributes.read_serialized(self.directory / shard_name(0) / ATTRIBUTES)

    def patch_table(self) -> pa.Table:
        """`patches`, in the form that `attributes.read_serialized` returns."""
        return attributes.read_serialized(self.directory / PATCHES)

    def revision(self, product_id: bytes) -> int | None:
        """Revision of a product that was upserted or removed before the compaction; None: it was neither."""
        if (row := self.segment.table.ids.find(product_id)) is None:
            tombstone = self.tombstones.get(product_id)
            return tombstone.revision if tombstone else None
        return int(self.segment.table.parts[0].revisions[row])

    def patch_revision(self, product_id: bytes) -> int | None:
        """Revision of a product of the base that was patched before the compaction; None: it was not."""
        row = self.patches.ids.find(product_id)
        return None if row is None else int(self.patches.revisions[row])

    def ids(self) -> Iterator[bytes]:
        """Ids of all products that were upserted or removed before the compaction."""
        for strings in (self.segment.table.parts[0].ids, self.tombstones.ids):
            yield from (strings[row] for row in range(len(strings)))


def compact(
    directory: Path,
    sources: Sequence[CompactionSource],
    tombstones: Mapping[bytes, Tombstone],
    spaces: Sequence[SpaceEntry],
    trained: Mapping[Space.ValueType, TrainedIndex],
    *,
    patches: pa.Table,
) -> CompactedSegment:
    """Write the products of the sources that are not deleted as an index version of one shard, and open it.

    directory: is created, synced to disk, and removed again after an error.
    patches:   the patched products of the base, by rising id, in the form that `attributes.read_serialized` returns.
    spaces:    as in the version as it was built.
    Raises OSError.
    """
    try:
        write(directory, sources, tombstones, spaces, trained, patches=patches)
        return _open(directory, version.read_manifest(directory.parent, directory.name))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def with_patches(directory: Path, segment: CompactedSegment, patches: pa.Table) -> CompactedSegment:
    """The same segment under another name, with other patches of the base. Raises OSError as `compact` does."""
    try:
        for path in sorted(segment.directory.rglob("*")):
            target = directory / path.relative_to(segment.directory)
            if path.is_dir():
                target.mkdir(parents=True)
            elif path.name not in (PATCHES, version.MANIFEST):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(path)
        attributes.write_serialized(directory / PATCHES, patches)
        before = version.read_manifest(segment.directory.parent, segment.directory.name)
        files = {**before.files, PATCHES: version.file_entry(directory / PATCHES)}
        version.write_manifest(directory, replace(before, version=directory.name, files=files))
        for path in (directory / PATCHES, directory / version.MANIFEST, directory, directory.parent):
            version.fsync_path(path)
        return replace(segment, directory=directory, patches=attributes.open_attributes(directory / PATCHES))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def write(
    directory: Path,
    sources: Sequence[CompactionSource],
    tombstones: Mapping[bytes, Tombstone],
    spaces: Sequence[SpaceEntry],
    trained: Mapping[Space.ValueType, TrainedIndex],
    *,
    patches: pa.Table,
) -> None:
    shard = directory / shard_name(0)
    shard.mkdir(parents=True)
    live_rows = [source.segment.live_rows() for source in sources]
    table = pa.concat_tables([source.table.take(rows) for source, rows in zip(sources, live_rows, strict=True)])
    order = pc.sort_indices(table["id"]).to_numpy().astype(np.int64)
    attributes.write_serialized(shard / ATTRIBUTES, table.take(order))
    new_rows = np.empty(len(order), dtype=np.int64)
    new_rows[order] = np.arange(len(order))
    new_rows_by_source = np.split(new_rows, np.cumsum([len(rows) for rows in live_rows])[:-1])
    entries = []
    for entry in spaces:
        number = space_number(entry.name)
        moved = [
            _MovedVectors.of(source.segment, number, rows, target_rows)
            for source, rows, target_rows in zip(sources, live_rows, new_rows_by_source, strict=True)
        ]
        documents = _write_vectors(shard / entry.name, moved, entry)
        index = _write_index(shard / entry.name, entry, trained.get(number), moved)
        entries.append(replace(entry, documents=(documents,), indexes=(index,)))
    _write_tombstones(directory / TOMBSTONES, tombstones)
    attributes.write_serialized(directory / PATCHES, patches)
    manifest = Manifest(
        version=directory.name,
        shards=1,
        seed=0,
        products=(len(order),),
        spaces=tuple(entries),
        files=_files(directory),
    )
    version.write_manifest(directory, manifest)
    for path in (*directory.rglob("*"), directory, directory.parent):
        version.fsync_path(path)


def open_compacted(directory: Path) -> CompactedSegment:
    """Verify and map the files. Raises BadArtifact, naming the file."""
    manifest = version.read_manifest(directory.parent, directory.name)
    version.verify(directory, manifest)
    return _open(directory, manifest)


def _open(directory: Path, manifest: Manifest) -> CompactedSegment:
    try:
        tombstones = TombstoneTable(pa.ipc.open_file(pa.memory_map(str(directory / TOMBSTONES))).get_batch(0))
    except (pa.ArrowException, OSError) as error:
        raise BadArtifact(f"{directory / TOMBSTONES}: {error}") from error
    return CompactedSegment(
        directory=directory,
        segment=segment.open_segment(directory, manifest, 0),
        tombstones=tombstones,
        patches=attributes.open_attributes(directory / PATCHES),
    )


def join_indexes(base: Segment, compacted: Segment) -> dict[Space.ValueType, VectorIndex]:
    """By space, an index in memory of the vectors of both, where the base's are in lists that are small and fast.

    The base's codes are copied: 136 bytes for each vector with `IVF,PQ4fs`. Of other inverted lists codes may be as
    large as the vectors, and a vector that is added to a graph takes longer than one of a graph of its own.
    """
    joined: dict[Space.ValueType, VectorIndex] = {}
    for number, space in base.spaces.items():
        index, changed = space.ann_index, compacted.spaces[number]
        if not (is_joinable(index) and len(changed)):
            continue
        if is_joinable(changed.ann_index):
            joined[number] = index.merged_with(changed.ann_index, changed.vectors)
        else:
            joined[number] = index.extended_with(changed.vectors)
    return joined


def is_joinable(index: VectorIndex | None) -> TypeGuard[IvfIndex]:
    return isinstance(index, IvfIndex) and index.recipe.fast_scan


class _MovedVectors(NamedTuple):
    """The vectors of one source that are kept: their positions, and the new row of each."""

    vectors: StoredVectors
    ann_index: VectorIndex | None
    positions: I64
    rows: I64

    @classmethod
    def of(cls, source: Segment, number: Space.ValueType, live_rows: I64, new_rows: I64) -> _MovedVectors:
        """live_rows: the rows of the source that are not deleted, rising; new_rows: the new row of each."""
        index, positions = source.spaces[number], source.live_positions(number)
        rows = new_rows[np.searchsorted(live_rows, index.rows[positions])]
        return cls(index.vectors, index.ann_index, positions, rows)


def _write_vectors(directory: Path, moved: Sequence[_MovedVectors], entry: SpaceEntry) -> int:
    """Write the vectors by rising row. Returns how many there are."""
    directory.mkdir()
    rows = np.concatenate([source.rows for source in moved])
    positions = np.concatenate([source.positions for source in moved])
    sources = np.repeat(np.arange(len(moved)), [len(source.rows) for source in moved])
    order = np.argsort(rows)
    np.save(directory / ROWS, rows[order])
    step = max(1, _CHUNK_BYTES // (4 * entry.dim))

    def gather(part: I64) -> F32:
        chunk = np.empty((len(part), entry.dim), dtype=np.float32)
        for i, source in enumerate(moved):
            from_source = sources[part] == i
            chunk[from_source] = source.vectors[positions[part[from_source]]]
        return chunk

    parts = (gather(order[start : start + step]) for start in range(0, len(order), step))
    vectors.write_vectors(directory / VECTORS, parts, documents=len(rows), dim=entry.dim, rescore=entry.rescore)
    return len(rows)


def _write_index(
    directory: Path, entry: SpaceEntry, trained: TrainedIndex | None, moved: Sequence[_MovedVectors]
) -> IndexEntry:
    """Rebuild, calibrate and write the ANN index.

    moved: where its vectors were.
    The entry is of exact search if the version has no ANN index, or if the rebuilt one misses the target recall.
    """
    mapped = vectors.open_vectors(directory / VECTORS, rescore=entry.rescore)
    if trained is None or len(mapped) < MIN_INDEXED_VECTORS:
        return IndexEntry()
    latest, base = parse_recipe(trained.recipe), parse_recipe(trained.base_recipe)
    assert latest is not None and base is not None, "an ANN index has a recipe"  # noqa: S101, PT018  # for the type checker
    if is_joinable(trained.ann_index):  # It is searched by itself only where several spaces are.
        _joinable_index(mapped, trained.ann_index, moved).write(directory / ANN_INDEX)
        return IndexEntry(recipe=trained.recipe, operating_points=trained.points)
    held_out = draw_queries(len(mapped), 0)
    recipes = [segment_recipe(base, latest, *mapped.shape)]
    if not isinstance(base, IvfRecipe) and base not in recipes:
        recipes.append(base)  # The other may miss a recall that the base reaches.
    for recipe in recipes:
        index = _index_vectors(mapped, recipe, trained, held_out)
        if operating_points := _operating_points(index, mapped, held_out, recipe, trained):
            index.write(directory / ANN_INDEX)
            return IndexEntry(recipe=str(recipe), operating_points=operating_points)
    return IndexEntry()


def _joinable_index(vectors: StoredVectors, trained: IvfIndex, moved: Sequence[_MovedVectors]) -> IvfIndex:
    """An index of that training, with the codes that the last segment has of its vectors."""
    rows = np.sort(np.concatenate([source.rows for source in moved]))
    for source in moved:
        if is_joinable(source.ann_index):
            of_segment = np.full(source.ann_index.documents, -1, dtype=np.int64)
            of_segment[source.positions] = np.searchsorted(rows, source.rows)
            return source.ann_index.with_moved(vectors, of_segment)
    return trained.with_vectors(vectors)


def _operating_points(
    index: VectorIndex, mapped: StoredVectors, held_out: I64, recipe: Recipe, trained: TrainedIndex
) -> tuple[OperatingPoint, ...]:
    """Those of the last segment until it has doubled, since to calibrate takes longer than all else; or new ones."""
    documents = trained.ann_index.documents
    is_alike = trained.is_segment and str(recipe) == trained.recipe
    is_alike = is_alike and len(mapped).bit_length() == documents.bit_length()
    if is_alike and still_reach(trained.points, index, mapped, held_out, trained.recall):
        return trained.points
    # Of 3 neighbours of few queries the recall scatters: where that depth misses the target, the others may not.
    for depths in ((_SHALLOW_DEPTH, *DEPTHS), DEPTHS):
        if points := calibrate(index, mapped, held_out, trained.recall, depths):
            return points
    return ()


def _index_vectors(mapped: StoredVectors, recipe: Recipe, trained: TrainedIndex, held_out: I64) -> VectorIndex:
    """Index the vectors, with the existing training if it is of that recipe."""
    # A rotation for vectors far more numerous than it was trained on misses some of their directions.
    is_suitable = isinstance(recipe, IvfRecipe) or len(mapped) <= 2 * trained.ann_index.documents
    if str(recipe) == trained.recipe and is_suitable:
        return trained.ann_index.with_vectors(mapped)
    return factory.train_index(recipe, mapped, 0, 1, held_out=held_out)


def _write_tombstones(path: Path, tombstones: Mapping[bytes, Tombstone]) -> None:
    ids = sorted(tombstones)
    sorted_tombstones = [tombstones[product_id] for product_id in ids]
    columns = [
        [product_id.decode() for product_id in ids],
        [tombstone.revision for tombstone in sorted_tombstones],
        [tombstone.generation for tombstone in sorted_tombstones],
    ]
    schema = _TOMBSTONES_SCHEMA
    batch = pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def _files(directory: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): version.file_entry(path) for path in files}
