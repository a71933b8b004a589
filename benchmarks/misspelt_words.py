"""Lone words with one letter mistyped, as queries of the text space: the share of hits of the right kind or brand.

A kind is a word of titles that stands for one category in at least nine of ten, a brand the first word of at least ten
titles. Each is misspelt by one random edit (a letter left out, doubled, swapped with the next, replaced) that gives no
word that the encoder knows. The encoder is trained on the titles, with the default synonyms. Not corrected: the same
queries without the topic that a correction gives them.

    python -m benchmarks.misspelt_words CATALOGUE [--seed N]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.meter import RESULTS, measurement_context, write
from encoders.text import model as text_model
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import TextModel
from encoders.text.tokens import clean_text
from encoders.text.train import train
from lookalike.vectors import F32, normalised
from pipeline import catalogue
from pipeline.product import RejectedRow

HITS, MIN_TITLES, MIN_SHARE, MISSPELT = 10, 10, 0.9, 4
_WORD = re.compile(r"[a-z]+|[ァ-ヴー]+|[ぁ-ん]+")
_LETTERS = {True: "abcdefghijklmnopqrstuvwxyz", False: "".join(map(chr, range(ord("ァ"), ord("ヴ") + 1))) + "ー"}
Words = dict[str, str]  # To the category, or the first word, that hits should have.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    items = catalogue.read(options.catalogue)
    products = [item.product for item in items if not isinstance(item, RejectedRow) and item.product.title]
    titles, categories = [product.title for product in products], [product.category for product in products]
    first_words = [next(iter(clean_text(title).split()), "") for title in titles]
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        ids = [product.id for product in products]
        labelled = LabelledTitles(ids=ids, titles=titles, categories=categories, groups=[""] * len(titles))
        train(titles, Path(folder) / "text", kind="hybrid", titles=labelled)
        model = text_model.load(Path(folder) / "text")
        rows = {
            "kinds, English": _row(model, titles, categories, _kinds(titles, categories, latin=True), options.seed),
            "kinds, Japanese": _row(model, titles, categories, _kinds(titles, categories, latin=False), options.seed),
            "first words": _row(model, titles, first_words, _brands(first_words), options.seed),
        }
    path = RESULTS / "misspelt_words.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    results[options.catalogue.name] = {
        "titles": len(titles),
        "measured": measurement_context(),
        "rows": {name: row for name, row in rows.items() if row},
    }
    print(json.dumps(results, indent=1, ensure_ascii=False), write("misspelt_words", results))


def _kinds(titles: Sequence[str], categories: Sequence[str], *, latin: bool) -> Words:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for title, category in zip(titles, categories, strict=True):
        for word in set(_WORD.findall(clean_text(title))):
            counts[word][category] += 1
    kinds = {}
    for word, by_category in sorted(counts.items()):
        (category, count), *_ = by_category.most_common(1)
        enough = by_category.total() >= MIN_TITLES and count / by_category.total() >= MIN_SHARE
        if enough and len(word) >= 4 and word.isascii() == latin:
            kinds[word] = category
    return kinds


def _brands(first_words: Sequence[str]) -> Words:
    counts = Counter(first_words)
    return {word: word for word in sorted(counts) if counts[word] >= MIN_TITLES and re.fullmatch("[a-z]{4,}", word)}


def _row(model: TextModel, titles: Sequence[str], labels: Sequence[str], words: Words, seed: int) -> dict[str, Any]:
    """The shares of hits with the label that a word stands for; empty without a query."""
    rng = random.Random(seed)
    misspelt = [(typed, word) for word in words for typed in _misspell(model, word, rng)]
    if not misspelt:
        return {}
    typed = [each for each, _ in misspelt]
    vectors = np.concatenate([model.encode(titles[start : start + 1024]) for start in range(0, len(titles), 1024)])
    label_array = np.array(labels)
    expected = np.array([words[word] for _, word in misspelt])

    def share(queries: F32) -> npt.NDArray[np.float64]:
        nearest = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :HITS]
        return np.asarray((label_array[nearest] == expected[:, None]).mean(axis=1))

    queries = model.encode(typed)
    lexical_alone = queries.copy()
    lexical_alone[:, : model.topic_dim] = 0
    began_s = time.process_time()
    for each in typed:
        model.encode([each])
    cpu_us = (time.process_time() - began_s) / len(typed) * 1e6
    corrected, uncorrected = share(queries), share(normalised(lexical_alone))
    return {
        "words": len(words),
        "queries": len(typed),
        "as_written": round(float(share(model.encode([word for _, word in misspelt])).mean()), 4),
        "misspelt": round(float(corrected.mean()), 4),
        "not_corrected": round(float(uncorrected.mean()), 4),
        "better": int((corrected > uncorrected).sum()),
        "worse": int((corrected < uncorrected).sum()),
        "cpu_us_per_query": round(cpu_us),
    }


def _misspell(model: TextModel, word: str, rng: random.Random) -> list[str]:
    """At most MISSPELT spellings, one edit away, without a word that the encoder knows."""
    edits = sorted({_edit(word, rng) for _ in range(4 * MISSPELT)} - {word})
    unknown = [edit for edit in edits if not any(part in model.word_features.idf for part in model.words(edit))]
    return [edit for edit in unknown if model.words(edit)][:MISSPELT]


def _edit(word: str, rng: random.Random) -> str:
    i, kind = rng.randrange(len(word)), rng.randrange(4)
    head, letter, tail = word[:i], word[i], word[i + 1 :]
    replaced = rng.choice(_LETTERS[word.isascii()])
    return (head + tail, head + letter + letter + tail, head + tail[:1] + letter + tail[1:], head + replaced + tail)[
        kind
    ]


if __name__ == "__main__":
    main()
