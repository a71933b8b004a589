"""The comparison of the SCDV paper (Mekala et al. 2017) on 20 Newsgroups, with our fastText vectors and our SCDV.

Documents as they are (headers, quotes and signatures too), split by date. Word vectors, topics, idf and projection are
learnt from the training documents; a linear support vector machine (C = 1 throughout; the paper tunes it) is trained on
each representation and tested on the others. The paper reports 84.6 % for SCDV, with word2vec vectors of 200 dimensions
(window 10) and 60 topics.

Bound: about forty minutes on one core, thirty of them training of word vectors on one thread. `--words DIR` keeps those
and takes them from there the next time.

    python -m benchmarks.newsgroups [--data ../shared/data] [--words DIR] [--of subwords]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from benchmarks import texts
from benchmarks.meter import write
from benchmarks.texts import Documents, Labels, averaged, unprojected
from encoders.text import scdv, words
from encoders.text.model import Lexicon
from encoders.text.tokens import Tokenizer
from encoders.text.train import learnt
from lookalike.vectors import normalised

PAPER = scdv.Recipe(clusters=60, temperature=1.0)
SERVED = scdv.Recipe()
DIMS = (1024, 512, 256)
# 30,000 words are those that come three times, or more often.
WORDS = {
    "subwords": words.Recipe(dim=200, epochs=5, most_words=30_000, buckets=200_000),
    # As word2vec, and as in the paper: whole words, ten on either side.
    "whole words": words.Recipe(dim=200, epochs=10, window=10, most_words=30_000, buckets=1_000, subwords=(0, 0)),
}
_AT_ONCE = 1_000

Encoded = tuple[Any, Any]  # Of training and test documents: (n, d) arrays or sparse matrices.


@dataclass(kw_only=True)
class Trial:
    """Both halves of the documents as words, their groups, and the rows found so far."""

    documents: tuple[Documents, Documents]
    labels: tuple[Labels, Labels]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, name: str, encoded: Encoded, **facts: Any) -> None:
        """Train on the one half, test on the other, and keep the row."""
        began_s = time.process_time()
        classifier = LinearSVC(C=1.0, dual="auto", random_state=0).fit(encoded[0], self.labels[0])
        right = float((classifier.predict(encoded[1]) == self.labels[1]).mean())
        fit_s = round(time.process_time() - began_s, 1)
        self.rows.append({"features": name, **facts, "dim": encoded[0].shape[1], "accuracy": round(right, 4)})
        print(self.rows[-1], f"{fit_s} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--words", type=Path, help="keep trained word vectors here, and use those that are here")
    parser.add_argument(
        "--of", nargs="+", choices=WORDS, default=list(WORDS), help="kinds of word vectors (default all)"
    )
    options = parser.parse_args()
    tokenize = Tokenizer()
    splits = texts.newsgroups(options.data)
    train, test = ([tokenize(text) for text in split.texts] for split in splits)
    trial = Trial(documents=(train, test), labels=(splits[0].labels, splits[1].labels))
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as scratch:
        folder = options.words or Path(scratch)
        folder.mkdir(exist_ok=True)
        tfidf(trial)
        trained = {name: of_words(trial, name, WORDS[name], folder) for name in options.of}
    print(write("newsgroups", report(trial, trained)))


def report(trial: Trial, trained: dict[str, Any]) -> dict[str, Any]:
    return {
        "documents": {"train": len(trial.documents[0]), "test": len(trial.documents[1])},
        "paper": {"SCDV": 0.846},
        "word_vectors": trained,
        "rows": trial.rows,
        "caveats": "one seed; C = 1 throughout; words that training did not keep are left out unless the row says "
        "otherwise; projection learnt from 5,000 training documents",
    }


def tfidf(trial: Trial) -> None:
    vectorizer = TfidfVectorizer(analyzer=lambda document: document, sublinear_tf=True)
    train = vectorizer.fit_transform(trial.documents[0])
    trial.judge("TF-IDF", (train, vectorizer.transform(trial.documents[1])))


def of_words(trial: Trial, name: str, recipe: words.Recipe, folder: Path) -> dict[str, Any]:
    """All representations by one set of word vectors; returns what its training took."""
    vocabulary, facts = _trained(trial.documents[0], recipe, folder / f"{name}.bin")
    keep = set(vocabulary.known)
    known = tuple([[word for word in document if word in keep] for document in half] for half in trial.documents)
    trial.judge("mean of word vectors", _both(known, lambda half: averaged(half, vocabulary)), words=name)
    arrays, said = learnt(known[0], vocabulary, kind="fasttext", dim=1, seed=0)
    lexicon = Lexicon({**said, "kind": "fasttext"}, vocabulary, arrays)
    weighted = _both(known, lambda half: unprojected(half, lexicon, 0.0))
    trial.judge("mean, by idf, from the centre", weighted, words=name)
    for method, how in (("SCDV as in the paper", PAPER), ("SCDV as served", SERVED)):
        _of_topics(trial, known, vocabulary, how, {"method": method, "words": name, "K": how.clusters})
    return facts


def _of_topics(
    trial: Trial, known: Sequence[Documents], vocabulary: words.Words, recipe: scdv.Recipe, facts: dict[str, Any]
) -> None:
    arrays, said = learnt(known[0], vocabulary, kind="scdv", dim=max(DIMS), seed=0, recipe=recipe)
    lexicon = Lexicon({**said, "kind": "scdv"}, vocabulary, arrays)

    def sparsified(half: Documents) -> Any:
        parts = (half[i : i + _AT_ONCE] for i in range(0, len(half), _AT_ONCE))
        return sparse.vstack([sparse.csr_array(unprojected(part, lexicon, said["threshold"])) for part in parts])

    method, facts = facts["method"], {key: value for key, value in facts.items() if key != "method"}
    whole = _both(known, sparsified)
    facts["temperature"] = recipe.temperature
    trial.judge(method, whole, **facts, nonzero=round(float(whole[0].nnz / np.prod(whole[0].shape)), 3))
    for dim in DIMS:
        projection = arrays["projection"][:, :dim]
        trial.judge(f"{method}, projected", _both(whole, lambda half: normalised(half @ projection)), **facts)  # noqa: B023  # called at once
    unseen = [sparsified(half) @ arrays["projection"][:, :dim] for half in trial.documents]
    trial.judge(f"{method}, projected, rare words through subwords", (*map(normalised, unseen),), **facts)  # type: ignore[arg-type]  # two


def _both(halves: Sequence[Any], encode: Callable[[Any], Any]) -> Encoded:
    return encode(halves[0]), encode(halves[1])


def _trained(documents: Documents, recipe: words.Recipe, path: Path) -> tuple[words.Words, dict[str, Any]]:
    note = path.with_suffix(".json")
    if not note.is_file():
        began_s = time.monotonic()
        words.train(documents, path, recipe)
        note.write_text(json.dumps({"train_wall_s": round(time.monotonic() - began_s)}))
    return words.load(path), json.loads(note.read_text())


if __name__ == "__main__":
    main()
