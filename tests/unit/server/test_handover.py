"""Which handover of changes is due, by what the shards say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from encoders.clients import EncoderReplica
from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import AwaitedChanges, DescribeResponse, ShardState, SpaceState, Update
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from server.handover import PendingHandover, hand_over, pending_handover


def response(shard: int, *, awaited: AwaitedChanges | None = None) -> DescribeResponse:
    """A shard whose current version is v2, of three shards."""
    spaces = [SpaceState(space=SPACE_IMAGE, dim=8, encoder="e")]
    return DescribeResponse(versions=[ShardState(version="v2", shard=shard, shards=3, spaces=spaces, awaited=awaited)])


BEFORE = AwaitedChanges(version="v1", shards=2)


def test_changes_are_handed_over_once_every_shard_serves_the_version() -> None:
    complete = [response(0, awaited=BEFORE), response(1, awaited=BEFORE), response(2)]
    assert pending_handover(complete) == PendingHandover(
        version="v2", shards=3, of="v1", of_shards=2, encoders={SPACE_IMAGE: "e"}
    )
    assert pending_handover([*complete[:2], None]) is None


def test_nothing_is_handed_over_to_a_version_that_awaits_nothing() -> None:
    assert pending_handover([response(shard) for shard in range(3)]) is None


def test_the_version_that_most_shards_await_is_handed_over() -> None:
    older = AwaitedChanges(version="v0", shards=0)
    pending = pending_handover([response(0, awaited=BEFORE), response(1, awaited=BEFORE), response(2, awaited=older)])
    assert pending is not None
    assert (pending.of, pending.of_shards) == ("v1", 2)


def test_none_is_due_while_requests_would_stay_at_the_old_version_for_an_encoder() -> None:
    old = SpaceState(space=SPACE_TEXT, dim=8, encoder="old")
    responses = [response(0, awaited=BEFORE), response(1, awaited=BEFORE), response(2)]
    for shard, each in enumerate(responses):
        each.versions[0].spaces[0].space = SPACE_TEXT
        if shard < BEFORE.shards:
            each.versions.append(ShardState(version="v1", shard=shard, shards=2, spaces=[old]))

    def is_due(*served: str) -> bool:
        replica = EncoderReplica("text encoder", (SPACE_TEXT,), frozenset(served))
        return pending_handover(responses, [replica]) is not None

    assert not is_due("old")
    assert is_due("old", "e")
    assert is_due("other")  # It loses nothing.
    del responses[1].versions[1]
    assert is_due("old")  # A shard has left the old version: requests move anyway.


class Shard:
    """A shard with one change of the old version, which refuses to take changes of the new one."""

    address = "shard"

    def __init__(self) -> None:
        self.finished = 0

    def sources(self) -> list[Any]:
        return [self]

    async def list_changes(self, *_: Any) -> AsyncIterator[index_pb2.ListChangesPage]:
        change = index_pb2.ListedChange(update=Update(revision=1, remove="p1"))
        yield index_pb2.ListChangesPage(changes=[change], sequence=1)

    async def apply(self, *_: Any) -> index_pb2.ApplyResponse:
        raise FailedPrecondition("this shard serves version v1, not 'v2'")

    async def seal(self, *_: Any) -> index_pb2.SealResponse:
        return index_pb2.SealResponse(sequence=1)

    async def finish_handover(self, *_: Any) -> None:
        self.finished += 1


async def test_a_new_version_that_goes_away_meanwhile_takes_no_updates_and_no_change_counts_as_lost() -> None:
    shards: list[Any] = [Shard(), Shard()]
    pending = PendingHandover(version="v2", shards=2, of="v1", of_shards=1, encoders={})
    with pytest.raises(Unavailable, match="serves version v1"):
        await hand_over(shards, pending)
    assert [shard.finished for shard in shards] == [0, 0]
