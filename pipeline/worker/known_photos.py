"""What the feature store knows of photos, as the worker asks it. Does disk and network I/O; blocking, thread-safe."""

from __future__ import annotations

import threading

import numpy as np

from lookalike.vectors import F32
from pipeline.features import photo_register
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.fetching.photo import Validators


class StoredPhotosKnown:
    """`KnownPhotos` in a feature store. What is added is durable after `flush`."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._register = store.photos()
        self._tables: dict[str, VectorTable] = {}
        self._lock = threading.Lock()  # Of _tables.

    def use(self, encoder: str, dim: int) -> None:
        """Open the vectors of an encoder, which must be done before they are asked for. Raises OperatorError."""
        with self._lock:
            if encoder not in self._tables:
                self._tables[encoder] = self._store.vectors("image", encoder=encoder, dim=dim)

    def fetched(self, source: str) -> tuple[str, Validators] | None:
        photo = self._register.lookup([source]).get(source)
        if photo is None:
            return None
        return photo.digest, Validators(etag=photo.etag, modified=photo.last_modified, size=photo.bytes)

    def vector(self, encoder: str, digest: str) -> F32 | None:
        vectors, has_vector = self._tables[encoder].lookup([digest])
        return vectors[0] if has_vector[0] else None

    def note_fetched(self, source: str, digest: str, validators: Validators) -> None:
        self._register.add(
            [
                photo_register.FetchedPhoto(
                    source=source,
                    digest=digest,
                    etag=validators.etag,
                    last_modified=validators.modified,
                    bytes=validators.size,
                )
            ]
        )

    def add_vector(self, encoder: str, digest: str, vector: F32) -> None:
        self.use(encoder, len(vector))
        self._tables[encoder].add([digest], np.ascontiguousarray(vector, np.float32)[np.newaxis])

    def flush(self) -> None:
        """Make durable what was added: vectors first, so that no photo is said to be known whose vector is lost."""
        with self._lock:
            tables = [*self._tables.values()]
        for table in tables:
            table.flush()
        self._register.flush()

    def refresh(self) -> None:
        """Read what other workers and updates have stored since."""
        with self._lock:
            tables = [*self._tables.values()]
        for table in tables:
            table.refresh()
        self._register.refresh()
