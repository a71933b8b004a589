"""The text encoder: texts to unit vectors. Reads artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from encoders import artifact
from encoders.text import hybrid, lexical, scdv, spelling
from encoders.text.lexical import NgramIdf
from encoders.text.scdv import Topics
from encoders.text.synonyms import NO_SYNONYMS, Synonyms, load_table
from encoders.text.tokens import LeftOutWord, Tokenizer, clean_text
from encoders.text.word_vectors import WordVectors, load_word_vectors
from lookalike.vectors import F32, normalised

FORMAT = 7  # Increased whenever the files, their meaning or the manifest change.
FASTTEXT = "words.bin"
SYNONYMS = "synonyms.tsv"
_SCDV_ARRAYS = ("idf", "centre", "log_weights", "means", "precisions", "projection")
ARRAYS = {
    "hybrid": (*_SCDV_ARRAYS, "ngram_keys", "ngram_idf"),
    "scdv": _SCDV_ARRAYS,
    "fasttext": ("idf", "centre"),
}
DEFAULT_KIND = "hybrid"
KINDS = tuple(ARRAYS)
FILES = {kind: (FASTTEXT, SYNONYMS, *(f"{name}.npy" for name in names)) for kind, names in ARRAYS.items()}
MAX_WORDS = 65_536  # In the cache, and per batch: 31 MB. The longest text has no more words.


class WordFeatureCache:
    """Cache of the features of words: idf times topic probabilities, and the word vector less the mean word vector.

    Not thread-safe.

    estimate_unseen: the vector of a word unseen in training is estimated from its subwords; otherwise it is zero. A
    hybrid vector needs no estimate, since it has the word's n-grams: by an estimate in a small catalogue, the brand
    that "Salomn" finds is any.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        word_vectors: WordVectors,
        arrays: Mapping[str, F32],
        *,
        estimate_unseen: bool = True,
    ) -> None:
        self._words = word_vectors
        self.estimate_unseen = estimate_unseen
        self.idf = dict(zip(word_vectors.words, arrays["idf"].tolist(), strict=True))
        self._unseen_idf = float(arrays["idf"].max())  # As rare as the rarest word in training.
        self._centre = arrays["centre"]
        self._min_norm: float = manifest["min_norm"]
        self._topics: Topics | None = None
        if "log_weights" in arrays:
            mixture = {name: arrays[name] for name in ("log_weights", "means", "precisions")}
            self._topics = Topics(**mixture, temperature=manifest["temperature"])
        self._row: dict[str, int] = {}
        self.topic_weights = np.empty((MAX_WORDS, len(self._topics.means) if self._topics else 1), dtype=np.float32)
        self._vectors = np.empty((MAX_WORDS, word_vectors.dim), dtype=np.float32)

    def lookup(self, tokens: Sequence[str]) -> tuple[F32, F32]:
        """Return (n, K) idf times topic probabilities and (n, D) vectors of at most MAX_WORDS words."""
        new_words = [token for token in dict.fromkeys(tokens) if token not in self._row]
        if len(self._row) + len(new_words) > MAX_WORDS:
            self._row.clear()
            new_words = list(dict.fromkeys(tokens))
        if new_words:
            self._add(new_words)
        rows = [self._row[token] for token in tokens]
        return self.topic_weights[rows], self._vectors[rows]

    def knows(self, word: str) -> bool:
        return word in self.idf

    def _add(self, new_words: Sequence[str]) -> None:
        vectors = np.stack([self._vector(word) for word in new_words])
        vectors[~np.isfinite(vectors).all(axis=1)] = 0  # Pretrained word vectors may contain NaN or infinity.
        idf = np.array([self.idf.get(word, self._unseen_idf) for word in new_words], dtype=np.float32)
        rows = slice(len(self._row), len(self._row) + len(new_words))
        self._vectors[rows] = vectors
        self.topic_weights[rows] = idf[:, None] * (self._topics.probabilities(vectors) if self._topics else 1)
        self._row.update(zip(new_words, range(rows.start, rows.stop), strict=True))

    def _vector(self, word: str) -> F32:
        if word in self.idf:
            return self._words.vector(word) - self._centre
        if not self.estimate_unseen:
            return np.zeros_like(self._centre)
        return scdv.unseen_word_vector(self._words.vector(word), self._centre, self._min_norm)


class TextModel:
    """A loaded text encoder. Not thread-safe. A text has the same vector in any batch, but for rounding.

    fingerprint: the kind, and a digest of the artifact. dim: of the vectors.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        word_features: WordFeatureCache,
        projection: F32 | None,
        ngram_idf: NgramIdf | None = None,
        *,
        synonyms: Synonyms = NO_SYNONYMS,
    ) -> None:
        self.fingerprint: str = manifest["fingerprint"]
        self.dim: int = manifest["dim"]
        self.kind: str = manifest["kind"]
        self.threshold: float = manifest.get("threshold", 0.0)
        self.topic_weight: float = manifest.get("topic_weight", 1.0)
        self.lexical_dim: int = manifest.get("lexical_dim", 0)
        self.synonyms = synonyms
        self._tokenize = Tokenizer(synonyms)
        self.word_features = word_features
        self.projection = projection
        self._ngram_idf = ngram_idf

    @property
    def topic_dim(self) -> int:
        return self.dim - self.lexical_dim

    def words(self, text: str) -> list[str]:
        """The words of a text in order, synonyms in their canonical form."""
        return self._tokenize(text)

    def knows(self, word: str) -> bool:
        """Whether a word was in the texts that it was trained on, or has a pretrained vector."""
        return self.word_features.knows(word)

    def canonical(self, text: str) -> str:
        """The words of a text with spaces between them; a text of particles alone (を) as it is."""
        return " ".join(self.words(text)) or text

    def encode(self, texts: Sequence[str]) -> F32:
        """Encode texts to (n, dim) float32, rows of unit norm; zeros for a text without words.

        A hybrid encoder has a vector for any text with a letter or digit outside markup, prices and shop notices. The
        topic of a text whose words are all unseen in training is that of seen words one edit away, if there are any.
        """
        documents = [self._tokenize(text) for text in texts]
        topics = [self._topic_words(text, words) for text, words in zip(texts, documents, strict=True)]
        vectors = np.zeros((len(documents), self.topic_dim), dtype=np.float32)
        for batch in _batches(topics):
            vectors[batch] = self._encode_documents(topics[batch])
        if self._ngram_idf is None:
            return vectors
        spellings = [" ".join(words) or text for words, text in zip(documents, texts, strict=True)]
        spelt = lexical.encode(spellings, self._ngram_idf, self.lexical_dim)
        return hybrid.side_by_side(vectors, spelt, self.topic_weight)

    def _topic_words(self, text: str, words: list[str]) -> list[str]:
        if self.word_features.estimate_unseen or any(word in self.word_features.idf for word in words):
            return words
        return self.synonyms(spelling.correct(clean_text(text), self._rarity_by_spelling))

    @cached_property
    def _rarity_by_spelling(self) -> Mapping[str, float]:
        """The idf of every word seen in training and of each that is replaced by seen ones: that of the rarest."""
        seen = self.word_features.idf
        replaced = {
            phrase[0]: max(seen[word] for word in words)
            for phrase, words in self.synonyms.canonical.items()
            if len(phrase) == 1 and all(word in seen for word in words)
        }
        return {**seen, **replaced}

    def leave_out_words(self, text: str, limit: int) -> list[LeftOutWord]:
        """The first `limit` words of a text in order, a phrase with a synonym as one, and the text without each."""
        return self._tokenize.leave_out_words(text, limit)

    def _encode_documents(self, documents: Sequence[Sequence[str]]) -> F32:
        topic_weights, vectors = self.word_features.lookup([token for document in documents for token in document])
        composites = scdv.composite_vectors(topic_weights, vectors, [len(document) for document in documents])
        if self.projection is not None:
            composites = normalised(scdv.sparsify(composites, self.threshold) @ self.projection)
        return composites


def _batches(documents: Sequence[Sequence[str]]) -> Iterator[slice]:
    """Split the documents into batches of at most MAX_WORDS words in total, which bounds the memory of a batch."""
    start, word_count = 0, 0
    for i, document in enumerate(documents):
        word_count += len(document)
        if word_count > MAX_WORDS:
            yield slice(start, i)
            start, word_count = i, len(document)
    yield slice(start, len(documents))


def load(directory: Path) -> TextModel:
    """Load an artifact. Raises BadArtifact, naming the file that is missing, damaged or of another format."""
    manifest = read_manifest(directory)
    arrays = artifact.load_arrays(directory, ARRAYS[manifest["kind"]])
    word_features = WordFeatureCache(
        manifest, load_word_vectors(directory / FASTTEXT), arrays, estimate_unseen=manifest["kind"] != "hybrid"
    )
    ngram_idf = None
    if "ngram_keys" in arrays:
        ngram_idf = NgramIdf(keys=arrays["ngram_keys"], values=arrays["ngram_idf"])
    synonyms = load_table(directory / SYNONYMS)
    return TextModel(manifest, word_features, arrays.get("projection"), ngram_idf, synonyms=synonyms)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest and verify every file against it. Raises BadArtifact, as `load` does."""
    return artifact.read_manifest(directory, format_version=FORMAT, files=FILES)
