"""Builds small releases for tests: photo vectors, real text and product encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoders.product import model as product_encoder
from encoders.text import model as text_encoder
from index.building.build import IndexOptions, SpaceVectors, build
from lookalike.product_rules import FIELDS, CatalogueProduct
from lookalike.releases import version
from lookalike.releases.manifest import Manifest, OperatingPoint, Origin
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import F32, normalised
from pipeline import product_fusion
from pipeline.text_encoding import TextEncoderSettings, choose_text_encoder

COUNT, IMAGE_DIM, SHARDS = 800, 24, 2
SHAPES, WORDS = ("round", "square", "long"), ("lamp", "mug", "shirt", "ring")
COLOURS = ("red", "blue", "green", "grey", "black")


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a release is built from: products, and the photo vector of each."""

    products: Sequence[CatalogueProduct]
    images: F32  # (n, IMAGE_DIM)

    def take(self, rows: Sequence[int]) -> Content:
        return Content(products=[self.products[row] for row in rows], images=self.images[list(rows)])

    def with_categories(self, category: str) -> Content:
        return replace(self, products=[replace(each, category=category) for each in self.products])


def make_content() -> Content:
    """Products whose shape the photo tells and whose word the title: the category is both."""
    random = np.random.default_rng(0)
    shapes, words = random.integers(len(SHAPES), size=COUNT), random.integers(len(WORDS), size=COUNT)
    images = np.eye(IMAGE_DIM)[shapes] + 0.25 * random.standard_normal((COUNT, IMAGE_DIM))
    products = [
        CatalogueProduct(
            id=f"p{i}",
            category=f"{SHAPES[shape]}/{WORDS[word]}",
            title=f"{COLOURS[i % len(COLOURS)]} {WORDS[word]} number {random.integers(40)}",
            description=f"It is {SHAPES[shape]}",
        )
        for i, (shape, word) in enumerate(zip(shapes.tolist(), words.tolist(), strict=True))
    ]
    return Content(products=products, images=normalised(images.astype(np.float32)))


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A location, and the encoders of what is built there."""

    location: Path
    text: Path
    product: Path
    content: Content

    @classmethod
    def make(cls, folder: Path) -> Shop:
        content = make_content()
        text = choose_text_encoder(content.products, folder / "text", TextEncoderSettings(kind="fasttext")).artifact
        shop = cls(location=folder / "index", text=text, product=text, content=content)
        spaces = shop.spaces(content)
        inputs = product_fusion.ModalityVectors(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT])
        product, _ = product_fusion.train_product_encoder(inputs, content.products, folder / "product", seed=0)
        shop.location.mkdir()
        return replace(shop, product=product)

    def spaces(self, content: Content) -> dict[int, SpaceVectors]:
        model = text_encoder.load(self.text)
        rows = np.arange(len(content.products))
        vectors = model.encode([each.title for each in content.products])
        return {
            int(SPACE_IMAGE): SpaceVectors(encoder="mobilenet-1", vectors=content.images, rows=rows),
            int(SPACE_TEXT): SpaceVectors(encoder=model.fingerprint, vectors=vectors, rows=rows),
        }

    def build(
        self,
        content: Content | None = None,
        *,
        rejected: int = 0,
        spaces: Callable[[dict[int, SpaceVectors]], dict[int, SpaceVectors]] = lambda spaces: spaces,
        encoders: Mapping[int, Path] | None = None,
        recipe: str = "Flat",
    ) -> str:
        """A release of this content that does not serve. spaces: changes what is stored."""
        content = content or self.content
        made = self.spaces(content)
        inputs = product_fusion.ModalityVectors(image=made[SPACE_IMAGE], text=made[SPACE_TEXT])
        model = product_encoder.load(self.product)
        made[SPACE_PRODUCT] = product_fusion.fuse(inputs, model, self.location / "product.npy")
        table = pa.table({name: [getattr(each, name) for each in content.products] for name in FIELDS})
        return build(
            self.location,
            table,
            spaces(made),
            shards=SHARDS,
            options=IndexOptions(recipe=recipe),
            encoders={SPACE_TEXT: self.text, SPACE_PRODUCT: self.product} if encoders is None else encoders,
            origin=Origin(catalogue="shop", digest="", rows=table.num_rows + rejected, rejected=rejected),
            serve=False,
        )

    def rewrite(self, name: str, change: Callable[[Manifest], Manifest]) -> None:
        """Write another manifest, with a valid checksum."""
        version.write_manifest(self.location / name, change(version.read_manifest(self.location, name)))


def with_points(manifest: Manifest, change: Callable[[OperatingPoint], OperatingPoint]) -> Manifest:
    """The manifest with other operating points of the image space."""
    spaces = [
        replace(
            space,
            indexes=tuple(
                replace(index, operating_points=tuple(map(change, index.operating_points))) for index in space.indexes
            ),
        )
        if space.name == "image"
        else space
        for space in manifest.spaces
    ]
    return replace(manifest, spaces=tuple(spaces))
