"""Changes that come during a call go together in the next, each with its own outcome."""

from __future__ import annotations

import asyncio

import pytest

from lookalike.changes import upsert_change
from lookalike.errors import InvalidRequest, Unavailable
from lookalike.limits import MAX_CHANGES, MAX_WRITE_BYTES
from lookalike.status import to_request_error
from lookalike.v1.catalog_pb2 import BatchWriteRequest, BatchWriteResponse, Change, ChangeResponse, ChangeResult
from lookalike.v1.types_pb2 import Product
from pipeline.worker.change_writer import ChangeWriter


class Gateway:
    """Answers batches; waits for `go` before it does."""

    def __init__(self) -> None:
        self.batches: list[BatchWriteRequest] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, request: BatchWriteRequest, timeout_s: float) -> BatchWriteResponse:
        self.batches.append(request)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return BatchWriteResponse(results=[self.result(change) for change in request.changes])

    def result(self, change: Change) -> ChangeResult:
        if not change.upsert.product.category:
            return ChangeResult(error=to_request_error(InvalidRequest("product.category", "is missing")))
        return ChangeResult(response=ChangeResponse(applied=True, revision=change.upsert.revision))


def change(number: int, *, encode: bool = False, category: str = "c", description: str = "") -> Change:
    product = Product(id=f"p{number}", category=category, description=description)
    return upsert_change(product, revision=number + 1, encode=encode, allow_unfindable=not encode)


async def test_what_comes_during_a_call_goes_in_the_next_within_the_bounds_of_a_batch() -> None:
    gateway = Gateway()
    write = ChangeWriter(gateway)
    tasks = [asyncio.create_task(write(change(number))) for number in range(2500)]
    await asyncio.sleep(0.05)
    assert len(gateway.batches) == 2
    gateway.go.set()
    responses = await asyncio.gather(*tasks)
    assert [response.revision for response in responses] == [*range(1, 2501)]
    assert max(len(batch.changes) for batch in gateway.batches) <= MAX_CHANGES
    assert len(gateway.batches) == 3
    large = [write(change(number, description="x" * 60_000)) for number in range(200)]
    await asyncio.gather(*large)
    assert max(batch.ByteSize() for batch in gateway.batches) < MAX_WRITE_BYTES + (1 << 16)


async def test_changes_that_the_gateway_encodes_go_in_small_batches_of_their_own() -> None:
    gateway = Gateway()
    gateway.go.set()
    write = ChangeWriter(gateway)
    await asyncio.gather(*(write(change(number, encode=number % 2 == 0)) for number in range(100)))
    assert {len({each.upsert.encode for each in batch.changes}) for batch in gateway.batches} == {1}
    assert max(len(batch.changes) for batch in gateway.batches if batch.changes[0].upsert.encode) == 24


async def test_a_change_that_is_refused_fails_alone_and_a_call_that_fails_fails_its_batch() -> None:
    gateway = Gateway()
    gateway.go.set()
    write = ChangeWriter(gateway)
    bad, good = await asyncio.gather(write(change(0, category="")), write(change(1)), return_exceptions=True)
    assert isinstance(bad, InvalidRequest)
    assert isinstance(good, ChangeResponse)
    gateway.error = Unavailable("gateway: away")
    with pytest.raises(Unavailable):
        await write(change(2))
