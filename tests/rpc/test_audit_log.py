"""The audit log of a real gateway: a line for every change, whatever becomes of it, and what a full disk means."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import REGISTRY

from lookalike.changes import remove_change, upsert_change
from lookalike.errors import Overloaded
from lookalike.v1.catalog_pb2 import (
    BatchWriteRequest,
    Change,
    EnqueueRequest,
    GetRequest,
    PatchRequest,
    RemoveRequest,
    RemoveWhereRequest,
    UpsertRequest,
)
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import Filter, Product
from tests.edges import IMPLEMENTATIONS
from tests.rpc.gateways import ScriptedSystem, a_photo, scripted_system
from tests.unit.index.test_write_ahead_log import limit_file_size

IDENTITY = [("x-request-id", "order-7")]


@asynccontextmanager
async def audited_system(path: Path, **settings: Any) -> AsyncIterator[ScriptedSystem]:
    async with scripted_system(audit_log=path, **settings) as system:
        yield system


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ends_of(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(path) if line["stage"] == "end"]


def an_upsert(product_id: str = "p01", revision: int = 7) -> UpsertRequest:
    product = Product(id=product_id, title="a title nobody may see", category="home")
    return UpsertRequest(product=product, revision=revision, encode=True, image=a_photo(1))


def changes(count: int) -> list[Change]:
    return [remove_change(f"p{i}", revision=i + 1) for i in range(count)]


def size_of(path: Path) -> int:
    return path.stat().st_size


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)
async def test_a_change_has_a_line_before_it_and_one_with_its_outcome(path: Path) -> None:
    async with audited_system(path) as system:
        await system.catalog.Upsert(an_upsert(), metadata=IDENTITY)
    begin, end = lines_of(path)
    common: dict[str, Any] = {"request_id": "order-7", "caller": "", "method": "lookalike.v1.Catalog/Upsert"}
    common |= {"products": ["p01"], "count": 1, "revision": 7}
    assert begin.items() >= {**common, "stage": "begin"}.items()
    assert end.items() >= {**common, "stage": "end", "outcome": "OK", "applied": 1}.items()
    assert begin["peer"].startswith("ipv4:127.0.0.1:")
    assert begin["time"] <= end["time"]
    assert begin["time"].endswith("+00:00")


async def test_every_method_that_changes_something_is_in_the_log_and_none_that_reads(path: Path) -> None:
    async with audited_system(path) as system:
        await system.catalog.Upsert(an_upsert())
        await system.catalog.Patch(
            PatchRequest(product=Product(id="p02", price=3), update_mask=FieldMask(paths=["price"]), revision=2)
        )
        await system.catalog.Remove(RemoveRequest(product_id="p03", revision=3))
        await system.catalog.BatchWrite(BatchWriteRequest(changes=changes(30)))
        async for _ in system.catalog.Write(iter([BatchWriteRequest(changes=changes(2))] * 2)):
            pass
        await system.catalog.RemoveWhere(RemoveWhereRequest(filter=Filter(category_in=["home"]), dry_run=True))
        await system.catalog.RemoveWhere(RemoveWhereRequest(filter=Filter(category_in=["home"]), revision=99))
        await refusal(system.catalog.Enqueue(EnqueueRequest(changes=changes(1))))  # There is no stream.
        await system.catalog.Get(GetRequest(product_id="p01"))
        await system.search.Search(SearchRequest(examples=[Example(text="p01")]))
    ends = ends_of(path)
    shown = [
        (line["method"].partition("/")[2], line.get("count", 0), line["revision"], line["outcome"]) for line in ends
    ]
    assert shown == [
        ("Upsert", 1, 7, "OK"),
        ("Patch", 1, 2, "OK"),
        ("Remove", 1, 3, "OK"),
        ("BatchWrite", 30, 30, "OK"),
        ("Write", 2, 2, "OK"),
        ("Write", 2, 2, "OK"),
        ("RemoveWhere", 0, 0, "OK"),
        ("RemoveWhere", 20, 99, "OK"),
        ("Enqueue", 1, 1, "FAILED_PRECONDITION"),
    ]
    assert len(ends[3]["products"]) == 20
    assert [line.get("dry_run", False) for line in ends[6:8]] == [True, False]
    assert ends[7].items() >= {"filter": ["category_in"], "matched": 20, "applied": 20}.items()


async def test_no_line_has_anything_of_what_a_product_is(path: Path) -> None:
    async with audited_system(path) as system:
        await system.catalog.Upsert(an_upsert())
        change = upsert_change(
            Product(id="p02", title="a title nobody may see", category="home"), revision=1, encode=True
        )
        await system.catalog.BatchWrite(BatchWriteRequest(changes=[change]))
    written = json.dumps(lines_of(path))
    assert "nobody" not in written
    assert "home" not in written


@pytest.mark.parametrize("ids", [["x" * 5000], ['a"\n{', "é"]])
async def test_ids_of_any_kind_are_bounded_and_leave_lines_whole(path: Path, ids: Sequence[str]) -> None:
    async with audited_system(path) as system:
        await system.catalog.BatchWrite(BatchWriteRequest(changes=[remove_change(each, revision=1) for each in ids]))
    assert ends_of(path)[0]["products"] == [each[:256] for each in ids]


async def test_a_change_that_fails_is_in_the_log_with_its_status(path: Path) -> None:
    async with audited_system(path) as system:
        await refusal(system.catalog.Remove(RemoveRequest(product_id="p01")))  # Without a revision.
        for shard in system.shards:
            shard.error = Overloaded("full")
        await refusal(system.catalog.Remove(RemoveRequest(product_id="p01", revision=1)))
        reply = await system.catalog.BatchWrite(BatchWriteRequest(changes=changes(3)))
        assert all(result.HasField("error") for result in reply.results)
    shown = [(line["outcome"], line.get("failed")) for line in ends_of(path)]
    assert shown == [("INVALID_ARGUMENT", None), ("RESOURCE_EXHAUSTED", None), ("OK", 3)]


async def test_where_the_log_cannot_be_written_a_change_is_refused_before_it_is_made(path: Path) -> None:
    async with audited_system(path) as system:
        await system.catalog.Remove(RemoveRequest(product_id="p01", revision=1))
        made = sum(len(shard.updates) for shard in system.shards)
        with limit_file_size(size_of(path) + 10):
            code, message = await refusal(system.catalog.Remove(RemoveRequest(product_id="p02", revision=1)))
            await system.catalog.Get(GetRequest(product_id="p03"))  # Reads go on.
        assert (code, message) == (
            grpc.StatusCode.UNAVAILABLE,
            "nothing is changed: the audit log cannot be written",
        )
        assert sum(len(shard.updates) for shard in system.shards) == made
        await system.catalog.Remove(RemoveRequest(product_id="p04", revision=1))
    assert [line["products"] for line in ends_of(path)] == [["p01"], ["p04"]]


async def test_a_change_whose_outcome_finds_no_room_is_made_and_the_next_line_says_what_is_lost(path: Path) -> None:
    async with audited_system(path) as system:
        await system.catalog.Remove(RemoveRequest(product_id="p01", revision=1))
        one_line = size_of(path) // 2
        with limit_file_size(size_of(path) + one_line + 10):
            await system.catalog.Remove(RemoveRequest(product_id="p02", revision=1))
        await system.catalog.Remove(RemoveRequest(product_id="p03", revision=1))
    shown = [(line["stage"], line["products"], line.get("lost_before", 0)) for line in lines_of(path)[2:]]
    assert shown == [("begin", ["p02"], 0), ("begin", ["p03"], 1), ("end", ["p03"], 0)]


async def test_where_that_is_chosen_changes_go_on_and_lost_lines_are_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lost() -> float:
        return REGISTRY.get_sample_value("lookalike_audit_lines_lost_total") or 0.0

    before = lost()
    async with audited_system(path, audit_full="continue") as system:
        with limit_file_size(10):
            for number in range(3):
                await system.catalog.Remove(RemoveRequest(product_id=f"p{number}", revision=1))
        await system.catalog.Remove(RemoveRequest(product_id="p04", revision=1))
    (line,) = lines_of(path)
    assert (line["products"], line["lost_before"], lost() - before) == (["p04"], 3, 3)
    said = [each for each in caplog.messages if "audit log" in each]
    assert [each.partition(":")[0] for each in said] == [
        "the audit log cannot be written",
        "the audit log can be written again; 3 lines are lost",
    ]


async def test_a_change_that_is_given_up_has_its_line(path: Path) -> None:
    async with audited_system(path, default_deadline_s=0.2, shard_timeout_s=0.1, shard_hang_s=30.0) as system:
        for shard in system.shards:
            shard.hang = True
        await refusal(system.catalog.Remove(RemoveRequest(product_id="p01", revision=1), timeout=0.05))
    assert [line["outcome"] for line in ends_of(path)] in (["CANCELLED"], ["DEADLINE_EXCEEDED"], ["UNAVAILABLE"])
