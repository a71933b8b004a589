"""Acknowledged changes survive a rollout to another version, and a restart between two versions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from index.building.build import build
from index.live import migration
from index.live.live_shard import LiveLimits, LiveShard
from index.live.migration_loss import MigrationLoss
from index.live.write_ahead_log import WriteAheadLog
from index.serving.change_migration import ChangeMigration
from index.serving.loader import Loader
from index.serving.service import IndexShard
from index.serving.slots import Slots
from index.serving.versions import ShardRolloutMetrics, ShardVersions, shard_versions
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.errors import OperatorError, Overloaded
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.rollout import Rollout
from lookalike.runtime import lifecycle
from lookalike.v1 import catalog_pb2_grpc, index_pb2, index_pb2_grpc
from lookalike.v1.catalog_pb2 import CountRequest, ExistsRequest, RemoveRequest, UpsertRequest
from lookalike.v1.types_pb2 import Product, SpaceVector
from tests.rpc.gateways import running_gateway, serving
from tests.rpc.test_swap import until
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

COUNT, DIM = 200, 8
POLL_S = 0.05


def build_version(location: Path, seed: int, encoder: str = "drawn") -> str:
    vectors = vectors_of(unit_vectors(COUNT, DIM, seed), encoder=encoder)
    return build(location, catalogue(COUNT), {IMAGE: vectors}, shards=1)


@asynccontextmanager
async def a_shard(root: Path, **expected: str) -> AsyncIterator[tuple[str, ShardVersions]]:
    """A shard of ROOT/index that takes updates: its address, and its versions."""
    location, served, slots = (
        Directory(root / "index"),
        shard_versions(time.monotonic, 0.2),
        Slots(threads=1, max_waiting=64),
    )
    loader = Loader(location=location, shard=0, pin_files=location.pin, expected_encoders=expected)
    changes = ChangeMigration(
        served,
        root / "live",
        0,
        LiveLimits(delta_rows=32, changes=10_000),
        load_base=loader,
        list_versions=location.list_versions,
    )
    writer = Writer(served, max_waiting=64, migration=changes)
    rollout = Rollout(
        served,
        read_target=location.current,
        load=changes.load,
        clock=time.monotonic,
        metrics=ShardRolloutMetrics(0),
        retry_s=POLL_S,
        admit=writer.admit,
        before_drop=changes.before_drop,
    )
    await rollout.start()
    service = IndexShard(slots, served, writer, changes)
    async with lifecycle.background_task(rollout.watch(POLL_S)), serving(service.handler()) as address:
        yield address, served
    rollout.close()
    writer.close()
    slots.close()
    for name in served.uses():
        if (loaded := served.remove(name)) is not None:
            loaded.release()


@asynccontextmanager
async def a_catalogue(address: str) -> AsyncIterator[catalog_pb2_grpc.CatalogAsyncStub]:
    async with running_gateway({"shards": (address,), "refresh_s": 0.05}) as gateway, aio_channel(gateway) as channel:
        yield catalog_pb2_grpc.CatalogStub(channel)


def an_upsert(number: int) -> UpsertRequest:
    vector = np.random.default_rng(number).normal(size=DIM).astype("<f4").tobytes()
    vectors = [SpaceVector(space=IMAGE, vector=vector)]
    return UpsertRequest(product=Product(id=f"new{number}", category="home"), revision=number + 1, vectors=vectors)


async def call_until_accepted(call: grpc.aio.UnaryUnaryMultiCallable, request: UpsertRequest | RemoveRequest) -> None:  # type: ignore[type-arg]  # it is generic in the stubs only
    """Retry as a client does while there is no room for the update, or the version has just changed."""
    while True:
        try:
            await call(request)
            return
        except grpc.aio.AioRpcError as error:
            retried = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION)
            if error.code() not in retried:
                raise
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_changes_during_rollouts_are_in_every_version(tmp_path: Path) -> None:
    first = build_version(tmp_path / "index", 0)
    acknowledged = 0

    async def change(catalog: catalog_pb2_grpc.CatalogAsyncStub) -> None:
        nonlocal acknowledged
        while True:
            await call_until_accepted(catalog.Upsert, an_upsert(acknowledged))
            if acknowledged < COUNT:
                await call_until_accepted(catalog.Remove, RemoveRequest(product_id=f"p{acknowledged}", revision=1))
            acknowledged += 1

    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        changing = asyncio.create_task(change(catalog))
        for seed in (1, 2, None):  # Two new versions, then back to the first.
            target_count = acknowledged + 30
            await until(lambda: acknowledged >= target_count, changing)  # noqa: B023  # awaited before it changes
            if seed is None:
                version.make_current(tmp_path / "index", name := first)
            else:
                name = await asyncio.to_thread(build_version, tmp_path / "index", seed)
            await until(lambda: [*served.uses()] == [name], changing)  # noqa: B023  # likewise
            count = acknowledged
            ids = [f"new{number}" for number in range(count)] + [f"p{number}" for number in range(min(count, COUNT))]
            exist = (await catalog.Exists(ExistsRequest(product_ids=ids[:1000]))).exists
            assert list(exist) == [product_id.startswith("new") for product_id in ids[:1000]]
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing


async def test_what_was_kept_of_the_changes_of_a_version_that_is_gone_is_removed(tmp_path: Path) -> None:
    first = build_version(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(an_upsert(0))
    second = build_version(tmp_path / "index", 1)
    async with a_shard(tmp_path):
        assert {each.name for each in (tmp_path / "live" / "shard-00000").iterdir()} == {"CURRENT", first, second}
    third = build_version(tmp_path / "index", 2)
    version.drop_version(tmp_path / "index", first)
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        assert {each.name for each in (tmp_path / "live" / "shard-00000").iterdir()} == {"CURRENT", second, third}
        assert (await catalog.Exists(ExistsRequest(product_ids=["new0"]))).exists == [True]


async def test_a_version_first_loaded_at_a_start_gets_the_changes_of_the_stopped_one(tmp_path: Path) -> None:
    build_version(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(an_upsert(1))
        await catalog.Remove(RemoveRequest(product_id="p3", revision=1))
    for seed in (1, 2):
        build_version(tmp_path / "index", seed)
        async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
            assert list((await catalog.Exists(ExistsRequest(product_ids=["new1", "p3", "p4"]))).exists) == [
                True,
                False,
                True,
            ]
            assert (await catalog.Count(CountRequest())).count == COUNT


async def test_changes_after_going_back_to_the_first_version_are_in_the_next_version(tmp_path: Path) -> None:
    first = build_version(tmp_path / "index", 0)
    pending = asyncio.get_running_loop().create_future()
    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        second = await asyncio.to_thread(build_version, tmp_path / "index", 1)
        await until(lambda: second in served.uses(), pending)
        assert first in served.uses()
        version.make_current(tmp_path / "index", first)
        await until(lambda: [*served.uses()] == [first], pending)
        await call_until_accepted(catalog.Upsert, an_upsert(7))
        await call_until_accepted(catalog.Remove, RemoveRequest(product_id="p3", revision=5))
        third = await asyncio.to_thread(build_version, tmp_path / "index", 2)
        await until(lambda: [*served.uses()] == [third], pending)
        exist = (await catalog.Exists(ExistsRequest(product_ids=["new7", "p3", "p4"]))).exists
        assert list(exist) == [True, False, True]


@pytest.mark.parametrize("removed", [False, True])
async def test_changes_survive_the_removal_of_their_version_and_a_change_of_encoder(
    tmp_path: Path, *, removed: bool
) -> None:
    before = build_version(tmp_path / "index", 0)
    async with a_shard(tmp_path, image="drawn") as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(an_upsert(1))
        await catalog.Remove(RemoveRequest(product_id="p3", revision=1))
    build_version(tmp_path / "index", 1, encoder="another")
    if removed:
        (tmp_path / "index" / before).rename(tmp_path / "elsewhere")
    async with a_shard(tmp_path, image="another") as (address, _), a_catalogue(address) as catalog:
        exist = (await catalog.Exists(ExistsRequest(product_ids=["new1", "p3", "p4"]))).exists
        assert list(exist) == [True, False, True]


async def test_changes_that_cannot_be_read_are_logged_and_counted_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = build_version(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        await catalog.Upsert(an_upsert(1))
    build_version(tmp_path / "index", 1)
    (tmp_path / "live" / "shard-00000" / damaged / "log-000001").write_bytes(b"no log of updates")
    lost = REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") or 0
    async with a_shard(tmp_path) as (address, _), a_catalogue(address) as catalog:
        assert (await catalog.Count(CountRequest())).count == COUNT
    assert f"the changes of version {damaged} are not in version" in caplog.text
    assert REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") == lost + 1


async def test_a_full_disk_is_an_operator_error_that_names_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> WriteAheadLog:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WriteAheadLog, "create", full)
    build_version(tmp_path / "index", 0)
    with pytest.raises(OperatorError, match=r"cannot keep changes in .*shard-00000: .*No space left on device"):
        async with a_shard(tmp_path):
            pass


async def test_what_a_change_loses_in_the_other_loaded_version_is_logged_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_version(tmp_path / "index", 0)
    pending = asyncio.get_running_loop().create_future()
    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        lost = REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") or 0
        following = await asyncio.to_thread(build_version, tmp_path / "index", 1, encoder="another")
        await until(lambda: following in served.uses(), pending)
        for number in (1, 2):
            await call_until_accepted(catalog.Upsert, an_upsert(number))
        await until(lambda: [*served.uses()] == [following], pending)
    assert REGISTRY.get_sample_value("lookalike_shard_changes_lost_total") in (lost + 1, lost + 2)
    logged = [each for each in caplog.records if each.name == "index.serving.loss_reporter"]
    assert ["vectors of another encoder were left out" in each.getMessage() for each in logged] == [True]


@pytest.mark.parametrize("failing", [1, 2])
async def test_while_changes_cannot_be_migrated_the_old_version_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """failing: 1: when the version is loaded; 2: when the migration is finished."""
    calls = 0

    def fail_once(old: LiveShard, new: LiveShard) -> MigrationLoss:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise Overloaded("the update could not be logged: No space left on device")
        return migration.migrate_changes(old, new)

    monkeypatch.setattr("index.serving.change_migration.migrate_changes", fail_once)
    build_version(tmp_path / "index", 0)
    async with a_shard(tmp_path) as (address, served), a_catalogue(address) as catalog:
        await catalog.Upsert(an_upsert(1))
        name = build_version(tmp_path / "index", 1)
        asking = asyncio.ensure_future(asyncio.sleep(60))
        await until(lambda: "No space left on device" in served.refusal, asking)
        assert list((await catalog.Exists(ExistsRequest(product_ids=["new1"]))).exists) == [True]
        await until(lambda: [*served.uses()] == [name], asking)
        assert list((await catalog.Exists(ExistsRequest(product_ids=["new1"]))).exists) == [True]
        asking.cancel()


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "x" * 300, "line\n", "a\0b", "CURRENT", "no-such-version"])
async def test_what_no_version_is_called_is_refused_and_read_as_no_path(tmp_path: Path, name: str) -> None:
    build_version(tmp_path / "index", seed=1)
    async with a_shard(tmp_path) as (address, _), aio_channel(address) as channel:
        stub = index_pb2_grpc.IndexShardStub(channel)
        current = next((tmp_path / "live").rglob("CURRENT"))
        before = current.read_text()
        for call in (
            stub.ListChanges(index_pb2.ListChangesRequest(version=name)).read(),
            stub.FinishHandover(index_pb2.FinishHandoverRequest(version=name)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert current.read_text() == before


async def test_changes_of_an_id_that_no_product_can_have_are_none(tmp_path: Path) -> None:
    version_name = build_version(tmp_path / "index", seed=1)
    async with a_shard(tmp_path) as (address, _), aio_channel(address) as channel:
        request = index_pb2.ListChangesRequest(version=version_name, ids=[b"\xff", b"unknown"])
        page: Any = await index_pb2_grpc.IndexShardStub(channel).ListChanges(request).read()
        assert not page.changes
