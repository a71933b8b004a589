"""Word vectors with subwords, by fastText (Bojanowski et al. 2017). Reads and writes files, starts a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.text import fasttext_file
from encoders.text.fasttext_file import FastTextFile
from lookalike.errors import BadCatalogue, OperatorError
from lookalike.vectors import F32

_LEARNING_RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class SkipGramParameters:
    """Hyperparameters of the skip-gram training."""

    dim: int = 100
    epochs: int | None = None  # None: by the amount of text, see default_epochs.
    window: int = 5  # Context words on either side that a word predicts.
    max_words: int = 200_000  # The most frequent are kept: 160 MB of vectors. Rarer ones are encoded by their subwords.
    buckets: int = 50_000  # For hashed subwords: 20 MB of vectors; fastText's default takes 800 MB.
    subwords: tuple[int, int] = (3, 6)  # Minimum and maximum length in characters; (0, 0): none, which is word2vec.


class WordVectors:
    """The vectors of a fastText model: one for every word, in the vocabulary or not.

    words: the vocabulary. dim: of the vectors.
    """

    def __init__(self, model: FastTextFile) -> None:
        self.words = model.words
        self.dim: int = model.rows.shape[1]
        self._model = model
        self._id_of_word = {word: i for i, word in enumerate(model.words)}

    def vector(self, word: str) -> F32:
        """The vector of a word, (dim,) float32. Outside the vocabulary: from its subwords; zeros if it has none.

        The mean of the word's own vector, if it is in the vocabulary, and those of its subwords, summed in the order of
        fastText's `getWordVector`, so that it is the same to the last bit.
        """
        own, model = self._id_of_word.get(word), self._model
        rows = [] if own is None else [own]
        if word != _END_OF_SENTENCE:
            rows += [len(model.words) + each % model.buckets for each in subword_hashes(word, *model.lengths)]
        if not rows:
            return np.zeros(self.dim, dtype=np.float32)
        summed: F32 = np.add.reduce(model.rows.take(rows, axis=0), axis=0)
        return summed * np.float32(1 / len(rows))

    def vectors(self, words: Sequence[str]) -> F32:
        """The vectors of words, (n, dim) float32."""
        rows = [self.vector(word) for word in words]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)


_END_OF_SENTENCE = "</s>"  # fastText's own word for it, which has no subwords.
_FNV_OFFSET, _FNV_PRIME, _32_BITS = 2166136261, 16777619, 0xFFFFFFFF
_SIGN_BIT, _SIGN_EXTENSION = 0x80, 0xFFFFFF00


def subword_hashes(word: str, shortest: int, longest: int) -> list[int]:
    """The 32-bit hashes of the subwords of a word between < and >, by where they start and then by length.

    FNV-1a of the UTF-8 bytes, which fastText takes for signed. Neither boundary alone is a subword.
    """
    characters = [_signed_bytes(character) for character in f"<{word}>"]
    last, hashes = len(characters) - 1, list[int]()
    for start in range(len(characters)):
        value = _FNV_OFFSET
        for length, signed_bytes in enumerate(characters[start : start + longest], 1):
            for byte in signed_bytes:
                value = (value ^ byte) * _FNV_PRIME & _32_BITS
            if length >= shortest and (length > 1 or 0 < start < last):
                hashes.append(value)
    return hashes


@lru_cache(1 << 14)
def _signed_bytes(character: str) -> tuple[int, ...]:
    return tuple(byte | _SIGN_EXTENSION if byte & _SIGN_BIT else byte for byte in character.encode())


def train_word_vectors(
    documents: Sequence[Sequence[str]], out: Path, parameters: SkipGramParameters | None = None
) -> WordVectors:
    """Train skip-gram vectors and write them to `out`. Same documents, same file.

    Raises BadCatalogue without any words, OperatorError if fastText fails.
    """
    parameters = parameters or SkipGramParameters()
    tokens = sum(map(len, documents))
    if not tokens:
        raise BadCatalogue("the texts contain no words: nothing to train a text encoder on")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as corpus:
        corpus.writelines(line + "\n" for line in _lines(documents, parameters.max_words))
        corpus.flush()
        script = Path(__file__).with_name("train_skipgram.py")
        command = ["env", "MALLOC_PERTURB_=255", sys.executable, "-I", str(script), corpus.name, str(out)]
        command.append(json.dumps(_fasttext_options(parameters, tokens)))
        process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own arguments
    if process.returncode:
        raise OperatorError(f"fastText training failed on {tokens} words: {process.stderr.strip()[-500:]}")
    return load_word_vectors(out)


def _fasttext_options(parameters: SkipGramParameters, tokens: int) -> dict[str, Any]:
    """The parameters under fastText's names."""
    shortest, longest = parameters.subwords
    return {
        "dim": parameters.dim,
        "epoch": parameters.epochs or default_epochs(tokens),
        "ws": parameters.window,
        "bucket": parameters.buckets,
        "minn": shortest,
        "maxn": longest,
        "lr": _LEARNING_RATE,
    }


def default_epochs(tokens: int) -> int:
    """Training epochs for a corpus of `tokens` words: more for smaller corpora, so every word is seen often enough.

    Interpolates the best precision@10 on titles: 200 epochs for 1,800 words, 50 for 18,000, 10 for 200,000.
    """
    return int(np.clip(50 * (18_000 / tokens) ** 0.7, 5, 1_000))


def _lines(documents: Sequence[Sequence[str]], max_words: int) -> Iterator[str]:
    counts = Counter(word for document in documents for word in document)
    frequent = set(sorted(counts, key=lambda word: (-counts[word], word))[:max_words])
    for document in documents:
        if line := " ".join(word for word in document if word in frequent):
            yield line


def word_ids(documents: Sequence[Sequence[str]], words: WordVectors) -> list[npt.NDArray[np.int64]]:
    """Each document as the ids (positions in the vocabulary) of its words, without those outside the vocabulary."""
    id_of_word = {word: i for i, word in enumerate(words.words)}
    return [np.array([id_of_word[w] for w in document if w in id_of_word], dtype=np.int64) for document in documents]


def copy_word_vectors(source: Path, out: Path) -> WordVectors:
    """Copy a fastText .bin to `out` and load it. Raises BadArtifact."""
    words = load_word_vectors(source)
    shutil.copyfile(source, out)
    return words


def load_word_vectors(path: Path) -> WordVectors:
    """Load a fastText .bin. Raises BadArtifact."""
    return WordVectors(fasttext_file.read(path))
