"""Encodes texts by tasks of an engine whose processes run one task at a time. Reads files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoders import artifact
from encoders.text import model
from lookalike.runtime.engine import Engine, TaskNeeds
from lookalike.vectors import F32


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Texts, and the directory of the encoder, which all machines share."""

    encoder: Path
    texts: tuple[str, ...]


def encode_batches(engine: Engine, encoder: Path, batches: Iterable[Sequence[str]]) -> Iterator[F32]:
    """The vectors of each batch, in order: those of `TextModel.encode`."""
    shared = encoder.absolute()
    files = [path for path in shared.rglob("*") if path.is_file()]
    # Twice the encoder: its word vectors, and what it derives from them.
    needs = TaskNeeds(memory_bytes=2 * sum(path.stat().st_size for path in files), files=(shared / artifact.MANIFEST,))
    return engine.map(encode_batch, (TextBatch(encoder=shared, texts=tuple(batch)) for batch in batches), needs)


def encode_batch(batch: TextBatch) -> F32:
    """A task. A process keeps the last encoder, which is not thread-safe."""
    return _load(batch.encoder).encode(batch.texts)


@functools.lru_cache(maxsize=1)
def _load(encoder: Path) -> model.TextModel:
    return model.load(encoder)
