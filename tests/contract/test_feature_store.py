"""The contract of the feature store, run over a directory, a store in memory, and S3 over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest

from lookalike.errors import OperatorError
from lookalike.vectors import F32
from pipeline.features.compaction import CompactionOptions
from pipeline.features.photo_register import FetchedPhoto
from pipeline.features.store import FeatureStore, Partition
from tests import stores

TEXTS = Partition(kind="text", encoder="hybrid-1")
Open = Callable[[], FeatureStore]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3() as options:
        yield options


@pytest.fixture(params=["directory", "file", "memory", "s3"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one store, as another process does."""
    options: dict[str, Any] = {}
    where = {"directory": str(tmp_path / "store"), "file": f"file://{tmp_path}/store"}.get(
        request.param, f"memory://{uuid4().hex}/store"
    )
    if request.param == "s3":
        options = json.loads(request.getfixturevalue("s3"))
        bucket = f"bucket-{uuid4().hex[:12]}"
        fsspec.filesystem("s3", **options).mkdir(bucket)
        where = f"s3://{bucket}/shop/features"

    def notice(text: str) -> None:
        raise AssertionError(text)

    return lambda: FeatureStore(where, options, notice=notice)


def digests(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def vectors(count: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal((count, 16), dtype=np.float32)


def test_an_empty_store_can_be_read(open_store: Open) -> None:
    store = open_store()

    assert store.partitions() == []
    assert not store.vectors("text", encoder="hybrid-1", dim=16).lookup(digests(3))[1].any()
    assert store.photos().lookup(["a"]) == {}


def test_the_last_of_several_writers_wins_before_and_after_compaction(open_store: Open, tmp_path: Path) -> None:
    first, second = (open_store().vectors("text", encoder="hybrid-1", dim=16) for _ in range(2))
    for seed in range(5):
        first.add(digests(40), vectors(40, seed))
        first.flush()
    second.add(digests(20), vectors(20, 9))
    second.flush()
    expected = np.concatenate([vectors(20, 9), vectors(40, 4)[20:]])
    before = open_store().vectors("text", encoder="hybrid-1", dim=16)

    for _ in range(2):
        open_store().compact(TEXTS, CompactionOptions(grace_s=0))

    assert open_store().status(TEXTS).parts == 1
    for table in (before, open_store().vectors("text", encoder="hybrid-1", dim=16)):
        np.testing.assert_array_equal(table.lookup(digests(40))[0], expected)
        gathered, missing = table.gather(digests(41), tmp_path / f"{uuid4().hex}.npy")
        np.testing.assert_array_equal(gathered[:40], expected)
        assert missing.tolist() == [40]


def test_photos_are_registered_by_source(open_store: Open) -> None:
    photo = FetchedPhoto(source="https://shop/1.jpg", digest="a" * 32, etag='"1"', bytes=9, fetched_us=3, product="p")
    register = open_store().photos()
    register.add([photo])
    register.close()

    assert open_store().photos().lookup([photo.source, "https://shop/2.jpg"]) == {photo.source: photo}


def test_a_dropped_encoder_is_gone_and_the_others_stay(open_store: Open) -> None:
    store = open_store()
    for encoder in ("hybrid-1", "hybrid-2"):
        table = store.vectors("text", encoder=encoder, dim=16)
        table.add(digests(3), vectors(3, 0))
        table.flush()

    store.drop(TEXTS)

    assert open_store().partitions() == [Partition(kind="text", encoder="hybrid-2")]
    assert len(open_store().vectors("text", encoder="hybrid-1", dim=16)) == 0


def test_a_store_that_cannot_be_reached_is_an_error_and_not_empty() -> None:
    options = {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"},
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
        "skip_instance_cache": True,
    }
    store = FeatureStore("s3://bucket/features", options, notice=print)

    with pytest.raises(OperatorError, match=r"^s3://bucket/features/kind=text/encoder=hybrid-1: "):
        store.vectors("text", encoder="hybrid-1", dim=16)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"^nowhere://x: "):
        FeatureStore("nowhere://x", notice=print)
