"""Photo and title vectors to product vectors, by an encoder trained on the catalogue's labels. Reads, writes files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from encoders.product.model import FORMAT, ProductModel, read_manifest
from encoders.product.train import TrainingProducts, train
from index.building.build import SpaceVectors
from lookalike.vectors import F32, I64
from pipeline.product import Row
from pipeline.trainings import once

MOST_EXAMPLES = 80_000  # Training takes 50,000 of them, 70 % of what it is given: more is not read into memory.
_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The photo vectors and the title vectors of a catalogue."""

    image: SpaceVectors
    text: SpaceVectors

    def both(self) -> I64:
        """The rows of the catalogue that have both, rising."""
        return np.intersect1d(self.image.rows, self.text.rows)

    def either(self) -> I64:
        return np.union1d(self.image.rows, self.text.rows)


def trained(sides: Sides, rows: Sequence[Row], directory: Path, *, seed: int) -> tuple[Path, bool]:
    """DIRECTORY/<fingerprint>, the encoder trained on these products, and whether it had to be trained.

    Raises NotBetter where it is not worth having.
    """
    examples = _examples(sides, rows, seed)
    return once(
        directory,
        _inputs(examples, seed),
        train=lambda staged: train(examples, staged, seed=seed),
        check=read_manifest,
    )


def fused(sides: Sides, model: ProductModel, scratch: Path) -> SpaceVectors:
    """A vector for each product that has a photo or a title, in a file that is mapped."""
    rows = sides.either()
    vectors = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.float32, shape=(len(rows), model.dim))
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        vectors[start : start + _BATCH] = model.encode(_taken(sides.image, part), _taken(sides.text, part))
    filled = np.flatnonzero(vectors.any(axis=1))  # A photo and a title that are average in every way give zeros.
    kept: F32 = vectors if len(filled) == len(rows) else vectors[filled]
    return SpaceVectors(encoder=model.fingerprint, vectors=kept, rows=rows[filled])


def _examples(sides: Sides, rows: Sequence[Row], seed: int) -> TrainingProducts:
    chosen = sides.both()
    if len(chosen) > MOST_EXAMPLES:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_EXAMPLES, replace=False))
    taken = [rows[row] for row in chosen]
    return TrainingProducts(
        ids=[row.id for row in taken],
        categories=[row.category for row in taken],
        tags=[row.tags for row in taken],
        images=_taken(sides.image, chosen),
        texts=_taken(sides.text, chosen),
        image_encoder=sides.image.encoder,
        text_encoder=sides.text.encoder,
    )


def _taken(space: SpaceVectors, rows: I64) -> F32:
    """(len(rows), dim): the unit vectors of rows of the catalogue, zeros for those that have none."""
    order = np.argsort(space.rows, kind="stable")
    places = np.minimum(np.searchsorted(space.rows, rows, sorter=order), max(len(order) - 1, 0))
    taken = np.zeros((len(rows), space.vectors.shape[1]), dtype=np.float32)
    if len(order):
        there = space.rows[order[places]] == rows
        taken[there] = space.vectors[order[places[there]]]
    return taken


def _inputs(examples: TrainingProducts, seed: int) -> str:
    digest = blake2b(f"{FORMAT} {seed} {examples.image_encoder} {examples.text_encoder}".encode(), digest_size=16)
    for each in zip(examples.ids, examples.categories, examples.tags, strict=True):
        digest.update(repr(each).encode())
    for vectors in (examples.images, examples.texts):
        digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()
