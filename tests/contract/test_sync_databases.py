from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from lookalike.errors import BadSettings, Unavailable
from lookalike.stream.event import product_id_of
from pipeline.catalogue_report import CatalogueReport
from pipeline.column_mapping import parse_mapping
from pipeline.sync.database import Database
from pipeline.sync.passes import Stopped
from pipeline.sync.source import Source
from tests.sql_servers import PASSWORD, MariaDbServer, PostgresServer, SqlServer
from tests.sync_shops import RecordingStream, Sync

ROOT = Path(__file__).resolve().parents[2]

COLUMNS = """
    id VARCHAR(40) {ascii}, title VARCHAR(1000), category VARCHAR(100), price DECIMAL(10, 2), updated_at {time}(6),
    deleted_at {time}(6) NULL
"""
ROWS, LONG = 20_000, "repeat('x', 900)"  # More than the buffers of a connection hold.
TIMES = {"postgresql": "TIMESTAMP", "mysql": "DATETIME"}


@pytest.fixture(scope="module", params=[PostgresServer, MariaDbServer])
def server(request: pytest.FixtureRequest) -> Iterator[SqlServer]:
    with request.param() as server:
        yield server


@pytest.fixture
def shop(server: SqlServer) -> SqlServer:
    ascii_ = "CHARACTER SET ascii" if server.scheme == "mysql" else ""
    columns = COLUMNS.format(time=TIMES[server.scheme], ascii=ascii_)
    server.run("DROP TABLE IF EXISTS products", f"CREATE TABLE products ({columns})")
    return server


@pytest.fixture
def stream() -> RecordingStream:
    return RecordingStream()


@pytest.fixture
def sync(shop: SqlServer, stream: RecordingStream, tmp_path: Path) -> Sync:
    return Sync(shop.url, tmp_path, stream)


def put(shop: SqlServer, id: str, updated_at: str, *, title: str = "mug", deleted_at: str | None = None) -> None:
    shop.run(
        "DELETE FROM products WHERE id = :id",
        "INSERT INTO products VALUES (:id, :title, 'home', 19.90, :updated_at, :deleted_at)",
        **{"id": id, "title": title, "updated_at": updated_at, "deleted_at": deleted_at},
    )


def fill(shop: SqlServer, count: int, *, title: str = "'mug'") -> None:
    numbers = {"postgresql": f"generate_series(1, {count}) AS n(seq)", "mysql": f"seq_1_to_{count}"}[shop.scheme]
    step = {"postgresql": "seq * INTERVAL '1 second'", "mysql": "INTERVAL seq SECOND"}[shop.scheme]
    shop.run(
        f"INSERT INTO products SELECT concat('p', seq), {title}, 'home', 19.90, "  # noqa: S608  # of the tests
        f"TIMESTAMP '2025-11-01 00:00:00' + {step}, NULL FROM {numbers}"
    )


async def test_changes_ties_deletions_and_what_vanished_are_published(
    shop: SqlServer, sync: Sync, stream: RecordingStream
) -> None:
    for id in "abcdefghijkl":
        put(shop, id, "2025-11-24 10:00:00.000001")
    first = await sync.run(deleted="deleted_at")
    assert stream.newest() == [("put", id) for id in sorted(first_ids(first.upserts))]
    put(shop, "tie", "2025-11-24 10:00:00.000001")
    put(shop, "a", "2025-11-24 10:00:01", title="cup")
    put(shop, "b", "2025-11-24 10:00:02", deleted_at="2025-11-24 10:00:02")
    await sync.run(deleted="deleted_at", overlap=0.0)
    assert stream.newest() == [("put", "tie"), ("put", "a"), ("remove", "b")]
    shop.run("DELETE FROM products WHERE id = 'c'")
    result = await sync.run(deleted="deleted_at", full=True)
    assert stream.newest() == [("remove", "c")]
    assert result.unchanged == 11


def first_ids(count: int) -> str:
    return "abcdefghijkl"[:count]


@pytest.mark.parametrize("sign", [">", ">="])
async def test_a_query_of_ones_own_reads_ties_again(
    sign: str, shop: SqlServer, sync: Sync, stream: RecordingStream
) -> None:
    query = f"SELECT id, title, category, updated_at FROM products WHERE updated_at {sign} :cursor ORDER BY updated_at"  # noqa: S608  # a sign
    options: dict[str, Any] = {"query": query, "first": "2025-01-01", "overlap": 0.0}
    put(shop, "a", "2025-11-24 10:00:00")
    await sync.run(**options)
    put(shop, "b", "2025-11-24 10:00:00")
    await sync.run(**options)
    assert stream.newest() == [("put", "a"), ("put", "b")]


async def test_a_transaction_that_commits_after_a_later_one_is_not_missed(
    shop: SqlServer, sync: Sync, stream: RecordingStream
) -> None:
    engine = create_engine(shop.url.replace(shop.scheme, shop.driver, 1), poolclass=NullPool)
    insert = text("INSERT INTO products VALUES (:id, 'mug', 'home', 1, :at, NULL)")
    with engine.connect() as slow, engine.connect() as quick:
        slow.execute(insert, {"id": "slow", "at": "2025-11-24 10:00:00"})
        quick.execute(insert, {"id": "quick", "at": "2025-11-24 10:00:30"})
        quick.commit()
        await sync.run()
        assert stream.newest() == [("put", "quick")]
        slow.commit()
    await sync.run()
    assert stream.newest() == [("put", "slow")]


async def test_values_of_every_type_become_fields(server: SqlServer, tmp_path: Path, stream: RecordingStream) -> None:
    types = {
        "postgresql": (
            "id UUID, title BYTEA, price NUMERIC(12, 4), in_stock BOOLEAN, tags TEXT[], labels JSONB, "
            "created_at TIMESTAMPTZ, expires_at DATE, stock NUMERIC, note TEXT, updated_at TIMESTAMPTZ",
            "('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\xe8a2ab', 1299.5000, false, ARRAY['Red', 'Blue Sky'], "
            "'[\"big\"]', '2025-11-24 10:00:00+09', '2030-01-01', 3, NULL, '2025-11-24 10:00:00.5+00')",
        ),
        "mysql": (
            "id CHAR(36), title BLOB, price DECIMAL(12, 4), in_stock BIT(1), tags JSON, labels JSON, "
            "created_at TIMESTAMP NULL, expires_at DATE, stock DECIMAL(20), note TEXT, updated_at DATETIME(3)",
            "('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', X'e8a2ab', 1299.5000, b'0', '[\"Red\", \"Blue Sky\"]', "
            "'[\"big\"]', '2025-11-24 01:00:00', '2030-01-01', 3, NULL, '2025-11-24 10:00:00.500')",
        ),
    }[server.scheme]
    server.run(
        "DROP TABLE IF EXISTS typed",
        *(["SET time_zone = '+00:00'"] if server.scheme == "mysql" else []),
        f"CREATE TABLE typed ({types[0]})",
        f"INSERT INTO typed VALUES {types[1]}".replace(":", "\\:"),  # noqa: S608  # of the tests
    )
    mapping = parse_mapping(["tags=tags,labels", "shop=stock"], ["category=home", "currency=JPY"])
    sync = Sync(server.url, tmp_path, stream, table="typed", mapping=mapping)
    result = await sync.run()
    assert result.report.reasons == {}
    (change,) = stream.changes
    product = change.upsert.product
    assert product.id == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert (product.title, product.shop) == ("被", "3")
    assert (product.price, product.currency, product.in_stock) == (1299.5, "JPY", False)
    assert [*product.tags] == ["big", "blue-sky", "red"]
    assert (product.created_at, product.expires_at) == (1763946000, 1893456000)
    assert change.upsert.revision == 1763978400500


@pytest.mark.slow
async def test_a_database_that_goes_away_mid_read_loses_nothing(shop: SqlServer, tmp_path: Path) -> None:
    fill(shop, ROWS, title=LONG)

    class Breaking(RecordingStream):
        broken = False

        async def append(self, events_: Sequence[Any]) -> Any:
            if len(self.batches) == 3 and not self.broken:
                self.broken = True
                shop.kill()
            return await super().append(events_)

    stream = Breaking()
    sync = Sync(shop.url, tmp_path, stream)
    try:
        with pytest.raises(Unavailable) as caught:
            await sync.run()
        assert PASSWORD not in str(caught.value)
        read = len(stream.changes)
        assert 1_500 <= read < ROWS
        with pytest.raises(Unavailable):
            await sync.run()
    finally:
        shop.start()
    result = await sync.run()
    assert {product_id_of(each) for each in stream.changes} == {f"p{number}" for number in range(1, ROWS + 1)}
    assert result.upserts == ROWS - read  # From the position on.


async def test_a_sync_that_is_stopped_during_a_long_query_ends_at_once(shop: SqlServer, sync: Sync) -> None:
    wait = {"postgresql": "pg_sleep(600)", "mysql": "sleep(600)"}[shop.scheme]
    query = f"SELECT 'a' AS id, 'home' AS category, {wait} AS slept"
    running = {
        "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
        "mysql": "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'SELECT ''a''%'",
    }[shop.scheme]

    async def stop_while_it_runs() -> None:
        async with asyncio.timeout(60):
            while not shop.run(running):  # noqa: ASYNC110  # The event is in another process.
                await asyncio.sleep(0.02)
        sync.stopping.set()

    with sync.opened(query=query, cursor="") as syncer:
        stopper = asyncio.create_task(stop_while_it_runs())
        with pytest.raises(Stopped):
            await asyncio.wait_for(syncer.run(CatalogueReport(), full=False), 120)
        await stopper


@pytest.mark.slow
async def test_a_result_that_is_not_read_to_its_end_is_dropped(shop: SqlServer, sync: Sync) -> None:
    fill(shop, ROWS, title=LONG)
    database = Database(shop.url, Source(table="products", cursor="updated_at"))

    def read_a_chunk() -> None:
        with database.read(None) as (_, chunks):
            assert len(next(chunks)) == 500
            raise RuntimeError

    with pytest.raises(RuntimeError):
        read_a_chunk()
    with database.read(None) as (_, chunks):
        assert sum(map(len, chunks)) == ROWS


@pytest.mark.slow
def test_a_large_result_is_read_in_bounded_memory(shop: SqlServer) -> None:
    fill(shop, 4 * ROWS, title=LONG)
    code = (
        "import resource, sys; from pipeline.sync.database import Database; from pipeline.sync.source import Source\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "with Database(sys.argv[1], Source(table='products', cursor='updated_at')).read(None) as (names, chunks):\n"
        "    next(chunks); before = peak(); rows = 500 + sum(map(len, chunks))\n"
        "print(rows, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, shop.url], cwd=ROOT, check=True, capture_output=True, text=True)
    rows, grown_mib = map(int, done.stdout.split())
    assert rows == 4 * ROWS
    assert grown_mib < 30  # The result has more than 60 MiB.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.replace(PASSWORD, "wrong-pass"), "authentication failed|Access denied"),
        (lambda url: url.replace("/shop", "/nope"), "nope"),
        (lambda url: url.replace("127.0.0.1", "127.0.0.2"), "127.0.0.2"),
    ],
    ids=["password", "database", "host"],
)
def test_a_wrong_url_is_told_without_its_password(change: Any, message: str, shop: SqlServer) -> None:
    url = change(shop.url)
    with (
        pytest.raises((BadSettings, Unavailable), match=message) as caught,
        Database(url, Source(table="products")).read(None),
    ):
        pass
    assert PASSWORD not in str(caught.value)
    assert "wrong-pass" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "nope"}, "nope"),
        ({"query": "SELECT nope FROM products", "cursor": ""}, "nope"),
        (
            {"query": "SELECT a.*, b.* FROM products a, products b", "cursor": ""},
            "two columns of the result are called",
        ),
        ({"cursor": "nope"}, "nope"),
        ({"query": "INSERT INTO products (id) VALUES ('x') RETURNING *", "cursor": ""}, "(?i)read.only|syntax"),
    ],
)
async def test_what_the_database_refuses_is_refused_by_name(
    options: dict[str, Any], message: str, shop: SqlServer, sync: Sync
) -> None:
    with pytest.raises(BadSettings, match=message):
        await sync.run(**options)
    assert shop.run("SELECT count(*) FROM products") == [(0,)]
