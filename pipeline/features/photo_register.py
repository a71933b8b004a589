"""Which photo was fetched from where, so that an unchanged one is neither fetched nor encoded again.

Does disk and network I/O. Blocking and thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from pipeline.features.key_index import keys_of
from pipeline.features.part import PartFormat
from pipeline.features.parts import Parts

RECORD = (
    pa.field("source", pa.string(), nullable=False),
    pa.field("digest", pa.string(), nullable=False),
    pa.field("etag", pa.string(), nullable=False),
    pa.field("last_modified", pa.string(), nullable=False),
    pa.field("bytes", pa.int64(), nullable=False),
    pa.field("fetched_us", pa.int64(), nullable=False),
)
_NAMES = [field.name for field in RECORD]
_COLUMNS = [*_NAMES, "product"]
FORMAT = PartFormat(kind="photos", record=RECORD)
_PART_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPhoto:
    """A photo as it was when it was fetched last."""

    source: str  # URL or path.
    digest: str  # Of its bytes, 32 hexadecimal digits: its key among the vectors.
    etag: str = ""  # As the server sent it, to ask whether the photo changed; empty: it sent none.
    last_modified: str = ""
    bytes: int = 0
    fetched_us: int = 0  # Microseconds since 1970.
    product: str = ""


def source_digest(source: str) -> str:
    return blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class PhotoRegister:
    """The photos that were fetched, by their source."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._pending: dict[str, tuple[FetchedPhoto, int]] = {}  # With the time of the row; not in a part yet.
        self._lock = threading.RLock()

    def lookup(self, sources: Sequence[str]) -> Mapping[str, FetchedPhoto]:
        """What is known of sources; those that were never fetched are left out."""
        table, _ = self.parts.read_records(keys_of([source_digest(source) for source in sources]))
        rows = table.select(_COLUMNS).to_pylist() if len(table) else []
        found = {row["source"]: FetchedPhoto(**row) for row in rows}
        with self._lock:
            found |= {source: self._pending[source][0] for source in sources if source in self._pending}
        return found

    def add(self, photos: Sequence[FetchedPhoto]) -> None:
        """Store photos in place of what is known of their sources. Raises OperatorError."""
        written_us = self.parts.next_time_us()
        with self._lock:
            self._pending |= {photo.source: (photo, written_us) for photo in photos}
            if len(self._pending) >= _PART_ROWS:
                self.flush()

    def flush(self) -> None:
        """Write what was added since the last part. Raises OperatorError, and what was added can be written later."""
        with self._lock:
            if not self._pending:
                return
            photos = [photo for photo, _ in self._pending.values()]
            columns = {
                "key": [bytes.fromhex(source_digest(photo.source)) for photo in photos],
                "written": np.array([time for _, time in self._pending.values()], np.int64),
                "checksum": np.zeros(len(photos), np.uint32),
            }
            columns |= {name: [getattr(photo, name) for photo in photos] for name in _COLUMNS}
            schema = self.parts.format.schema
            self.parts.append(
                pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
            )
            self._pending = {}

    def close(self) -> None:
        self.flush()

    def refresh(self) -> None:
        """Read what other processes have stored since."""
        self.parts.refresh()
