"""What workers know of photos is in the feature store, and a store that cannot be written stops none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lookalike.errors import OperatorError
from pipeline.features.parts import Parts
from pipeline.features.store import FeatureStore
from pipeline.fetching.photo import Validators
from pipeline.worker.known_photos import StoredPhotosKnown

DIGEST, OTHER = "0" * 31 + "1", "0" * 31 + "2"
SEEN = Validators(etag='"1"', modified="Mon, 01 Jan 2024 00:00:00 GMT", size=7)


def known(folder: Path) -> StoredPhotosKnown:
    photos = StoredPhotosKnown(FeatureStore(folder, notice=lambda text: None))
    photos.use("net-1", 2)
    return photos


def test_what_one_worker_has_flushed_the_next_knows(tmp_path: Path) -> None:
    first = known(tmp_path)
    first.add_vector("net-1", DIGEST, np.array([0.6, 0.8], np.float32))
    first.note_fetched("http://shop/a.jpg", DIGEST, SEEN)
    assert first.fetched("http://shop/a.jpg") == (DIGEST, SEEN)
    first.flush()
    second = known(tmp_path)
    assert second.fetched("http://shop/a.jpg") == (DIGEST, SEEN)
    vector = second.vector("net-1", DIGEST)
    assert vector is not None
    assert np.array_equal(vector, np.array([0.6, 0.8], np.float32))
    assert second.vector("net-1", OTHER) is None
    assert second.fetched("http://shop/b.jpg") is None


def test_what_others_have_stored_is_known_after_a_refresh(tmp_path: Path) -> None:
    first, second = known(tmp_path), known(tmp_path)
    first.add_vector("net-1", DIGEST, np.array([0.6, 0.8], np.float32))
    first.flush()
    assert second.vector("net-1", DIGEST) is None
    second.refresh()
    assert second.vector("net-1", DIGEST) is not None


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
        photos.add_vector("net-1", f"{number:032x}", vectors[number % 2])
        photos.note_fetched(f"http://shop/{number}.jpg", f"{number:032x}", SEEN)
    assert sum(photos.vector("net-1", f"{number:032x}") is not None for number in range(0, 5000, 10)) < 200
    with pytest.raises(OperatorError, match="no space"):
        photos.flush()
    full = False
    photos.flush()
    photos.add_vector("net-1", f"{4999:032x}", vectors[0])
    photos.flush()
    assert known(tmp_path).vector("net-1", f"{4999:032x}") is not None
