"""Word vectors with subwords, by fastText (Bojanowski et al. 2017). Trains from a list of documents, reads files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.vectors import F32

DIM = 100
# Of hashed subwords: 40 MB of vectors, where fastText's own default is 800 MB. Not fewer: on one thread fastText 0.9.3
# draws only the first tenth of its matrix (DenseMatrix::uniform) and leaves the rest as the allocator gave it. Above
# 32 MiB that is always fresh pages, which are zero; below, it can be old memory: other vectors each time, or NaN.
_BUCKETS = 100_000
# Small catalogues are read more often, so that words are seen often enough; times were measured on 2 cores.
_TOKENS = 2_000_000
_LEARNING_RATES = (0.05, 0.025, 0.01)


class Words:
    """Vectors of words, known or not. For one thread at a time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.known: list[str] = model.get_words()
        self.dim: int = model.get_dimension()

    def vector(self, word: str) -> F32:
        """(dim,) float32; of an unknown word from its subwords; zeros where it has none."""
        vector: F32 = self._model.get_word_vector(word)
        return vector

    def vectors(self, words: Sequence[str]) -> F32:
        """(n, dim) float32."""
        rows = [self.vector(word) for word in words]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def save(self, path: Path) -> None:
        self._model.save_model(str(path))


def train(documents: Sequence[Sequence[str]]) -> Words:
    """Skip-gram on one thread with fastText's own seed: same documents, same vectors. Raises BadCatalogue."""
    tokens = sum(map(len, documents))
    if not tokens:
        raise BadCatalogue("no text has a word in it: there is nothing to train a text encoder on")
    fasttext: Any = import_module("fasttext")
    problem = ""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(" ".join(document) + "\n" for document in documents if document)
        file.flush()
        for learning_rate in _LEARNING_RATES:
            try:
                model = fasttext.train_unsupervised(
                    file.name,
                    model="skipgram",
                    dim=DIM,
                    bucket=_BUCKETS,
                    minCount=1,
                    minn=3,
                    maxn=6,
                    t=1e-3,
                    epoch=int(np.clip(_TOKENS / tokens, 5, 50)),
                    lr=learning_rate,
                    thread=1,
                    verbose=0,
                )
            except RuntimeError as error:  # "Encountered NaN.": a gentler rate ends it.
                problem = str(error)
            else:
                return Words(model)
    raise BadCatalogue(f"fastText cannot learn from these texts: {problem}")


def load(path: Path) -> Words:
    """Raises BadArtifact."""
    fasttext: Any = import_module("fasttext.FastText")
    try:
        # The class itself: `fasttext.load_model` prints a warning to standard error.
        with contextlib.redirect_stderr(None):
            return Words(fasttext._FastText(model_path=str(path)))
    except ValueError as error:
        raise BadArtifact(f"{path}: {error}") from error
