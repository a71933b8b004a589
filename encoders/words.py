"""Word vectors with subwords, by fastText (Bojanowski et al. 2017). Trains from a list of documents, reads files."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import BadArtifact, BadCatalogue, OperatorError
from lookalike.vectors import F32

# Small catalogues are read more often, so that words are seen often enough; times were measured on 2 cores.
_TOKENS = 2_000_000
_LEARNING_RATE = 0.05


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


def train(documents: Sequence[Sequence[str]], out: Path) -> Words:
    """Skip-gram vectors, written to `out`: same documents, same file. Raises BadCatalogue, OperatorError."""
    tokens = sum(map(len, documents))
    if not tokens:
        raise BadCatalogue("no text has a word in it: there is nothing to train a text encoder on")
    epochs = int(np.clip(_TOKENS / tokens, 5, 50))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as corpus:
        corpus.writelines(" ".join(document) + "\n" for document in documents if document)
        corpus.flush()
        script = Path(__file__).with_name("skipgram.py")
        command = ["env", "MALLOC_PERTURB_=255", sys.executable, "-I", str(script), corpus.name, str(out)]
        command += [str(epochs), str(_LEARNING_RATE)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    if ended.returncode:
        raise OperatorError(f"fastText failed on {tokens} words: {ended.stderr.strip()[-500:]}")
    return load(out)


def load(path: Path) -> Words:
    """Raises BadArtifact."""
    fasttext: Any = import_module("fasttext.FastText")
    try:
        # The class itself: `fasttext.load_model` prints a warning to standard error.
        with contextlib.redirect_stderr(None):
            return Words(fasttext._FastText(model_path=str(path)))
    except ValueError as error:
        raise BadArtifact(f"{path}: {error}") from error
