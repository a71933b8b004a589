"""`lookalike catalog publish` and `catalog dead-letters`, as commands, against a real Redis."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lookalike.stream import event as events
from lookalike.stream.product_stream import ProductStream, Record
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from tests.conftest import REPOSITORY
from tests.contract.test_product_stream import only_consumer, take
from tests.redis_servers import RedisServer
from tests.unit.pipeline.catalogues import numbered_rows, photo, write_jsonl


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def run(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", "catalog", *map(str, arguments)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == expect, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result


def use(server: RedisServer, work: Callable[[ProductStream], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        stream = await open_redis_stream(StreamSettings(url=server.url, heartbeat_s=0.05))
        try:
            return await work(stream)
        finally:
            await stream.close()

    return asyncio.run(main())


def records_of(server: RedisServer, count: int) -> list[Record]:
    """The events that are not acked; they stay so."""

    async def read(stream: ProductStream) -> list[Record]:
        async with only_consumer(stream) as consumer:
            return await take(consumer, count)

    records: list[Record] = use(server, read)
    return records


def test_a_catalogue_is_published_with_its_photos_and_its_bad_rows_are_reported(
    server: RedisServer, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "image": "images/a.png"},
        {"id": "b", "price": -3},
        {"id": "c", "image": "images/none.png"},
    ]
    write_jsonl(tmp_path, *rows, photos={"images/a.png": photo()})
    result = run("publish", tmp_path, "--stream", server.url, "--json")
    summary = json.loads(result.stdout)
    assert (summary["published"], summary["products"], summary["reasons"]) == (2, 2, {"bad price": 1})
    assert summary["unused_photos"] == {"missing photo": 1}
    records = {events.product_id_of(record.event.change): record.event for record in records_of(server, 2)}
    assert records["a"].change.upsert.product.image == "images/a.png"
    assert records["a"].photo_root == str(tmp_path)
    assert records["a"].source == "publish products.jsonl"
    assert records["a"].published_at_us > 1.6e15
    assert not records["c"].change.upsert.product.image


def test_a_file_is_published_as_patches_and_as_removals(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "stock.csv"
    file.write_text("id,price,in_stock\na,3,no\nb,4,yes\n")
    run("publish", file, "--patch", "price,in_stock", "--revision", 5, "--stream", server.url)
    run("publish", file, "--remove", "--revision", 6, "--stream", server.url)
    changes = [record.event.change for record in records_of(server, 4)]
    assert sorted(events.revision_of(change) for change in changes) == [5, 5, 6, 6]
    assert {change.WhichOneof("change") for change in changes} == {"patch", "remove"}


def test_what_may_not_be_published_is_published_not_even_in_part(server: RedisServer, tmp_path: Path) -> None:
    write_jsonl(tmp_path, *numbered_rows(20), {"id": "bad", "price": -3})
    refused = run("publish", tmp_path, "--max-rejected", 0, "--stream", server.url, expect=2)
    assert "1 of 21 rows rejected" in refused.stderr
    run("publish", tmp_path, "--strict", "--stream", server.url, expect=2)
    dry = run("publish", tmp_path, "--dry-run")
    assert "nothing (--dry-run)" in dry.stdout
    assert use(server, lambda stream: stream.status("workers")).events == 0
    run("publish", tmp_path, "--max-rejected", 1, "--stream", server.url)
    assert use(server, lambda stream: stream.status("workers")).events == 20


def test_a_full_stream_is_waited_for_and_after_that_the_command_says_how_to_go_on(
    server: RedisServer, tmp_path: Path
) -> None:
    write_jsonl(tmp_path, *numbered_rows(1200))
    bound = ("--stream-max-events", 1100, "--stream", server.url)
    failed = run("publish", tmp_path, "--wait-s", 0.5, "--revision", 9, *bound, expect=1)
    assert "the stream holds 1000 events of 1100" in failed.stderr
    assert "1,000 published; to go on: --after-line 1000 --revision 9" in failed.stderr
    rest = run("publish", tmp_path, "--after-line", 1000, "--revision", 9, "--stream", server.url)
    assert "published: 200 events" in rest.stdout
    records = records_of(server, 1200)
    assert {events.product_id_of(record.event.change) for record in records} == {f"p{i}" for i in range(1200)}


def test_a_command_without_a_stream_or_with_one_that_may_lose_events_is_refused(redis_url: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a"})
    assert "--stream is not given" in run("publish", tmp_path, expect=2).stderr
    assert "appendonly is no" in run("publish", tmp_path, "--stream", redis_url, expect=2).stderr
    run("publish", tmp_path, "--stream", redis_url, "--trust-durability")


def test_a_watched_catalogue_is_published_as_it_changes_until_a_signal(server: RedisServer, tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a", "image": "a.png"}, {"id": "b"}, photos={"a.png": photo((200, 0, 0))})
    command = [sys.executable, "-m", "lookalike", "catalog", "watch", str(tmp_path), "--interval-s", "0.1", "--json"]
    with subprocess.Popen(
        [*command, "--stream", server.url], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["published"] == 2
            (tmp_path / "a.png").write_bytes(photo((0, 0, 200)))
            changed = json.loads(process.stdout.readline())
            assert (changed["published"], changed["unchanged"]) == (1, 1)
            (tmp_path / "products.jsonl").write_text("")
            assert json.loads(process.stdout.readline())["removed"] == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    products = sorted(events.product_id_of(record.event.change) for record in records_of(server, 3))
    assert products == ["a", "a", "b"]
    write_jsonl(tmp_path, {"id": "a", "image": "a.png"}, {"id": "c"})
    once = run("watch", tmp_path, "--once", "--stream", server.url)
    assert "1 products published, 0 removed, 1 unchanged" in once.stdout
    assert "no catalogue here" in run("watch", tmp_path / "none", "--stream", server.url, expect=2).stderr


def test_dead_letters_are_listed_shown_replayed_and_dropped(server: RedisServer, tmp_path: Path) -> None:
    write_jsonl(tmp_path, *numbered_rows(4))
    run("publish", tmp_path, "--revision", 3, "--stream", server.url)

    async def park_all(stream: ProductStream) -> None:
        async with only_consumer(stream) as consumer:
            for record in await take(consumer, 4):
                await consumer.park(record, reason=f"404 {record.handle.partition}\x1b[2J", attempts=2)

    use(server, park_all)
    command = ("dead-letters",)
    stream = ("--stream", server.url)
    listed = run(*command, "list", *stream)
    assert len(listed.stdout.splitlines()) == 4
    assert "\x1b" not in listed.stdout
    assert "4 dead letters" in listed.stderr
    letters = [json.loads(line) for line in run(*command, "list", "--json", *stream).stdout.splitlines()]
    assert {(each["revision"], each["attempts"], each["group"]) for each in letters} == {(3, 2, "workers")}
    (chosen,) = [each for each in letters if each["product_id"] == "p2"]
    shown = json.loads(run(*command, "show", chosen["id"], *stream).stdout)
    assert shown["event"]["change"]["upsert"]["product"]["id"] == "p2"
    assert json.loads(run(*command, "list", "--product", "p2", "--json", *stream).stdout) == chosen
    assert "1 replayed" in run(*command, "replay", chosen["id"], *stream).stdout
    assert "no dead letter" in run(*command, "replay", chosen["id"], *stream, expect=1).stderr
    assert [events.product_id_of(record.event.change) for record in records_of(server, 1)] == ["p2"]
    assert "--all" in run(*command, "drop", *stream, expect=2).stderr
    assert "1 dropped" in run(*command, "drop", "--all", "--limit", 1, *stream).stdout
    assert "2 dropped" in run(*command, "drop", "--all", "--reason", "404", *stream).stdout
    assert run(*command, "list", *stream).stdout == ""
