"""Baselines that a space should beat: random vectors, an untrained image model, and TF-IDF of titles.

The untrained model runs in a model server; nothing else does I/O.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders.image.isolated_decoder import image_decoder
from lookalike.local import process_specs
from lookalike.local.supervisor import Supervisor
from lookalike.runtime.ordered_map import ordered_map
from lookalike.vectors import F32, normalised
from pipeline import image_encoding
from pipeline.evaluation.metrics import ScoreRows
from pipeline.local_model_server import model_server
from pipeline.photos import pixels_or_none

_RANDOM_DIM = 64
_DECODERS = 2


def random_vectors(count: int, seed: int) -> F32:
    """(count, 64) float32 of unit norm, uniformly distributed directions."""
    return normalised(np.random.default_rng(seed).standard_normal((count, _RANDOM_DIM)).astype(np.float32))


def tfidf_scores(titles: Sequence[str], corpus: Sequence[str]) -> ScoreRows:
    """Cosines of the TF-IDF vectors of titles, by the text encoder's words.

    corpus: the titles from which document frequencies are counted.
    """
    return tfidf_query_scores(titles, titles, corpus)


def tfidf_query_scores(
    queries: Sequence[str], titles: Sequence[str], corpus: Sequence[str], *, characters: bool = False
) -> ScoreRows:
    """Cosines of TF-IDF vectors of queries and of titles (scikit-learn: logarithmic idf, smoothed).

    characters: by runs of 3 to 5 characters within words, in place of the text encoder's words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    from encoders.text.tokens import Tokenizer, clean_text

    if characters:
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), preprocessor=clean_text, dtype=np.float32)
    else:
        vectorizer = TfidfVectorizer(analyzer=Tokenizer(), dtype=np.float32)
    try:
        vectorizer.fit(corpus)
    except ValueError:  # No title contains a word.
        return lambda rows: np.zeros((len(rows), len(titles)), dtype=np.float32)
    vectors = vectorizer.transform(titles)
    query_vectors = vectors if queries is titles else vectorizer.transform(queries)
    return lambda rows: np.asarray((query_vectors[rows] @ vectors.T).toarray(), dtype=np.float32)


def untrained_vectors(
    photos: Sequence[Path], environ: Mapping[str, str], *, seed: int, count: Callable[[], Any]
) -> tuple[F32, str]:
    """Encode photos with the image model at random weights: (n, dim) float32, and the model's fingerprint.

    Exports the model and runs a model server. Raises ServiceError and OperatorError.
    """
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        models, logs = Path(folder) / "models", Path(folder) / "logs"
        command = process_specs.lookalike_command(
            "encoders", "export", models, "--weights", "untrained", "--seed", seed
        )
        with Supervisor(logs, environ, directory=process_specs.ROOT) as processes:
            processes.run("encoders export", command)
        with model_server(models, environ) as address:
            return asyncio.run(_encode(photos, address, count))


async def _encode(photos: Sequence[Path], address: str, count: Callable[[], Any]) -> tuple[F32, str]:
    """The vectors of photos; zeros for one that cannot be decoded."""
    vectors: list[F32] = []
    encoder = ""
    async with image_encoding.connect_encoder(address) as photo_encoder:
        side_px = photo_encoder.input_px
        with image_decoder(_DECODERS, side_px) as decode:
            for start in range(0, len(photos), image_encoding.BATCH):
                batch = photos[start : start + image_encoding.BATCH]
                decoded = ordered_map(
                    lambda photo: pixels_or_none(photo, decode), batch, workers=_DECODERS, ahead=len(batch)
                )
                pixels = [photo for _, photo in decoded]
                blank = np.zeros((side_px, side_px, 3), np.uint8)
                response = await image_encoding.encode_with_retries(
                    photo_encoder.encode, np.stack([blank if photo is None else photo for photo in pixels])
                )
                usable = np.array([photo is not None for photo in pixels])
                vectors.append(response.vectors * usable[:, None])
                encoder = response.encoder
                for _ in pixels:
                    count()
    return np.concatenate(vectors), encoder
