"""What a version takes over of the changes of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import build
from index.kinds.engine import use_threads
from index.live.carrying import carry
from index.live.live import Live
from index.serving.loaded import LoadedShard, opened
from lookalike.vectors import pack
from protos.lookalike.v1.types_pb2 import Product
from tests.unit.index.live_samples import BOUNDS, COUNT, Oracle, built, drawn, live, remove, upsert
from tests.unit.index.samples import IMAGE, TEXT, catalogue, unit_vectors, vectors_of


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For such small arrays more threads only wait for each other."""
    use_threads(1)


@pytest.fixture
def old(tmp_path: Path) -> Live:
    return live(built(tmp_path / "index"), tmp_path / "old")


def rebuilt(
    location: Path, *, revision: int = 0, text: str = "drawn", shards: int = 1, count: int = COUNT
) -> LoadedShard:
    """Other vectors of the same products, of which all are of that revision."""
    table = catalogue(count).append_column("revision", pa.array([revision] * count))
    spaces = {IMAGE: vectors_of(unit_vectors(count, 8, seed=8)), TEXT: vectors_of(unit_vectors(count, 4), encoder=text)}
    build(location, table, {int(space): given for space, given in spaces.items()}, shards=shards)
    return opened(location, 0)


@pytest.mark.parametrize("seed", range(3))
def test_everything_that_is_newer_than_the_new_version_goes_along(old: Live, tmp_path: Path, seed: int) -> None:
    shard = rebuilt(tmp_path / "next", revision=5)
    new, oracle = live(shard, tmp_path / "new"), Oracle.of(shard)
    for held in oracle.held.values():
        held.revision = 5
    for update in drawn(np.random.default_rng(seed), 120):
        old.apply([update])
        if old.compaction_due:
            old.compact()
    for product_id, revision in old.changes():
        if (place := old.view.find(product_id.decode())) is not None:
            product = Product.FromString(place.product)
            product.description = place.description
            vectors = [(space, vector) for space in (IMAGE, TEXT) if (vector := place.vector(space)) is not None]
            update = upsert(product.id, revision, spaces=())
            update.upsert.product.CopyFrom(product)
            for space, vector in vectors:
                update.upsert.vectors.add(space=space, vector=pack(vector))
            oracle.apply(update)
        elif new.was_built_with(product_id):
            oracle.apply(remove(product_id.decode(), revision))
    assert carry(old, new).changes == 0
    oracle.check(new)
    sequence = new.sequence
    assert sequence
    assert carry(old, new).changes == 0
    assert new.sequence == sequence  # Once more, nothing is newer.


def test_what_was_removed_and_is_not_in_the_new_version_leaves_nothing_behind(old: Live, tmp_path: Path) -> None:
    old.apply([remove("p1", 9), remove("p59", 9), remove("never seen", 9)])
    new = live(rebuilt(tmp_path / "next", count=40), tmp_path / "new")
    carry(old, new)
    assert new.state().removed == 1
    assert new.view.find("p1") is None


def test_vectors_of_another_encoder_stay_behind_and_that_is_told(old: Live, tmp_path: Path) -> None:
    old.apply([upsert("p1", 9), upsert("p2", 9, spaces=(IMAGE,))])
    new = live(rebuilt(tmp_path / "next", text="trained anew"), tmp_path / "new")
    lost = carry(old, new)
    assert (lost.changes, *lost.reasons) == (1, "an encoder is another: its vectors are left out")
    place = new.view.find("p1")
    assert place is not None
    assert place.vector(IMAGE) is not None
    assert place.vector(TEXT) is None


def test_products_of_another_shard_stay_behind_and_that_is_told(old: Live, tmp_path: Path) -> None:
    updates = [upsert(f"p{i}", 9) for i in range(40)]
    old.apply(updates)
    shard = rebuilt(tmp_path / "next", shards=2)
    new = Live(shard.base, shard.manifest, 0, tmp_path / "new", BOUNDS)
    lost = carry(old, new)
    assert 0 < lost.changes < 40
    assert {*lost.reasons} == {"the product belongs to shard 1 of 2, not to shard 0"}
    assert new.sequence == 40 - lost.changes
