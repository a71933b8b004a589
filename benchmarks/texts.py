"""Text data sets for benchmarks: read, sample, encode without projection, and precision@10. Reads files."""

from __future__ import annotations

import csv
import gzip
import json
import tarfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.text import scdv
from encoders.text.model import WordFeatureCache
from encoders.text.word_vectors import WordVectors
from lookalike.demo.sample import command as catalogue_sample
from lookalike.vectors import F32, normalised

_BATCH = 256  # Documents: composites of 60 topics x 200 dimensions take 12 MB.

Documents = Sequence[Sequence[str]]
Labels = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Texts:
    texts: list[str]
    labels: Labels  # (n,) strings


def fashion(data: Path) -> Texts:
    """39,659 titles in English, by article type."""
    with gzip.open(data / "fashion" / "fashion_products.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return _of((row["title"], row["articleType"]) for row in csv.DictReader(file))


def flipkart(data: Path) -> Texts:
    """20,000 names in English, by the first level of the category tree."""
    path = data / "text" / "flipkart_20000_name_category_noheader.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return _of((name, tree.strip('[]"').split(" >> ")[0]) for _, name, tree in csv.reader(file))


def demo_sample(folder: Path) -> Texts:
    """The Japanese titles of the demo's random catalogue, by broad category. Generates the catalogue in `folder`."""
    catalogue_sample.draw_catalogue(folder / "drawn")
    rows = [json.loads(line) for line in (folder / "drawn" / "products.jsonl").read_text("utf-8").splitlines()]
    japanese = (row for row in rows if any("\u3040" < letter < "\ua000" for letter in row["title"]))
    return _of((row["title"], row["category"].split("/")[0]) for row in japanese)


def newsgroups(data: Path) -> tuple[Texts, Texts]:
    """Training and test documents of the bydate split, whole: headers, quotes and signatures too."""
    split: dict[str, list[tuple[str, str]]] = {"20news-bydate-train": [], "20news-bydate-test": []}
    with tarfile.open(data / "newsgroups" / "20news-bydate.tar.xz") as archive:
        for member in archive:
            path, file = Path(member.name), archive.extractfile(member)
            if file is not None and path.name.isdigit():  # The archive also has files of a desktop program.
                split[path.parts[-3]].append((file.read().decode("latin-1"), path.parts[-2]))
    train, test = (_of(pairs) for pairs in split.values())
    return train, test


def _of(pairs: Iterable[tuple[str, str]]) -> Texts:
    texts, labels = zip(*pairs, strict=True)
    return Texts(texts=list(texts), labels=np.array(labels))


def sample(texts: Texts, max_count: int, *, at_least: int = 1, seed: int = 0) -> Texts:
    """A random sample of at most `max_count` texts, without labels that fewer than `at_least` of them have."""
    chosen = np.random.default_rng(seed).permutation(len(texts.texts))[:max_count]
    names, counts = np.unique(texts.labels[chosen], return_counts=True)
    chosen = chosen[np.isin(texts.labels[chosen], names[counts >= at_least])]
    return Texts(texts=[texts.texts[i] for i in chosen], labels=texts.labels[chosen])


def with_unknown_words(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Texts of equal length but of unknown words: each letter is replaced by a random one of its script."""
    letters: dict[str, list[str]] = {}
    for letter in sorted(set("".join(texts))):
        letters.setdefault(_script(letter), []).append(letter)

    def replacement(letter: str) -> str:
        script = _script(letter)
        return letters[script][rng.integers(len(letters[script]))] if script else letter

    return ["".join(map(replacement, text)) for text in texts]


def _script(letter: str) -> str:
    """The script of a letter by its Unicode name (LATIN, KATAKANA, CJK); empty for other characters."""
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def composite_vectors(documents: Documents, word_features: WordFeatureCache, threshold: float) -> F32:
    """(n, K x D) sparsified composites of documents, as an encoder has them before projection."""
    parts = []
    for start in range(0, len(documents), _BATCH):
        batch = documents[start : start + _BATCH]
        shares, words = word_features.lookup([word for document in batch for word in document])
        parts.append(scdv.sparsify(scdv.composite_vectors(shares, words, list(map(len, batch))), threshold))
    return np.concatenate(parts)


def mean_word_vectors(documents: Documents, vocabulary: WordVectors) -> F32:
    """(n, D) unit means of the word vectors of each document."""
    sums = [vocabulary.vectors(document).sum(axis=0) for document in documents]
    return normalised(np.stack(sums))


def precision_at_10(vectors: F32, labels: Labels) -> float:
    """Mean share of the ten nearest neighbours by cosine that have the label of the query, itself excluded."""
    matches = 0.0
    for start in range(0, len(vectors), 1_000):
        scores = vectors[start : start + 1_000] @ vectors.T
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        nearest = np.argpartition(-scores, 10, axis=1)[:, :10]
        matches += float((labels[nearest] == labels[start : start + 1_000, None]).mean(axis=1).sum())
    return matches / len(vectors)
