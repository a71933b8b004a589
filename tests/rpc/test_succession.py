"""Changes while versions change, and over a restart between two of them: nothing that was acknowledged is missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from index.building.build import build
from index.live import carrying
from index.live.carrying import Lost
from index.live.live import Bounds, Live
from index.live.log import Log
from index.serving.loading import Loader
from index.serving.pool import Pool
from index.serving.rollout import Rollout
from index.serving.served import Served
from index.serving.service import IndexShard
from index.serving.succession import Succession
from index.serving.writer import Writer
from index.storage import version
from index.storage.location import Directory
from lookalike.channels import aio_channel
from lookalike.errors import OperatorError, Overloaded
from lookalike.runtime import lifecycle
from lookalike.v1 import catalog_pb2_grpc
from lookalike.v1.catalog_pb2 import CountRequest, ExistsRequest, RemoveRequest, UpsertRequest
from lookalike.v1.types_pb2 import Product, SpaceVector
from tests.rpc.gateways import running_gateway, serving
from tests.rpc.test_swap import until
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

COUNT, DIM = 200, 8
POLL_S = 0.05


def built(location: Path, seed: int, encoder: str = "drawn") -> str:
    vectors = vectors_of(unit_vectors(COUNT, DIM, seed), encoder=encoder)
    return build(location, catalogue(COUNT), {IMAGE: vectors}, shards=1)


@asynccontextmanager
async def a_shard(place: Path, **expected: str) -> AsyncIterator[tuple[str, Served]]:
    """Its address, and what it serves of PLACE/index."""
    location, served, pool = Directory(place / "index"), Served(time.monotonic, 0.2), Pool(threads=1, max_waiting=64)
    loader = Loader(location=location, shard=0, hold=location.hold, expected=expected)
    changes = Succession(served, place / "live", 0, Bounds(delta_rows=32, changes=10_000), loader)
    writer = Writer(served, max_waiting=64, take_over=changes.take_over)
    rollout = Rollout(
        served,
        wanted=location.current,
        load=changes.load,
        clock=time.monotonic,
        retry_s=POLL_S,
        admit=writer.admit,
        leave=changes.leave,
    )
    await rollout.start()
    service = IndexShard(pool, served, writer)
    async with lifecycle.alongside(rollout.watch(POLL_S)), serving(service.handler()) as address:
        yield address, served
    rollout.close()
    writer.close()
    pool.close()
    for name in served.uses():
        if (loaded := served.remove(name)) is not None:
            loaded.release()


@asynccontextmanager
async def a_catalogue(address: str) -> AsyncIterator[catalog_pb2_grpc.CatalogAsyncStub]:
    async with running_gateway({"shards": (address,), "refresh_s": 0.05}) as gateway, aio_channel(gateway) as channel:
        yield catalog_pb2_grpc.CatalogStub(channel)


def upserting(number: int) -> UpsertRequest:
    vector = np.random.default_rng(number).normal(size=DIM).astype("<f4").tobytes()
    vectors = [SpaceVector(space=IMAGE, vector=vector)]
    return UpsertRequest(product=Product(id=f"new{number}"), revision=number + 1, vectors=vectors)


async def patiently(call: grpc.aio.UnaryUnaryMultiCallable, request: UpsertRequest | RemoveRequest) -> None:  # type: ignore[type-arg]  # it is generic in the stubs only
    """As a client that was told that there is no room now, or that the version changed."""
    while True:
        try:
            await call(request)
            return
        except grpc.aio.AioRpcError as error:
            again = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION)
            if error.code() not in again:
                raise
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_changes_that_come_while_versions_change_are_in_every_version(tmp_path: Path) -> None:
    first = built(tmp_path / "index", 0)
    acknowledged = 0

    async def change(catalog: catalog_pb2_grpc.CatalogAsyncStub) -> None:
        nonlocal acknowledged
        while True:
            await patiently(catalog.Upsert, upserting(acknowledged))
            if acknowledged < COUNT:
                await patiently(catalog.Remove, RemoveRequest(product_id=f"p{acknowledged}", revision=1))
            acknowledged += 1

    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        changing = asyncio.create_task(change(catalog))
        for wanted in (1, 2, None):  # Two versions anew, then back to the first.
            enough = acknowledged + 30
            await until(lambda: acknowledged >= enough, changing)  # noqa: B023  # awaited before it changes
            if wanted is None:
                version.make_current(tmp_path / "index", name := first)
            else:
                name = await asyncio.to_thread(built, tmp_path / "index", wanted)
            await until(lambda: [*served.uses()] == [name], changing)  # noqa: B023  # likewise
            so_far = acknowledged
            ids = [f"new{number}" for number in range(so_far)] + [f"p{number}" for number in range(min(so_far, COUNT))]
            exist = (await catalog.Exists(ExistsRequest(product_ids=ids[:1000]))).exists
            assert list(exist) == [product_id.startswith("new") for product_id in ids[:1000]]
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing


async def test_a_version_that_is_first_seen_at_a_start_takes_over_from_the_one_that_was_stopped(tmp_path: Path) -> None:
    built(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(upserting(1))
        await catalog.Remove(RemoveRequest(product_id="p3", revision=1))
    for seed in (1, 2):
        built(tmp_path / "index", seed)
        async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
            assert list((await catalog.Exists(ExistsRequest(product_ids=["new1", "p3", "p4"]))).exists) == [
                True,
                False,
                True,
            ]
            assert (await catalog.Count(CountRequest())).count == COUNT


async def test_who_goes_back_while_both_are_loaded_finds_later_changes_in_the_version_after(tmp_path: Path) -> None:
    first = built(tmp_path / "index", 0)
    never = asyncio.get_running_loop().create_future()
    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        second = await asyncio.to_thread(built, tmp_path / "index", 1)
        await until(lambda: second in served.uses(), never)
        assert first in served.uses()
        version.make_current(tmp_path / "index", first)
        await until(lambda: [*served.uses()] == [first], never)
        await patiently(catalog.Upsert, upserting(7))
        await patiently(catalog.Remove, RemoveRequest(product_id="p3", revision=5))
        third = await asyncio.to_thread(built, tmp_path / "index", 2)
        await until(lambda: [*served.uses()] == [third], never)
        exist = (await catalog.Exists(ExistsRequest(product_ids=["new7", "p3", "p4"]))).exists
        assert list(exist) == [True, False, True]


@pytest.mark.parametrize("gone", [False, True])
async def test_changes_outlast_the_version_that_took_them_and_its_encoder(tmp_path: Path, *, gone: bool) -> None:
    before = built(tmp_path / "index", 0)
    async with a_shard(tmp_path, image="drawn") as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(upserting(1))
        await catalog.Remove(RemoveRequest(product_id="p3", revision=1))
    built(tmp_path / "index", 1, encoder="another")
    if gone:
        (tmp_path / "index" / before).rename(tmp_path / "elsewhere")
    async with a_shard(tmp_path, image="another") as (address, _), a_catalogue(address) as catalog:
        exist = (await catalog.Exists(ExistsRequest(product_ids=["new1", "p3", "p4"]))).exists
        assert list(exist) == [True, False, True]


async def test_where_the_changes_before_cannot_be_read_they_are_missed_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = built(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(upserting(1))
    built(tmp_path / "index", 1)
    (tmp_path / "live" / "shard-00000" / damaged / "log-000001").write_bytes(b"no log of updates")
    lost = REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") or 0
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        assert (await catalog.Count(CountRequest())).count == COUNT
    assert f"the changes of version {damaged} are not in version" in caplog.text
    assert REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") == lost + 1


async def test_a_disk_that_takes_no_changes_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Log:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Log, "create", full)
    built(tmp_path / "index", 0)
    with pytest.raises(OperatorError, match=r"changes cannot be kept in .*shard-00000: .*No space left on device"):
        async with a_shard(tmp_path):
            pass


async def test_what_a_change_loses_in_the_version_beside_is_logged_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built(tmp_path / "index", 0)
    never = asyncio.get_running_loop().create_future()
    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        lost = REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") or 0
        following = await asyncio.to_thread(built, tmp_path / "index", 1, encoder="another")
        await until(lambda: following in served.uses(), never)
        for number in (1, 2):
            await patiently(catalog.Upsert, upserting(number))
        await until(lambda: [*served.uses()] == [following], never)
    assert REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") in (lost + 1, lost + 2)
    assert caplog.text.count("an encoder is another: its vectors are left out") == 1


@pytest.mark.parametrize("failing", [1, 2])
async def test_where_changes_cannot_be_taken_over_the_old_version_serves_on_until_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Once before a version is served, or when it was about to be."""
    calls = 0

    def full(before: Live, live: Live) -> Lost:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise Overloaded("the update could not be logged: No space left on device")
        return carrying.carry(before, live)

    monkeypatch.setattr("index.serving.succession.carry", full)
    built(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        await catalog.Upsert(upserting(1))
        name = built(tmp_path / "index", 1)
        asking = asyncio.ensure_future(asyncio.sleep(60))
        await until(lambda: "No space left on device" in served.refused, asking)
        assert list((await catalog.Exists(ExistsRequest(product_ids=["new1"]))).exists) == [True]
        await until(lambda: [*served.uses()] == [name], asking)
        assert list((await catalog.Exists(ExistsRequest(product_ids=["new1"]))).exists) == [True]
        asking.cancel()
