"""The text encoder of an artifact: titles to unit vectors. Reads files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from encoders import scdv, words
from encoders.scdv import Topics
from encoders.tokens import Tokenizer
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, normalised

FORMAT = 3  # Raised when other files, or the same files otherwise, make an encoder.
MANIFEST = "manifest.json"
FASTTEXT = "words.bin"
ARRAYS = {
    "fasttext": ("idf", "centre"),
    "scdv": ("idf", "centre", "log_weights", "means", "precisions", "projection"),
}
KINDS = tuple(ARRAYS)
CACHED_WORDS = 65_536


class TextModel:
    """For one thread at a time. Words that training never saw are encoded through their subwords.

    fingerprint: the kind, and a digest of the files. dim: of the vectors it gives.
    """

    def __init__(self, manifest: dict[str, Any], vocabulary: words.Words, arrays: dict[str, F32]) -> None:
        self.fingerprint: str = manifest["fingerprint"]
        self.dim: int = manifest["dim"]
        self.kind: str = manifest["kind"]
        self._threshold: float = manifest.get("threshold", 0.0)
        self._faint: float = manifest["faint"]
        self._tokenize = Tokenizer()
        self._words = vocabulary
        self._idf = dict(zip(vocabulary.known, arrays["idf"].tolist(), strict=True))
        self._centre = arrays["centre"]
        self._unseen_idf = float(arrays["idf"].max())  # Rarer than all that was seen.
        self._topics: Topics | None = None
        if self.kind == "scdv":
            self._projection = arrays["projection"]
            self._topics = Topics(**{name: arrays[name] for name in ("log_weights", "means", "precisions")})
        self._word = lru_cache(CACHED_WORDS)(self._looked_up)

    def encode(self, texts: Sequence[str]) -> F32:
        """(n, dim) float32, rows of unit norm; zeros for a text with nothing to encode in it."""
        rows = [self._document(self._tokenize(text)) for text in texts]
        if not rows:
            return np.zeros((0, self.dim), dtype=np.float32)
        documents = np.stack(rows)
        if self._topics is not None:
            documents = scdv.sparse(documents, self._threshold) @ self._projection
        return normalised(np.nan_to_num(documents))

    def _document(self, tokens: Sequence[str]) -> F32:
        found = [self._word(token) for token in tokens]
        size = self._words.dim * (len(self._topics.means) if self._topics else 1)
        if not found:
            return np.zeros(size, dtype=np.float32)
        weights = np.array([weight for weight, _, _ in found], dtype=np.float32)
        vectors = np.stack([vector for _, vector, _ in found])
        if self._topics is None:
            mean: F32 = weights @ vectors
            return mean
        return scdv.composite(weights, np.stack([topics for _, _, topics in found]), vectors)

    def _looked_up(self, word: str) -> tuple[float, F32, F32]:
        """idf, vector from the centre of all words (D,), topic probabilities (K,)."""
        raw = self._words.vector(word)
        seen = word in self._idf
        vector = raw - self._centre if seen else scdv.guessed(raw, self._centre, self._faint)
        topics = self._topics.probabilities(vector[None, :])[0] if self._topics else vector
        return self._idf[word] if seen else self._unseen_idf, vector, topics


def load(directory: Path) -> TextModel:
    """Raises BadArtifact, naming the file that is missing, damaged or of another format."""
    manifest = _manifest(directory)
    for name, entry in manifest["files"].items():
        if Path(name).name != name:
            raise BadArtifact(f"{directory / MANIFEST}: {name} is not in the directory")
        if digest_of(directory / name) != entry:
            raise BadArtifact(f"{directory / name}: not the file that the manifest describes")
    needed = ARRAYS[manifest["kind"]]
    if missing := {FASTTEXT, *(f"{name}.npy" for name in needed)} - set(manifest["files"]):
        raise BadArtifact(f"{directory / MANIFEST}: {min(missing)} is not among the files")
    arrays = {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in needed}
    return TextModel(manifest, words.load(directory / FASTTEXT), arrays)


def digest_of(path: Path) -> str:
    """SHA-256 in hex. Raises BadArtifact where there is no such file."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadArtifact(f"{path}: {error.strerror}") from error


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("kind") not in KINDS:
        raise BadArtifact(f"{path}: not a text encoder of format {FORMAT}")
    if manifest.get("fingerprint") != fingerprint_of(manifest):
        raise BadArtifact(f"{path}: changed since it was written")
    return manifest


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """The kind, and a digest of all that the manifest says: of the files too, by their digests."""
    said = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return f"{manifest['kind']}-{sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]}"
