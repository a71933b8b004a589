"""What several replicas say, as one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from lookalike.v1.index_pb2 import ApplyResponse, AwaitedChanges, Canary, DescribeResponse, LiveState, ShardState
from lookalike.v1.index_pb2 import UpdateResult as R
from server.replica_merge import leader_of, merge_descriptions, merge_results


def says(*results: R) -> ApplyResponse:
    return ApplyResponse(results=results)


@pytest.mark.parametrize(
    ("first", "second", "merged", "diverged"),
    [
        (R.APPLIED, R.APPLIED, R.APPLIED, set()),
        (R.APPLIED, R.STALE, R.APPLIED, set()),  # A peer brought it sooner.
        (R.STALE, R.STALE, R.STALE, set()),
        (R.INVALID, R.INVALID, R.INVALID, set()),
        (R.NOT_FOUND, R.NOT_FOUND, R.NOT_FOUND, set()),
        (R.APPLIED, R.NOT_FOUND, R.APPLIED, {"b"}),  # It lacks the product.
        (R.INVALID, R.APPLIED, R.APPLIED, {"a"}),  # It lacks the vectors that are to be kept.
        (R.STALE, R.NOT_FOUND, R.STALE, {"b"}),
        (R.APPLIED, R.FULL, R.FULL, set()),  # To be sent again, when there is room.
        (R.APPLIED, R.EXHAUSTED, R.EXHAUSTED, set()),
        (R.APPLIED, R.MOVED, R.MOVED, set()),
        (R.FULL, R.MOVED, R.MOVED, set()),
    ],
)
def test_the_outcome_of_an_update_is_the_one_that_says_what_to_do(
    first: R.Outcome.ValueType, second: R.Outcome.ValueType, merged: R.Outcome.ValueType, diverged: set[str]
) -> None:
    found = merge_results({"a": says(R(outcome=first, revision=5)), "b": says(R(outcome=second, revision=5))})
    assert [each.outcome for each in found.results] == [merged]
    assert (set(found.diverged), found.disordered) == (diverged, 0)


def test_a_change_that_one_replica_made_after_a_later_one_is_counted() -> None:
    a, b = R(outcome=R.APPLIED, revision=5), R(outcome=R.STALE, revision=6)
    found = merge_results({"a": says(a, a), "b": says(b, a)})
    assert found.disordered == 1
    assert [each.revision for each in found.results] == [6, 5]


def described(*versions: str, **fields: object) -> DescribeResponse:
    return DescribeResponse(versions=[ShardState(version=each) for each in versions], **fields)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize(
    ("replicas", "pinned", "versions"),
    [
        ({"a": ["v1"], "b": ["v1"]}, "v1", ["v1"]),
        ({"a": ["v2", "v1"], "b": ["v1"]}, "v1", ["v1", "v2"]),
        ({"a": ["v2", "v1"], "b": ["v2", "v1"]}, "v1", ["v2", "v1"]),
        ({"a": ["v2"], "b": ["v1"]}, "v1", ["v1", "v2"]),
        ({"a": ["v2"], "b": ["v1"]}, "v2", ["v2", "v1"]),
        ({"a": ["v2", "v1"], "b": ["v1"]}, "", ["v1", "v2"]),
        ({"a": ["v2"], "b": ["v2"]}, "v1", ["v2"]),
    ],
)
def test_a_version_is_current_when_it_is_that_of_all_replicas(
    replicas: Mapping[str, Sequence[str]], pinned: str, versions: Sequence[str]
) -> None:
    merged = merge_descriptions({name: described(*each) for name, each in replicas.items()}, pinned)
    assert [state.version for state in merged.versions] == versions


def test_the_first_replica_that_serves_a_version_tells_its_state() -> None:
    a = DescribeResponse(versions=[ShardState(version="v1", documents=1)])
    b = DescribeResponse(versions=[ShardState(version="v1", documents=2), ShardState(version="v0", documents=3)])
    merged = merge_descriptions({"a": a, "b": b}, "v1")
    assert [(state.version, state.documents) for state in merged.versions] == [("v1", 1), ("v0", 3)]
    assert (leader_of({"a": a, "b": b}, "v1"), leader_of({"a": a, "b": b}, "v0")) == ("a", "b")


def test_what_one_replica_lacks_the_shard_lacks() -> None:
    a = DescribeResponse(versions=[ShardState(version="v1")])
    live, awaited = LiveState(lost_changes=2, lost_reasons=["why"]), AwaitedChanges(version="v0", shards=3)
    b = DescribeResponse(versions=[ShardState(version="v1", live=live, awaited=awaited)])
    (state,) = merge_descriptions({"a": a, "b": b}, "v1").versions
    assert (state.live.lost_changes, [*state.live.lost_reasons], state.awaited) == (2, ["why"], awaited)


def test_a_canary_that_a_replica_serves_is_named_until_it_is_current() -> None:
    canary = Canary(version="v2", share=0.1)
    replicas = {"a": described("v1", "v2", canary=canary), "b": described("v1")}
    assert merge_descriptions(replicas, "v1").canary == canary
    assert not merge_descriptions({"a": described("v1", canary=canary)}, "v1").HasField("canary")
    assert not merge_descriptions({"a": described("v2", canary=canary)}, "v2").HasField("canary")
