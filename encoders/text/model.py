"""The text encoder of an artifact: titles to unit vectors. Reads files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders import artifact
from encoders.text import scdv, words
from encoders.text.scdv import Topics
from encoders.text.tokens import Tokenizer
from lookalike.vectors import F32, normalised

FORMAT = 4  # Raised when other files, or the same files otherwise, make an encoder.
FASTTEXT = "words.bin"
ARRAYS = {
    "fasttext": ("idf", "centre"),
    "scdv": ("idf", "centre", "log_weights", "means", "precisions", "projection"),
}
KINDS = tuple(ARRAYS)
FILES = {kind: (FASTTEXT, *(f"{name}.npy" for name in names)) for kind, names in ARRAYS.items()}
MOST_WORDS = 65_536  # Of those looked up, and of a batch: 31 MB. The longest text has no more.


class Lexicon:
    """What words mean to an encoder, looked up once: idf times topic probabilities, and the vector from the centre.

    A word that training never saw has what its subwords let guess. For one thread at a time.
    """

    def __init__(self, manifest: Mapping[str, Any], vocabulary: words.Words, arrays: Mapping[str, F32]) -> None:
        self._words = vocabulary
        self._idf = dict(zip(vocabulary.known, arrays["idf"].tolist(), strict=True))
        self._unseen_idf = float(arrays["idf"].max())  # Rarer than all that was seen.
        self._centre = arrays["centre"]
        self._faint: float = manifest["faint"]
        self._topics: Topics | None = None
        if manifest["kind"] == "scdv":
            parts = {name: arrays[name] for name in ("log_weights", "means", "precisions")}
            self._topics = Topics(**parts, temperature=manifest["temperature"])
        self._row: dict[str, int] = {}
        self._shares = np.empty((MOST_WORDS, len(self._topics.means) if self._topics else 1), dtype=np.float32)
        self._vectors = np.empty((MOST_WORDS, vocabulary.dim), dtype=np.float32)

    def looked_up(self, tokens: Sequence[str]) -> tuple[F32, F32]:
        """(n, K) idf times topic probabilities, (n, D) vectors, of MOST_WORDS words at most."""
        unknown = [token for token in dict.fromkeys(tokens) if token not in self._row]
        if len(self._row) + len(unknown) > MOST_WORDS:
            self._row.clear()
            unknown = list(dict.fromkeys(tokens))
        if unknown:
            self._add(unknown)
        rows = [self._row[token] for token in tokens]
        return self._shares[rows], self._vectors[rows]

    def _add(self, unknown: Sequence[str]) -> None:
        vectors = np.stack([self._vector(word) for word in unknown])
        vectors[~np.isfinite(vectors).all(axis=1)] = 0  # Word vectors that were given may hold anything.
        idf = np.array([self._idf.get(word, self._unseen_idf) for word in unknown], dtype=np.float32)
        new = slice(len(self._row), len(self._row) + len(unknown))
        self._vectors[new] = vectors
        self._shares[new] = idf[:, None] * (self._topics.probabilities(vectors) if self._topics else 1)
        self._row.update(zip(unknown, range(new.start, new.stop), strict=True))

    def _vector(self, word: str) -> F32:
        raw = self._words.vector(word)
        return raw - self._centre if word in self._idf else scdv.guessed(raw, self._centre, self._faint)


class TextModel:
    """For one thread at a time. A text has the same vector in whatever company, within rounding of the projection.

    fingerprint: the kind, and a digest of the files. dim: of the vectors it gives.
    """

    def __init__(self, manifest: dict[str, Any], lexicon: Lexicon, projection: F32 | None) -> None:
        self.fingerprint: str = manifest["fingerprint"]
        self.dim: int = manifest["dim"]
        self.kind: str = manifest["kind"]
        self.threshold: float = manifest.get("threshold", 0.0)
        self._tokenize = Tokenizer()
        self.lexicon = lexicon
        self.projection = projection

    def encode(self, texts: Sequence[str]) -> F32:
        """(n, dim) float32, rows of unit norm; zeros for a text with nothing to encode in it."""
        documents = [self._tokenize(text) for text in texts]
        vectors = np.zeros((len(documents), self.dim), dtype=np.float32)
        for batch in _batches(documents):
            vectors[batch] = self._encoded(documents[batch])
        return vectors

    def _encoded(self, documents: Sequence[Sequence[str]]) -> F32:
        shares, vectors = self.lexicon.looked_up([token for document in documents for token in document])
        composites = scdv.composites(shares, vectors, [len(document) for document in documents])
        if self.projection is not None:
            composites = normalised(scdv.sparse(composites, self.threshold) @ self.projection)
        return composites


def _batches(documents: Sequence[Sequence[str]]) -> Iterator[slice]:
    """All documents, as many at a time as have MOST_WORDS words together: what a batch takes is bounded."""
    start, words_there = 0, 0
    for i, document in enumerate(documents):
        words_there += len(document)
        if words_there > MOST_WORDS:
            yield slice(start, i)
            start, words_there = i, len(document)
    yield slice(start, len(documents))


def load(directory: Path) -> TextModel:
    """Raises BadArtifact, naming the file that is missing, damaged or of another format."""
    manifest = checked(directory)
    arrays = artifact.arrays_of(directory, ARRAYS[manifest["kind"]])
    lexicon = Lexicon(manifest, words.load(directory / FASTTEXT), arrays)
    return TextModel(manifest, lexicon, arrays.get("projection"))


def checked(directory: Path) -> dict[str, Any]:
    """The manifest, once every file is found to be there and whole. Raises BadArtifact, as `load` does."""
    return artifact.manifest_of(directory, form=FORMAT, files=FILES)
