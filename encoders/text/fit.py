"""How well a text encoder fits a catalogue, so that one trained on an earlier state of it may be kept. Pure.

The same products are measured on every state of a catalogue, chosen by a hash of their group or id: so figures differ
by what changed, and hardly by chance. Products that reports are measured on are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from encoders.labels import broadest
from encoders.quality import identity_metrics, inner_products, label_codes, ranked_matches, rows_of_repeated
from encoders.splits import Split, splits_of
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import TextModel
from encoders.text.perturbation import perturb_titles
from lookalike.vectors import I64

MAX_POOL, MAX_QUERIES = 10_000, 2_000
MIN_QUERIES = 30  # Fewer are no evidence.
# With fewer products training takes seconds, and few of them were measured.
MIN_PRODUCTS = 2_000
MAX_LOSS = 0.005  # Of any figure.
MAX_UNSEEN_WORDS = 0.10  # Of the words of changed texts.
MAX_CHANGED = 0.20  # Of the texts since training.


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """An encoder's figures on a catalogue.

    figures: precision@10 by category and broad category, and R-precision of the same product ("identity").
    texts: digests of the measured products' texts, sorted.
    changed, unseen_words: the share of these texts that the encoder was not trained on, and of their words that it does
    not know.
    """

    products: int
    figures: Mapping[str, float]
    texts: Sequence[str]
    changed: float = 0.0
    unseen_words: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def reason_to_train(trained: Fit, now: Fit) -> str:
    """Why an encoder with the figures `trained` on its own catalogue no longer fits one; empty: it does."""
    if now.products < MIN_PRODUCTS or not now.figures:
        return f"{now.products:,} products are too few to tell whether the encoder still fits"
    if now.changed > MAX_CHANGED:
        return f"{now.changed:.1%} of the texts changed since it was trained, more than {MAX_CHANGED:.0%}"
    if now.unseen_words > MAX_UNSEEN_WORDS:
        return (
            f"it does not know {now.unseen_words:.1%} of the words of changed texts, more than {MAX_UNSEEN_WORDS:.0%}"
        )
    if now.figures.keys() != trained.figures.keys():
        return "categories or groups came or went"
    losses = {name: trained.figures[name] - figure for name, figure in now.figures.items()}
    worst = max(losses, key=lambda name: losses[name])
    if losses[worst] > MAX_LOSS:
        return f"by {worst} it finds {losses[worst]:.4f} less than when it was trained, more than {MAX_LOSS}"
    return ""


def measure(model: TextModel, titles: LabelledTitles, texts: Sequence[str], seen: Collection[str] | None = None) -> Fit:
    """Measure an encoder on a catalogue.

    titles: what vectors are computed from. texts: what an encoder is trained on. seen: digests of texts that it was
    trained on; None: all of these.
    """
    rows = _sample(titles)
    sampled = LabelledTitles(
        **{name: [getattr(titles, name)[row] for row in rows] for name in ("ids", "titles", "categories", "groups")}
    )
    digests = [_text_digest(titles.ids[row], texts[row]) for row in rows]
    known = set(digests if seen is None else seen)
    changed = [row for row, digest in zip(rows, digests, strict=True) if digest not in known]
    words = [word for row in changed for word in model.words(texts[row])]
    return Fit(
        products=len(rows),
        figures=_figures(model, sampled) if len(rows) >= MIN_PRODUCTS else {},
        texts=sorted(digests),
        changed=round(len(changed) / max(len(rows), 1), 4),
        unseen_words=round(sum(not model.knows(word) for word in words) / max(len(words), 1), 4),
    )


def _sample(titles: LabelledTitles) -> list[int]:
    """Rows of at most MAX_POOL products, whole groups together, in an order that depends on nothing but their ids."""
    splits = splits_of(titles.ids)
    rows = [row for row, title in enumerate(titles.titles) if title.strip() and splits[row] != Split.TEST]
    return sorted(rows, key=lambda row: (_hash(titles.groups[row] or titles.ids[row]), titles.ids[row]))[:MAX_POOL]


def _figures(model: TextModel, sampled: LabelledTitles) -> dict[str, float]:
    products, figures = model.encode(sampled.titles), {}
    for name, labels in (("category", sampled.categories), ("broad category", broadest(sampled.categories))):
        codes = label_codes(labels)
        rows = rows_of_repeated(codes)[:MAX_QUERIES]
        if len(rows) >= MIN_QUERIES and len(np.unique(codes)) > 1:
            matches = ranked_matches(
                inner_products(products[rows], products), codes[rows], codes, own_rows=rows, depth=10
            )
            figures[name] = round(float(matches.mean()), 4)
    codes = label_codes(sampled.groups)
    grouped: I64 = rows_of_repeated(codes)[:MAX_QUERIES]
    if len(grouped) >= MIN_QUERIES:
        queries, own_rows = products[grouped], grouped
    else:  # Made titles of the same products.
        grouped, own_rows = np.arange(min(len(products), MAX_QUERIES)), None
        codes = label_codes([" ".join(title.lower().split()) for title in sampled.titles])
        seeds = [_hash(sampled.ids[row]) for row in grouped.tolist()]
        queries = model.encode([perturb_titles([sampled.titles[row]], seed)[0] for row, seed in enumerate(seeds)])
    scores = inner_products(queries, products)
    identity = identity_metrics(scores, codes[grouped], codes, own_rows=own_rows).r_precision
    return {**figures, "identity": round(float(identity.mean()), 4)}


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _text_digest(product_id: str, text: str) -> str:
    return blake2b(f"{product_id}\n{text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
