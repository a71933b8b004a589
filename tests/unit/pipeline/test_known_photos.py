"""Photos without a file: by what workers fetched, and by the vectors that are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from lookalike.product_rules import CatalogueProduct
from lookalike.vectors import F32
from pipeline.features.photo_register import FetchedPhoto, PhotoRegister
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.known_photos import FetchedPhotos, ServedPhotos

URL = "https://shop/a.jpg"
DIGEST, OTHER = "0" * 31 + "1", "0" * 31 + "2"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", notice=lambda text: None)


@pytest.fixture
def features(store: FeatureStore) -> VectorTable:
    features = store.vectors("image", encoder="m", dim=2)
    features.add([DIGEST, OTHER], np.array([[1, 0], [0, 1]], np.float32))
    return features


@pytest.fixture
def register(store: FeatureStore) -> PhotoRegister:
    return store.photos()


def product(product_id: str = "a", image: str = URL) -> CatalogueProduct:
    return CatalogueProduct(id=product_id, category="c", image=image)


class Gateway:
    """Serves vectors."""

    def __init__(self, **vectors: F32) -> None:
        self.vectors = vectors
        self.asked: list[str] = []

    def __call__(self, product_ids: Sequence[str]) -> Mapping[str, F32]:
        self.asked += product_ids
        return {each: self.vectors[each] for each in product_ids if each in self.vectors}


def test_a_photo_by_url_that_a_worker_fetched_is_known(register: PhotoRegister, features: VectorTable) -> None:
    register.add([FetchedPhoto(source=URL, digest=DIGEST)])
    known = FetchedPhotos(register, features)([product(), product("b", "https://shop/b.jpg"), product("c", "")])
    assert known == {"a": DIGEST}


def test_a_photo_whose_vector_is_of_another_encoder_is_not_known(register: PhotoRegister, store: FeatureStore) -> None:
    register.add([FetchedPhoto(source=URL, digest=DIGEST)])
    assert FetchedPhotos(register, store.vectors("image", encoder="other", dim=2))([product()]) == {}


def test_a_path_is_looked_up_below_the_roots_and_the_last_that_was_fetched_counts(
    register: PhotoRegister, features: VectorTable
) -> None:
    register.add([FetchedPhoto(source="/old/1.jpg", digest=DIGEST, fetched_us=1)])
    register.add([FetchedPhoto(source="/new/1.jpg", digest=OTHER, fetched_us=2)])
    by_path = product(image="1.jpg")
    assert FetchedPhotos(register, features)([by_path]) == {}
    assert FetchedPhotos(register, features, ["", "/old"])([by_path]) == {"a": DIGEST}
    assert FetchedPhotos(register, features, ["/new", "/old"])([by_path]) == {"a": OTHER}


def test_a_photo_that_nobody_fetched_is_known_by_the_vector_that_is_served(features: VectorTable) -> None:
    served = ServedPhotos(Gateway(a=np.array([0.6, 0.8], np.float32)), features, lambda products: {}, None)
    known = served([product(), product("b")])
    assert known.keys() == {"a"}
    vectors, _ = features.lookup([known["a"]])
    assert np.allclose(vectors[0], [0.6, 0.8])


def test_a_served_vector_is_stored_anew_only_when_it_is_another(features: VectorTable) -> None:
    gateway = Gateway(a=np.array([0.6, 0.8], np.float32))
    served = ServedPhotos(gateway, features, lambda products: {}, None)
    key = served([product()])["a"]
    features.flush()
    parts = len(features.parts.all())
    served([product()])
    features.flush()
    assert len(features.parts.all()) == parts
    gateway.vectors["a"] = np.array([0.8, 0.6], np.float32)
    assert served([product()]) == {"a": key}
    assert np.allclose(features.lookup([key])[0][0], [0.8, 0.6])


def test_no_vector_is_asked_for_where_a_file_or_a_worker_has_the_photo(features: VectorTable, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"photo")
    gateway = Gateway()
    served = ServedPhotos(gateway, features, lambda products: {"fetched": DIGEST}, tmp_path)
    assert served([product("file", "1.jpg"), product("fetched"), product("rest", "2.jpg")]) == {"fetched": DIGEST}
    assert gateway.asked == ["rest"]
