"""A shard process whose index is in S3, over HTTP: from its settings to its responses."""

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
from index.serving.settings import ShardSettings
from index.serving.shard import main, run
from lookalike.channels import aio_channel
from lookalike.cli.dispatch import run as status_of
from lookalike.local import probes
from lookalike.releases.store import ObjectStore
from lookalike.runtime.settings import load
from lookalike.v1 import index_pb2, index_pb2_grpc
from tests import stores
from tests.unit.index.samples import IMAGE, catalogue, clustered, query_vector, vectors_of

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub as Stub  # In the stubs' types only.

COUNT, DIM = 300, 8
GIVE_UP_S = 60.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3() as options:
        yield options


def publish(store: ObjectStore, directory: Path, seed: int) -> str:
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM, seed))}
    name = build(directory, catalogue(COUNT), spaces, shards=2)
    store.publish(directory, name)
    return name


def bytes_of(store: ObjectStore, name: str) -> int:
    return sum(file.bytes for path, file in store.read_manifest(name).files.items() if path.startswith("shard-00001"))


@asynccontextmanager
async def a_process(store: ObjectStore, options: str, cache: Path, *words: str) -> AsyncIterator[Stub]:
    """Shard 1 of 2, run as its command does."""
    (port,) = probes.free_ports(1)
    arguments = ["--location", str(store), "--storage-options", options, "--cache-dir", str(cache), *words]
    arguments += ["--shard", "1", "--port", str(port), "--poll-s", "0.1", "--lease-s", "0.3", "--drain-s", "0"]
    process = asyncio.create_task(run(load(ShardSettings, {}, arguments, description="")))
    try:
        async with aio_channel(f"127.0.0.1:{port}") as channel:
            yield index_pb2_grpc.IndexShardStub(channel)
    finally:
        process.cancel()
        with pytest.raises(asyncio.CancelledError):
            await process


async def wait_for(stub: Stub, condition: Callable[[index_pb2.DescribeResponse], bool]) -> index_pb2.DescribeResponse:
    """Describe the shard until the condition holds; returns the response."""
    give_up_s = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up_s:
        try:
            response = await stub.Describe(index_pb2.DescribeRequest(), wait_for_ready=True, timeout=GIVE_UP_S)
            if condition(response):
                return response
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  # It still loads.
        await asyncio.sleep(0.05)
    raise AssertionError("the condition never held")


def serves(name: str) -> Callable[[index_pb2.DescribeResponse], bool]:
    return lambda response: [state.version for state in response.versions] == [name]


async def find_products(stub: Stub, name: str, seed: int) -> set[str]:
    """Ids of the products of this shard, found by their own vectors."""
    queries = [
        index_pb2.ShardQuery(vectors=[query_vector(IMAGE, vector)], k=1) for vector in clustered(COUNT, DIM, seed)[:50]
    ]
    response = await stub.Search(index_pb2.ShardSearchRequest(version=name, queries=queries))
    return {hits.ids[0] for row, hits in enumerate(response.results) if hits.ids[0] == f"p{row}"}


async def test_a_shard_fetches_its_files_and_follows_a_rollout(s3: str, tmp_path: Path) -> None:
    store, cache = stores.in_bucket(s3), tmp_path / "cache"
    old = await asyncio.to_thread(publish, store, tmp_path / "built", 1)
    async with a_process(store, s3, cache) as stub:
        await wait_for(stub, serves(old))
        ids = await find_products(stub, old, 1)
        assert ids
        new = await asyncio.to_thread(publish, store, tmp_path / "built", 2)
        await wait_for(stub, serves(new))
        assert await find_products(stub, new, 2) == ids
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {f"{name}-shard-00001" for name in (old, new)}


async def test_a_version_that_does_not_fit_into_the_cache_is_refused_and_the_old_one_serves_on(
    s3: str, tmp_path: Path
) -> None:
    store = stores.in_bucket(s3)
    old = await asyncio.to_thread(publish, store, tmp_path / "built", 1)
    room = str(await asyncio.to_thread(bytes_of, store, old) + 10_000)
    async with a_process(store, s3, tmp_path / "cache", "--cache-bytes", room) as stub:
        await wait_for(stub, serves(old))
        new = await asyncio.to_thread(publish, store, tmp_path / "built", 2)
        response = await wait_for(stub, lambda response: bool(response.refusal))
        assert f"version {new}: {tmp_path / 'cache'}: no room for version {new}" in response.refusal
        assert await find_products(stub, old, 1)
        await asyncio.to_thread(store.make_current, old)
        assert not (await wait_for(stub, lambda response: not response.refusal)).refusal


async def test_a_shard_serves_on_without_its_store_and_fetches_files_only_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as processes:
        with stores.s3() as options:
            once = json.dumps(json.loads(options) | {"config_kwargs": {"retries": {"max_attempts": 0}}})
            store = stores.in_bucket(once)
            name = await asyncio.to_thread(publish, store, tmp_path / "built", 1)
            async with a_process(store, once, tmp_path / "cache") as stub:
                await wait_for(stub, serves(name))
            for path in (path for path in store.read_manifest(name).files if path.startswith("shard-00001")):
                await asyncio.to_thread(store._filesystem.rm_file, store._path(f"{name}/{path}"))
            stub = await processes.enter_async_context(a_process(store, once, tmp_path / "cache"))
            await wait_for(stub, serves(name))
        response = await wait_for(stub, lambda response: bool(response.refusal))
        assert f"{store}/CURRENT: " in response.refusal
        assert [state.version for state in response.versions] == [name]
        assert await find_products(stub, name, 1)


def test_a_shard_of_a_url_needs_a_cache_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: main(["--location", "memory://index", "--shard", "0"], {})) == 2
    assert "--cache-dir is missing" in capsys.readouterr().err


def test_the_options_of_a_store_are_masked_when_settings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(ShardSettings, {"LOOKALIKE_SHARD_STORAGE_OPTIONS": '{"secret": "x"}'}, ["--check-config"], description="")
    shown = capsys.readouterr().out
    assert "LOOKALIKE_SHARD_STORAGE_OPTIONS=********" in shown
