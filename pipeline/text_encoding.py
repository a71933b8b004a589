"""Trains the text encoder on a catalogue's titles and descriptions, and encodes its texts. Reads and writes files.

Training is skipped if an encoder was trained on the same texts before; each encoder encodes a text once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from encoders import artifact
from encoders.labels import group_of
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import FORMAT, TextModel, read_manifest
from encoders.text.train import train
from lookalike.product_rules import CatalogueProduct, has_word
from lookalike.vectors import F32
from pipeline.feature_store import FeatureStore
from pipeline.training_cache import train_once

DIM = 256  # Of the topic vector.
_BATCH = 1024


# Leave-one-out precision@10 by leaf category of 1,050 real products (241 leaves), SCDV: trained on titles alone 0.648;
# trained on titles and descriptions, 0.618 with both embedded and 0.683 with titles embedded. Descriptions teach the
# encoder what words mean, but dilute the title in a product's own vector.


def training_text(product: CatalogueProduct) -> str:
    """The text of a product that the encoder is trained on: title and description."""
    return f"{product.title}\n{product.description}".strip()


def embedded_text(product: CatalogueProduct) -> str:
    """The text of a product that its vector is computed from: the title, or the description if that has no word."""
    return product.title if has_word(product.title) else product.description


def text_digest(text: str) -> str:
    """The key of a text in the feature store: 32 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def train_text_encoder(
    products: Sequence[CatalogueProduct], directory: Path, *, kind: str, seed: int, word_vectors: Path | None = None
) -> tuple[Path, bool]:
    """Train an encoder on the texts of these products, unless it is cached.

    Returns DIRECTORY/<fingerprint>, and whether it was trained now.
    word_vectors: a fastText .bin file with word vectors; None: they are trained too.
    Raises BadCatalogue if the texts contain no word, BadArtifact if the file of word vectors is missing or unsuitable.
    """
    texts = [training_text(product) for product in products]
    titles = LabelledTitles(
        ids=[product.id for product in products],
        titles=[embedded_text(product) for product in products],
        categories=[product.category for product in products],
        groups=[group_of(product.tags) for product in products],
    )
    inputs = _inputs_digest(texts, titles if kind == "hybrid" else None, kind, seed, word_vectors)
    return train_once(
        directory,
        inputs,
        train=lambda staged: train(
            texts, staged, kind=kind, dim=DIM, titles=titles, seed=seed, word_vectors=word_vectors
        ),
        check=read_manifest,
    )


def encode_texts(
    texts: Sequence[str], model: TextModel, features: FeatureStore, count: Callable[[], None] = lambda: None
) -> int:
    """Encode and store the texts that are not stored yet, zero vectors too. Returns how many were encoded."""
    new = {digest: text for text in texts if (digest := text_digest(text)) not in features}
    digests = list(new)
    for start in range(0, len(digests), _BATCH):
        batch = digests[start : start + _BATCH]
        features.add(batch, model.encode([new[digest] for digest in batch]))
        count()
    features.flush()
    return len(digests)


def encode_products(
    products: Sequence[CatalogueProduct],
    model: TextModel,
    features: FeatureStore,
    path: Path,
    count: Callable[[], None] = lambda: None,
) -> tuple[F32, int]:
    """The text vectors of products, in a new file, memory-mapped; and how many texts were encoded.

    A product whose title has no word that the encoder knows gets the vector of its description; (n, dim) float32, zeros
    where that has none either.
    """
    texts = [embedded_text(product) for product in products]
    encoded = encode_texts(texts, model, features, count)
    vectors = features.gather([text_digest(text) for text in texts], path)
    rows = [row for row in np.flatnonzero(~vectors.any(axis=1)).tolist() if texts[row] != products[row].description]
    if rows:
        descriptions = [products[row].description for row in rows]
        encoded += encode_texts(descriptions, model, features, count)
        vectors[rows] = features.gather([text_digest(text) for text in descriptions], path.with_suffix(".more.npy"))
    return vectors, encoded


def _inputs_digest(
    texts: Sequence[str], titles: LabelledTitles | None, kind: str, seed: int, word_vectors: Path | None
) -> str:
    word_vectors_digest = artifact.file_sha256(word_vectors) if word_vectors else ""
    digest = blake2b(f"{FORMAT} {kind} {DIM} {seed} {word_vectors_digest}".encode(), digest_size=16)
    for text in texts:
        digest.update(blake2b(text.encode(), digest_size=16).digest())
    if titles is not None:  # Its weights depend on the labels, too.
        for labels in zip(titles.ids, titles.titles, titles.categories, titles.groups, strict=True):
            digest.update(repr(labels).encode())
    return digest.hexdigest()
