"""What does the gate say of ordinary nights, and of spoiled ones?

From each index, built by `lookalike update`, a live release is made of 95 % of its products, with encoders trained on
these, and candidates: ordinary ones, and ones in which something went wrong that has gone wrong elsewhere. Golden
queries are made from the live release. Every figure of every check is kept.

    python -m benchmarks.gate LOCATION… [--nights same retrained …]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.meter import RESULTS, measurement_context, write
from encoders.product import model as product_encoder
from encoders.product.train import QualityGateFailed
from encoders.text import model as text_encoder
from index.building.build import IndexOptions, SpaceVectors, build
from lookalike.product_rules import FIELDS, CatalogueProduct
from lookalike.releases import version
from lookalike.releases.manifest import Manifest, Origin
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import F32, normalised
from pipeline import product_fusion
from pipeline.gate import verify_release
from pipeline.gate.golden import make_golden
from pipeline.mapped_release import map_release
from pipeline.text_encoding import TextEncoderSettings, choose_text_encoder

CHANGED = 0.05
GOLDEN = 200
CAVEATS = (
    "one draw of the products that are replaced, so new ones are like the old; another seed of the text encoder "
    "shifts its vectors more than 5 % of other texts do"
)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Products, and the photo vector of each (n, dim), zeros where it has none; the encoder of these, empty: none."""

    products: Sequence[CatalogueProduct]
    images: F32
    image_encoder: str

    def take(self, rows: Sequence[int]) -> Catalogue:
        return replace(self, products=[self.products[row] for row in rows], images=self.images[rows])


@dataclass(frozen=True, kw_only=True)
class Night:
    """What a candidate is made of."""

    catalogue: Catalogue
    seed: int = 0  # Of the encoders' training.
    keep_encoders: bool = False  # Those of the live release.
    stale_vectors: bool = False  # The text vectors are those of another encoder than the one in the release.
    rejected: int = 0
    recipe: str = "Flat"
    tamper: Callable[[Manifest], Manifest] = lambda manifest: manifest


@dataclass
class Shop:
    """Where releases of a catalogue are built."""

    location: Path
    artifacts: Path

    def release(self, night: Night, live: Night | None = None) -> str:
        trained_on = live or night if night.keep_encoders else night
        text = self._text(trained_on)
        model = text_encoder.load(text)
        other = text_encoder.load(self._text(replace(night, seed=1))) if night.stale_vectors else model
        vectors = other.encode([product.title for product in night.catalogue.products])
        rows = np.flatnonzero(vectors.any(axis=1)).astype(np.int64)
        spaces = {int(SPACE_TEXT): SpaceVectors(encoder=model.fingerprint, vectors=vectors[rows], rows=rows)}
        artifacts = {int(SPACE_TEXT): text}
        with_photo = np.flatnonzero(night.catalogue.images.any(axis=1)).astype(np.int64)
        if len(with_photo):
            spaces[SPACE_IMAGE] = SpaceVectors(
                encoder=night.catalogue.image_encoder, vectors=night.catalogue.images[with_photo], rows=with_photo
            )
            inputs = product_fusion.ModalityVectors(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT])
            try:
                artifact, _ = product_fusion.train_product_encoder(
                    inputs, night.catalogue.products, self.artifacts / "product", seed=night.seed
                )
                artifacts[SPACE_PRODUCT] = artifact
                scratch = self.location / "product.npy"
                spaces[SPACE_PRODUCT] = product_fusion.fuse(inputs, product_encoder.load(artifact), scratch)
            except QualityGateFailed as error:
                print(f"no product space: {error}", flush=True)
        table = pa.table({name: [getattr(each, name) for each in night.catalogue.products] for name in FIELDS})
        origin = Origin(catalogue="", digest="", rows=table.num_rows + night.rejected, rejected=night.rejected)
        name = build(
            self.location,
            table,
            spaces,
            shards=2,
            options=IndexOptions(recipe=night.recipe),
            encoders=artifacts,
            origin=origin,
            serve=False,
        )
        manifest = version.read_manifest(self.location, name)
        version.write_manifest(self.location / name, night.tamper(manifest))
        return name

    def _text(self, night: Night) -> Path:
        return choose_text_encoder(
            night.catalogue.products, self.artifacts / "text", TextEncoderSettings(seed=night.seed)
        ).artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("locations", nargs="+", type=Path)
    parser.add_argument("--nights", nargs="*", help="only these; others keep their last figures")
    options = parser.parse_args()
    path = RESULTS / "gate.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for location in options.locations:
        with tempfile.TemporaryDirectory() as folder:
            shop = Shop(location=Path(folder) / "index", artifacts=Path(folder) / "encoders")
            shop.location.mkdir()
            live, nights = _nights(_read(location))
            serving = shop.release(live)
            golden = Path(folder) / "golden.jsonl"
            golden.write_text("\n".join(make_golden(map_release(shop.location, serving), GOLDEN, 0)), encoding="utf-8")
            for name, night in nights.items():
                if options.nights and name not in options.nights:
                    continue
                candidate = shop.release(night(), live)
                report = verify_release(shop.location, candidate, serving, golden=golden).as_json()
                if candidate != serving:
                    shutil.rmtree(shop.location / candidate)
                results.setdefault(location.name, {})[name] = {
                    "refused_by": [check["name"] for check in report["checks"] if not check["passed"]],
                    "seconds": report["seconds"],
                    "checks": {check["name"]: _short(check) for check in report["checks"]},
                }
                print(location.name, name, json.dumps(results[location.name][name]["refused_by"]), flush=True)
                results |= {"caveats": CAVEATS, **measurement_context()}
                write("gate", results)


def _short(check: Mapping[str, Any]) -> dict[str, Any]:
    """Figures without what a catalogue says."""
    left_out = {"misses", "forbidden", "gone"} if check["name"] in ("golden", "shrinkage") else set()
    return {key: value for key, value in check["figures"].items() if key not in left_out}


def _read(location: Path) -> Catalogue:
    release = map_release(location, version.read_current(location))
    rows = release.draw(len(release), 0)
    image = release.space("image")
    images = np.zeros((len(rows), image.dim if image else 1), dtype=np.float32)
    products = []
    for i, at in enumerate(rows):
        if image is not None and (vector := release.vector(at, "image")) is not None:
            images[i] = vector
        product = release.product(at)
        products.append(
            CatalogueProduct(
                id=product.id,
                category=product.category,
                title=product.title,
                description=release.description(at),
                tags=tuple(product.tags),
            )
        )
    return Catalogue(products=products, images=images, image_encoder=image.encoder if image else "")


def _nights(whole: Catalogue) -> tuple[Night, Mapping[str, Callable[[], Night]]]:
    """The live one, and the others by name. The products are in random order."""
    count = len(whole.products)
    changed = round(CHANGED * count)
    old = whole.take(range(count - changed))
    random = np.random.default_rng(3)

    @cache
    def new() -> Catalogue:
        return whole.take([*range(changed, count)])

    def with_images(images: F32) -> Catalogue:
        return replace(new(), images=images.astype(np.float32))

    def with_titles(title: Callable[[CatalogueProduct], str]) -> Catalogue:
        return replace(new(), products=[replace(each, title=title(each)) for each in new().products])

    def mixed_up(share: float) -> F32:
        images = new().images.copy()
        rows = np.sort(random.choice(len(images), round(share * len(images)), replace=False))
        images[rows] = images[random.permutation(rows)]
        return images

    def placeholder(share: float) -> F32:
        images = new().images.copy()
        images[random.random(len(images)) < share] = images[0]
        return images

    def swapped_titles(share: float) -> Catalogue:
        titles = [each.title for each in new().products]
        rows = np.flatnonzero(random.random(len(titles)) < share)
        for row, other in zip(rows.tolist(), random.permutation(rows).tolist(), strict=True):
            titles[row] = new().products[other].title
        return replace(
            new(), products=[replace(each, title=title) for each, title in zip(new().products, titles, strict=True)]
        )

    def one_category() -> Catalogue:
        names = [each.category for each in new().products]
        largest = max(set(names), key=names.count)
        return replace(new(), products=[replace(each, category=largest) for each in new().products])

    def shallow(manifest: Manifest) -> Manifest:
        return replace(manifest, spaces=tuple(_with_less_effort(manifest)))

    nights: dict[str, Callable[[], Night]] = {
        "ordinary: nothing changed, trained anew": lambda: Night(catalogue=old, seed=1),
        "ordinary: 5 % replaced, text encoder kept": lambda: Night(catalogue=new(), keep_encoders=True),
        "ordinary: 5 % replaced, trained anew": lambda: Night(catalogue=new()),
        "ordinary: 5 % replaced, trained anew with another seed": lambda: Night(catalogue=new(), seed=1),
        "ordinary: 8 % fewer, 1 % more rejected": lambda: Night(
            catalogue=old.take([*range(round(0.92 * len(old.products)))]),
            rejected=round(0.01 * len(old.products)),
            keep_encoders=True,
        ),
        "spoiled: half of the file": lambda: Night(
            catalogue=new().take([*range(len(new().products) // 2)]), keep_encoders=True
        ),
        "spoiled: a tenth rejected": lambda: Night(
            catalogue=new().take([*range(round(0.91 * len(new().products)))]),
            rejected=round(0.1 * count),
            keep_encoders=True,
        ),
        "spoiled: one category for all": lambda: Night(catalogue=one_category(), keep_encoders=True),
        "spoiled: vectors of another text encoder": lambda: Night(catalogue=new(), stale_vectors=True),
        "spoiled: ids for titles": lambda: Night(catalogue=with_titles(lambda each: each.id)),
        "spoiled: a fifth of the titles mixed up": lambda: Night(catalogue=swapped_titles(0.2)),
        "ordinary: 5 % replaced, searched by a graph": lambda: Night(catalogue=new(), recipe="HNSW32,SQ8"),
        "spoiled: a graph that is searched with a quarter of the effort": lambda: Night(
            catalogue=new(), recipe="HNSW32,SQ8", tamper=shallow
        ),
    }
    if whole.image_encoder:
        nights |= {
            "spoiled: all photos mixed up": lambda: Night(catalogue=with_images(mixed_up(1))),
            "spoiled: a fifth of the photos mixed up": lambda: Night(catalogue=with_images(mixed_up(0.2))),
            "spoiled: a fifth of the photos one placeholder": lambda: Night(catalogue=with_images(placeholder(0.2))),
            "spoiled: an untrained image model": lambda: Night(
                catalogue=with_images(
                    normalised(
                        normalised(random.standard_normal(new().images.shape).astype(np.float32))
                        + 3 * normalised(new().images.mean(axis=0, keepdims=True))
                    )
                )
            ),
        }
    return Night(catalogue=old), nights


def _with_less_effort(manifest: Manifest) -> list[Any]:
    return [
        replace(
            space,
            indexes=tuple(
                replace(
                    index,
                    operating_points=tuple(
                        replace(point, search_parameter=max(1, point.search_parameter // 4), refine_factor=1)
                        for point in index.operating_points
                    ),
                )
                for index in space.indexes
            ),
        )
        for space in manifest.spaces
    ]


if __name__ == "__main__":
    main()
