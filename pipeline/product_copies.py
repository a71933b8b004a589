"""Copies of held-out products as another shop would show them: of which products, and their vectors. Reads photos.

The copy of a photo is encoded once by an image encoder: it is stored like a photo of the catalogue, by its own digest.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from encoders.image.isolated_decoder import Decode, image_decoder
from encoders.image.perturbation import Pixels, perturb_photo, photo_rng, to_square
from encoders.product.model import ProductModel
from encoders.splits import Split
from encoders.text.model import TextModel
from encoders.text.perturbation import perturb_titles
from lookalike.product_rules import CatalogueProduct, has_word
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import I64
from pipeline.duplicate_scores import MIN_QUERIES
from pipeline.duplicates import MAX_QUERIES, Copies, draw, groups_of, held_out_rows, states_groups
from pipeline.features.vectors import VectorTable
from pipeline.photos import Photo, open_photo
from pipeline.product import PhotoError

MAX_PHOTOS = 500  # That are copied and encoded: 15 s of CPU.
# Photos are decoded to this many times the side that the model takes, and edited at that size: shrunk ones then lose
# detail that the model would see, as thumbnails do.
SCALE = 2
_DECODERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedProducts:
    """The products of a catalogue that are copied. Their photos' digests: None for no photo."""

    products: Sequence[CatalogueProduct]
    photo_digests: Sequence[str | None]
    seed: int
    split: Split = Split.CALIBRATE

    def photo_rows(self) -> I64:
        """The products whose photos are copied; none if groups are stated, or if there are too few."""
        with_photo = [row for row in self._held_out().tolist() if self.photo_digests[row] is not None]
        drawn = draw(np.array(with_photo, dtype=np.int64), MAX_PHOTOS, self.seed)
        return drawn if len(drawn) >= MIN_QUERIES else drawn[:0]

    def title_rows(self) -> I64:
        """The products whose titles are copied; none if groups are stated."""
        with_title = [row for row in self._held_out().tolist() if has_word(self.products[row].title)]
        return draw(np.array(with_title, dtype=np.int64), MAX_QUERIES, self.seed)

    def copy_digest(self, row: int) -> str:
        """The key of the copy of a photo in the feature store: 32 hexadecimal digits."""
        key = f"copy {self.seed} {self.photo_digests[row]}"
        return blake2b(key.encode(), digest_size=16).hexdigest()

    def copy_digests(self) -> list[str]:
        """The keys of the copies of all photos that are copied."""
        return [self.copy_digest(row) for row in self.photo_rows().tolist()]

    def _held_out(self) -> I64:
        rows = held_out_rows(self.products, self.split)
        return rows[:0] if states_groups(groups_of(self.products), rows) else rows

    def read_photos(self, directory: Path, stored_digests: Container[str], *, side_px: int) -> Iterator[Photo]:
        """A copy of each photo, in a square of `side_px`; none of one that cannot be read, or that is stored."""
        with image_decoder(_DECODERS, SCALE * side_px) as decode:
            for row in self.photo_rows().tolist():
                if (digest := self.copy_digest(row)) in stored_digests:
                    continue
                path = directory / self.products[row].image
                if (pixels := copy_photo(path, decode, side_px=side_px, seed=self.seed)) is not None:
                    yield Photo(digest, pixels)

    def vectors(
        self,
        features: VectorTable | None,
        text_model: TextModel | None,
        product_model: ProductModel | None,
        scratch: Path,
    ) -> dict[int, Copies]:
        """The vectors of copies by space: of titles, of photos, and of photos with their titles.

        features: has the photos' copies. None: there is no such space. scratch: a new file.
        """
        copies: dict[int, Copies] = {}
        if text_model is not None:
            copies[SPACE_TEXT] = self._title_copies(text_model, self.title_rows())
        if features is not None:
            rows = np.array([row for row in self.photo_rows().tolist() if self.copy_digest(row) in features], np.int64)
            images, missing = features.gather([self.copy_digest(row) for row in rows.tolist()], scratch)
            if len(missing):  # What was stored is damaged.
                rows, images = np.delete(rows, missing), np.delete(images, missing, axis=0)
            copies[SPACE_IMAGE] = Copies(vectors=images, rows=rows)
            if text_model is not None and product_model is not None:
                texts = self._title_copies(text_model, rows).vectors
                copies[SPACE_PRODUCT] = Copies(vectors=product_model.encode(images, texts), rows=rows)
        return copies

    def _title_copies(self, model: TextModel, rows: I64) -> Copies:
        titles = perturb_titles([self.products[row].title for row in rows.tolist()], self.seed)
        return Copies(vectors=model.encode(titles), rows=rows)


def copy_photo(path: Path, decode: Decode, *, side_px: int, seed: int, changes: Collection[str] = ()) -> Pixels | None:
    """(side_px, side_px, 3) the photo after these changes, or some at random; None if it cannot be read.

    decode: to a square of SCALE times the side.
    """
    try:
        photo = open_photo(path, decode)
    except PhotoError:
        return None
    if photo.pixels is None:
        return None
    return to_square(perturb_photo(photo.pixels, photo_rng(photo.digest, seed), changes), side_px)
