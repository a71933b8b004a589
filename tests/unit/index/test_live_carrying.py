"""What a version takes over of the changes of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.backends.faiss_support import use_threads
from index.building.build import build
from index.live.carrying import REMEMBERED, apply_to_all, carry
from index.live.live import Bounds, Live
from index.serving.loaded import LoadedShard, opened
from lookalike.v1.index_pb2 import UpdateResult
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import pack
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
        else:
            oracle.apply(remove(product_id.decode(), revision))
    assert carry(old, new).changes == 0
    oracle.check(new)
    sequence = new.sequence
    assert sequence
    assert carry(old, new).changes == 0
    assert new.sequence == sequence  # Once more, nothing is newer.


def test_a_removal_is_remembered_by_so_many_versions_and_as_long_as_the_product_is_built_in(
    old: Live, tmp_path: Path
) -> None:
    old.apply([remove("p1", 9), remove("p59", 9), remove("never seen", 9)])
    shard = rebuilt(tmp_path / "next", count=40)
    for number in range(REMEMBERED):
        new = live(shard, tmp_path / f"new {number}")
        carry(old, new)
        if number % 2:
            new.compact()
        late = [upsert(each, 8) for each in ("p1", "p59", "never seen")]
        assert [each.outcome for each in new.apply(late)] == [UpdateResult.STALE] * 3
        old = new
    new = live(shard, tmp_path / "last")
    carry(old, new)
    assert new.state().tombstones == 1
    assert new.view.find("p1") is None


def test_what_came_along_and_was_removed_before_the_new_version_was_served_is_removed(
    old: Live, tmp_path: Path
) -> None:
    new = live(rebuilt(tmp_path / "next"), tmp_path / "new")
    old.apply([upsert("fresh", 10)])
    carry(old, new)
    assert new.view.find("fresh") is not None
    old.apply([remove("fresh", 20)])
    carry(old, new)
    assert new.view.find("fresh") is None


def test_an_update_is_taken_by_all_versions_and_what_one_of_them_misses_is_told(old: Live, tmp_path: Path) -> None:
    new = live(rebuilt(tmp_path / "next", text="trained anew"), tmp_path / "new")
    wrong = upsert("p2", 9)
    wrong.upsert.vectors[1].vector += b"\0" * 4  # Of the space in which the other takes no vectors.
    outcomes, lost = apply_to_all(
        old, [new], [upsert("p1", 9), wrong, upsert("p3", 9, spaces=(IMAGE,)), remove("p4", 9)]
    )
    assert [each.outcome for each in outcomes] == [
        UpdateResult.APPLIED,
        UpdateResult.INVALID,
        UpdateResult.APPLIED,
        UpdateResult.APPLIED,
    ]
    assert (lost.changes, *lost.reasons) == (1, "an encoder is another: its vectors are left out")
    for version in (old, new):
        assert [version.revision(each.encode()) for each in ("p1", "p2", "p3", "p4")] == [9, 0, 9, 9]


def test_an_update_that_one_version_lacked_is_applied_when_it_comes_again(old: Live, tmp_path: Path) -> None:
    new = live(rebuilt(tmp_path / "next"), tmp_path / "new")
    old.apply([upsert("p1", 9)])
    (outcome,), _ = apply_to_all(old, [new], [upsert("p1", 9)])
    assert outcome.outcome == UpdateResult.APPLIED
    assert new.revision(b"p1") == 9
    (outcome,), _ = apply_to_all(old, [new], [upsert("p1", 9)])
    assert outcome.outcome == UpdateResult.STALE


def test_what_one_version_has_no_room_for_none_takes(old: Live, tmp_path: Path) -> None:
    new = live(rebuilt(tmp_path / "next"), tmp_path / "new", Bounds(delta_rows=64, changes=3))
    new.apply([upsert("x1", 1), upsert("x2", 1)])
    outcomes, lost = apply_to_all(old, [new], [upsert("first", 7), upsert("second", 7)])
    assert [each.outcome for each in outcomes] == [UpdateResult.APPLIED, UpdateResult.FULL]
    assert "build another" in outcomes[1].error
    assert not lost.changes
    for version in (old, new):
        assert version.view.find("first") is not None
        assert version.view.find("second") is None


def test_changes_are_read_without_the_version_that_took_them(old: Live, tmp_path: Path) -> None:
    old.apply([upsert("p1", 9), remove("p2", 9), upsert("fresh", 9)])
    old.compact()
    old.apply([upsert("late", 9), remove("p3", 9)])
    old.close()
    shutil.rmtree(tmp_path / "index")
    stopped = Live.stopped(tmp_path / "old", 0, BOUNDS)
    new = live(rebuilt(tmp_path / "next"), tmp_path / "new")
    assert not carry(stopped, new).changes
    assert [new.view.find(each) is not None for each in ("p1", "p2", "p3", "fresh", "late")] == [
        True,
        False,
        False,
        True,
        True,
    ]
    stopped.close()


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
