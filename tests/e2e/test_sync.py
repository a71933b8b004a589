from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from tests.redis_servers import RedisServer
from tests.sql_servers import PASSWORD, PostgresServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90


@pytest.fixture
def shop() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        columns = "id TEXT, title TEXT, category TEXT, updated_at TIMESTAMPTZ DEFAULT clock_timestamp()"
        server.run(f"CREATE TABLE products ({columns})")
        yield server


def put(shop: PostgresServer, id: str) -> None:
    shop.run("INSERT INTO products VALUES (:id, 'mug', 'home')", id=id)


def wait_for_events(redis: RedisServer, count: int) -> None:
    """Wait until the stream has so many events."""

    async def wait() -> None:
        stream = await open_redis_stream(StreamSettings(url=redis.url))
        try:
            while (await stream.status("workers")).events < count:  # noqa: ASYNC110  # The event is in Redis.
                await asyncio.sleep(0.05)
        finally:
            await stream.close()

    asyncio.run(asyncio.wait_for(wait(), PATIENCE_S))


def test_a_sync_follows_a_database_over_its_restart_until_it_is_told_to_stop(
    shop: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis, (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "lookalike", "catalog", "sync", "--table", "products", "--cursor"]
        command += ["updated_at", "--stream", redis.url, "--state", str(tmp_path / "state")]
        environment = {**os.environ, "LOOKALIKE_SQL_URL": shop.url, "PYTHONPATH": str(ROOT)}  # noqa: TID251  # the tests'
        put(shop, "before")
        with subprocess.Popen(
            [*command, "--follow", "--every", "0.1"], env=environment, cwd=ROOT, stdout=log, stderr=log
        ) as process:
            try:
                wait_for_events(redis, 1)
                put(shop, "while it runs")
                wait_for_events(redis, 2)
                shop.kill()
                shop.start()
                put(shop, "after the restart")
                wait_for_events(redis, 3)
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()
        again = subprocess.run(
            [*command, "--json"], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
        )
    result = json.loads(again.stdout)
    assert (result["upserts"], result["unchanged"]) == (0, 3)
    assert PASSWORD not in (tmp_path / "log").read_text() + again.stdout + again.stderr
