"""What does keeping the text encoder save an update, and what does it lose, where some titles changed?

An encoder is trained on a catalogue of real titles, another on the same catalogue after a share of its products was
replaced by others. Both encode the new catalogue; held-out products, which neither was chosen by, are the queries
among all: precision@10 by category, and R-precision of the same product (by groups; on fashion titles, of made titles).
CPU seconds of one process and its children: of training and encoding all titles, against measuring whether the encoder
fits and encoding the new titles.

    python -m benchmarks.kept_text_encoder [--data ../shared/data] [--sets offers fashion] [--changed 0.05]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import resource
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.meter import RESULTS, measurement_context, write
from encoders.quality import identity_metrics, inner_products, label_codes, ranked_matches, rows_of_repeated
from encoders.splits import Split, splits_of
from encoders.text.model import load
from encoders.text.perturbation import perturb_titles
from lookalike.product_rules import CatalogueProduct
from lookalike.vectors import F32, I64
from pipeline.text_encoding import KeepTextEncoder, TextEncoderSettings, choose_text_encoder

CAVEATS = "one seed and one training each; which products are replaced is drawn at random, so new ones are like the old"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS), help="others keep their last figures")
    parser.add_argument("--changed", type=float, default=0.05, help="share of products that are replaced")
    options = parser.parse_args()
    for name in options.sets:
        path = RESULTS / "kept_text_encoder.json"
        results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        results[f"{name} {options.changed:g}"] = _measure(SETS[name](options.data), options.changed)
        results |= {"caveats": CAVEATS, **measurement_context()}
        print(json.dumps(results, indent=1), write("kept_text_encoder", results), flush=True)


def _measure(products: list[CatalogueProduct], share: float) -> dict[str, Any]:
    order = np.random.default_rng(1).permutation(len(products))
    count = round(share * len(products))
    old, new = (
        [products[i] for i in sorted(rows)]
        for rows in (order[count:].tolist(), [*order[:count].tolist(), *order[2 * count :].tolist()])
    )
    with tempfile.TemporaryDirectory() as folder:
        directory, settings = Path(folder), TextEncoderSettings()
        first = choose_text_encoder(old, directory, settings, keep=KeepTextEncoder.AUTO)
        with _cpu() as keeping:
            kept = choose_text_encoder(new, directory, settings, serving=first.artifact.name, keep=KeepTextEncoder.AUTO)
        with _cpu() as training:
            trained = choose_text_encoder(new, directory, settings)
        with _cpu() as encoding:
            trained_vectors = load(trained.artifact).encode([product.title for product in new])
        model = load(first.artifact)
        return {
            "products": len(new),
            "kept": not kept.trained,
            "reason": kept.reason,
            "fit": kept.fit,
            "cpu_s": {
                "training": round(training[0], 1),
                "encoding all": round(encoding[0], 1),
                "measuring": round(keeping[0], 1),
                "encoding new": round(share * encoding[0], 1),
            },
            "held_out": {
                "kept": _figures(new, model.encode([product.title for product in new]), first.artifact),
                "trained": _figures(new, trained_vectors, trained.artifact),
            },
        }


def _figures(products: Sequence[CatalogueProduct], vectors: F32, artifact: Path) -> dict[str, float]:
    """Of held-out products among all."""
    held_out = np.flatnonzero(splits_of([product.id for product in products]) == Split.TEST)
    codes = label_codes([product.category for product in products])
    rows: I64 = np.intersect1d(held_out, rows_of_repeated(codes))
    matches = ranked_matches(inner_products(vectors[rows], vectors), codes[rows], codes, own_rows=rows, depth=10)
    figures = {"category": round(float(matches.mean()), 4)}
    groups = label_codes(["".join(product.tags) for product in products])
    grouped: I64 = np.intersect1d(held_out, rows_of_repeated(groups))
    if len(grouped):
        queries, own_rows = vectors[grouped], grouped
    else:
        titles = [product.title for product in products]
        grouped, own_rows = held_out[:4000], None
        groups = label_codes([" ".join(title.lower().split()) for title in titles])
        queries = load(artifact).encode(perturb_titles([titles[row] for row in grouped.tolist()], 0))
    scores = inner_products(queries, vectors)
    identity = identity_metrics(scores, groups[grouped], groups, own_rows=own_rows).r_precision
    return {**figures, "identity": round(float(identity.mean()), 4)}


@contextmanager
def _cpu() -> Iterator[list[float]]:
    """CPU seconds of the block, with those of its child processes."""
    seconds: list[float] = []
    start = _cpu_s()
    yield seconds
    seconds.append(_cpu_s() - start)


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _offers(data: Path) -> list[CatalogueProduct]:
    return [
        CatalogueProduct(
            id=row["id"], category=row["domain"], title=row["title"], tags=(f"group:{row['domain']}/{row['group']}",)
        )
        for row in _rows(data / "offers" / "offers.csv.gz")
    ]


def _fashion(data: Path) -> list[CatalogueProduct]:
    levels = ("masterCategory", "subCategory", "articleType")
    return [
        CatalogueProduct(
            id=row["id"],
            category="/".join(row[level].lower().replace(" ", "-") for level in levels),
            title=row["title"],
        )
        for row in _rows(data / "fashion" / "fashion_products.csv.gz")
    ]


SETS = {"offers": _offers, "fashion": _fashion}

if __name__ == "__main__":
    main()
