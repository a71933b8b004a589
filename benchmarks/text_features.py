"""What text vectors keep of topic and of identity, on real titles: hybrid, SCDV and TF-IDF.

precision@10 by category on fashion titles (article type), 20,000 names (top category) and newsgroups; on offers,
R-precision of the same product (as many neighbours as the group has others), and whether the nearest is one. Encoders
are trained on the titles that they are measured on; the weight of a hybrid encoder is chosen by the labels of four
fifths of them, and the queries are the other fifth, among all titles. On offers it is chosen three times: without
labels, with the domain as category, and with groups besides. CPU per title: of one thread, one at a time and in
batches, medians of rounds.

    python -m benchmarks.text_features [--data ../shared/data] [--sets offers fashion flipkart newsgroups]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from benchmarks import texts
from benchmarks.meter import RESULTS, measurement_context, write
from encoders.quality import ScoreQueries, identity_metrics, inner_products, label_codes, ranked_matches
from encoders.splits import Split, splits_of
from encoders.text import hybrid, lexical
from encoders.text import model as text_model
from encoders.text.hybrid import LabelledTitles
from encoders.text.lexical import LENGTHS
from encoders.text.model import TextModel
from encoders.text.tokens import Tokenizer, clean_text
from encoders.text.train import train
from lookalike.vectors import F32, I64

BATCHES = (1, 16, 64)
TIMED = 1_024
MAX_QUERIES = 4_000

CAVEATS = (
    "encoders learn from the titles that they are measured on, as in production; one seed; TF-IDF vectors are not "
    "reduced; newsgroups are whole messages, whose lexical vectors mix thousands of n-grams; the machine is shared: "
    "CPU time, not wall time"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS), help="others keep their last figures")
    options = parser.parse_args()
    path = RESULTS / "text_features.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    results["caveats"] = CAVEATS
    with threadpool_limits(1):
        for name in options.sets:
            results[name] = {"measured": measurement_context(), **SETS[name](options.data)}
            print(
                name,
                json.dumps(results[name], indent=1),
                write("text_features", {**results, **measurement_context()}),
                flush=True,
            )


def _offers(data: Path) -> dict[str, Any]:
    with gzip.open(data / "offers" / "offers.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    titles, groups = [row["title"] for row in rows], [f"{row['domain']}/{row['group']}" for row in rows]
    ids, domains, nothing = [row["id"] for row in rows], [row["domain"] for row in rows], [""] * len(rows)
    codes = label_codes(groups)
    queries = np.flatnonzero(np.bincount(codes)[codes] > 1)
    labels = {"no labels": (nothing, nothing), "categories": (domains, nothing), "groups": (domains, groups)}
    figures: dict[str, Any] = {}
    for name, matrix in _tfidf(titles).items():
        figures[name] = _identity(matrix, queries, codes)
    topics, vectors = _train_topics(titles)
    figures["scdv"] = _identity(vectors, queries, codes)
    for name, (categories, stated) in labels.items():
        labelled = LabelledTitles(ids=ids, titles=titles, categories=categories, groups=stated)
        model, hybrid_vectors = _hybrid(labelled, topics, vectors)
        figures[f"hybrid, {name}"] = {**_identity(hybrid_vectors, queries, codes), "chosen": _chosen(model)}
    return {
        "titles": len(titles),
        "queries": len(queries),
        "identity": figures,
        "ngrams": len(lexical.fit_idf(titles).keys),
        "cpu_us_per_title": {"scdv": _cpu_us(topics, titles[:TIMED]), "hybrid": _cpu_us(model, titles[:TIMED])},
    }


def _categories(dataset: texts.Texts) -> dict[str, Any]:
    titles, labels = dataset.texts, [str(label) for label in dataset.labels]
    ids, nothing = [str(i) for i in range(len(titles))], [""] * len(titles)
    codes = label_codes(labels)
    held_out = np.flatnonzero(splits_of(ids) == Split.TEST)[:MAX_QUERIES]
    figures: dict[str, Any] = {}
    for name, matrix in _tfidf(titles).items():
        figures[name] = _precision_at_10(matrix, held_out, codes)
    topics, vectors = _train_topics(titles)
    figures["scdv"] = _precision_at_10(vectors, held_out, codes)
    chosen = {}
    for name, categories in (("hybrid, no labels", nothing), ("hybrid", labels)):
        labelled = LabelledTitles(ids=ids, titles=titles, categories=categories, groups=nothing)
        model, hybrid_vectors = _hybrid(labelled, topics, vectors)
        figures[name] = _precision_at_10(hybrid_vectors, held_out, codes)
        chosen[name] = _chosen(model)
    return {
        "titles": len(titles),
        "queries": len(held_out),
        "precision_at_10": figures,
        "chosen": chosen,
        "ngrams": len(lexical.fit_idf(titles).keys),
        "cpu_us_per_title": {"scdv": _cpu_us(topics, titles[:TIMED]), "hybrid": _cpu_us(model, titles[:TIMED])},
    }


def _newsgroups(data: Path) -> dict[str, Any]:
    train_set, test_set = texts.newsgroups(data)
    labels = np.concatenate([train_set.labels, test_set.labels])
    return _categories(texts.Texts(texts=train_set.texts + test_set.texts, labels=labels))


SETS = {
    "offers": _offers,
    "fashion": lambda data: _categories(texts.fashion(data)),
    "flipkart": lambda data: _categories(texts.flipkart(data)),
    "newsgroups": _newsgroups,
}


def _train_topics(titles: Sequence[str]) -> tuple[TextModel, F32]:
    """An SCDV encoder of these titles, which is the topic part of a hybrid one, and their vectors."""
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        train(titles, Path(folder) / "scdv", kind="scdv")
        model = text_model.load(Path(folder) / "scdv")
    return model, np.concatenate([model.encode(titles[i : i + TIMED]) for i in range(0, len(titles), TIMED)])


def _hybrid(labelled: LabelledTitles, topics: TextModel, vectors: F32) -> tuple[TextModel, F32]:
    """The hybrid encoder that training would give, and the vectors of all titles."""
    idf = lexical.fit_idf([*map(topics.canonical, labelled.titles)])

    def encode_lexical(titles: Sequence[str], dim: int) -> F32:
        return lexical.encode([*map(topics.canonical, titles)], idf, dim)

    choice = hybrid.choose(labelled, topics.encode, encode_lexical, 0)
    manifest = {
        "kind": "hybrid",
        "fingerprint": "",
        "dim": topics.dim + choice.lexical_dim,
        "threshold": topics.threshold,
        "topic_weight": choice.topic_weight,
        "lexical_dim": choice.lexical_dim,
    }
    model = TextModel(manifest, topics.word_features, topics.projection, idf, synonyms=topics.synonyms)
    spelling = encode_lexical(labelled.titles, choice.lexical_dim)
    return model, hybrid.side_by_side(vectors, spelling, choice.topic_weight)


def _chosen(model: TextModel) -> dict[str, Any]:
    return {"topic_weight": model.topic_weight, "lexical_dim": model.lexical_dim}


def _tfidf(titles: Sequence[str]) -> dict[str, Any]:
    """TF-IDF of the tokenizer's words, and of the characters of cleaned titles, across words and within them."""
    shortest, longest = min(LENGTHS), max(LENGTHS)
    vectorizers = {"TF-IDF, words": TfidfVectorizer(analyzer=Tokenizer(), dtype=np.float32)}
    for name, analyzer in (("characters", "char"), ("characters within words", "char_wb")):
        vectorizers[f"TF-IDF, {name}"] = TfidfVectorizer(
            analyzer=analyzer, ngram_range=(shortest, longest), preprocessor=clean_text, dtype=np.float32
        )
    return {name: vectorizer.fit_transform(titles) for name, vectorizer in vectorizers.items()}


def _products(vectors: Any, queries: I64) -> ScoreQueries:
    """Cosine similarities of the queries to all titles, of dense or sparse unit vectors."""
    if isinstance(vectors, np.ndarray):
        return inner_products(vectors[queries], vectors)
    return lambda numbers: np.asarray((vectors[queries[numbers]] @ vectors.T).toarray())


def _identity(vectors: Any, queries: I64, codes: I64) -> dict[str, float]:
    metrics = identity_metrics(_products(vectors, queries), codes[queries], codes, own_rows=queries)
    return {name: round(float(values.mean()), 4) for name, values in metrics._asdict().items()}


def _precision_at_10(vectors: Any, queries: I64, codes: I64) -> float:
    matches = ranked_matches(_products(vectors, queries), codes[queries], codes, own_rows=queries, depth=10)
    return round(float(matches.mean()), 4)


def _cpu_us(model: TextModel, titles: Sequence[str], rounds: int = 5) -> dict[str, float]:
    """CPU microseconds per title by batch size, with words cached."""
    model.encode(titles)
    took: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        for batch, seconds in took.items():
            began_s = time.process_time()
            for start in range(0, len(titles), batch):
                model.encode(titles[start : start + batch])
            seconds.append(time.process_time() - began_s)
    return {str(batch): round(float(np.median(seconds)) / len(titles) * 1e6, 1) for batch, seconds in took.items()}


if __name__ == "__main__":
    main()
