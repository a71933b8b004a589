"""Appending events in batches, and waiting for a stream that is full or down."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lookalike.errors import InvalidRequest, LookalikeError, Overloaded, Unavailable
from lookalike.stream.memory_stream import MemoryStream
from lookalike.stream.product_stream import Handle
from lookalike.v1.event_pb2 import ProductEvent
from pipeline.publisher import Publisher, publish_all
from tests.contract.test_product_stream import GROUP, event_of, some_events


class FailingStream(MemoryStream):
    """Raises these errors, one after the other, and is a stream then."""

    def __init__(self, *errors: LookalikeError) -> None:
        super().__init__(2)
        self.errors = [*errors]
        self.batches: list[int] = []

    async def append(self, events_: Sequence[ProductEvent]) -> Sequence[Handle]:
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(len(events_))
        return await super().append(events_)


def publisher_of(stream: FailingStream, notes: list[str], wait_s: float = 60) -> Publisher:
    return Publisher(stream, wait_s=wait_s, note=notes.append)


async def test_events_are_appended_in_batches_and_none_is_left_over() -> None:
    stream, notes = FailingStream(), list[str]()
    publisher = publisher_of(stream, notes)
    await publish_all(publisher, some_events(1201))
    assert stream.batches == [500, 500, 201]
    assert (publisher.published, notes) == (1201, [])


async def test_a_batch_has_no_more_than_a_mebibyte() -> None:
    stream = FailingStream()
    large = ProductEvent(change=event_of("p").change, source="x" * 400_000)
    await publish_all(publisher_of(stream, []), [large] * 5)
    assert stream.batches == [2, 2, 1]


async def test_a_stream_that_is_full_or_down_is_tried_again_and_said_to_be_once() -> None:
    errors = [Overloaded("full", retry_after_s=0.01), Unavailable("down"), Overloaded("full", retry_after_s=0.01)]
    stream, notes = FailingStream(*errors), list[str]()
    publisher = publisher_of(stream, notes)
    await publish_all(publisher, some_events(3))
    assert (publisher.published, stream.batches) == (3, [3])
    assert notes == ["full; trying again for 60 s"]
    assert (await stream.status(GROUP)).events == 3


@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=0.01), Unavailable("down")])
async def test_a_stream_that_stays_so_is_an_error_after_the_time_and_what_was_published_is_known(
    error: LookalikeError,
) -> None:
    stream = FailingStream()
    publisher = publisher_of(stream, [], wait_s=0)
    await publish_all(publisher, some_events(500))
    stream.errors = [error]
    with pytest.raises(type(error)):
        await publish_all(publisher, some_events(10))
    assert publisher.published == 500


async def test_an_event_that_can_never_be_appended_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest):
        await publisher_of(FailingStream(), []).add(ProductEvent())
