"""What workers know of photos is in the feature store, and a store that cannot be written stops none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lookalike.errors import OperatorError
from lookalike.vectors import F32
from pipeline.features.parts import Parts
from pipeline.features.store import FeatureStore
from pipeline.fetching.photo import Validators
from pipeline.worker.known_photos import StoredPhotosKnown
from pipeline.worker.photo_vectors import EncodedPhoto

DIGEST, OTHER = f"{1:032x}", f"{2:032x}"
VECTOR = np.array([0.6, 0.8], np.float32)
SEEN = Validators(etag='"1"', modified="Mon, 01 Jan 2024 00:00:00 GMT", size=7)


def photo(number: int, vector: F32 | None, source: str = "http://shop/a.jpg") -> EncodedPhoto:
    return EncodedPhoto(source=source, digest=f"{number:032x}", validators=SEEN, encoder="net-1", vector=vector)


def known(folder: Path) -> StoredPhotosKnown:
    photos = StoredPhotosKnown(FeatureStore(folder, notice=lambda text: None))
    photos.use("net-1", 2)
    return photos


def test_what_one_worker_has_flushed_the_next_knows(tmp_path: Path) -> None:
    first = known(tmp_path)
    first.keep([photo(1, VECTOR)])
    first.flush()
    for each in (first, known(tmp_path)):
        absent, seen = each.fetched("net-1", ["http://shop/b.jpg", "http://shop/a.jpg"])
        assert absent is None
        assert seen is not None
        assert seen.validators == SEEN
        assert np.array_equal(seen.vector, VECTOR)
        vector, other = each.vectors("net-1", [DIGEST, OTHER])
        assert vector is not None
        assert np.array_equal(vector, VECTOR)
        assert other is None


def test_a_photo_that_another_encoder_has_encoded_has_to_be_fetched(tmp_path: Path) -> None:
    photos = known(tmp_path)
    photos.use("net-2", 2)
    photos.keep([photo(1, VECTOR)])
    assert photos.fetched("net-2", ["http://shop/a.jpg"]) == [None]


def test_one_photo_at_two_addresses_is_known_at_both(tmp_path: Path) -> None:
    photos = known(tmp_path)
    addresses = ["http://shop/a.jpg", "http://shop/b.jpg"]
    photos.keep([photo(1, vector, source) for source, vector in zip(addresses, (VECTOR, None), strict=True)])
    assert all(each is not None for each in photos.fetched("net-1", addresses))


def test_what_others_have_stored_is_known_after_a_refresh(tmp_path: Path) -> None:
    first, second = known(tmp_path), known(tmp_path)
    first.keep([photo(1, VECTOR)])
    first.flush()
    assert second.vectors("net-1", [DIGEST]) == [None]
    second.refresh()
    assert second.vectors("net-1", [DIGEST])[0] is not None


def test_a_full_disk_stops_nothing_takes_no_memory_and_is_over_when_the_store_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = known(tmp_path)
    append = Parts.append
    full = True

    def fail(self: Parts, table: pa.Table, **options: object) -> object:
        if full:
            raise OperatorError("no space left on the device")
        return append(self, table, **options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(Parts, "append", fail)
    vectors = np.eye(2, dtype=np.float32)
    for number in range(5000):
        photos.keep([photo(number, vectors[number % 2], f"http://shop/{number}.jpg")])
    kept = photos.vectors("net-1", [f"{number:032x}" for number in range(0, 5000, 10)])
    assert sum(vector is not None for vector in kept) < 200
    with pytest.raises(OperatorError, match="no space"):
        photos.flush()
    full = False
    photos.flush()
    photos.keep([photo(4999, vectors[0])])
    photos.flush()
    assert known(tmp_path).vectors("net-1", [f"{4999:032x}"])[0] is not None
