"""A shard process whose index lies in S3, spoken to over HTTP: from its settings to its answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from index.building.build import SpaceVectors, build
from index.serving.shard import ShardSettings, main, run
from index.storage.store import Store
from lookalike.channels import aio_channel
from lookalike.cli.dispatch import run as status_of
from lookalike.local import probes
from lookalike.runtime.settings import load
from lookalike.v1 import index_pb2, index_pb2_grpc
from tests import stores
from tests.unit.index.samples import IMAGE, by, catalogue, clustered, vectors_of

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub as Stub  # In the stubs' types only.

COUNT, DIM = 300, 8
GIVE_UP_S = 60.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3() as options:
        yield options


def published(store: Store, directory: Path, seed: int) -> str:
    given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM, seed))}
    name = build(directory, catalogue(COUNT), given, shards=2)
    store.publish(directory, name)
    return name


def bytes_of(store: Store, name: str) -> int:
    return sum(file.bytes for path, file in store.read(name).files.items() if path.startswith("shard-00001"))


@asynccontextmanager
async def a_process(store: Store, options: str, kept: Path, *words: str) -> AsyncIterator[Stub]:
    """Shard 1 of 2, run as its command would."""
    (port,) = probes.free_ports(1)
    given = ["--location", str(store), "--storage-options", options, "--cache-dir", str(kept), *words]
    given += ["--shard", "1", "--port", str(port), "--poll-s", "0.1", "--lease-s", "0.3", "--drain-s", "0"]
    process = asyncio.create_task(run(load(ShardSettings, {}, given, description="")))
    try:
        async with aio_channel(f"127.0.0.1:{port}") as channel:
            yield index_pb2_grpc.IndexShardStub(channel)
    finally:
        process.cancel()
        with pytest.raises(asyncio.CancelledError):
            await process


async def told(stub: Stub, condition: Callable[[index_pb2.DescribeResponse], bool]) -> index_pb2.DescribeResponse:
    """What the shard says, once it is what is waited for."""
    give_up_s = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up_s:
        try:
            response = await stub.Describe(index_pb2.DescribeRequest(), wait_for_ready=True, timeout=GIVE_UP_S)
            if condition(response):
                return response
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  # It still loads.
        await asyncio.sleep(0.05)
    raise AssertionError("the shard never said so")


def serves(name: str) -> Callable[[index_pb2.DescribeResponse], bool]:
    return lambda response: [state.version for state in response.versions] == [name]


async def found(stub: Stub, name: str, seed: int) -> set[str]:
    """By the vectors of the products, those that are in this shard."""
    queries = [index_pb2.ShardQuery(vectors=[by(IMAGE, vector)], k=1) for vector in clustered(COUNT, DIM, seed)[:50]]
    answer = await stub.Search(index_pb2.ShardSearchRequest(version=name, queries=queries))
    return {hits.ids[0] for row, hits in enumerate(answer.results) if hits.ids[0] == f"p{row}"}


async def test_a_shard_fetches_its_part_and_follows_from_one_version_to_the_next(s3: str, tmp_path: Path) -> None:
    store, kept = stores.in_bucket(s3), tmp_path / "kept"
    old = await asyncio.to_thread(published, store, tmp_path / "built", 1)
    async with a_process(store, s3, kept) as stub:
        await told(stub, serves(old))
        here = await found(stub, old, 1)
        assert here
        new = await asyncio.to_thread(published, store, tmp_path / "built", 2)
        await told(stub, serves(new))
        assert await found(stub, new, 2) == here
    assert {path.name for path in kept.iterdir() if path.is_dir()} == {f"{name}-shard-00001" for name in (old, new)}


async def test_a_version_for_which_there_is_no_room_is_refused_and_the_old_one_serves_on(
    s3: str, tmp_path: Path
) -> None:
    store = stores.in_bucket(s3)
    old = await asyncio.to_thread(published, store, tmp_path / "built", 1)
    room = str(await asyncio.to_thread(bytes_of, store, old) + 10_000)
    async with a_process(store, s3, tmp_path / "kept", "--cache-bytes", room) as stub:
        await told(stub, serves(old))
        new = await asyncio.to_thread(published, store, tmp_path / "built", 2)
        response = await told(stub, lambda response: bool(response.refusal))
        assert f"version {new}: {tmp_path / 'kept'}: no room for version {new}" in response.refusal
        assert await found(stub, old, 1)
        await asyncio.to_thread(store.make_current, old)
        assert not (await told(stub, lambda response: not response.refusal)).refusal


async def test_without_its_store_a_shard_serves_on_and_its_files_are_fetched_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as processes:
        with stores.s3() as options:
            once = json.dumps(json.loads(options) | {"config_kwargs": {"retries": {"max_attempts": 0}}})
            store = stores.in_bucket(once)
            name = await asyncio.to_thread(published, store, tmp_path / "built", 1)
            async with a_process(store, once, tmp_path / "kept") as stub:
                await told(stub, serves(name))
            for path in (path for path in store.read(name).files if path.startswith("shard-00001")):
                await asyncio.to_thread(store._filesystem.rm_file, store._path(f"{name}/{path}"))
            stub = await processes.enter_async_context(a_process(store, once, tmp_path / "kept"))
            await told(stub, serves(name))
        response = await told(stub, lambda response: bool(response.refusal))
        assert f"{store}/CURRENT: " in response.refusal
        assert [state.version for state in response.versions] == [name]
        assert await found(stub, name, 1)


def test_a_shard_of_a_url_needs_a_place_for_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: main(["--location", "memory://index", "--shard", "0"], {})) == 2
    assert "--cache-dir is missing" in capsys.readouterr().err


def test_the_options_of_a_store_are_masked_where_settings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(ShardSettings, {"LOOKALIKE_SHARD_STORAGE_OPTIONS": '{"secret": "x"}'}, ["--check-config"], description="")
    shown = capsys.readouterr().out
    assert "LOOKALIKE_SHARD_STORAGE_OPTIONS=********" in shown
