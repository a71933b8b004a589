"""The last updates that a shard remembers: which, of what kind, and how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from index.live.live_shard import LiveShard
from index.live.recent_changes import AppliedChange, RecentChanges
from index.serving.shard_version import ShardVersion
from lookalike.runtime.partition import product_hash
from lookalike.v1.index_pb2 import (
    CHANGE_KIND_PATCH,
    CHANGE_KIND_REMOVAL,
    CHANGE_KIND_UPSERT,
    ChangeKind,
    Patch,
    Update,
    UpdateResult,
    Upsert,
)
from lookalike.v1.types_pb2 import Product
from tests.unit.index.live_samples import NAMES, build_version, open_live, remove, upsert

UPSERT, PATCH, REMOVAL = CHANGE_KIND_UPSERT, CHANGE_KIND_PATCH, CHANGE_KIND_REMOVAL


def numbered(first: int, last: int) -> list[AppliedChange]:
    """Changes whose product is their own number."""
    return [AppliedChange(b"%d" % number, number, UPSERT) for number in range(first, last + 1)]


@pytest.mark.parametrize("capacity", [5, 8, 100])
def test_of_the_updates_that_are_asked_for_the_last_that_fit_are_remembered(capacity: int) -> None:
    recent, last = RecentChanges(7, capacity), 7
    for count in (1, 3, 0, 2, 9, 4):
        recent.add(numbered(last + 1, last + count))
        last += count
        for known in range(last + 1):
            first = max(known, 7, last - capacity) + 1
            assert list(recent.between(known, last).products) == list(range(first, last + 1))


def test_updates_after_the_last_number_that_is_asked_for_are_left_out() -> None:
    recent = RecentChanges(0, 5)
    recent.add(numbered(1, 7))
    assert list(recent.between(4, 6).products) == [5, 6]
    assert list(recent.between(0, 6).products) == [3, 4, 5, 6]
    assert not recent.between(9, 7).products


def test_the_products_of_the_last_updates_are_named_once_each_or_not_at_all() -> None:
    recent = RecentChanges(3, 5)
    recent.add([*numbered(4, 6), *numbered(5, 5), *numbered(8, 8)])
    assert recent.ids_between(3, 8) == [b"4", b"5", b"6", b"8"]
    assert recent.ids_between(6, 7) == [b"5"]
    assert recent.ids_between(8, 8) == []
    assert recent.ids_between(2, 8) is None
    recent.add(numbered(9, 9))
    assert recent.ids_between(3, 9) is None
    assert recent.ids_between(4, 9) == [b"5", b"6", b"8", b"9"]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    return build_version(tmp_path_factory.mktemp("index"))


def applied(live: LiveShard, *updates: Update) -> list[ChangeKind.ValueType]:
    """The kinds that the shard remembers of these updates, which it applies; they are also in the outcomes."""
    before = live.sequence
    results = [result for result in live.apply(updates) if result.outcome == UpdateResult.APPLIED]
    recent = live.recent_changes(before, live.sequence)
    assert list(recent.kinds) == [result.kind for result in results]
    assert live.sequence == before + len(recent.products) == before + len(results)
    return [result.kind for result in results]


def patch(product_id: str, revision: int, **fields: object) -> Update:
    product = Product(id=product_id, **fields)  # type: ignore[arg-type]
    return Update(revision=revision, patch=Patch(product=product, fields=[*fields]))


def kept(product_id: str, revision: int, **fields: object) -> Update:
    product = Product(id=product_id, category="c", **fields)  # type: ignore[arg-type]
    return Update(revision=revision, upsert=Upsert(product=product, keep_vectors=True))


def test_the_kind_of_an_update_is_how_it_may_change_answers(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path)
    built = NAMES[0]
    assert applied(live, patch(built, 1, price=5.0)) == [PATCH]
    assert applied(live, kept(built, 2, price=6.0)) == [PATCH]
    assert applied(live, upsert("new", 1)) == [UPSERT]
    assert applied(live, patch("new", 2, price=5.0)) == [PATCH]  # Its vectors are in memory, and stay.
    assert applied(live, kept("unknown", 1)) == [UPSERT]
    assert applied(live, remove("new", 3)) == [REMOVAL]
    assert applied(live, upsert("both", 1), patch("both", 2, price=5.0), remove("new", 3)) == [UPSERT, PATCH]
    live.close()


def test_a_patch_that_may_bring_an_expired_product_back_counts_as_an_upsert(
    shard: ShardVersion, tmp_path: Path
) -> None:
    live = open_live(shard, tmp_path)
    product_id = NAMES[0]
    assert applied(live, patch(product_id, 1, expires_at=100)) == [UPSERT]
    assert applied(live, patch(product_id, 2, price=5.0)) == [PATCH]
    assert applied(live, patch(product_id, 3, expires_at=0)) == [UPSERT]
    assert applied(live, kept(product_id, 4)) == [PATCH]
    assert applied(live, kept(product_id, 5, expires_at=100)) == [UPSERT]
    live.close()


def test_the_products_are_named_by_the_hash_of_their_ids(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path)
    live.apply([upsert("a", 1), upsert("b", 1), remove("a", 1), remove("a", 2)])
    recent = live.recent_changes(0, live.sequence)
    assert list(recent.products) == [product_hash(each) for each in (b"a", b"b", b"a")]
    live.close()


def test_after_a_restart_a_shard_knows_the_number_of_its_last_update_and_remembers_none(
    shard: ShardVersion, tmp_path: Path
) -> None:
    live = open_live(shard, tmp_path)
    live.apply([upsert("a", 1), upsert("b", 1)])
    live.close()
    live = open_live(shard, tmp_path)
    assert live.sequence == 2
    assert not live.recent_changes(0, 2).products
    live.apply([upsert("c", 1)])
    assert list(live.recent_changes(0, 3).products) == [product_hash(b"c")]
    live.close()


def test_an_update_that_was_applied_before_is_not_remembered_again_but_its_outcome_has_a_kind(
    shard: ShardVersion, tmp_path: Path
) -> None:
    live = open_live(shard, tmp_path)
    updates = [upsert("a", 1), patch("a", 2, price=5.0), remove("a", 3)]
    live.apply(updates)
    again = live.apply(updates)
    assert [(each.outcome, each.kind) for each in again] == [
        (UpdateResult.STALE, kind) for kind in (UPSERT, PATCH, REMOVAL)
    ]
    assert len(live.recent_changes(0, live.sequence).products) == 3
    live.close()
