"""One version for all shards of an answer."""

from __future__ import annotations

import pytest

from lookalike.errors import Unavailable, WrongState
from protos.lookalike.v1.index_pb2 import ShardState, SpaceState
from protos.lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from server.topology import snapshot_of


def a_state(shard: int, version: str, shards: int = 2) -> ShardState:
    spaces = [SpaceState(space=SPACE_IMAGE, dim=8, encoder="e", documents=[3] * shards)]
    return ShardState(version=version, shard=shard, shards=shards, spaces=spaces)


def test_the_current_version_stays_while_any_shard_serves_it() -> None:
    snapshot = snapshot_of([a_state(0, "v1"), a_state(1, "v2")], current="v1")
    assert (snapshot.version, snapshot.serving) == ("v1", (True, False))


def test_a_version_that_no_shard_serves_any_more_gives_way_to_the_next() -> None:
    assert snapshot_of([a_state(0, "v2"), a_state(1, "v2")], current="v1").version == "v2"
    assert snapshot_of([a_state(0, "v3"), None], current="v1").serving == (True, False)


def test_without_a_current_one_most_shards_decide_and_among_equals_the_greatest_name() -> None:
    assert snapshot_of([a_state(0, "v1"), a_state(1, "v2")], current=None).version == "v2"
    assert snapshot_of([a_state(0, "v1", 3), a_state(1, "v1", 3), a_state(2, "v2", 3)], current=None).version == "v1"


def test_shards_out_of_order_or_too_few_addresses_are_an_error_and_not_half_an_index() -> None:
    with pytest.raises(Unavailable, match="order"):
        snapshot_of([a_state(1, "v1"), a_state(0, "v1")], current=None)
    with pytest.raises(Unavailable, match="order"):
        snapshot_of([a_state(0, "v1")], current=None)
    with pytest.raises(Unavailable, match="reach"):
        snapshot_of([None, None], current="v1")


def test_a_space_that_the_version_lacks_is_named_with_those_it_has() -> None:
    snapshot = snapshot_of([a_state(0, "v1"), a_state(1, "v1")], current=None)
    assert [info.documents for info in snapshot.searched([SPACE_IMAGE]).values()] == [(3, 3)]
    with pytest.raises(WrongState, match="no text space; it has: image"):
        snapshot.searched([SPACE_IMAGE, SPACE_TEXT])
