"""The comparison of the SCDV paper (Mekala et al. 2017) on 20 Newsgroups, with our fastText vectors and our SCDV.

Whole documents (headers, quotes and signatures included), split by date. Word vectors, topics, idf and projection are
fitted on the training documents; a linear support vector machine (C = 1 unless tuned) is trained on each representation
and tested on the test documents. The paper reports 84.6 % for SCDV. The differences of its authors' code
(dheeraj7596/SCDV on GitHub) are tried: whole words, more epochs and a wider window; on top of these, one change at a
time and then all together: one covariance for all topics; unit word vectors; frequent words only; C tuned on a fifth
of the training documents. Not tried: their code also trains word vectors on the test documents, for 25 epochs, with
hierarchical softmax.

Takes about forty minutes on one core, of which twenty-five train word vectors on one thread. `--words DIR` keeps these
and reuses them the next time.

    python -m benchmarks.newsgroups [--data ../shared/data] [--words DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.mixture import GaussianMixture
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from benchmarks import texts
from benchmarks.meter import write
from benchmarks.texts import Documents, Labels, mean_word_vectors
from encoders.text import scdv
from encoders.text.tokens import Tokenizer
from encoders.text.word_vectors import SkipGramParameters, WordVectors, load_word_vectors, train_word_vectors
from lookalike.vectors import F32, normalised

SUBWORDS, WHOLE_WORDS = "subwords", "whole words, window 10, ten times"
# The 30,000 most frequent words occur at least three times each.
WORDS = {
    SUBWORDS: SkipGramParameters(dim=200, epochs=5, max_words=30_000, buckets=200_000),
    WHOLE_WORDS: SkipGramParameters(dim=200, epochs=10, window=10, max_words=30_000, buckets=1_000, subwords=(0, 0)),
}
PAPER = scdv.ScdvParameters(clusters=60, temperature=1.0)
SERVED = scdv.ScdvParameters()
DIMS = (1024, 512, 256)
SVM_CS = (0.3, 1.0, 3.0)
_MIN_COUNT = 20  # The authors' code keeps words that occur at least this often.
_BATCH = 500  # Documents: composites of 60 topics x 200 dimensions take 24 MB.
_SAMPLE_SIZE = 5_000  # Documents to fit threshold and projection on, as in encoders.text.train.

Encoded = tuple[Any, Any]  # Training and test documents: (n, d) arrays or sparse matrices.
Numbered = Sequence[npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How documents are made from word vectors. Default: our method, with the number of topics of the paper."""

    topics: scdv.ScdvParameters | None = PAPER  # None: the mean of word vectors weighted by idf.
    tied: bool = False  # One covariance matrix for all topics instead of a diagonal one for each.
    unit: bool = False  # Word vectors scaled to unit length; ours keep their length and are centred.
    frequent: bool = False  # Only words with at least _MIN_COUNT occurrences, without stop words.


SINGLE_CHANGES = {
    "one covariance for all topics": Variant(tied=True),
    "unit word vectors": Variant(unit=True),
    "frequent words": Variant(frequent=True),
}
ALL_CHANGES = Variant(tied=True, unit=True, frequent=True)


@dataclass(kw_only=True)
class Experiment:
    """Training and test documents as words, their labels, and the result rows so far."""

    documents: tuple[Documents, Documents]
    labels: tuple[Labels, Labels]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def evaluate(self, features: str, encoded: Encoded, *, tune: bool = False, **facts: str | float) -> None:
        """Train a classifier, test it, and add a result row."""
        began_s = time.process_time()
        c = self._tuned(encoded[0]) if tune else 1.0
        accuracy = _accuracy(c, encoded[0], self.labels[0], encoded[1], self.labels[1])
        took_s = round(time.process_time() - began_s)
        row = {"features": features, **facts, "dim": encoded[0].shape[1], "C": c, "accuracy": round(accuracy, 4)}
        self.rows.append(row)
        print(row, f"{took_s} s", flush=True)

    def _tuned(self, train: Any) -> float:
        """The best C on a fifth of the training documents, after training on the rest."""
        labels, order = self.labels[0], np.random.default_rng(0).permutation(len(self.labels[0]))
        validation, rest = np.split(order, [len(order) // 5])
        return max(SVM_CS, key=lambda c: _accuracy(c, train[rest], labels[rest], train[validation], labels[validation]))


def _accuracy(c: float, train: Any, train_labels: Labels, test: Any, test_labels: Labels) -> float:
    classifier = LinearSVC(C=c, dual="auto", random_state=0).fit(train, train_labels)
    return float((classifier.predict(test) == test_labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--words", type=Path, help="folder to keep trained word vectors in, and to reuse them from")
    options = parser.parse_args()
    tokenize = Tokenizer()
    splits = texts.newsgroups(options.data)
    train, test = ([tokenize(text) for text in split.texts] for split in splits)
    experiment = Experiment(documents=(train, test), labels=(splits[0].labels, splits[1].labels))
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as scratch:
        folder = options.words or Path(scratch)
        folder.mkdir(exist_ok=True)
        trained = {name: _train_or_load(train, recipe, folder / f"{name}.bin") for name, recipe in WORDS.items()}
        facts = {name: took for name, (_, took) in trained.items()}
        compare(experiment, {name: vocabulary for name, (vocabulary, _) in trained.items()})
    print(write("newsgroups", report(experiment, facts)))


def report(experiment: Experiment, trained: dict[str, Any]) -> dict[str, Any]:
    return {
        "documents": {"train": len(experiment.documents[0]), "test": len(experiment.documents[1])},
        "paper": {"SCDV": 0.846},
        "word_vectors": trained,
        "rows": experiment.rows,
        "caveats": "one seed; words that training did not keep are left out; threshold and projection learnt from "
        f"{_SAMPLE_SIZE:,} training documents; C is tuned among {SVM_CS} on a fifth of the training documents",
    }


def compare(experiment: Experiment, vocabularies: dict[str, WordVectors]) -> None:
    tfidf(experiment)
    name = "SCDV as in the paper"
    base = {kind: compose(experiment, vocabulary, Variant()) for kind, vocabulary in vocabularies.items()}
    for kind, vocabulary in vocabularies.items():
        experiment.evaluate("mean of word vectors", _mean_of_known_words(experiment, vocabulary), words=kind)
        experiment.evaluate(name, base[kind], words=kind)
    whole_word_vectors = vocabularies[WHOLE_WORDS]
    for change, variant in SINGLE_CHANGES.items():
        experiment.evaluate(name, compose(experiment, whole_word_vectors, variant), words=WHOLE_WORDS, change=change)
    experiment.evaluate(name, base[WHOLE_WORDS], tune=True, words=WHOLE_WORDS, change="C tuned")
    experiment.evaluate(
        name, compose(experiment, whole_word_vectors, ALL_CHANGES), tune=True, words=WHOLE_WORDS, change="all changes"
    )
    subword_vectors = vocabularies[SUBWORDS]
    experiment.evaluate(
        "idf-weighted mean of centred word vectors",
        compose(experiment, subword_vectors, Variant(topics=None)),
        words=SUBWORDS,
    )
    evaluate_projections(experiment, name, base[SUBWORDS])
    served = compose(experiment, subword_vectors, Variant(topics=SERVED))
    experiment.evaluate("SCDV as served", served, words=SUBWORDS)
    evaluate_projections(experiment, "SCDV as served", served)


def tfidf(experiment: Experiment) -> None:
    vectorizer = TfidfVectorizer(analyzer=lambda document: document, sublinear_tf=True)
    train = vectorizer.fit_transform(experiment.documents[0])
    encoded = (train, vectorizer.transform(experiment.documents[1]))
    for tune in (False, True):
        experiment.evaluate("TF-IDF", encoded, tune=tune)


def evaluate_projections(experiment: Experiment, name: str, encoded: Encoded) -> None:
    """Evaluate projections to fewer dimensions."""
    sample = _sample_rows(encoded[0].shape[0])
    projection = scdv.fit_projection(encoded[0][sample].toarray(), max(DIMS), seed=0)
    for dim in DIMS:
        train, test = (normalised(half @ projection[:, :dim]) for half in encoded)
        experiment.evaluate(f"{name}, projected", (train, test), words=SUBWORDS)


def compose(experiment: Experiment, vocabulary: WordVectors, variant: Variant) -> Encoded:
    """Sparse (n, topics x 200) documents."""
    kept = _select_words(experiment, vocabulary, variant)
    index_of = {word: at for at, word in enumerate(kept)}
    train, test = (
        [np.array([index_of[word] for word in document if word in index_of], dtype=np.int64) for document in half]
        for half in experiment.documents
    )
    vectors = vocabulary.vectors(kept)
    vectors = normalised(vectors) if variant.unit else vectors - scdv.mean_word_vector(vectors)
    shares = _shares(vectors, variant) * scdv.inverse_document_frequencies(train, len(kept))[:, None]

    def dense(documents: Numbered) -> F32:
        rows = np.concatenate(documents)
        return scdv.composite_vectors(shares[rows], vectors[rows], [*map(len, documents)])

    threshold = 0.0
    if variant.topics is not None:
        threshold = scdv.sparsity_threshold(
            dense([train[at] for at in _sample_rows(len(train))]), variant.topics.sparsity
        )
    return (
        _sparse(train, lambda part: scdv.sparsify(dense(part), threshold)),
        _sparse(test, lambda part: scdv.sparsify(dense(part), threshold)),
    )


def _select_words(experiment: Experiment, vocabulary: WordVectors, variant: Variant) -> list[str]:
    if not variant.frequent:
        return vocabulary.words
    counts = Counter(word for document in experiment.documents[0] for word in document)
    return [word for word in vocabulary.words if counts[word] >= _MIN_COUNT and word not in ENGLISH_STOP_WORDS]


def _shares(vectors: F32, variant: Variant) -> F32:
    """(n, topics): the topic probabilities of each word."""
    if variant.topics is None:
        return np.ones((len(vectors), 1), dtype=np.float32)
    if not variant.tied:
        return scdv.fit_topics(vectors, variant.topics, seed=0).probabilities(vectors)
    unit = normalised(vectors)
    mixture = GaussianMixture(variant.topics.clusters, covariance_type="tied", random_state=0, max_iter=50).fit(unit)
    shares: F32 = mixture.predict_proba(unit).astype(np.float32)
    return shares


def _mean_of_known_words(experiment: Experiment, vocabulary: WordVectors) -> Encoded:
    keep = set(vocabulary.words)
    train, test = ([[word for word in document if word in keep] for document in half] for half in experiment.documents)
    return mean_word_vectors(train, vocabulary), mean_word_vectors(test, vocabulary)


def _sample_rows(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).permutation(count)[:_SAMPLE_SIZE]


def _sparse(half: Numbered, dense: Callable[[Numbered], F32]) -> Any:
    return sparse.vstack([sparse.csr_array(dense(half[i : i + _BATCH])) for i in range(0, len(half), _BATCH)])


def _train_or_load(documents: Documents, recipe: SkipGramParameters, path: Path) -> tuple[WordVectors, dict[str, Any]]:
    metadata = path.with_suffix(".json")
    if not metadata.is_file():
        before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        train_word_vectors(documents, path, recipe)
        took_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s
        metadata.write_text(json.dumps({"train_cpu_s": round(took_s)}))
    return load_word_vectors(path), json.loads(metadata.read_text())


if __name__ == "__main__":
    main()
