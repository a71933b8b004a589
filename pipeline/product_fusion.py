"""Trains the product encoder on a catalogue's labels and fuses photo and text vectors with it. Does file I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from encoders.product.model import FORMAT, ProductModel, read_manifest
from encoders.product.train import TrainingProducts, train
from encoders.splits import Split, splits_of
from encoders.text.model import TextModel
from index.building.build import SpaceVectors
from lookalike.product_rules import CatalogueProduct
from lookalike.vectors import F32, I64
from pipeline.training_cache import train_once
from pipeline.word_queries import MAX_PRODUCTS, ExamProducts, SpaceChoice, choose_spaces

MAX_EXAMPLES = 80_000  # Bounds memory. Training uses 70 % of the examples, at most 50,000.
_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class ModalityVectors:
    """The photo vectors and the text vectors of a catalogue, each with the catalogue rows that they belong to."""

    image: SpaceVectors
    text: SpaceVectors

    def rows_with_both(self) -> I64:
        """The catalogue rows with both vectors, in ascending order."""
        return np.intersect1d(self.image.rows, self.text.rows)

    def rows_with_either(self) -> I64:
        """The catalogue rows with at least one vector, in ascending order."""
        return np.union1d(self.image.rows, self.text.rows)


def train_product_encoder(
    inputs: ModalityVectors, products: Sequence[CatalogueProduct], directory: Path, *, seed: int
) -> tuple[Path, bool]:
    """Train an encoder on these products, unless it is cached.

    Returns DIRECTORY/<fingerprint>, and whether it was trained now.
    Raises QualityGateFailed if its vectors are no better than those of photos or of texts alone, or if there are too
    few products to tell.
    """
    examples = _examples(inputs, products, seed)
    return train_once(
        directory,
        _inputs_digest(examples, seed),
        train=lambda staged: train(examples, staged, seed=seed),
        check=read_manifest,
    )


def fuse(inputs: ModalityVectors, model: ProductModel, scratch: Path) -> SpaceVectors:
    """Compute the vector of each product that has a photo or a text, memory-mapped from the new file `scratch`."""
    rows = inputs.rows_with_either()
    vectors = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.float32, shape=(len(rows), model.dim))
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        images, texts = _vectors_or_zeros(inputs.image, batch), _vectors_or_zeros(inputs.text, batch)
        vectors[start : start + _BATCH] = model.encode(images, texts)
    nonzero = np.flatnonzero(vectors.any(axis=1))  # A photo and a text that are average in every way give zeros.
    kept: F32 = vectors if len(nonzero) == len(rows) else vectors[nonzero]
    return SpaceVectors(encoder=model.fingerprint, vectors=kept, rows=rows[nonzero])


def choose_spaces_of_words(
    inputs: ModalityVectors,
    products: Sequence[CatalogueProduct],
    text_model: TextModel,
    product_model: ProductModel,
    *,
    seed: int,
) -> SpaceChoice:
    """The spaces that words alone are best searched in, by products whose labels the product encoder never saw."""
    rows = inputs.rows_with_both()
    rows = rows[splits_of([products[row].id for row in rows]) != Split.TRAIN]
    if len(rows) > MAX_PRODUCTS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_PRODUCTS, replace=False))
    if not len(rows):
        return SpaceChoice(shares={}, figures={})
    images, texts = _vectors_or_zeros(inputs.image, rows), _vectors_or_zeros(inputs.text, rows)
    sample = [products[row] for row in rows]
    exam = ExamProducts(
        words=[text_model.words(product.title) for product in sample],
        categories=[product.category for product in sample],
        tags=[product.tags for product in sample],
        texts=texts,
        products=product_model.encode(images, texts),
    )

    def encode(queries: Sequence[str]) -> tuple[F32, F32]:
        encoded = text_model.encode(queries)
        return encoded, product_model.encode(np.zeros((len(queries), images.shape[1]), np.float32), encoded)

    return choose_spaces(exam, text_model.words, encode, seed)


def _examples(inputs: ModalityVectors, products: Sequence[CatalogueProduct], seed: int) -> TrainingProducts:
    """The products with both vectors, or a random sample of MAX_EXAMPLES of them."""
    rows = inputs.rows_with_both()
    if len(rows) > MAX_EXAMPLES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_EXAMPLES, replace=False))
    sample = [products[row] for row in rows]
    return TrainingProducts(
        ids=[product.id for product in sample],
        categories=[product.category for product in sample],
        tags=[product.tags for product in sample],
        images=_vectors_or_zeros(inputs.image, rows),
        texts=_vectors_or_zeros(inputs.text, rows),
        image_encoder=inputs.image.encoder,
        text_encoder=inputs.text.encoder,
    )


def _vectors_or_zeros(space: SpaceVectors, rows: I64) -> F32:
    """The unit vectors of catalogue rows as (len(rows), dim) float32; zeros for rows without a vector."""
    order = np.argsort(space.rows, kind="stable")
    positions = np.minimum(np.searchsorted(space.rows, rows, sorter=order), max(len(order) - 1, 0))
    vectors = np.zeros((len(rows), space.vectors.shape[1]), dtype=np.float32)
    if len(order):
        has_vector = space.rows[order[positions]] == rows
        vectors[has_vector] = space.vectors[order[positions[has_vector]]]
    return vectors


def _inputs_digest(examples: TrainingProducts, seed: int) -> str:
    digest = blake2b(f"{FORMAT} {seed} {examples.image_encoder} {examples.text_encoder}".encode(), digest_size=16)
    for id_and_labels in zip(examples.ids, examples.categories, examples.tags, strict=True):
        digest.update(repr(id_and_labels).encode())
    for vectors in (examples.images, examples.texts):
        digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()
