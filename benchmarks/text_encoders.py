"""Text encoders on real titles: precision@10 with what the projection loses, and CPU per title.

Titles of fashion products by article type, names of 20,000 products by top category. Encoders are trained on the same
titles; TF-IDF is the baseline. CPU is that of this process (one BLAS thread), of titles that come one at a time and in
batches, once their words are known; sizes are measured in turn, `--rounds` times, medians. Documents computed
one by one are measured in the same turns.

    python -m benchmarks.text_encoders [--data ../shared/data] [--titles 10000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from benchmarks import texts
from benchmarks.meter import write
from benchmarks.texts import Labels, Texts, averaged, precision_at_10, unprojected
from encoders.text import model as text
from encoders.text import scdv, words
from encoders.text.model import FASTTEXT, Lexicon
from encoders.text.tokens import Tokenizer
from encoders.text.train import learnt, train
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
    options = parser.parse_args()
    sets = {"fashion": texts.fashion(options.data), "flipkart": texts.flipkart(options.data)}
    quality, cpu = {}, {}
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        for name, whole in sets.items():
            of = texts.sample(whole, options.titles)
            artifact = Path(folder) / name
            train(of.texts, artifact)
            cpu[name] = timed(text.load(artifact), of.texts[:TIMED], options.rounds)
            print(name, cpu[name], flush=True)
            quality[name] = {"titles": len(of.texts), "labels": len(set(of.labels)), **judged(of, artifact)}
            print(name, quality[name], flush=True)
    print(write("text_encoders", {"precision_at_10": quality, "cpu_us_per_title": cpu, "caveats": CAVEATS}))


CAVEATS = (
    "encoders learn from the titles that they are judged on, as in production, without labels; one seed; "
    "leave-one-out; the CPU is of SCDV as served, words known; the machine is shared: CPU time, not wall time"
)


def judged(of: Texts, artifact: Path) -> dict[str, float]:
    """Precision@10 of every representation by the artifact's own word vectors."""
    tokenize = Tokenizer()
    documents = [tokenize(each) for each in of.texts]
    vocabulary = words.load(artifact / FASTTEXT)
    tfidf = TfidfVectorizer(analyzer=lambda document: document).fit_transform(documents)
    found = {"TF-IDF": _sparse_precision_at_10(tfidf, of.labels)}
    found["mean of word vectors"] = precision_at_10(averaged(documents, vocabulary), of.labels)
    arrays, said = learnt(documents, vocabulary, kind="fasttext", dim=1, seed=SEED)
    lexicon = Lexicon({**said, "kind": "fasttext"}, vocabulary, arrays)
    found["fasttext"] = precision_at_10(unprojected(documents, lexicon, 0.0), of.labels)
    for clusters in (scdv.Recipe().clusters, 60):
        recipe = scdv.Recipe(clusters=clusters)
        arrays, said = learnt(documents, vocabulary, kind="scdv", dim=max(DIMS), seed=SEED, recipe=recipe)
        lexicon = Lexicon({**said, "kind": "scdv"}, vocabulary, arrays)
        whole = unprojected(documents, lexicon, said["threshold"])
        found[f"scdv {clusters} topics, {whole.shape[1]} unprojected"] = precision_at_10(whole, of.labels)
        for dim in DIMS:
            projected = normalised(whole @ arrays["projection"][:, :dim])
            found[f"scdv {clusters} topics, {dim}"] = precision_at_10(projected, of.labels)
    found["scdv as served"] = precision_at_10(text.load(artifact).encode(of.texts), of.labels)
    return {name: round(value, 4) for name, value in found.items()}


def _sparse_precision_at_10(vectors: Any, labels: Labels) -> float:
    right = 0.0
    for start in range(0, len(labels), 1_000):
        scores = (vectors[start : start + 1_000] @ vectors.T).toarray()
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        nearest = np.argpartition(-scores, 10, axis=1)[:, :10]
        right += float((labels[nearest] == labels[start : start + 1_000, None]).mean(axis=1).sum())
    return right / len(labels)


def timed(model: text.TextModel, titles: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU per title: cutting into words, the whole, and the whole with documents one by one."""
    model.encode(titles)
    tokenize = Tokenizer()
    ways: dict[str, Callable[[Sequence[str]], object]] = {
        "words": lambda batch: [tokenize(each) for each in batch],
        "encode": model.encode,
        "encode, documents one by one": one_by_one(model, tokenize, titles),
    }
    took: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for batch in BATCHES:
            for name, way in ways.items():
                took.setdefault((name, batch), []).append(_cpu_us(way, titles, batch))
    return {name: {str(batch): round(float(np.median(took[name, batch])), 1) for batch in BATCHES} for name in ways}


def one_by_one(model: text.TextModel, tokenize: Tokenizer, titles: Sequence[str]) -> Callable[[Sequence[str]], F32]:
    """As it was: a loop over documents that stacks what is known of each word, and one projection of all."""
    projection = model.projection
    if projection is None:
        raise ValueError("not an SCDV encoder")
    found = {word: model.lexicon.looked_up([word]) for title in titles for word in tokenize(title)}
    rows = {word: (shares[0], vectors[0]) for word, (shares, vectors) in found.items()}

    def document(title: str) -> F32:
        shares, vectors = (np.stack(parts) for parts in zip(*map(rows.__getitem__, tokenize(title)), strict=True))
        composite: F32 = normalised((shares.T @ vectors).reshape(1, -1))[0]
        return composite

    def encode(batch: Sequence[str]) -> F32:
        documents = scdv.sparse(np.stack([document(title) for title in batch]), model.threshold)
        return normalised(documents @ projection)

    return encode


def _cpu_us(way: Callable[[Sequence[str]], object], titles: Sequence[str], batch: int) -> float:
    began_s = time.process_time()
    for start in range(0, len(titles), batch):
        way(titles[start : start + batch])
    return (time.process_time() - began_s) / len(titles) * 1e6


if __name__ == "__main__":
    main()
