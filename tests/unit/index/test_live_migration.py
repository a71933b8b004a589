"""Migration of changes between versions of a shard, and updates applied to all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.backends.faiss_support import use_threads
from index.building.build import build
from index.live.live_shard import LiveLimits, LiveShard
from index.live.migration import MAX_TOMBSTONE_GENERATION, migrate_changes
from index.live.replication import apply_to_all
from index.live.updates import PATCHABLE
from index.serving.shard_version import ShardVersion, open_shard
from lookalike.v1.index_pb2 import Patch, Update, UpdateResult
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import pack
from tests.unit.index.live_samples import (
    COUNT,
    LIMITS,
    Oracle,
    build_version,
    open_live,
    patch,
    random_updates,
    remove,
    upsert,
)
from tests.unit.index.samples import IMAGE, TEXT, catalogue, unit_vectors, vectors_of


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For such small arrays more threads only wait for each other."""
    use_threads(1)


@pytest.fixture
def old(tmp_path: Path) -> LiveShard:
    return open_live(build_version(tmp_path / "index"), tmp_path / "old")


def rebuild(
    location: Path, *, revision: int = 0, text: str = "drawn", shards: int = 1, count: int = COUNT
) -> ShardVersion:
    """A version of the same products with other vectors; all products have this revision."""
    table = catalogue(count).append_column("revision", pa.array([revision] * count))
    spaces = {IMAGE: vectors_of(unit_vectors(count, 8, seed=8)), TEXT: vectors_of(unit_vectors(count, 4), encoder=text)}
    build(location, table, {int(space): vectors for space, vectors in spaces.items()}, shards=shards)
    return open_shard(location, 0)


@pytest.mark.parametrize("seed", range(3))
def test_every_change_newer_than_the_new_version_is_migrated(old: LiveShard, tmp_path: Path, seed: int) -> None:
    shard = rebuild(tmp_path / "next", revision=5)
    new, oracle = open_live(shard, tmp_path / "new"), Oracle.of(shard)
    oracle.products = {each: replace(state, revision=5) for each, state in oracle.products.items()}
    for update in random_updates(np.random.default_rng(seed), 120):
        old.apply([update])
        if old.compaction_due:
            old.compact()
    for product_id, revision in old.changes():
        ref = old.view.find(product_id.decode())
        patched = old.patched_product(product_id) if ref and ref.segment is old.view.segments[0] else None
        if patched is not None:
            oracle.apply(Update(revision=revision, patch=Patch(product=patched, fields=sorted(PATCHABLE))))
        elif ref is not None:
            product = Product.FromString(ref.product)
            product.description = ref.description
            vectors = [(space, vector) for space in (IMAGE, TEXT) if (vector := ref.vector(space)) is not None]
            update = upsert(product.id, revision, spaces=())
            update.upsert.product.CopyFrom(product)
            for space, vector in vectors:
                update.upsert.stored_vectors.add(space=space, vector=pack(vector))
            oracle.apply(update)
        else:
            oracle.apply(remove(product_id.decode(), revision))
    assert migrate_changes(old, new).changes == 0
    oracle.check(new)
    sequence = new.sequence
    assert sequence
    assert migrate_changes(old, new).changes == 0
    assert new.sequence == sequence  # The second time, nothing is newer.


def test_a_tombstone_is_migrated_up_to_the_maximum_generation_or_while_the_base_has_the_product(
    old: LiveShard, tmp_path: Path
) -> None:
    old.apply([remove("p1", 9), remove("p59", 9), remove("never seen", 9)])
    shard = rebuild(tmp_path / "next", count=40)
    for number in range(MAX_TOMBSTONE_GENERATION):
        new = open_live(shard, tmp_path / f"new {number}")
        migrate_changes(old, new)
        if number % 2:
            new.compact()
        late = [upsert(each, 8) for each in ("p1", "p59", "never seen")]
        assert [each.outcome for each in new.apply(late)] == [UpdateResult.STALE] * 3
        old = new
    new = open_live(shard, tmp_path / "last")
    migrate_changes(old, new)
    assert new.state().tombstones == 1
    assert new.view.find("p1") is None


def test_a_migrated_product_that_is_removed_afterwards_is_removed_by_the_next_migration(
    old: LiveShard, tmp_path: Path
) -> None:
    new = open_live(rebuild(tmp_path / "next"), tmp_path / "new")
    old.apply([upsert("fresh", 10)])
    migrate_changes(old, new)
    assert new.view.find("fresh") is not None
    old.apply([remove("fresh", 20)])
    migrate_changes(old, new)
    assert new.view.find("fresh") is None


def test_an_update_is_applied_to_all_versions_and_what_one_loses_is_reported(old: LiveShard, tmp_path: Path) -> None:
    new = open_live(rebuild(tmp_path / "next", text="trained anew"), tmp_path / "new")
    wrong = upsert("p2", 9)
    wrong.upsert.vectors[1].vector += b"\0" * 4  # Of the space in which the other takes no vectors.
    outcomes, loss = apply_to_all(
        old, [new], [upsert("p1", 9), wrong, upsert("p3", 9, spaces=(IMAGE,)), remove("p4", 9)]
    )
    assert [each.outcome for each in outcomes] == [
        UpdateResult.APPLIED,
        UpdateResult.INVALID,
        UpdateResult.APPLIED,
        UpdateResult.APPLIED,
    ]
    assert (loss.changes, *loss.reasons) == (1, "vectors of another encoder were left out")
    for version in (old, new):
        assert [version.revision(each.encode()) for each in ("p1", "p2", "p3", "p4")] == [9, 0, 9, 9]


def test_an_update_that_one_version_lacks_is_applied_when_it_is_sent_again(old: LiveShard, tmp_path: Path) -> None:
    new = open_live(rebuild(tmp_path / "next"), tmp_path / "new")
    old.apply([upsert("p1", 9)])
    (outcome,), _ = apply_to_all(old, [new], [upsert("p1", 9)])
    assert outcome.outcome == UpdateResult.APPLIED
    assert new.revision(b"p1") == 9
    (outcome,), _ = apply_to_all(old, [new], [upsert("p1", 9)])
    assert outcome.outcome == UpdateResult.STALE


def test_an_update_for_which_one_version_has_no_room_is_applied_to_none(old: LiveShard, tmp_path: Path) -> None:
    new = open_live(rebuild(tmp_path / "next"), tmp_path / "new", LiveLimits(delta_rows=64, changes=3))
    new.apply([upsert("x1", 1), upsert("x2", 1)])
    outcomes, loss = apply_to_all(old, [new], [upsert("first", 7), upsert("second", 7)])
    assert [each.outcome for each in outcomes] == [UpdateResult.APPLIED, UpdateResult.EXHAUSTED]
    assert "build another" in outcomes[1].error
    assert not loss.changes
    for version in (old, new):
        assert version.view.find("first") is not None
        assert version.view.find("second") is None


def test_changes_are_migrated_without_the_base_of_their_version(old: LiveShard, tmp_path: Path) -> None:
    old.apply([upsert("p1", 9), remove("p2", 9), upsert("fresh", 9)])
    old.compact()
    old.apply([upsert("late", 9), remove("p3", 9)])
    old.close()
    shutil.rmtree(tmp_path / "index")
    stopped = LiveShard.open_changes(tmp_path / "old", 0, LIMITS)
    new = open_live(rebuild(tmp_path / "next"), tmp_path / "new")
    assert not migrate_changes(stopped, new).changes
    assert [new.view.find(each) is not None for each in ("p1", "p2", "p3", "fresh", "late")] == [
        True,
        False,
        False,
        True,
        True,
    ]
    stopped.close()


def test_vectors_of_another_encoder_are_left_out_and_reported(old: LiveShard, tmp_path: Path) -> None:
    old.apply([upsert("p1", 9), upsert("p2", 9, spaces=(IMAGE,))])
    new = open_live(rebuild(tmp_path / "next", text="trained anew"), tmp_path / "new")
    loss = migrate_changes(old, new)
    assert (loss.changes, *loss.reasons) == (1, "vectors of another encoder were left out")
    ref = new.view.find("p1")
    assert ref is not None
    assert Product.FromString(ref.product).title == "p1 at 9"
    built = new.view.segments[0].table.ids.find(b"p1")
    assert built is not None
    own = new.view.segments[0].spaces[TEXT].vector(built)
    assert np.all(ref.vector(TEXT) == own)  # Better than none.


def test_patches_are_migrated_without_the_version_and_the_next_ones_own_vectors_stay(
    old: LiveShard, tmp_path: Path
) -> None:
    old.apply([patch("p1", 8), patch("p2", 9)])
    old.compact()
    old.apply([patch("p1", 9), patch("p3", 9), patch("p4", 9), remove("p4", 10)])
    old.close()
    shutil.rmtree(tmp_path / "index")
    stopped = LiveShard.open_changes(tmp_path / "old", 0, LIMITS)
    new = open_live(rebuild(tmp_path / "next", text="trained anew"), tmp_path / "new")
    own = {each: ref.vector(TEXT) for each in ("p1", "p2", "p3") if (ref := new.view.find(each)) is not None}
    assert not migrate_changes(stopped, new).changes
    for product_id, vector in own.items():
        ref = new.view.find(product_id)
        assert ref is not None
        assert Product.FromString(ref.product).price == 63
        assert vector is not None
        assert np.all(ref.vector(TEXT) == vector)
    assert new.view.find("p4") is None
    stopped.close()


def test_products_of_another_shard_are_left_out_and_reported(old: LiveShard, tmp_path: Path) -> None:
    updates = [upsert(f"p{i}", 9) for i in range(40)]
    old.apply(updates)
    shard = rebuild(tmp_path / "next", shards=2)
    new = LiveShard(shard.base, shard.manifest, 0, tmp_path / "new", LIMITS)
    loss = migrate_changes(old, new)
    assert 0 < loss.changes < 40
    assert {*loss.reasons} == {"the product belongs to shard 1 of 2, not to shard 0"}
    assert new.sequence == 40 - loss.changes


def test_a_product_that_lacks_vectors_of_another_encoder_is_told_of_until_it_is_changed_with_its_own(
    old: LiveShard, tmp_path: Path
) -> None:
    old.apply([upsert(product_id, 7) for product_id in ("new", "other", "gone")])
    new = open_live(rebuild(tmp_path / "next", text="trained anew"), tmp_path / "new")
    loss = migrate_changes(old, new)
    new.note_loss(loss.by_product)
    reason = "vectors of another encoder were left out"
    assert (new.state().lost_changes, [*new.state().lost_reasons]) == (3, [reason])
    new.apply([patch("new", 8)])
    assert new.state().lost_changes == 3
    new.apply([upsert("new", 9), remove("gone", 8)])
    assert new.state().lost_changes == 1
    new.apply([upsert("other", 8)])
    assert (new.state().lost_changes, [*new.state().lost_reasons]) == (0, [])
