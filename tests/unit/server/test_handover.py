"""Which handover of changes is due, by what the shards say."""

from __future__ import annotations

from lookalike.v1.index_pb2 import AwaitedChanges, DescribeResponse, ShardState, SpaceState
from lookalike.v1.types_pb2 import SPACE_IMAGE
from server.handover import PendingHandover, pending_handover


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
