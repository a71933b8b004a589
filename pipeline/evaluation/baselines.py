"""Baselines that a space should beat: random vectors, an untrained image model, and TF-IDF of titles.

The untrained model runs in a model server; nothing else does I/O.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lookalike.local import process_specs
from lookalike.local.supervisor import Supervisor
from lookalike.vectors import F32, normalised
from pipeline.evaluation.metrics import ScoreRows
from pipeline.local_model_server import model_server

RANDOM, UNTRAINED = "random vectors", "untrained MobileNet"
TFIDF_WORDS, TFIDF_CHARACTERS = "TF-IDF of words", "TF-IDF of characters"
_RANDOM_DIM = 64


def random_vectors(count: int, seed: int) -> F32:
    """(count, 64) float32 of unit norm, uniformly distributed directions."""
    return normalised(np.random.default_rng(seed).standard_normal((count, _RANDOM_DIM)).astype(np.float32))


def tfidf_query_scores(
    queries: Sequence[str], titles: Sequence[str], corpus: Sequence[str], *, characters: bool = False
) -> ScoreRows:
    """Cosines of TF-IDF vectors of queries and of titles (scikit-learn: logarithmic idf, smoothed).

    corpus: the titles from which document frequencies are counted.
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


@contextmanager
def untrained_model(environ: Mapping[str, str], *, seed: int) -> Iterator[str]:
    """Export the image model at random weights, and run a model server with it for the block; yields its address."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        models, logs = Path(folder) / "models", Path(folder) / "logs"
        command = process_specs.lookalike_command(
            "encoders", "export", models, "--weights", "untrained", "--seed", seed
        )
        with Supervisor(logs, environ, directory=process_specs.ROOT) as processes:
            processes.run("encoders export", command)
        with model_server(models, environ) as address:
            yield address
