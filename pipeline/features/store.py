"""The feature store: vectors of photos and texts, and which photo was fetched from where. Does disk and network I/O.

    STORE/kind=image/encoder=<fingerprint>/<time>-<random>.parquet     by the digest of the photo's bytes
    STORE/kind=text/encoder=<fingerprint>/…                            by the digest of the cleaned text
    STORE/kind=photos/…                                                by the digest of a photo's URL or path

STORE is a path or a URL (s3://, gs://, memory://, whatever fsspec reads). Any number of processes read, add and compact
at once; of what they store under one key the last wins. Calls block, for a thread beside an event loop, and may come
from several threads:

    store = FeatureStore("s3://bucket/features", notice=log.warning)
    photos = store.photos()                                    # of FetchedPhoto, by source
    known = photos.lookup(["https://shop/1.jpg"])              # {} or its digest, ETag, Last-Modified, …
    images = store.vectors("image", encoder=fingerprint, dim=1024)
    vectors, has_vector = images.lookup([digest])              # (n, dim) float32 and (n,) bool
    images.add([digest], computed, products=["p1"])            # in memory; a part is written every 1,024 rows
    images.flush()                                             # now durable; before an event is acknowledged
    images.refresh()                                           # what others have stored since
    images.close()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from lookalike.errors import BadSettings
from pipeline.features import photo_register
from pipeline.features.compaction import CompactionOptions, CompactionReport, compact
from pipeline.features.directory import Directory, FileGone, Root
from pipeline.features.part import PartFormat, read_dim
from pipeline.features.parts import Clock, Notice, Parts, is_part, now_us
from pipeline.features.photo_register import PhotoRegister
from pipeline.features.vectors import VectorTable

VECTOR_KINDS = ("image", "text")
PHOTOS = "photos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What a directory of parts holds. encoder: the fingerprint; empty for photos."""

    kind: str
    encoder: str = ""

    @property
    def path(self) -> str:
        return f"kind={self.kind}" + (f"/encoder={quote(self.encoder, safe='')}" if self.encoder else "")

    def __str__(self) -> str:
        return f"{self.kind}/{self.encoder}" if self.encoder else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """What is stored in a partition."""

    kind: str
    encoder: str
    dim: int
    rows: int  # Keys; superseded rows are not counted.
    bytes: int  # Of all files.
    parts: int
    replaced_parts: int  # Compacted, and removed later.
    unusable: Mapping[str, str]  # What is wrong with files that are ignored, by name.

    @property
    def partition(self) -> Partition:
        return Partition(kind=self.kind, encoder=self.encoder)


class FeatureStore:
    """The directories of a store.

    options: of the URL's filesystem. notice: called with a sentence about each file or vector that is ignored.
    clock: microseconds since 1970.
    """

    def __init__(
        self,
        where: str | Path,
        options: Mapping[str, Any] | None = None,
        *,
        notice: Notice,
        clock: Clock = now_us,
    ) -> None:
        """Raises OperatorError for a URL that cannot be used. Reads nothing."""
        self.root = Root(where, options or {})
        self._notice = notice
        self._clock = clock

    def __str__(self) -> str:
        return self.root.where

    def vectors(self, kind: str, *, encoder: str, dim: int) -> VectorTable:
        """The vectors of an encoder; reads their keys. Raises OperatorError, BadArtifact."""
        if kind not in VECTOR_KINDS or not encoder:
            raise BadSettings(
                f"features of kind {kind} by encoder {encoder!r}: the kinds are {', '.join(VECTOR_KINDS)}"
            )
        return VectorTable(self._open(Partition(kind=kind, encoder=encoder), PartFormat(kind=kind, dim=dim)))

    def photos(self) -> PhotoRegister:
        """The photos that were fetched; reads their keys. Raises OperatorError, BadArtifact."""
        return PhotoRegister(self._open(Partition(kind=PHOTOS), photo_register.FORMAT))

    def partitions(self) -> list[Partition]:
        """What is stored, by kind and encoder."""
        found = []
        for directory in Directory(self.root, "").directories():
            kind = directory.removeprefix("kind=")
            if directory == f"kind={PHOTOS}":
                found.append(Partition(kind=PHOTOS))
            elif directory.startswith("kind=") and kind in VECTOR_KINDS:
                encoders = Directory(self.root, directory).directories()
                found += [
                    Partition(kind=kind, encoder=unquote(name.removeprefix("encoder=")))
                    for name in encoders
                    if name.startswith("encoder=")
                ]
        return found

    def status(self, partition: Partition) -> PartitionStatus:
        """What is stored in a partition; reads its keys. Raises OperatorError, BadArtifact."""
        parts = self._open(partition)
        return PartitionStatus(
            kind=partition.kind,
            encoder=partition.encoder,
            dim=parts.format.dim,
            rows=len(parts.index),
            bytes=sum(file.bytes for file in parts.directory.files().values()),
            parts=len(parts.current()),
            replaced_parts=len(parts.all()) - len(parts.current()),
            unusable=dict(parts.unusable),
        )

    def compact(self, partition: Partition, options: CompactionOptions) -> CompactionReport:
        """Merge the small parts of a partition, and drop rows that no longer count. Raises OperatorError."""
        return compact(self._open(partition), options)

    def drop(self, partition: Partition) -> None:
        """Remove a partition with all its files. Who reads it meanwhile finds nothing."""
        Directory(self.root, partition.path).remove_all()

    def _open(self, partition: Partition, part_format: PartFormat | None = None) -> Parts:
        directory = Directory(self.root, partition.path)
        part_format = part_format or _stored_format(directory, partition.kind)
        return Parts(directory, part_format, clock=self._clock, notice=self._notice)


def parse_partition(text: str) -> Partition:
    """Parse image/<encoder>, text/<encoder> or photos. Raises BadSettings."""
    kind, _, encoder = text.partition("/")
    if (kind in VECTOR_KINDS) != bool(encoder) or kind not in (*VECTOR_KINDS, PHOTOS):
        raise BadSettings(f"{text}: expected image/ENCODER, text/ENCODER or photos")
    return Partition(kind=kind, encoder=encoder)


def _stored_format(directory: Directory, kind: str) -> PartFormat:
    """The format of the first readable part; of one dimension if there is none."""
    if kind == PHOTOS:
        return photo_register.FORMAT
    names: Sequence[str] = [name for name in directory.files() if is_part(name)]
    for name in names:
        try:
            with directory.open(name) as file:
                dim = read_dim(file)
        except FileGone:
            continue
        if dim:
            return PartFormat(kind=kind, dim=dim)
    return PartFormat(kind=kind, dim=1)
