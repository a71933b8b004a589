"""What the feature store knows of photos, as the worker asks it. Does disk and network I/O; blocking, thread-safe.

A store that cannot be written, on a full disk say, stops no event: what is new is not kept until it can be again,
so that it takes no memory either, and is fetched and encoded anew when it is asked for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np

from lookalike.errors import OperatorError
from lookalike.vectors import F32
from pipeline.features import photo_register
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.fetching.photo import Validators
from pipeline.worker.photo_vectors import EncodedPhoto, KnownPhoto

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

    def fetched(self, encoder: str, sources: Sequence[str]) -> list[KnownPhoto | None]:
        found = self._register.lookup(sources)
        if not found:
            return [None] * len(sources)
        photos = [*found.values()]
        vectors = dict(zip(found, self.vectors(encoder, [photo.digest for photo in photos]), strict=True))
        return [
            KnownPhoto(_validators(found[source]), vector) if (vector := vectors.get(source)) is not None else None
            for source in sources
        ]

    def vectors(self, encoder: str, digests: Sequence[str]) -> list[F32 | None]:
        vectors, has_vector = self._tables[encoder].lookup(digests)
        return [vector if has else None for vector, has in zip(vectors, has_vector.tolist(), strict=True)]

    def keep(self, photos: Sequence[EncodedPhoto]) -> None:
        if not self._is_writable:
            return
        new: dict[str, dict[str, F32]] = {}
        for photo in photos:
            if photo.vector is not None:
                new.setdefault(photo.encoder, {})[photo.digest] = photo.vector
        try:
            for encoder, vectors in new.items():
                rows = np.stack([*vectors.values()])
                self.use(encoder, rows.shape[1])
                self._tables[encoder].add([*vectors], rows)
            self._register.add([_fetched_photo(photo) for photo in photos])
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


def _validators(photo: photo_register.FetchedPhoto) -> Validators:
    return Validators(etag=photo.etag, modified=photo.last_modified, size=photo.bytes)


def _fetched_photo(photo: EncodedPhoto) -> photo_register.FetchedPhoto:
    seen = photo.validators
    return photo_register.FetchedPhoto(
        source=photo.source, digest=photo.digest, etag=seen.etag, last_modified=seen.modified, bytes=seen.size
    )
