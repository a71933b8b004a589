from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lookalike.errors import BadCatalogue, BadSettings, OperatorError, Overloaded, Unavailable
from lookalike.stream.event import check_change, product_id_of, revision_of
from pipeline.catalogue_report import CatalogueReport, MaxRejected
from pipeline.column_mapping import parse_mapping
from pipeline.sync.passes import Stopped
from pipeline.sync.settings import SyncSettings
from tests.sync_shops import NOW_S, RecordingStream, Shop, Sync, settings


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def stream() -> RecordingStream:
    return RecordingStream()


@pytest.fixture
def sync(shop: Shop, stream: RecordingStream, tmp_path: Path) -> Sync:
    return Sync(shop.url, tmp_path, stream)


T0, T1, T2, T3 = ("2025-11-24 10:00:00", "2025-11-24 10:00:05", "2025-11-24 11:00:00", "2025-11-24 12:00:00")


async def test_the_first_pass_publishes_all_rows_and_the_next_only_what_changed(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T0)
    shop.put("b", T1)
    assert (await sync.run()).upserts == 2
    assert stream.newest() == [("put", "a"), ("put", "b")]
    shop.put("b", T2, title="cup")
    shop.put("c", T2)
    result = await sync.run()
    assert stream.newest() == [("put", "b"), ("put", "c")]
    assert result.position == T2


async def test_what_is_published_is_what_the_rules_of_a_live_change_allow(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T0, title="  a mug ", price=4.5)
    await sync.run()
    (change,) = stream.changes
    assert check_change(change, 0) == []
    assert (change.upsert.product.title, change.upsert.product.price) == ("a mug", 4.5)
    assert change.upsert.encode


async def test_rows_with_the_cursor_of_the_position_that_are_committed_later_are_read(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T2)
    await sync.run(overlap=0.0)
    shop.put("b", T2)
    await sync.run(overlap=0.0)
    assert stream.newest() == [("put", "a"), ("put", "b")]


@pytest.mark.parametrize(("overlap", "found"), [(10.0, True), (1.0, False)])
async def test_a_row_committed_late_is_found_within_the_overlap(
    overlap: float, found: bool, shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T1)
    await sync.run(overlap=overlap)
    shop.put("late", T0)  # Five seconds before.
    await sync.run(overlap=overlap)
    assert (("put", "late") in stream.newest()) is found


async def test_two_changes_within_the_resolution_of_the_cursor_have_rising_revisions(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T0, price=1)
    await sync.run()
    shop.put("a", T0, price=2)
    await sync.run()
    first, second = stream.changes
    assert revision_of(second) == revision_of(first) + 1
    assert second.upsert.product.price == 2


async def test_the_revision_is_that_of_the_column_or_the_time_of_the_cursor_or_of_reading(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.run("ALTER TABLE products ADD COLUMN version DEFAULT 17")
    shop.run("INSERT INTO products VALUES ('a', 'mug', 'home', 1, NULL, ?, 17)", T0)
    await sync.run(mapping=parse_mapping(["revision=version"]))
    sync.state.unlink()
    await sync.run()
    sync.state.unlink()
    shop.run("UPDATE products SET updated_at = 5")
    await sync.run()
    assert [revision_of(each) for each in stream.changes] == [17, 1763978400000, int(NOW_S * 1000)]


async def test_a_number_is_a_cursor_too_with_an_overlap_in_its_own_units(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", 5000)
    await sync.run(overlap=10.0)
    shop.put("b", 4990)
    shop.put("c", 4989)
    result = await sync.run(overlap=10.0)
    assert stream.newest() == [("put", "a"), ("put", "b")]
    assert result.position == 5000


@pytest.mark.parametrize("sign", [">", ">="])
async def test_a_query_with_a_cursor_of_its_own_begins_where_it_is_told_and_reads_ties_again(
    sign: str, shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    query = f"SELECT * FROM products WHERE updated_at {sign} :cursor ORDER BY updated_at"  # noqa: S608  # a sign
    shop.put("old", "2025-11-01 00:00:00")
    shop.put("a", T2)
    await sync.run(query=query, first="2025-11-02", overlap=0.0)
    shop.put("b", T2)
    await sync.run(query=query, first="2025-11-02", overlap=0.0)
    assert stream.newest() == [("put", "a"), ("put", "b")]


async def test_a_query_that_is_not_ordered_by_the_cursor_is_refused(shop: Shop, sync: Sync) -> None:
    shop.put("a", T2)
    shop.put("b", T1)
    with pytest.raises(BadSettings, match="add ORDER BY updated_at"):
        await sync.run(query="SELECT * FROM products WHERE updated_at > :cursor ORDER BY id", first="2025-11-02")


async def test_a_cursor_that_went_back_is_refused_until_all_rows_are_read(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T2)
    await sync.run()
    shop.put("a", T0, title="from a backup")
    with pytest.raises(OperatorError, match=r"went back: the greatest updated_at is .* before the position"):
        await sync.run()
    shop.run("DELETE FROM products")
    with pytest.raises(OperatorError, match="the result has no rows"):
        await sync.run()
    shop.put("a", T0, title="from a backup")
    result = await sync.run(full=True)
    older, newer = stream.changes
    assert revision_of(newer) > revision_of(older)
    assert newer.upsert.product.title == "from a backup"
    assert result.position == T0
    await sync.run()


async def test_what_is_published_anew_is_newer_than_what_was_published_before(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T2)
    shop.put("b", T2)
    await sync.run()
    shop.run("DELETE FROM products WHERE id = 'b'")
    await sync.run(full=True, max_removed=MaxRejected(100, True))
    shop.put("a", T0)  # From a backup.
    await sync.run(restart=True, full=True)
    for id in "ab":
        revisions = [revision_of(each) for each in stream.changes if product_id_of(each) == id]
        assert revisions == sorted(set(revisions))
    assert stream.newest()[2:] == [("remove", "b"), ("put", "a"), ("remove", "b")]


async def test_the_position_is_saved_only_when_the_events_are_durable(shop: Shop, tmp_path: Path) -> None:
    class Failing(RecordingStream):
        fails = True

        async def append(self, events_: Sequence[Any]) -> Any:
            if self.fails and len(self.batches) == 1:
                raise Unavailable("gone")
            return await super().append(events_)

    stream = Failing()
    sync = Sync(shop.url, tmp_path, stream, batch=2)
    for number in range(5):
        shop.put(f"p{number}", f"2025-11-24 10:0{number}:00")
    with pytest.raises(Unavailable):
        await sync.run()
    assert stream.newest() == [("put", "p0"), ("put", "p1")]
    stream.fails = False
    await sync.run()
    assert stream.newest() == [("put", "p2"), ("put", "p3"), ("put", "p4")]


async def test_a_failed_pass_of_a_sync_that_goes_on_forgets_what_it_did_not_publish(shop: Shop, tmp_path: Path) -> None:
    class Failing(RecordingStream):
        fails = True

        async def append(self, events_: Sequence[Any]) -> Any:
            if self.fails:
                raise Unavailable("gone")
            return await super().append(events_)

    stream = Failing()
    shop.put("a", T0)
    with Sync(shop.url, tmp_path, stream).opened() as syncer:
        with pytest.raises(Unavailable):
            await syncer.run(CatalogueReport(), full=False)
        stream.fails = False
        assert (await syncer.run(CatalogueReport(), full=False)).upserts == 1


async def test_a_full_stream_is_waited_for(shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(RecordingStream):
        refused = 0

        async def append(self, events_: Sequence[Any]) -> Any:
            if self.refused < 3:
                self.refused += 1
                raise Overloaded("the stream holds 5 events of 5", retry_after_s=0.001)
            return await super().append(events_)

    stream = Full()
    shop.put("a", T0)
    await Sync(shop.url, tmp_path, stream).run()
    assert stream.newest() == [("put", "a")]
    assert [record.message for record in caplog.records] == ["waiting: the stream holds 5 events of 5"]


async def test_a_sync_that_is_stopped_while_the_stream_is_full_ends(shop: Shop, tmp_path: Path) -> None:
    class Full(RecordingStream):
        async def append(self, events_: Sequence[Any]) -> Any:
            stopped_sync.stopping.set()
            raise Overloaded("full", retry_after_s=3600)

    stopped_sync = Sync(shop.url, tmp_path, Full())
    shop.put("a", T0)
    with pytest.raises(Stopped):
        await asyncio.wait_for(stopped_sync.run(), 30)


async def test_rows_that_are_deleted_are_removed_once(shop: Shop, sync: Sync, stream: RecordingStream) -> None:
    shop.put("a", T0)
    shop.put("gone", T0, deleted=True)
    await sync.run(deleted="deleted")
    assert stream.newest() == [("put", "a"), ("remove", "gone")]
    shop.put("a", T2, deleted="2025-11-24 11:00:00")
    await sync.run(deleted="deleted")
    await sync.run(deleted="deleted")
    assert stream.newest() == [("remove", "a")]


async def test_a_product_that_conditions_leave_out_from_now_on_is_removed(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    mapping = parse_mapping([], where=["title!=draft"])
    shop.put("a", T0)
    shop.put("never", T0, title="draft")
    await sync.run(mapping=mapping)
    assert stream.newest() == [("put", "a")]
    shop.put("a", T2, title="draft")
    await sync.run(mapping=mapping)
    assert stream.newest() == [("remove", "a")]


async def test_a_full_pass_removes_what_is_gone_and_publishes_only_what_changed(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    for id in "abcdefghijkl":
        shop.put(id, T0)
    await sync.run()
    stream.newest()
    shop.run("DELETE FROM products WHERE id = 'c'")
    shop.put("d", "2025-11-01 00:00:00", title="cup")  # Long before the position.
    result = await sync.run(full=True)
    assert stream.newest() == [("put", "d"), ("remove", "c")]
    assert result.unchanged == 10
    await sync.run(full=True)
    assert stream.newest() == []


async def test_a_full_pass_that_would_remove_too_much_removes_nothing(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    for id in "abcdefghij":
        shop.put(id, T0)
    await sync.run()
    stream.newest()
    shop.run("DELETE FROM products WHERE id IN ('c', 'd')")
    with pytest.raises(
        OperatorError, match=r"2 of 10 products are not in the result any more, more than --max-removed 10%"
    ):
        await sync.run(full=True)
    assert stream.newest() == []
    await sync.run(full=True, max_removed=MaxRejected(20, True))
    assert stream.newest() == [("remove", "c"), ("remove", "d")]


async def test_a_product_whose_row_is_bad_stays_as_it_is(shop: Shop, sync: Sync, stream: RecordingStream) -> None:
    shop.put("a", T0)
    await sync.run()
    stream.newest()
    shop.put("a", T0, price=-3)
    result = await sync.run(full=True)
    assert stream.newest() == []
    assert result.report.reasons == {"bad price": 1}


async def test_a_product_that_comes_back_is_newer_than_its_removal(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", T0)
    shop.put("b", T0)
    everything = MaxRejected(100, True)
    await sync.run(max_removed=everything)
    shop.run("DELETE FROM products WHERE id = 'a'")
    await sync.run(full=True, max_removed=everything)
    shop.put("a", T0)
    await sync.run(full=True)
    revisions = [revision_of(each) for each in stream.changes if product_id_of(each) == "a"]
    assert len(revisions) == 3
    assert revisions == sorted(set(revisions))


async def test_a_deleted_row_does_not_hide_the_row_that_took_its_id(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.add("a", T0, deleted=1)
    shop.add("a", T2, title="the new one")
    await sync.run(deleted="deleted")
    assert stream.newest() == [("remove", "a"), ("put", "a")]
    await sync.run(deleted="deleted", full=True)
    assert stream.newest() == []


async def test_of_rows_with_one_id_the_first_is_kept_and_the_others_are_reported(
    shop: Shop, sync: Sync, stream: RecordingStream, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.add("a", T0, title="first")
    shop.add("a", T1, title="second")
    result = await sync.run()
    assert [each.upsert.product.title for each in stream.changes] == ["first"]
    assert result.report.reasons == {"duplicate id": 1}
    assert "products:2: duplicate id" in capsys.readouterr().err


async def test_bad_rows_are_reported_with_their_reasons_and_not_again_while_they_stay(
    shop: Shop, tmp_path: Path, stream: RecordingStream
) -> None:
    shop.put("a", T0, price=-1)
    shop.put("", T0)
    shop.put("b", None)
    shop.put("c", "2099-01-01 00:00:00")
    with Sync(shop.url, tmp_path, stream).opened() as syncer:
        first = await syncer.run(CatalogueReport(), full=False)
        assert first.report.reasons == {"bad price": 1, "missing id": 1, "bad cursor": 2}
        assert first.position == T0
        second = await syncer.run(CatalogueReport(), full=False)
        assert second.report.reasons == {"missing id": 1}  # Which row it is cannot be told.
    assert stream.newest() == []


async def test_strict_ends_the_pass_at_the_first_bad_row(shop: Shop, sync: Sync, stream: RecordingStream) -> None:
    shop.put("a", T0, price=-1)
    shop.put("b", T1)
    with pytest.raises(BadCatalogue, match="bad price"):
        await sync.run(report=CatalogueReport(strict=True))
    assert stream.newest() == []


async def test_more_bad_rows_than_allowed_end_the_pass(shop: Shop, sync: Sync, stream: RecordingStream) -> None:
    shop.put("a", T0)
    shop.put("b", T1, price=-1)
    with pytest.raises(BadCatalogue, match="1 of 2 rows rejected, more than --max-rejected 10%"):
        await sync.run(report=CatalogueReport(max_rejected=MaxRejected(10, True)))
    assert stream.newest() == []


async def test_a_stream_that_was_emptied_is_told(shop: Shop, sync: Sync) -> None:
    shop.put("a", T0)
    await sync.run()
    sync.stream = RecordingStream()
    shop.put("a", T2, title="cup")
    with pytest.raises(OperatorError, match="the stream is another one"):
        await sync.run()
    assert (await sync.run(restart=True)).upserts == 1


async def test_a_dry_run_publishes_and_remembers_nothing(shop: Shop, sync: Sync, stream: RecordingStream) -> None:
    shop.put("a", T0)
    await sync.run()
    stream.newest()
    shop.put("b", T2)
    sync.stream = None  # type: ignore[assignment]  # as the command does it
    with sync.opened(dry_run=True) as syncer:
        assert (await syncer.run(CatalogueReport(), full=False)).upserts == 1
    sync.stream = stream
    await sync.run()
    assert stream.newest() == [("put", "b")]


async def test_without_a_cursor_every_pass_reads_all_and_publishes_what_changed(
    shop: Shop, sync: Sync, stream: RecordingStream
) -> None:
    shop.put("a", None)
    shop.put("b", None)
    await sync.run(cursor="")
    stream.newest()
    shop.put("a", None, title="cup")
    result = await sync.run(cursor="")
    assert stream.newest() == [("put", "a")]
    assert result.unchanged == 1


async def test_batches_are_bounded(shop: Shop, tmp_path: Path, stream: RecordingStream) -> None:
    shop.fill(1234, T0)
    await Sync(shop.url, tmp_path, stream, batch=100).run()
    assert max(stream.batches) == 100
    assert sum(stream.batches) == 1234


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cursor": "nope"}, "no column nope"),
        ({"deleted": "nope"}, "no column nope"),
        ({"mapping": parse_mapping(["title=nope"])}, "no column nope in the result; it has id, title"),
        ({"query": "SELECT title, category, updated_at FROM products"}, "no column id in the result"),
        ({"query": "SELECT id, updated_at FROM products"}, "nothing gives the category"),
        (
            {"query": "SELECT a.*, b.* FROM products a, products b", "cursor": ""},
            "two columns of the result are called category, deleted",
        ),
        ({"query": "SELECT FROM"}, "syntax error"),
        ({"table": "nope"}, "no such table"),
        ({"query": "SELECT * FROM products WHERE id = :id"}, ":id is no parameter"),
        ({"query": "SELECT * FROM products WHERE updated_at > :cursor"}, "--from states where to begin"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name(
    changed: dict[str, Any], message: str, shop: Shop, sync: Sync
) -> None:
    shop.put("a", T0)
    with pytest.raises(BadSettings, match=message):
        await sync.run(**changed)


async def test_the_database_is_only_read(shop: Shop, sync: Sync) -> None:
    shop.put("a", T0)
    with pytest.raises(BadSettings):
        await sync.run(query="DELETE FROM products RETURNING *", cursor="")
    assert (await sync.run(restart=True)).upserts == 1


def test_settings_out_of_bounds_are_refused() -> None:
    for changed in ({"batch": 0}, {"every_s": 0.0}, {"overlap": -1.0}, {"revision_unit": "none"}):
        with pytest.raises(BadSettings):
            settings(**changed)
    assert isinstance(settings(), SyncSettings)
