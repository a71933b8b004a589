"""What a space must be better than: vectors that know nothing, untrained ones, and words counted. Computes vectors."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.local import process_specs
from lookalike.local.supervisor import Supervisor
from lookalike.vectors import F32, normalised
from pipeline import image_encoding
from pipeline.evaluation.metrics import Scores
from pipeline.ordered_map import ordered_map
from pipeline.photos import open_photo
from pipeline.update import model_server

_RANDOM_DIM = 64
_DECODERS = 2


def random_vectors(count: int, seed: int) -> F32:
    """(count, 64) of unit norm, in all directions alike."""
    return normalised(np.random.default_rng(seed).standard_normal((count, _RANDOM_DIM)).astype(np.float32))


def counted_words(titles: Sequence[str], learnt_from: Sequence[str]) -> Scores:
    """Cosines of TF-IDF vectors of titles (scikit-learn: logarithmic idf, smoothed), in the text encoder's words.

    learnt_from: the titles whose words are counted.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    from encoders.text.tokens import Tokenizer

    vectorizer = TfidfVectorizer(analyzer=Tokenizer(), dtype=np.float32)
    try:
        vectorizer.fit(learnt_from)
    except ValueError:  # No title has a word in it.
        return lambda rows: np.zeros((len(rows), len(titles)), dtype=np.float32)
    vectors = vectorizer.transform(titles)
    return lambda rows: np.asarray((vectors[rows] @ vectors.T).toarray(), dtype=np.float32)


def untrained_vectors(
    photos: Sequence[Path], environ: Mapping[str, str], *, seed: int, count: Callable[[], Any]
) -> tuple[F32, str]:
    """(n, 1024) of photos by the image model with random weights, and its fingerprint.

    Exports one, and runs it. Raises ServiceError, OperatorError; Bad for a photo that cannot be decoded.
    """
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        models, logs = Path(folder) / "models", Path(folder) / "logs"
        command = process_specs.lookalike("encoders", "export", models, "--weights", "untrained", "--seed", seed)
        with Supervisor(logs, environ, directory=process_specs.ROOT) as processes:
            processes.run("encoders export", command)
        with model_server(models, environ) as address:
            return asyncio.run(_encoded(photos, address, count))


async def _encoded(photos: Sequence[Path], address: str, count: Callable[[], Any]) -> tuple[F32, str]:
    vectors: list[F32] = []
    encoder = ""
    async with image_encoding.connect_encoder(address) as encode:
        for start in range(0, len(photos), image_encoding.BATCH):
            decoded = ordered_map(
                open_photo, photos[start : start + image_encoding.BATCH], workers=_DECODERS, ahead=image_encoding.BATCH
            )
            pixels = [photo.pixels for _, photo in decoded if photo.pixels is not None]
            answer = await image_encoding.encode_with_retries(encode, np.stack(pixels))
            vectors.append(answer.vectors)
            encoder = answer.encoder
            for _ in pixels:
                count()
    return np.concatenate(vectors), encoder
