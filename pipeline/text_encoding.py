"""Trains the text encoder on a catalogue's titles and descriptions, and encodes its texts. Reads and writes files.

Training is skipped if an encoder was trained on the same texts before; each encoder encodes a text once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from encoders import artifact
from encoders.labels import group_of
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import FORMAT, TextModel, read_manifest
from encoders.text.synonyms import DEFAULT_DICTIONARIES, dictionary_sha256
from encoders.text.train import train
from lookalike.product_rules import CatalogueProduct, embedded_texts
from lookalike.vectors import F32
from pipeline.feature_store import FeatureStore
from pipeline.training_cache import train_once

EncodeBatches = Callable[[Iterable[Sequence[str]]], Iterator[F32]]  # The vectors of each batch of texts, in order.

DIM = 256  # Of the topic vector.
_BATCH = 1024


# Leave-one-out precision@10 by leaf category of 1,050 real products (241 leaves), SCDV: trained on titles alone 0.648;
# trained on titles and descriptions, 0.618 with both embedded and 0.683 with titles embedded. Descriptions teach the
# encoder what words mean, but dilute the title in a product's own vector.


def training_text(product: CatalogueProduct) -> str:
    """The text of a product that the encoder is trained on: title and description."""
    return f"{product.title}\n{product.description}".strip()


def text_digest(text: str) -> str:
    """The key of a text in the feature store: 32 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def train_text_encoder(
    products: Sequence[CatalogueProduct],
    directory: Path,
    *,
    kind: str,
    seed: int,
    word_vectors: Path | None = None,
    synonyms: Sequence[Path] = (),
) -> tuple[Path, bool]:
    """Train an encoder on the texts of these products, unless it is cached.

    Returns DIRECTORY/<fingerprint>, and whether it was trained now.
    word_vectors: a fastText .bin file with word vectors; None: they are trained too.
    synonyms: dictionaries of the shop's own, beside the default ones.
    Raises BadCatalogue if the texts contain no word, BadArtifact if the file of word vectors is missing or unsuitable,
    BadDictionary.
    """
    texts = [training_text(product) for product in products]
    titles = LabelledTitles(
        ids=[product.id for product in products],
        titles=[next(iter(embedded_texts(product.title, product.description)), "") for product in products],
        categories=[product.category for product in products],
        groups=[group_of(product.tags) for product in products],
    )
    dictionaries = (*DEFAULT_DICTIONARIES, *synonyms)
    inputs = _inputs_digest(
        texts,
        titles if kind == "hybrid" else None,
        kind=kind,
        seed=seed,
        word_vectors=word_vectors,
        dictionaries=dictionaries,
    )
    return train_once(
        directory,
        inputs,
        train=lambda staged: train(
            texts,
            staged,
            kind=kind,
            dim=DIM,
            titles=titles,
            seed=seed,
            word_vectors=word_vectors,
            dictionaries=dictionaries,
        ),
        check=read_manifest,
    )


def encode_texts(
    texts: Sequence[str],
    model: TextModel,
    features: FeatureStore,
    count: Callable[[], None] = lambda: None,
    *,
    encode: EncodeBatches | None = None,
) -> int:
    """Encode and store the texts that are not stored yet, zero vectors too. Returns how many were encoded.

    encode: None, the model encodes them in this process.
    """
    new = {digest: text for text in texts if (digest := text_digest(text)) not in features}
    digests = list(new)
    batches = [digests[start : start + _BATCH] for start in range(0, len(digests), _BATCH)]
    texts_of_batches = ([new[digest] for digest in batch] for batch in batches)
    encoded = map(model.encode, texts_of_batches) if encode is None else encode(texts_of_batches)
    for batch, vectors in zip(batches, encoded, strict=True):
        features.add(batch, vectors)
        count()
    features.flush()
    return len(digests)


def encode_products(
    products: Sequence[CatalogueProduct],
    model: TextModel,
    features: FeatureStore,
    path: Path,
    count: Callable[[], None] = lambda: None,
    *,
    encode: EncodeBatches | None = None,
) -> tuple[F32, int]:
    """The text vectors of products, in a new file, memory-mapped; and how many texts were encoded.

    A product whose title has no word that the encoder knows gets the vector of its description; (n, dim) float32, zeros
    where that has none either.
    """
    candidates = [embedded_texts(product.title, product.description) for product in products]
    texts = [each[0] if each else "" for each in candidates]
    encoded = encode_texts(texts, model, features, count, encode=encode)
    vectors = features.gather([text_digest(text) for text in texts], path)
    rows = [row for row in np.flatnonzero(~vectors.any(axis=1)).tolist() if len(candidates[row]) > 1]
    if rows:
        descriptions = [candidates[row][1] for row in rows]
        encoded += encode_texts(descriptions, model, features, count, encode=encode)
        vectors[rows] = features.gather([text_digest(text) for text in descriptions], path.with_suffix(".more.npy"))
    return vectors, encoded


def _inputs_digest(
    texts: Sequence[str],
    titles: LabelledTitles | None,
    *,
    kind: str,
    seed: int,
    word_vectors: Path | None,
    dictionaries: Sequence[Path],
) -> str:
    files = [artifact.file_sha256(word_vectors) if word_vectors else "", *map(dictionary_sha256, dictionaries)]
    digest = blake2b(f"{FORMAT} {kind} {DIM} {seed} {' '.join(files)}".encode(), digest_size=16)
    for text in texts:
        digest.update(blake2b(text.encode(), digest_size=16).digest())
    if titles is not None:  # Its weights depend on the labels, too.
        for labels in zip(titles.ids, titles.titles, titles.categories, titles.groups, strict=True):
            digest.update(repr(labels).encode())
    return digest.hexdigest()
