"""Choosing the version that requests pin, from the versions that the shards serve."""

from __future__ import annotations

import pytest

from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.v1.index_pb2 import DescribeResponse, ShardState, SpaceState
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from server.topology import choose_snapshot


def state(shard: int, version: str, shards: int = 2) -> ShardState:
    spaces = [SpaceState(space=SPACE_IMAGE, dim=8, encoder="e", documents=[3] * shards)]
    return ShardState(version=version, shard=shard, shards=shards, spaces=spaces)


def responses(*versions: str, shards: int = 2) -> list[DescribeResponse | None]:
    """One Describe response per shard: the versions it serves, the current one first ("v2 v1"); "": unreachable."""
    return [
        DescribeResponse(versions=[state(shard, each, shards) for each in served.split()]) if served else None
        for shard, served in enumerate(versions)
    ]


def test_the_pinned_version_stays_while_a_shard_has_not_moved_on() -> None:
    snapshot = choose_snapshot(responses("v2 v1", "v1"), pinned="v1")
    assert (snapshot.version, snapshot.serving) == ("v1", (True, True))
    assert choose_snapshot(responses("v1", "v2"), pinned="v1").serving == (True, False)


def test_the_pinned_version_changes_when_every_reachable_shard_has_moved_on() -> None:
    snapshot = choose_snapshot(responses("v2 v1", "v2 v1"), pinned="v1")
    assert (snapshot.version, snapshot.serving) == ("v2", (True, True))
    assert choose_snapshot(responses("v2 v1", ""), pinned="v1").serving == (True, False)


def test_in_a_rollback_the_version_changes_once_when_all_shards_have_turned_back() -> None:
    assert choose_snapshot(responses("v1 v2", "v2 v1"), pinned="v2").version == "v2"
    assert choose_snapshot(responses("v1 v2", "v1 v2"), pinned="v2").version == "v1"
    assert choose_snapshot(responses("v2 v1", "v1 v2"), pinned="v1").version == "v1"


def test_a_pinned_version_that_no_shard_serves_any_more_is_replaced_by_the_one_most_serve() -> None:
    assert choose_snapshot(responses("v3", "v2", "v2", shards=3), pinned="v1").version == "v2"


def test_without_a_pinned_version_the_one_at_most_shards_wins_then_the_most_current_then_the_greatest_name() -> None:
    assert choose_snapshot(responses("v1", "v2"), pinned=None).version == "v2"
    assert choose_snapshot(responses("v1", "v1", "v2", shards=3), pinned=None).version == "v1"
    assert choose_snapshot(responses("v1 v2", "v1 v2", "v2 v1", shards=3), pinned=None).version == "v1"


def test_a_version_of_more_shards_than_there_are_addresses_is_never_chosen() -> None:
    both = [DescribeResponse(versions=[state(shard, "v2", 3), state(shard, "v1", 2)]) for shard in range(2)]
    assert choose_snapshot(both, pinned="v1").version == "v1"


def growing(shard: int, *, awaited: str = "") -> DescribeResponse:
    """A shard that serves v2, of three shards, and v1, of two, where that has it."""
    new = state(shard, "v2", 3)
    if awaited:
        new.awaited.version, new.awaited.shards = awaited, 2
    return DescribeResponse(versions=[new, *([state(shard, "v1", 2)] if shard < 2 else [])])


def test_requests_move_to_a_version_of_another_number_of_shards_when_all_serve_it_and_no_change_is_awaited() -> None:
    complete: list[DescribeResponse | None] = [growing(shard) for shard in range(3)]
    snapshot = choose_snapshot(complete, pinned="v1")
    assert (snapshot.version, snapshot.serving) == ("v2", (True, True, True))
    assert choose_snapshot([*complete[:2], None], pinned="v1").version == "v1"
    awaiting: list[DescribeResponse | None] = [growing(0, awaited="v1"), *complete[1:]]
    snapshot = choose_snapshot(awaiting, pinned="v1")
    assert (snapshot.version, snapshot.serving) == ("v1", (True, True))


def test_a_version_whose_changes_are_awaited_says_so_where_no_other_is_served() -> None:
    awaiting: list[DescribeResponse | None] = [growing(shard, awaited="v0") for shard in range(3)]
    snapshot = choose_snapshot(awaiting, pinned=None)
    assert (snapshot.version, snapshot.losses) == ("v2", ("the changes of version v0 are not handed over yet",))


def test_a_shard_that_the_new_version_does_not_have_does_not_hold_requests_back() -> None:
    shrinking = responses("v2 v1", "v2 v1", "")
    shrinking[2] = DescribeResponse(versions=[state(2, "v1", 3)])
    for each in shrinking[:2]:
        assert each is not None
        each.versions[1].shards = 3
    assert choose_snapshot(shrinking, pinned="v1").serving == (True, True)


def test_a_snapshot_says_which_changes_the_version_lacks() -> None:
    first, second = responses("v1", "v1")
    assert first is not None
    first.versions[0].live.lost_changes = 7
    first.versions[0].live.lost_reasons.extend(["other vectors", "other shards"])
    snapshot = choose_snapshot([first, second], pinned=None)
    assert snapshot.losses == ("shard 0 lacks 7 changes of the version before: other vectors; other shards",)


def test_shard_addresses_in_the_wrong_order_or_number_are_an_error() -> None:
    with pytest.raises(Unavailable, match="order"):
        choose_snapshot([*reversed(responses("v1", "v1"))], pinned=None)
    with pytest.raises(Unavailable, match="order"):
        choose_snapshot(responses("v1", shards=2), pinned=None)
    with pytest.raises(Unavailable, match="order"):
        choose_snapshot([*responses("v1"), *responses("v1")], pinned=None)
    with pytest.raises(Unavailable, match="reach"):
        choose_snapshot([None, None], pinned="v1")


def test_a_missing_space_is_refused_with_the_spaces_that_the_version_has() -> None:
    snapshot = choose_snapshot(responses("v1", "v1"), pinned=None)
    assert [info.documents for info in snapshot.require_spaces([SPACE_IMAGE]).values()] == [(3, 3)]
    with pytest.raises(FailedPrecondition, match="no text space; it has: image"):
        snapshot.require_spaces([SPACE_IMAGE, SPACE_TEXT])


def test_documents_count_the_current_vectors_of_reachable_shards_and_the_built_ones_of_others() -> None:
    described = responses("v1", "v1", "", shards=3)
    for shard, (live, sequence) in enumerate([(5, 7), (0, 2)]):
        response = described[shard]
        assert response is not None
        response.versions[0].spaces[0].live = live
        response.versions[0].sequence = sequence
    snapshot = choose_snapshot(described, pinned="v1")
    assert snapshot.spaces[SPACE_IMAGE].documents == (5, 0, 3)
    assert snapshot.changes.known.sequences == (7, 2, 0)


def test_what_is_known_of_the_changes_goes_on_while_the_version_stays_and_ends_with_it() -> None:
    first = choose_snapshot(responses("v1", "v1"), pinned=None)
    again = choose_snapshot(responses("v1", "v1"), "v1", first.changes)
    assert again.changes is first.changes
    moved_on = choose_snapshot(responses("v2 v1", "v2 v1"), "v1", first.changes)
    assert moved_on.changes is not first.changes


def test_a_snapshot_says_that_a_shard_may_lack_the_latest_changes() -> None:
    (first, second) = responses("v1", "v1")
    assert second is not None
    second.catching_up = True
    (loss,) = choose_snapshot([first, second], pinned="v1").losses
    assert loss.startswith("shard 1 may lack the latest changes")
