"""The comparison of the SCDV paper (Mekala et al. 2017) on 20 Newsgroups, with our fastText vectors and our SCDV.

Documents as they are (headers, quotes and signatures too), split by date. Word vectors, topics, idf and projection are
learnt from the training documents; a linear support vector machine (C = 1 unless tuned) is trained on each
representation and tested on the others. The paper reports 84.6 % for SCDV. What its authors' code (dheeraj7596/SCDV on
GitHub) does otherwise is tried: whole words, read more often in a wider window; from there, one thing at a time and
then together, one covariance for all topics; word vectors of unit length; frequent words alone; C chosen on a fifth of
the training documents. Theirs also learns words from the test documents, reads them 25 times, and with hierarchical
softmax: that is not tried.

Bound: about forty minutes on one core, twenty-five of them training of word vectors on one thread. `--words DIR` keeps
those and takes them from there the next time.

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
from benchmarks.texts import Documents, Labels, averaged
from encoders.text import scdv
from encoders.text.tokens import Tokenizer
from encoders.text.word_vectors import SkipGramParameters, WordVectors, load_word_vectors, train_word_vectors
from lookalike.vectors import F32, normalised

OURS, THEIRS = "subwords", "whole words, window 10, ten times"
# 30,000 words are those that come three times, or more often.
WORDS = {
    OURS: SkipGramParameters(dim=200, epochs=5, max_words=30_000, buckets=200_000),
    THEIRS: SkipGramParameters(dim=200, epochs=10, window=10, max_words=30_000, buckets=1_000, subwords=(0, 0)),
}
PAPER = scdv.ScdvParameters(clusters=60, temperature=1.0)
SERVED = scdv.ScdvParameters()
DIMS = (1024, 512, 256)
CS = (0.3, 1.0, 3.0)
_OFTEN = 20  # Times that the words of the authors' code come, or more.
_AT_ONCE = 500  # Documents: composites of 60 topics x 200 dimensions take 24 MB.
_SAMPLE = 5_000  # Documents that threshold and projection are learnt from, as in encoders.text.train.

Encoded = tuple[Any, Any]  # Of training and test documents: (n, d) arrays or sparse matrices.
Numbered = Sequence[npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """Of making documents from word vectors: ours, with the paper's topics, unless it says otherwise."""

    topics: scdv.ScdvParameters | None = PAPER  # None: the mean of the words by idf.
    tied: bool = False  # One covariance for all topics, in place of a diagonal one for each.
    unit: bool = False  # Word vectors of unit length as they are; ours keep their length, and start at their centre.
    frequent: bool = False  # Only words that come _OFTEN, and no stop words.


ONE_AT_A_TIME = {
    "one covariance for all topics": Way(tied=True),
    "unit word vectors": Way(unit=True),
    "frequent words": Way(frequent=True),
}
ALL_OF_IT = Way(tied=True, unit=True, frequent=True)


@dataclass(kw_only=True)
class Trial:
    """Both halves of the documents as words, their groups, and the rows found so far."""

    documents: tuple[Documents, Documents]
    labels: tuple[Labels, Labels]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, features: str, encoded: Encoded, *, tune: bool = False, **facts: str | float) -> None:
        """Train on the one half, test on the other, and keep the row."""
        began_s = time.process_time()
        c = self._tuned(encoded[0]) if tune else 1.0
        right = _accuracy(c, encoded[0], self.labels[0], encoded[1], self.labels[1])
        took_s = round(time.process_time() - began_s)
        row = {"features": features, **facts, "dim": encoded[0].shape[1], "C": c, "accuracy": round(right, 4)}
        self.rows.append(row)
        print(row, f"{took_s} s", flush=True)

    def _tuned(self, train: Any) -> float:
        """The C that is best on a fifth of the training documents, learnt from the rest."""
        labels, order = self.labels[0], np.random.default_rng(0).permutation(len(self.labels[0]))
        held, rest = np.split(order, [len(order) // 5])
        return max(CS, key=lambda c: _accuracy(c, train[rest], labels[rest], train[held], labels[held]))


def _accuracy(c: float, train: Any, known: Labels, test: Any, asked: Labels) -> float:
    classifier = LinearSVC(C=c, dual="auto", random_state=0).fit(train, known)
    return float((classifier.predict(test) == asked).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--words", type=Path, help="keep trained word vectors here, and use those that are here")
    options = parser.parse_args()
    tokenize = Tokenizer()
    splits = texts.newsgroups(options.data)
    train, test = ([tokenize(text) for text in split.texts] for split in splits)
    trial = Trial(documents=(train, test), labels=(splits[0].labels, splits[1].labels))
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as scratch:
        folder = options.words or Path(scratch)
        folder.mkdir(exist_ok=True)
        trained = {name: _trained(train, recipe, folder / f"{name}.bin") for name, recipe in WORDS.items()}
        facts = {name: took for name, (_, took) in trained.items()}
        compare(trial, {name: vocabulary for name, (vocabulary, _) in trained.items()})
    print(write("newsgroups", report(trial, facts)))


def report(trial: Trial, trained: dict[str, Any]) -> dict[str, Any]:
    return {
        "documents": {"train": len(trial.documents[0]), "test": len(trial.documents[1])},
        "paper": {"SCDV": 0.846},
        "word_vectors": trained,
        "rows": trial.rows,
        "caveats": "one seed; words that training did not keep are left out; threshold and projection learnt from "
        f"{_SAMPLE:,} training documents; C is tuned among {CS} on a fifth of the training documents",
    }


def compare(trial: Trial, vocabularies: dict[str, WordVectors]) -> None:
    tfidf(trial)
    name = "SCDV as in the paper"
    base = {kind: composed(trial, vocabulary, Way()) for kind, vocabulary in vocabularies.items()}
    for kind, vocabulary in vocabularies.items():
        trial.judge("mean of word vectors", _averaged(trial, vocabulary), words=kind)
        trial.judge(name, base[kind], words=kind)
    theirs = vocabularies[THEIRS]
    for otherwise, way in ONE_AT_A_TIME.items():
        trial.judge(name, composed(trial, theirs, way), words=THEIRS, otherwise=otherwise)
    trial.judge(name, base[THEIRS], tune=True, words=THEIRS, otherwise="C tuned")
    trial.judge(name, composed(trial, theirs, ALL_OF_IT), tune=True, words=THEIRS, otherwise="all of it")
    ours = vocabularies[OURS]
    trial.judge("mean, by idf, from the centre", composed(trial, ours, Way(topics=None)), words=OURS)
    projected(trial, name, base[OURS])
    served = composed(trial, ours, Way(topics=SERVED))
    trial.judge("SCDV as served", served, words=OURS)
    projected(trial, "SCDV as served", served)


def tfidf(trial: Trial) -> None:
    vectorizer = TfidfVectorizer(analyzer=lambda document: document, sublinear_tf=True)
    train = vectorizer.fit_transform(trial.documents[0])
    encoded = (train, vectorizer.transform(trial.documents[1]))
    for tune in (False, True):
        trial.judge("TF-IDF", encoded, tune=tune)


def projected(trial: Trial, name: str, whole: Encoded) -> None:
    """What fewer dimensions leave."""
    sample = _sampled(whole[0].shape[0])
    projection = scdv.fit_projection(whole[0][sample].toarray(), max(DIMS), seed=0)
    for dim in DIMS:
        train, test = (normalised(half @ projection[:, :dim]) for half in whole)
        trial.judge(f"{name}, projected", (train, test), words=OURS)


def composed(trial: Trial, vocabulary: WordVectors, way: Way) -> Encoded:
    """Sparse (n, topics x 200) documents."""
    kept = _kept(trial, vocabulary, way)
    place = {word: at for at, word in enumerate(kept)}
    train, test = (
        [np.array([place[word] for word in document if word in place], dtype=np.int64) for document in half]
        for half in trial.documents
    )
    vectors = vocabulary.vectors(kept)
    vectors = normalised(vectors) if way.unit else vectors - scdv.mean_word_vector(vectors)
    shares = _shares(vectors, way) * scdv.inverse_document_frequencies(train, len(kept))[:, None]

    def dense(documents: Numbered) -> F32:
        rows = np.concatenate(documents)
        return scdv.composite_vectors(shares[rows], vectors[rows], [*map(len, documents)])

    threshold = 0.0
    if way.topics is not None:
        threshold = scdv.sparsity_threshold(dense([train[at] for at in _sampled(len(train))]), way.topics.sparsity)
    return (
        _sparse(train, lambda part: scdv.sparsify(dense(part), threshold)),
        _sparse(test, lambda part: scdv.sparsify(dense(part), threshold)),
    )


def _kept(trial: Trial, vocabulary: WordVectors, way: Way) -> list[str]:
    if not way.frequent:
        return vocabulary.words
    counts = Counter(word for document in trial.documents[0] for word in document)
    return [word for word in vocabulary.words if counts[word] >= _OFTEN and word not in ENGLISH_STOP_WORDS]


def _shares(vectors: F32, way: Way) -> F32:
    """(n, topics): how much of each word is of each."""
    if way.topics is None:
        return np.ones((len(vectors), 1), dtype=np.float32)
    if not way.tied:
        return scdv.fit_topics(vectors, way.topics, seed=0).probabilities(vectors)
    unit = normalised(vectors)
    mixture = GaussianMixture(way.topics.clusters, covariance_type="tied", random_state=0, max_iter=50).fit(unit)
    shares: F32 = mixture.predict_proba(unit).astype(np.float32)
    return shares


def _averaged(trial: Trial, vocabulary: WordVectors) -> Encoded:
    keep = set(vocabulary.words)
    train, test = ([[word for word in document if word in keep] for document in half] for half in trial.documents)
    return averaged(train, vocabulary), averaged(test, vocabulary)


def _sampled(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).permutation(count)[:_SAMPLE]


def _sparse(half: Numbered, dense: Callable[[Numbered], F32]) -> Any:
    return sparse.vstack([sparse.csr_array(dense(half[i : i + _AT_ONCE])) for i in range(0, len(half), _AT_ONCE)])


def _trained(documents: Documents, recipe: SkipGramParameters, path: Path) -> tuple[WordVectors, dict[str, Any]]:
    note = path.with_suffix(".json")
    if not note.is_file():
        before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        train_word_vectors(documents, path, recipe)
        took_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s
        note.write_text(json.dumps({"train_cpu_s": round(took_s)}))
    return load_word_vectors(path), json.loads(note.read_text())


if __name__ == "__main__":
    main()
