"""One segment made of several: what is alive in them, by rising id, with full vectors. Reads and writes files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.backends import factory
from index.backends.recipe import MIN_INDEXED_VECTORS, IvfRecipe, default_nlist, parse_recipe
from index.backends.vector_index import VectorIndex
from index.building.calibration import calibrate
from index.live.updates import Removal
from index.search import segment
from index.search.segment import Segment
from index.storage import attributes, vectors, version
from index.storage.manifest import FileEntry, IndexEntry, Manifest, SpaceEntry
from index.storage.names import ATTRIBUTES, CODES, ROWS, VECTORS, shard_name
from index.storage.strings import SortedStrings
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

REMOVED = "removed.arrow"
_REMOVED = pa.schema({"id": pa.large_string(), "revision": pa.uint64(), "generation": pa.uint32()})
_CHUNK_BYTES = 8 << 20


class Source(NamedTuple):
    table: pa.Table  # As `attributes.serialized` returns it, all rows.
    segment: Segment  # Over the same rows; knows which are alive.


class Learnt(NamedTuple):
    """What the codes of a space are made by."""

    codes: VectorIndex
    recipe: str  # Of the codes.
    recall: float  # To be reached again: that of the version as it was built.


class Removed:
    """Removals by id."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids = SortedStrings(batch["id"])
        self._revisions: npt.NDArray[np.uint64] = batch["revision"].to_numpy()
        self._passed_on: npt.NDArray[np.uint32] = batch["generation"].to_numpy()

    def __len__(self) -> int:
        return len(self.ids)

    def get(self, product_id: bytes) -> Removal | None:
        at = self.ids.find(product_id)
        return None if at is None else self._at(at)

    def items(self) -> Iterator[tuple[bytes, Removal]]:
        return ((self.ids[at], self._at(at)) for at in range(len(self)))

    def _at(self, at: int) -> Removal:
        return Removal(int(self._revisions[at]), int(self._passed_on[at]))


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """A compacted segment on disk, and the removals that came before it."""

    directory: Path
    segment: Segment
    removed: Removed

    def table(self) -> pa.Table:
        return attributes.read_serialized(self.directory / shard_name(0) / ATTRIBUTES)

    def revision(self, product_id: bytes) -> int | None:
        """Of a product that was upserted or removed before the compaction; None: it was neither."""
        if (row := self.segment.table.ids.find(product_id)) is None:
            removal = self.removed.get(product_id)
            return removal.revision if removal else None
        (part,) = self.segment.table.parts
        return int(part.revisions[row])

    def ids(self) -> Iterator[bytes]:
        """Of all products that were upserted or removed before the compaction."""
        (part,) = self.segment.table.parts
        for strings in (part.ids, self.removed.ids):
            yield from (strings[at] for at in range(len(strings)))


def made(
    directory: Path,
    sources: Sequence[Source],
    removed: Mapping[bytes, Removal],
    spaces: Sequence[SpaceEntry],
    learnt: Mapping[Space.ValueType, Learnt],
) -> Compacted:
    """Write what is alive in the sources as a version of one shard; all of it is on the disk afterwards.

    directory: a new one, of which nothing is left after an error. spaces: as in the version that was built.
    Raises OSError.
    """
    try:
        write(directory, sources, removed, spaces, learnt)
        return opened(directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def write(
    directory: Path,
    sources: Sequence[Source],
    removed: Mapping[bytes, Removal],
    spaces: Sequence[SpaceEntry],
    learnt: Mapping[Space.ValueType, Learnt],
) -> None:
    here = directory / shard_name(0)
    here.mkdir(parents=True)
    rows = [source.segment.rows() for source in sources]
    table = pa.concat_tables([source.table.take(kept) for source, kept in zip(sources, rows, strict=True)])
    order = pc.sort_indices(table["id"]).to_numpy().astype(np.int64)
    attributes.write_serialized(here / ATTRIBUTES, table.take(order))
    places = np.empty(len(order), dtype=np.int64)  # Where each row went.
    places[order] = np.arange(len(order))
    places_by_source = np.split(places, np.cumsum([len(kept) for kept in rows])[:-1])
    entries = []
    for entry in spaces:
        number = space_number(entry.name)
        moved = [
            _Moved.of(source.segment, number, kept, to)
            for source, kept, to in zip(sources, rows, places_by_source, strict=True)
        ]
        documents = _write_vectors(here / entry.name, moved, entry)
        index = _index(here / entry.name, entry, learnt.get(number))
        entries.append(replace(entry, documents=(documents,), indexes=(index,)))
    _write_removed(directory / REMOVED, removed)
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


def opened(directory: Path) -> Compacted:
    """Verify and map. Raises BadArtifact, naming the file."""
    manifest = version.read_manifest(directory.parent, directory.name)
    version.verify(directory, manifest)
    try:
        removed = Removed(pa.ipc.open_file(pa.memory_map(str(directory / REMOVED))).get_batch(0))
    except (pa.ArrowException, OSError) as error:
        raise BadArtifact(f"{directory / REMOVED}: {error}") from error
    return Compacted(directory=directory, segment=segment.opened(directory, manifest, 0), removed=removed)


class _Moved(NamedTuple):
    """The vectors of one source that are kept: where they are, and the row each gets."""

    vectors: StoredVectors
    positions: I64
    rows: I64

    @classmethod
    def of(cls, source: Segment, number: Space.ValueType, kept: I64, places: I64) -> _Moved:
        """kept: the rows of the source that are alive, rising; places: where each went."""
        index, positions = source.spaces[number], source.positions(number)
        return cls(index.vectors, positions, places[np.searchsorted(kept, index.rows[positions])])


def _write_vectors(directory: Path, moved: Sequence[_Moved], entry: SpaceEntry) -> int:
    """By rising row; how many there are."""
    directory.mkdir()
    rows = np.concatenate([each.rows for each in moved])
    positions = np.concatenate([each.positions for each in moved])
    sources = np.repeat(np.arange(len(moved)), [len(each.rows) for each in moved])
    order = np.argsort(rows)
    np.save(directory / ROWS, rows[order])
    step = max(1, _CHUNK_BYTES // (4 * entry.dim))

    def gathered(part: I64) -> F32:
        chunk = np.empty((len(part), entry.dim), dtype=np.float32)
        for i, each in enumerate(moved):
            mine = sources[part] == i
            chunk[mine] = each.vectors[positions[part[mine]]]
        return chunk

    parts = (gathered(order[start : start + step]) for start in range(0, len(order), step))
    vectors.write_vectors(directory / VECTORS, parts, documents=len(rows), dim=entry.dim, rescore=entry.rescore)
    return len(rows)


def _index(directory: Path, entry: SpaceEntry, learnt: Learnt | None) -> IndexEntry:
    """Make, measure and write the codes, where the version has some, and they find as much here as there."""
    mapped = vectors.open_vectors(directory / VECTORS, rescore=entry.rescore)
    if learnt is None or len(mapped) < MIN_INDEXED_VECTORS:
        return IndexEntry()
    recipe, made = _coded(mapped, learnt)
    ladder = calibrate(made, mapped, 0, learnt.recall)
    if not ladder:
        return IndexEntry()
    made.write(directory / CODES)
    return IndexEntry(recipe=recipe, operating_points=ladder)


def _coded(mapped: StoredVectors, learnt: Learnt) -> tuple[str, VectorIndex]:
    """By what was learnt before; but lists that are far too many, or too few, for so many vectors are learnt anew.

    To find and visit 1,024 lists of 15,000 vectors costs a query as much as those of 100,000.
    """
    known = parse_recipe(learnt.recipe)
    if isinstance(known, IvfRecipe) and not known.rotated_dim:  # A rotation takes too long to learn.
        lists = default_nlist(len(mapped))
        if not known.nlist <= 2 * lists <= 4 * known.nlist:
            wanted = replace(known, nlist=lists)
            return str(wanted), factory.train_index(wanted, mapped, 0, 1)
    return learnt.recipe, learnt.codes.with_vectors(mapped)


def _write_removed(path: Path, removed: Mapping[bytes, Removal]) -> None:
    ids = sorted(removed)
    each = [removed[product_id] for product_id in ids]
    columns = [[one.decode() for one in ids], [one.revision for one in each], [one.generation for one in each]]
    batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _REMOVED, strict=True)], schema=_REMOVED)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _REMOVED) as writer:
        writer.write_batch(batch)


def _files(directory: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): version.file_entry(path) for path in files}
