"""Answers of FindDuplicates with the scores that `update` chooses, on products that chose none.

For each catalogue the score of each space is chosen on calibration products by the vectors of its index, as `update`
does, and measured on test products in the same way, and beside it a score of 0.95. Of each catalogue are given: its
directory, its index of one shard, its encoders, and the image model, for which copies of photos are encoded once.

    python -m benchmarks.duplicates fashion=CATALOGUE,INDEX,ENCODERS,MODELS offers=CATALOGUE,INDEX,ENCODERS,
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.meter import write
from encoders.product import model as product_encoder
from encoders.splits import Split
from encoders.text import model as text_encoder
from index.building.build import SpaceVectors
from index.serving.shard_version import open_shard
from lookalike.product_rules import CatalogueProduct
from lookalike.releases import version
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from pipeline import catalogue, image_encoding
from pipeline.catalogue import CatalogueRow
from pipeline.duplicate_scores import ScoredQueries, answers_from
from pipeline.duplicates import (
    STATED,
    groups_of,
    held_out_rows,
    identity_of_copies,
    measure_thresholds,
    score_copies,
    score_groups,
)
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.local_model_server import model_server
from pipeline.product_copies import CopiedProducts
from pipeline.update.options import FEATURE_STORE

FIXED = 0.95
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogues", nargs="+", metavar="NAME=CATALOGUE,INDEX,ENCODERS,MODELS")
    rows: list[dict[str, Any]] = []
    for argument in parser.parse_args().catalogues:
        name, _, paths = argument.partition("=")
        directory, index, encoders, models = paths.split(",")
        rows += [{"catalogue": name, **row} for row in measure(Path(directory), Path(index), Path(encoders), models)]
    caveats = (
        "precision and recall are means over queries, standard errors take these to be independent; half of the made "
        "copies are searched for without their product; duplicates that nothing states count as false"
    )
    print(write("duplicates", {"rows": rows, "caveats": caveats}))


def measure(directory: Path, index: Path, encoders: Path, models: str) -> Iterator[dict[str, Any]]:
    """A row for each space and each of two scores, the chosen one and FIXED."""
    items = catalogue.read(directory)
    products = [item.product for item in items if isinstance(item, CatalogueRow)]
    digests = [_digest(directory / product.image) if product.image else None for product in products]
    spaces = _spaces(index, products)
    fingerprints = {number: space.encoder for number, space in spaces.items()}
    calibration, test = (
        CopiedProducts(products=products, photo_digests=digests, seed=SEED, split=split)
        for split in (Split.CALIBRATE, Split.TEST)
    )
    features = None
    if SPACE_IMAGE in spaces:
        store = FeatureStore(index / FEATURE_STORE, notice=print)
        dim = spaces[SPACE_IMAGE].vectors.shape[1]
        features = store.vectors("image", encoder=fingerprints[SPACE_IMAGE], dim=dim)
        with model_server(Path(models), dict(os.environ)) as address:  # noqa: TID251  # a script of its own
            asyncio.run(_encode(address, directory, (calibration, test), features, fingerprints[SPACE_IMAGE]))
    text_model = text_encoder.load(encoders / fingerprints[SPACE_TEXT]) if SPACE_TEXT in spaces else None
    product_model = product_encoder.load(encoders / fingerprints[SPACE_PRODUCT]) if SPACE_PRODUCT in spaces else None
    photos = [digest or "" for digest in digests]
    identity = identity_of_copies([product.title for product in products], photos)
    with tempfile.TemporaryDirectory() as scratch:
        copies, test_copies = (
            each.vectors(features, text_model, product_model, Path(scratch) / f"{each.split}.npy")
            for each in (calibration, test)
        )
        thresholds = measure_thresholds(products, photos, spaces, copies, seed=SEED)
        for number, threshold in thresholds.items():
            space = spaces[number]
            if threshold.measured_by == STATED:
                rows = held_out_rows(products, Split.TEST)
                queries = score_groups(space.vectors, space.rows, groups_of(products), rows)
            else:
                queries = score_copies(space.vectors, space.rows, test_copies[number], identity)
            stated = {
                "space": space_name(number),
                "by": threshold.measured_by,
                "products": len(space.rows),
                "min_score_chosen": threshold.min_score,
                "precision_stated": threshold.precision,
                "recall_stated": threshold.recall,
            }
            yield {**stated, "at_chosen": _figures(queries, threshold.min_score), "at_0.95": _figures(queries, FIXED)}


def _figures(queries: ScoredQueries, min_score: float) -> Mapping[str, float]:
    answers = answers_from(queries, min_score)
    answered = len(answers.precision)
    return {
        "queries": len(queries.scores),
        "answered": answered,
        "precision": round(float(np.mean(answers.precision)), 4) if answered else 0.0,
        "standard_error": round(float(np.std(answers.precision)) / answered**0.5, 4) if answered else 0.0,
        "recall": round(float(np.mean(answers.recall)), 4),
        "precision_of_all_hits": round(answers.pair_precision, 4),
    }


def _digest(photo: Path) -> str | None:
    return blake2b(photo.read_bytes(), digest_size=16).hexdigest() if photo.is_file() else None


def _spaces(index: Path, products: list[CatalogueProduct]) -> dict[int, SpaceVectors]:
    """The vectors of an index of one shard, with the rows of the catalogue that they belong to, rising."""
    name = version.read_current(index)
    encoder_of = {entry.name: entry.encoder for entry in version.read_manifest(index, name).spaces}
    base = open_shard(index, 0, name).base
    row_of = {product.id: row for row, product in enumerate(products)}
    rows = np.array([row_of[base.table.ids.text(row)] for row in range(len(base.table))], dtype=np.int64)
    spaces: dict[int, SpaceVectors] = {}
    for number, space in base.spaces.items():
        order = np.argsort(rows[space.rows])
        spaces[number] = SpaceVectors(
            encoder=encoder_of[space_name(number)],
            vectors=np.asarray(space.vectors, dtype=np.float32)[order],
            rows=rows[space.rows][order],
        )
    return spaces


async def _encode(
    address: str, directory: Path, copied: tuple[CopiedProducts, ...], features: VectorTable, encoder: str
) -> None:
    async with image_encoding.connect_encoder(address) as photo_encoder:
        for each in copied:
            photos = each.read_photos(directory, features, side_px=photo_encoder.input_px)
            await image_encoding.encode_photos(photo_encoder.encode, photos, features, encoder)


if __name__ == "__main__":
    main()
