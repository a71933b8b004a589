"""Publishes what changes in a catalogue's directory: its products file and its photos. File I/O, and the stream's.

The directory is looked at again and again, which works on every file system, network ones included. When a look finds
something other than the one before, and the next finds no further change, the products are read and those that differ
from what was published are published, each with the digest of its photo's bytes: a file that was only touched is no
change. The products file is read from a copy that was made while it did not change.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from lookalike.errors import BadCatalogue
from lookalike.product_rules import is_photo_url
from lookalike.stream import event as events
from lookalike.timestamps import unix_time_s
from lookalike.v1.catalog_pb2 import Change, RemoveRequest
from pipeline import catalogue
from pipeline.catalogue_report import CatalogueReport
from pipeline.change_rows import ChangeKind, ChangeRow, read_changes, stamp
from pipeline.product import RejectedRow
from pipeline.publisher import Publisher
from pipeline.tables import reader
from pipeline.tables.reader import TableOptions
from pipeline.watch_state import FileState, WatchState

_COPIES = 3  # Of a file that changes while it is copied; after these it is left to the next look.
_AT_ONCE = 500  # Products between two commits of the state.

Look = Mapping[str, FileState]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    table: TableOptions
    revision: int | None = None  # Of rows that state none; None: the time at which they are read.
    remove_missing: bool = False  # Products that have left the file are removed.
    max_removed: float = 0.1  # Of the products; a file that lacks more of them is taken for a mistake.
    photo_root: str = ""  # Where workers find the photos; empty: the directory as it is here.


@dataclass(slots=True)
class PassResult:
    """What one reading of a catalogue came to."""

    published: int = 0
    removed: int = 0
    unchanged: int = 0
    not_removed: int = 0  # Missing, and more than may be removed at once.


def look(directory: Path) -> Look:
    """The state of every file below the directory; hidden ones, and what vanishes meanwhile, are left out."""
    found: dict[str, FileState] = {}
    folders = [directory]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(Path(entry.path))
                    elif (state := FileState.of(Path(entry.path))) is not None:
                        found[entry.path] = state
        except OSError:
            continue
    return found


class DirectoryWatch:
    """Publishes the changes of one directory."""

    def __init__(self, directory: Path, state: WatchState, publisher: Publisher, options: WatchOptions) -> None:
        self._directory = directory
        self._state = state
        self._publisher = publisher
        self._options = options
        self._root = options.photo_root or str(directory.resolve())

    async def read(self, report: CatalogueReport) -> PassResult:
        """Publish every product that is not as it was published. Raises BadCatalogue, Overloaded, Unavailable."""
        result = PassResult()
        self._publisher.clear()
        with tempfile.TemporaryDirectory(prefix="lookalike-watch-") as folder:
            table = reader.open_table(self._stable_copy(Path(folder)), self._options.table, wanted=("id", "category"))
            reader.require_columns(table, ("id", "category"), BadCatalogue)
            revision = stamp(self._options.table.revision_unit, unix_time_s(), self._options.revision)
            self._state.begin_pass()
            waiting: list[tuple[str, bytes]] = []
            for row in read_changes(self._directory, table, ChangeKind(), revision=revision):
                report.rows += 1
                if report.rows % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # A signal is heard.
                if isinstance(row, RejectedRow):
                    report.reject(row)
                    self._state.keep(row.id)  # As it was: what is wrong with the row is to be mended.
                    continue
                product_id = row.change.upsert.product.id
                if (digest := self._digest(row)) is None:
                    self._state.keep(product_id)
                    continue
                if self._state.is_published(product_id, digest):
                    result.unchanged += 1
                    continue
                await self._add(row.change, table.path.name)
                waiting.append((product_id, digest))
                result.published += 1
                if len(waiting) == _AT_ONCE:
                    await self._flush(waiting)
            await self._flush(waiting)
            await self._remove_missing(revision, table.path.name, result)
        return result

    async def _remove_missing(self, revision: int, file: str, result: PassResult) -> None:
        if not self._options.remove_missing or not (missing := self._state.count_missing()):
            return
        if missing > self._options.max_removed * self._state.count():
            result.not_removed = missing
            return
        for product_id in [*self._state.missing()]:
            await self._add(Change(remove=RemoveRequest(product_id=product_id, revision=revision)), file)
            result.removed += 1
        await self._publisher.flush()
        self._state.forget_missing()
        self._state.commit()

    async def _add(self, change: Change, file: str) -> None:
        event = events.new_event(change, source=f"watch {file}", published_at_s=unix_time_s(), photo_root=self._root)
        await self._publisher.add(event)

    async def _flush(self, waiting: list[tuple[str, bytes]]) -> None:
        """The state says that products are published once they are."""
        await self._publisher.flush()
        self._state.put(waiting)
        self._state.commit()
        waiting.clear()

    def _digest(self, row: ChangeRow) -> bytes | None:
        """The digest of the product and of its photo; None: the photo is being written."""
        upsert = row.change.upsert
        stated = row.product.revision if row.product else 0
        digest = blake2b(digest_size=16)
        digest.update(upsert.product.SerializeToString(deterministic=True))
        digest.update(stated.to_bytes(8, "little"))
        if (image := upsert.product.image) and not is_photo_url(image):
            if (photo := self._photo_digest(image)) is None:
                return None
            digest.update(photo)
        return digest.digest()

    def _photo_digest(self, image: str) -> bytes | None:
        path = self._directory / image
        if (before := FileState.of(path)) is None:
            return None
        if (known := self._state.photo_digest(image, before)) is not None:
            return known
        digest = blake2b(digest_size=16)
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            return None
        if FileState.of(path) != before:
            return None
        self._state.put_photo(image, before, digest.digest())
        return digest.digest()

    def _stable_copy(self, folder: Path) -> Path:
        """A copy of the products file as it was at one moment. Raises BadCatalogue where it changes all the time."""
        for _ in range(_COPIES):
            file = catalogue.find_products_file(self._directory)
            copy, before = folder / file.name, FileState.of(file)
            try:
                shutil.copyfile(file, copy)
            except OSError as error:
                raise BadCatalogue(f"{file}: {error.strerror}") from None
            if before is not None and FileState.of(file) == before:
                return copy
        raise BadCatalogue(f"{file}: changes while it is read")
