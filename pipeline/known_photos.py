"""Photos that an update needs no file of, since their vectors are known. Does disk and network I/O; blocking.

Each is a function of products that returns the digests of their photos in the feature store, by product id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lookalike.product_rules import CatalogueProduct, is_photo_url
from lookalike.vectors import F32
from pipeline.features.photo_register import PhotoRegister, source_digest
from pipeline.features.vectors import VectorTable
from pipeline.photos import KnownPhotos


class FetchedPhotos:
    """Photos that a worker fetched and encoded, by where it found them: nothing is fetched again.

    roots: directories and URLs that paths of photos are below, as events name them; none: only URLs are looked up.
    """

    def __init__(self, register: PhotoRegister, features: VectorTable, roots: Sequence[str] = ()) -> None:
        self._register = register
        self._features = features
        self._roots = roots

    def __call__(self, products: Sequence[CatalogueProduct]) -> Mapping[str, str]:
        sources = {product.id: self._sources(product.image) for product in products if product.image}
        fetched = self._register.lookup([*dict.fromkeys(each for names in sources.values() for each in names)])
        digests: dict[str, str] = {}
        for product_id, names in sources.items():
            found = max(
                (fetched[name] for name in names if name in fetched), key=lambda photo: photo.fetched_us, default=None
            )
            if found is not None:
                digests[product_id] = found.digest
        _, stored = self._features.lookup([*digests.values()])  # A damaged vector is none.
        return {
            product_id: digest
            for (product_id, digest), is_stored in zip(digests.items(), stored.tolist(), strict=True)
            if is_stored
        }

    def _sources(self, image: str) -> Sequence[str]:
        if is_photo_url(image):
            return (image,)
        return [f"{root}/{image}" if root else image for root in self._roots]


class ServedPhotos:
    """Photos of the products that a gateway serves: as a worker fetched them, else by the vectors that are served.

    These are kept in the feature store, under a key of the product. Photos whose files are in `directory` are left out:
    a file tells whether it has changed.
    """

    def __init__(
        self,
        served: Callable[[Sequence[str]], Mapping[str, F32]],
        features: VectorTable,
        fetched: KnownPhotos,
        directory: Path | None,
    ) -> None:
        """served: the vectors that are served of these products, as far as they are by the encoder of `features`."""
        self._served = served
        self._features = features
        self._fetched = fetched
        self._directory = directory

    def __call__(self, products: Sequence[CatalogueProduct]) -> Mapping[str, str]:
        without_file = [product for product in products if not self._has_file(product.image)]
        known = dict(self._fetched(without_file))
        rest = [product.id for product in without_file if product.id not in known]
        served = self._served(rest) if rest else {}
        if served:
            self._keep(served)
        return known | {product_id: _key(product_id) for product_id in served}

    def _has_file(self, image: str) -> bool:
        return bool(image) and self._directory is not None and (self._directory / image).is_file()

    def _keep(self, served: Mapping[str, F32]) -> None:
        """Store the vectors that are not stored, or were others."""
        keys, vectors = [*map(_key, served)], np.stack([*served.values()])
        stored, is_stored = self._features.lookup(keys)
        new = np.flatnonzero(~is_stored | (stored != vectors).any(axis=1)).tolist()
        ids = [*served]
        if new:
            self._features.add([keys[row] for row in new], vectors[new], [ids[row] for row in new])


def _key(product_id: str) -> str:
    return source_digest(f"served:{product_id}")
