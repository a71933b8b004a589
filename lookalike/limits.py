"""Limits of the public API that several processes check. Pure."""

from __future__ import annotations

from typing import Final

# Of one gRPC message, request or response: several photos, or thousands of vectors.
MAX_MESSAGE_BYTES: Final = 32 << 20
MAX_METADATA_BYTES: Final = 16 << 10  # Of the headers of one call.
MAX_CONNECTIONS: Final = 4096  # Of callers of one process; no more than half of the files that it may open.
MAX_CONCURRENT_STREAMS: Final = 1024  # Calls in flight on one connection; the client holds further ones back.
KEEPALIVE_TIME_MS: Final = 10_000  # Without a word from the peer; then it is pinged.
KEEPALIVE_TIMEOUT_MS: Final = 5_000  # Without an answer to that; then the connection is closed.
MAX_IMAGE_BYTES: Final = 8 << 20  # Of one encoded photo.
MAX_TEXT_BYTES: Final = 64 << 10  # Of one text, in UTF-8.
MAX_ID_BYTES: Final = 256  # Of a product id, in UTF-8.
MAX_IDS: Final = 1000  # Product ids in one request.
MAX_BATCH: Final = 256  # Searches in one batch.
MAX_STREAM_AHEAD: Final = 64  # Searches of a stream whose responses the caller has not taken.
MAX_LIMIT: Final = 1000  # Hits in one answer.
MAX_CATEGORIES: Final = 100  # Categories in one answer of Classify.
MAX_CHANGES: Final = 1000  # Changes in one batch.
MAX_WRITE_BYTES: Final = 4 << 20  # Of one message of a stream of changes, if it has more than one change.
MAX_WRITE_AHEAD: Final = 2  # Batches of changes that are read before the one before them is written.
