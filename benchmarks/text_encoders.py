"""Text encoders on real titles: precision@10 with what the projection loses, and CPU per title.

Titles of fashion products by article type, names of 20,000 products by top category. Encoders are trained on the same
titles; TF-IDF is the baseline. CPU is that of this process (one BLAS thread), one title at a time and in batches, also
for the Japanese titles of the demo catalogue: with cached word features, by an encoder that was just loaded, and with
unknown words. Batch sizes are measured in turn, `--rounds` times; medians. Encoding documents one by one is measured
beside it.

    python -m benchmarks.text_encoders [--data ../shared/data] [--titles 10000] [--rounds 5] [--cpu-only]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from benchmarks import texts
from benchmarks.meter import RESULTS, measurement_context, write
from benchmarks.texts import Labels, Texts, composite_vectors, mean_word_vectors, precision_at_10
from encoders.text import model as text
from encoders.text import scdv
from encoders.text.model import FASTTEXT, WordFeatureCache
from encoders.text.tokens import Tokenizer
from encoders.text.train import fit, train
from encoders.text.word_vectors import load_word_vectors
from lookalike.vectors import F32, normalised

DIMS = (1024, 512, 256, 128)
BATCHES = (1, 16, 64, 256)
TIMED = 2_048
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--titles", type=int, default=10_000, help="of each set at most (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-only", action="store_true", help="keep the precision of the last run")
    options = parser.parse_args()
    quality: dict[str, Any] = {"measured": measurement_context()}
    if options.cpu_only:
        quality = json.loads((RESULTS / "text_encoders.json").read_text("utf-8"))["precision_at_10"]
    cpu, count = {}, {}
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        sets = {"fashion": texts.fashion(options.data), "flipkart": texts.flipkart(options.data)}
        for name, all_texts in {**sets, "drawn, Japanese": texts.demo_sample(Path(folder))}.items():
            dataset = texts.sample(all_texts, options.titles)
            artifact = Path(folder) / name
            train(dataset.texts, artifact)
            cpu[name] = measure_cpu(artifact, dataset.texts[:TIMED], options.rounds)
            count[name] = count_words(dataset.texts[:TIMED])
            print(name, count[name], cpu[name], flush=True)
            if name in sets and not options.cpu_only:
                quality[name] = {
                    "titles": len(dataset.texts),
                    "labels": len(set(dataset.labels)),
                    **measure_precision(dataset, artifact),
                }
                print(name, quality[name], flush=True)
    result = {"precision_at_10": quality, "cpu_us_per_title": cpu, "words_per_title": count, "caveats": CAVEATS}
    print(write("text_encoders", result))


CAVEATS = (
    "encoders learn from the titles that they are measured on, as in production, without labels; one seed; "
    "leave-one-out; the CPU is of SCDV as served; drawn titles have few different words, unknown Japanese ones fall "
    "into more words than real ones; the machine is shared: CPU time, not wall time"
)


def measure_precision(dataset: Texts, artifact: Path) -> dict[str, float]:
    """Precision@10 of every representation by the artifact's own word vectors."""
    tokenize = Tokenizer()
    documents = [tokenize(each) for each in dataset.texts]
    vocabulary = load_word_vectors(artifact / FASTTEXT)
    tfidf = TfidfVectorizer(analyzer=lambda document: document).fit_transform(documents)
    precision = {"TF-IDF": _sparse_precision_at_10(tfidf, dataset.labels)}
    precision["mean of word vectors"] = precision_at_10(mean_word_vectors(documents, vocabulary), dataset.labels)
    arrays, config = fit(documents, vocabulary, kind="fasttext", dim=1, seed=SEED)
    word_features = WordFeatureCache({**config, "kind": "fasttext"}, vocabulary, arrays)
    precision["fasttext"] = precision_at_10(composite_vectors(documents, word_features, 0.0), dataset.labels)
    for clusters in (scdv.ScdvParameters().clusters, 60):
        scdv_parameters = scdv.ScdvParameters(clusters=clusters)
        arrays, config = fit(
            documents, vocabulary, kind="scdv", dim=max(DIMS), seed=SEED, scdv_parameters=scdv_parameters
        )
        word_features = WordFeatureCache({**config, "kind": "scdv"}, vocabulary, arrays)
        composites = composite_vectors(documents, word_features, config["threshold"])
        precision[f"scdv {clusters} topics, {composites.shape[1]} unprojected"] = precision_at_10(
            composites, dataset.labels
        )
        for dim in DIMS:
            projected = normalised(composites @ arrays["projection"][:, :dim])
            precision[f"scdv {clusters} topics, {dim}"] = precision_at_10(projected, dataset.labels)
    precision["scdv as served"] = precision_at_10(text.load(artifact).encode(dataset.texts), dataset.labels)
    return {name: round(value, 4) for name, value in precision.items()}


def _sparse_precision_at_10(vectors: Any, labels: Labels) -> float:
    matches = 0.0
    for start in range(0, len(labels), 1_000):
        scores = (vectors[start : start + 1_000] @ vectors.T).toarray()
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        nearest = np.argpartition(-scores, 10, axis=1)[:, :10]
        matches += float((labels[nearest] == labels[start : start + 1_000, None]).mean(axis=1).sum())
    return matches / len(labels)


def measure_cpu(artifact: Path, titles: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """CPU microseconds per title: tokenizing, and encoding with words cached, not cached and unknown."""
    model, tokenize, rng = text.load(artifact), Tokenizer(), np.random.default_rng(SEED)
    model.encode(titles)
    methods: dict[str, Callable[[Sequence[str]], object]] = {
        "words": lambda batch: [tokenize(each) for each in batch],
        "encode": model.encode,
        "encode, documents one by one": encode_one_by_one(model, tokenize, titles),
    }
    took: dict[str, dict[int, list[float]]] = {}
    for _ in range(rounds):
        for batch in BATCHES:
            unknown_words = texts.with_unknown_words(titles, rng)
            turns = [(name, method, titles) for name, method in methods.items()]
            turns.append(("encode, just loaded", text.load(artifact).encode, titles))
            turns.append(("encode, words that nobody knows", text.load(artifact).encode, unknown_words))
            for name, method, timed_titles in turns:
                took.setdefault(name, {}).setdefault(batch, []).append(_cpu_us(method, timed_titles, batch))
    return {
        name: {str(batch): round(float(np.median(us)), 1) for batch, us in by_batch.items()}
        for name, by_batch in took.items()
    }


def count_words(titles: Sequence[str]) -> dict[str, float]:
    """Mean number of words per title, of real titles and of titles with unknown words."""
    tokenize = Tokenizer()
    title_sets = {"known": titles, "that nobody knows": texts.with_unknown_words(titles, np.random.default_rng(SEED))}
    return {
        name: round(float(np.mean([len(tokenize(title)) for title in some_titles])), 1)
        for name, some_titles in title_sets.items()
    }


def encode_one_by_one(
    model: text.TextModel, tokenize: Tokenizer, titles: Sequence[str]
) -> Callable[[Sequence[str]], F32]:
    """The former method, for comparison: loop over documents to stack cached word features, then project all."""
    projection = model.projection
    if projection is None:
        raise ValueError("not an SCDV encoder")
    features = {word: model.word_features.lookup([word]) for title in titles for word in tokenize(title)}
    rows = {word: (shares[0], vectors[0]) for word, (shares, vectors) in features.items()}

    def document(title: str) -> F32:
        shares, vectors = (np.stack(parts) for parts in zip(*map(rows.__getitem__, tokenize(title)), strict=True))
        composite: F32 = normalised((shares.T @ vectors).reshape(1, -1))[0]
        return composite

    def encode(batch: Sequence[str]) -> F32:
        documents = scdv.sparsify(np.stack([document(title) for title in batch]), model.threshold)
        return normalised(documents @ projection)

    return encode


def _cpu_us(method: Callable[[Sequence[str]], object], titles: Sequence[str], batch: int) -> float:
    began_s = time.process_time()
    for start in range(0, len(titles), batch):
        method(titles[start : start + batch])
    return (time.process_time() - began_s) / len(titles) * 1e6


if __name__ == "__main__":
    main()
