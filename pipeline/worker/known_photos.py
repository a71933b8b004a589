"""What the feature store knows of photos, as the worker asks it. Does disk and network I/O; blocking, thread-safe.

A store that cannot be written, on a full disk say, stops no event: what is new is not kept until it can be again,
so that it takes no memory either, and is fetched and encoded anew when it is asked for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np

from lookalike.errors import OperatorError
from lookalike.vectors import F32
from pipeline.features import photo_register
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.fetching.photo import Validators

log = logging.getLogger(__name__)


class StoredPhotosKnown:
    """`KnownPhotos` in a feature store. What is added is durable after `flush`."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._register = store.photos()
        self._tables: dict[str, VectorTable] = {}
        self._lock = threading.Lock()  # Of _tables.
        self._is_writable = True

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
        photo = photo_register.FetchedPhoto(
            source=source,
            digest=digest,
            etag=validators.etag,
            last_modified=validators.modified,
            bytes=validators.size,
        )
        self._keep(lambda: self._register.add([photo]))

    def add_vector(self, encoder: str, digest: str, vector: F32) -> None:
        self.use(encoder, len(vector))
        row = np.ascontiguousarray(vector, np.float32)[np.newaxis]
        self._keep(lambda: self._tables[encoder].add([digest], row))

    def _keep(self, add: Callable[[], None]) -> None:
        if not self._is_writable:
            return
        try:
            add()
        except OperatorError as error:
            self._is_writable = False
            log.warning("vectors are not kept until the feature store can be written: %s", error)

    def flush(self) -> None:
        """Make durable what was added: vectors first, so that no photo is said to be known whose vector is lost.

        Raises OperatorError.
        """
        with self._lock:
            tables = [*self._tables.values()]
        for table in tables:
            table.flush()
        self._register.flush()
        self._is_writable = True

    def refresh(self) -> None:
        """Read what other workers and updates have stored since."""
        with self._lock:
            tables = [*self._tables.values()]
        for table in tables:
            table.refresh()
        self._register.refresh()
