"""Word vectors with subwords, by fastText (Bojanowski et al. 2017). Trains from a list of documents, reads files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.text import fasttext_file
from lookalike.errors import BadArtifact, BadCatalogue, OperatorError
from lookalike.vectors import F32

_LEARNING_RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How word vectors are trained."""

    dim: int = 100
    epochs: int | None = None  # None: by how much text there is, see epochs().
    window: int = 5  # Words on either side that a word is to predict.
    most_words: int = 200_000  # The most frequent: 160 MB of vectors. Rarer ones are encoded through their subwords.
    buckets: int = 50_000  # Of hashed subwords: 20 MB of vectors, where fastText's own default is 800 MB.
    subwords: tuple[int, int] = (3, 6)  # Shortest and longest, in characters; (0, 0): none, which is word2vec.


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


def train(documents: Sequence[Sequence[str]], out: Path, recipe: Recipe | None = None) -> Words:
    """Skip-gram vectors, written to `out`: same documents, same file. Raises BadCatalogue, OperatorError."""
    recipe = recipe or Recipe()
    tokens = sum(map(len, documents))
    if not tokens:
        raise BadCatalogue("no text has a word in it: there is nothing to train a text encoder on")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as corpus:
        corpus.writelines(line + "\n" for line in _lines(documents, recipe.most_words))
        corpus.flush()
        script = Path(__file__).with_name("skipgram.py")
        command = ["env", "MALLOC_PERTURB_=255", sys.executable, "-I", str(script), corpus.name, str(out)]
        command.append(json.dumps(_options(recipe, tokens)))
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    if ended.returncode:
        raise OperatorError(f"fastText failed on {tokens} words: {ended.stderr.strip()[-500:]}")
    return load(out)


def _options(recipe: Recipe, tokens: int) -> dict[str, Any]:
    """In fastText's own names."""
    shortest, longest = recipe.subwords
    return {
        "dim": recipe.dim,
        "epoch": recipe.epochs or epochs(tokens),
        "ws": recipe.window,
        "bucket": recipe.buckets,
        "minn": shortest,
        "maxn": longest,
        "lr": _LEARNING_RATE,
    }


def epochs(tokens: int) -> int:
    """How often to read the texts: the fewer they are, the more often, so that every word is seen often enough.

    Through what was best in precision@10 on titles: 200 times for 1,800 words of text, 50 for 18,000, 10 for 200,000.
    """
    return int(np.clip(50 * (18_000 / tokens) ** 0.7, 5, 1_000))


def _lines(documents: Sequence[Sequence[str]], most_words: int) -> Iterator[str]:
    counts = Counter(word for document in documents for word in document)
    kept = set(sorted(counts, key=lambda word: (-counts[word], word))[:most_words])
    for document in documents:
        if line := " ".join(word for word in document if word in kept):
            yield line


def numbered(documents: Sequence[Sequence[str]], words: Words) -> list[npt.NDArray[np.int64]]:
    """Of each document the numbers of its known words, in order."""
    number = {word: i for i, word in enumerate(words.known)}
    return [np.array([number[w] for w in document if w in number], dtype=np.int64) for document in documents]


def copied(source: Path, out: Path) -> Words:
    """The words of a fastText .bin, of which `out` becomes a copy. Raises BadArtifact."""
    fasttext_file.check(source)
    shutil.copyfile(source, out)
    return load(out)


def load(path: Path) -> Words:
    """Raises BadArtifact."""
    import fasttext

    try:
        return Words(fasttext.load_model(str(path)))
    except ValueError as error:
        raise BadArtifact(f"{path}: {error}") from error
