"""One version for all shards of an answer."""

from __future__ import annotations

import pytest

from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.v1.index_pb2 import DescribeResponse, ShardState, SpaceState
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from server.topology import snapshot_of


def state(shard: int, version: str, shards: int = 2) -> ShardState:
    spaces = [SpaceState(space=SPACE_IMAGE, dim=8, encoder="e", documents=[3] * shards)]
    return ShardState(version=version, shard=shard, shards=shards, spaces=spaces)


def told(*versions: str, shards: int = 2) -> list[DescribeResponse | None]:
    """What each shard says that it serves, the current version first: "v2 v1"; "": it does not say."""
    return [
        DescribeResponse(versions=[state(shard, each, shards) for each in said.split()]) if said else None
        for shard, said in enumerate(versions)
    ]


def test_the_pinned_version_stays_while_a_shard_has_not_moved_on() -> None:
    snapshot = snapshot_of(told("v2 v1", "v1"), pinned="v1")
    assert (snapshot.version, snapshot.serving) == ("v1", (True, True))
    assert snapshot_of(told("v1", "v2"), pinned="v1").serving == (True, False)


def test_it_gives_way_when_every_shard_in_reach_has_moved_on() -> None:
    snapshot = snapshot_of(told("v2 v1", "v2 v1"), pinned="v1")
    assert (snapshot.version, snapshot.serving) == ("v2", (True, True))
    assert snapshot_of(told("v2 v1", ""), pinned="v1").serving == (True, False)


def test_on_the_way_back_it_moves_when_all_have_turned_and_not_to_and_fro() -> None:
    assert snapshot_of(told("v1 v2", "v2 v1"), pinned="v2").version == "v2"
    assert snapshot_of(told("v1 v2", "v1 v2"), pinned="v2").version == "v1"
    assert snapshot_of(told("v2 v1", "v1 v2"), pinned="v1").version == "v1"


def test_a_version_that_no_shard_serves_any_more_gives_way_to_what_most_serve() -> None:
    assert snapshot_of(told("v3", "v2", "v2", shards=3), pinned="v1").version == "v2"


def test_without_a_pinned_one_most_shards_decide_then_most_currents_then_the_greatest_name() -> None:
    assert snapshot_of(told("v1", "v2"), pinned=None).version == "v2"
    assert snapshot_of(told("v1", "v1", "v2", shards=3), pinned=None).version == "v1"
    assert snapshot_of(told("v1 v2", "v1 v2", "v2 v1", shards=3), pinned=None).version == "v1"


def test_a_version_of_another_number_of_shards_is_not_moved_to() -> None:
    both = [DescribeResponse(versions=[state(shard, "v2", 3), state(shard, "v1", 2)]) for shard in range(2)]
    assert snapshot_of(both, pinned="v1").version == "v1"


def test_shards_out_of_order_or_too_few_addresses_are_an_error_and_not_half_an_index() -> None:
    with pytest.raises(Unavailable, match="order"):
        snapshot_of([*reversed(told("v1", "v1"))], pinned=None)
    with pytest.raises(Unavailable, match="order"):
        snapshot_of(told("v1", shards=2), pinned=None)
    with pytest.raises(Unavailable, match="order"):
        snapshot_of([*told("v1"), *told("v1")], pinned=None)
    with pytest.raises(Unavailable, match="reach"):
        snapshot_of([None, None], pinned="v1")


def test_a_space_that_the_version_lacks_is_named_with_those_it_has() -> None:
    snapshot = snapshot_of(told("v1", "v1"), pinned=None)
    assert [info.documents for info in snapshot.searched([SPACE_IMAGE]).values()] == [(3, 3)]
    with pytest.raises(FailedPrecondition, match="no text space; it has: image"):
        snapshot.searched([SPACE_IMAGE, SPACE_TEXT])


def test_each_shard_tells_what_it_holds_and_has_applied_and_of_one_out_of_reach_the_build_tells() -> None:
    answers = told("v1", "v1", "", shards=3)
    for shard, (live, sequence) in enumerate([(5, 7), (0, 2)]):
        answer = answers[shard]
        assert answer is not None
        answer.versions[0].spaces[0].live = live
        answer.versions[0].sequence = sequence
    snapshot = snapshot_of(answers, pinned="v1")
    assert snapshot.spaces[SPACE_IMAGE].documents == (5, 0, 3)
    assert snapshot.sequences == (7, 2, 0)


def test_the_content_has_another_name_after_every_update_and_the_versions_where_there_was_none() -> None:
    built = snapshot_of(told("v1", "v1"), pinned="v1")
    assert built.content == "v1"
    names = [built.content, built.after({0: 1}).content, built.after({1: 1}).content, built.after({0: 1, 1: 1}).content]
    assert len({*names}) == 4
    assert built.after({0: 3}).after({0: 2}) == built.after({0: 3})  # What is told late changes nothing.
