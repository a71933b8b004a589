"""Text encoders on real titles: precision@10 with what the projection loses, and CPU per title.

Titles of fashion products by article type, names of 20,000 products by top category. Encoders are trained on the same
titles; TF-IDF is the baseline. CPU is that of this process (one BLAS thread), of titles that come one at a time and in
batches, of the Japanese titles of the drawn sample too: once their words are looked up; by an encoder that is just
loaded; and with words that nobody knows. Sizes are measured in turn, `--rounds` times, medians. Documents computed one
by one are measured in the same turns.

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
from benchmarks.meter import RESULTS, stamp, write
from benchmarks.texts import Labels, Texts, averaged, precision_at_10, unprojected
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
    parser.add_argument("--cpu-only", action="store_true", help="leave precision as it was measured before")
    options = parser.parse_args()
    quality: dict[str, Any] = {"measured": stamp()}
    if options.cpu_only:
        quality = json.loads((RESULTS / "text_encoders.json").read_text("utf-8"))["precision_at_10"]
    cpu, count = {}, {}
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        sets = {"fashion": texts.fashion(options.data), "flipkart": texts.flipkart(options.data)}
        for name, whole in {**sets, "drawn, Japanese": texts.drawn(Path(folder))}.items():
            of = texts.sample(whole, options.titles)
            artifact = Path(folder) / name
            train(of.texts, artifact)
            cpu[name] = timed(artifact, of.texts[:TIMED], options.rounds)
            count[name] = counted(of.texts[:TIMED])
            print(name, count[name], cpu[name], flush=True)
            if name in sets and not options.cpu_only:
                quality[name] = {"titles": len(of.texts), "labels": len(set(of.labels)), **judged(of, artifact)}
                print(name, quality[name], flush=True)
    result = {"precision_at_10": quality, "cpu_us_per_title": cpu, "words_per_title": count, "caveats": CAVEATS}
    print(write("text_encoders", result))


CAVEATS = (
    "encoders learn from the titles that they are judged on, as in production, without labels; one seed; "
    "leave-one-out; the CPU is of SCDV as served; drawn titles have few different words, unheard-of Japanese ones fall "
    "into more words than real ones; the machine is shared: CPU time, not wall time"
)


def judged(of: Texts, artifact: Path) -> dict[str, float]:
    """Precision@10 of every representation by the artifact's own word vectors."""
    tokenize = Tokenizer()
    documents = [tokenize(each) for each in of.texts]
    vocabulary = load_word_vectors(artifact / FASTTEXT)
    tfidf = TfidfVectorizer(analyzer=lambda document: document).fit_transform(documents)
    found = {"TF-IDF": _sparse_precision_at_10(tfidf, of.labels)}
    found["mean of word vectors"] = precision_at_10(averaged(documents, vocabulary), of.labels)
    arrays, said = fit(documents, vocabulary, kind="fasttext", dim=1, seed=SEED)
    word_features = WordFeatureCache({**said, "kind": "fasttext"}, vocabulary, arrays)
    found["fasttext"] = precision_at_10(unprojected(documents, word_features, 0.0), of.labels)
    for clusters in (scdv.ScdvParameters().clusters, 60):
        scdv_parameters = scdv.ScdvParameters(clusters=clusters)
        arrays, said = fit(
            documents, vocabulary, kind="scdv", dim=max(DIMS), seed=SEED, scdv_parameters=scdv_parameters
        )
        word_features = WordFeatureCache({**said, "kind": "scdv"}, vocabulary, arrays)
        whole = unprojected(documents, word_features, said["threshold"])
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


def timed(artifact: Path, titles: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU per title: cutting it into words, and encoding it, by what is known of its words."""
    model, tokenize, rng = text.load(artifact), Tokenizer(), np.random.default_rng(SEED)
    model.encode(titles)
    ways: dict[str, Callable[[Sequence[str]], object]] = {
        "words": lambda batch: [tokenize(each) for each in batch],
        "encode": model.encode,
        "encode, documents one by one": one_by_one(model, tokenize, titles),
    }
    took: dict[str, dict[int, list[float]]] = {}
    for _ in range(rounds):
        for batch in BATCHES:
            unheard = texts.unheard(titles, rng)
            turns = [(name, way, titles) for name, way in ways.items()]
            turns.append(("encode, just loaded", text.load(artifact).encode, titles))
            turns.append(("encode, words that nobody knows", text.load(artifact).encode, unheard))
            for name, way, given in turns:
                took.setdefault(name, {}).setdefault(batch, []).append(_cpu_us(way, given, batch))
    return {name: {str(batch): round(float(np.median(us)), 1) for batch, us in of.items()} for name, of in took.items()}


def counted(titles: Sequence[str]) -> dict[str, float]:
    """How many words a title has, and how many once nobody knows them."""
    tokenize = Tokenizer()
    each = {"known": titles, "that nobody knows": texts.unheard(titles, np.random.default_rng(SEED))}
    return {name: round(float(np.mean([len(tokenize(title)) for title in given])), 1) for name, given in each.items()}


def one_by_one(model: text.TextModel, tokenize: Tokenizer, titles: Sequence[str]) -> Callable[[Sequence[str]], F32]:
    """As it was: a loop over documents that stacks what is known of each word, and one projection of all."""
    projection = model.projection
    if projection is None:
        raise ValueError("not an SCDV encoder")
    found = {word: model.word_features.lookup([word]) for title in titles for word in tokenize(title)}
    rows = {word: (shares[0], vectors[0]) for word, (shares, vectors) in found.items()}

    def document(title: str) -> F32:
        shares, vectors = (np.stack(parts) for parts in zip(*map(rows.__getitem__, tokenize(title)), strict=True))
        composite: F32 = normalised((shares.T @ vectors).reshape(1, -1))[0]
        return composite

    def encode(batch: Sequence[str]) -> F32:
        documents = scdv.sparsify(np.stack([document(title) for title in batch]), model.threshold)
        return normalised(documents @ projection)

    return encode


def _cpu_us(way: Callable[[Sequence[str]], object], titles: Sequence[str], batch: int) -> float:
    began_s = time.process_time()
    for start in range(0, len(titles), batch):
        way(titles[start : start + batch])
    return (time.process_time() - began_s) / len(titles) * 1e6


if __name__ == "__main__":
    main()
