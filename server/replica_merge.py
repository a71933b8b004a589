"""The answers of several replicas of a shard, as one. Pure.

An update that one replica refuses for want of room is refused, to be made again: it is idempotent. One that a replica
has made is made, whatever a replica says that has another product before it: peers bring it what the first one has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lookalike.v1.index_pb2 import ApplyResponse, DescribeResponse, ShardState, UpdateResult

_Outcome = UpdateResult.Outcome

# Which outcome of an update counts, of those that its replicas give.
_PRECEDENCE: tuple[_Outcome.ValueType, ...] = (
    UpdateResult.MOVED,
    UpdateResult.FULL,
    UpdateResult.EXHAUSTED,
    UpdateResult.APPLIED,
    UpdateResult.STALE,
    UpdateResult.INVALID,
    UpdateResult.NOT_FOUND,
)
_RANKS = {outcome: rank for rank, outcome in enumerate(_PRECEDENCE)}


class MergedResults(NamedTuple):
    """The results of an ApplyRequest that several replicas answered."""

    results: list[UpdateResult]
    diverged: frozenset[str]  # Replicas that lacked what others had, so that they refused an update which these made.
    disordered: int  # Updates that one replica made, and another refused as older than what it has.


def merge_results(responses: Mapping[str, ApplyResponse]) -> MergedResults:
    """One result of each update. responses: by replica."""
    if len(responses) == 1:
        (response,) = responses.values()
        return MergedResults([*response.results], frozenset(), 0)
    merged, diverged, disordered = list[UpdateResult](), set[str](), 0
    for results in zip(*(response.results for response in responses.values()), strict=True):
        best = min(results, key=lambda each: _RANKS[each.outcome])
        result = UpdateResult()
        result.CopyFrom(best)
        result.revision = max(each.revision for each in results)
        merged.append(result)
        if best.outcome in (UpdateResult.APPLIED, UpdateResult.STALE):
            refused = (UpdateResult.INVALID, UpdateResult.NOT_FOUND)
            diverged |= {name for name, each in zip(responses, results, strict=True) if each.outcome in refused}
        if best.outcome == UpdateResult.APPLIED:
            disordered += any(e.outcome == UpdateResult.STALE and e.revision > best.revision for e in results)
    return MergedResults(merged, frozenset(diverged), disordered)


def merge_descriptions(responses: Mapping[str, DescribeResponse], pinned: str) -> DescribeResponse:
    """What the shard serves: the versions that any of these replicas does, each as the first that serves it says.

    responses: of the replicas that are read, in the order of their addresses; none of them serves nothing.
    pinned: the version that requests name. A new one is current only where it is that of all replicas.
    """
    states: dict[str, list[ShardState]] = {}
    for response in responses.values():
        for state in response.versions:
            states.setdefault(state.version, []).append(state)
    current = _current([response.versions[0].version for response in responses.values()], states, pinned)
    merged = DescribeResponse(versions=[_merge_states(states[current])])
    merged.versions.extend(_merge_states(each) for version, each in states.items() if version != current)
    merged.refusal = next((each.refusal for each in responses.values() if each.refusal), "")
    canaries = [each.canary for each in responses.values() if each.HasField("canary")]
    if canaries and canaries[0].version in states and canaries[0].version != current:
        merged.canary.CopyFrom(canaries[0])
    merged.catching_up = all(each.catching_up for each in responses.values())
    return merged


def leader_of(responses: Mapping[str, DescribeResponse], version: str) -> str:
    """The replica whose word counts for a version: the first that serves it."""
    return next(name for name, each in responses.items() if any(s.version == version for s in each.versions))


def _current(currents: Sequence[str], states: Mapping[str, Sequence[ShardState]], pinned: str) -> str:
    """The current version of all; where they differ, the pinned one, else the one that most serve."""
    if pinned in currents:
        return pinned
    counts = Counter(currents)
    return max(currents, key=lambda each: (len(states[each]), counts[each]))


def _merge_states(states: Sequence[ShardState]) -> ShardState:
    """The first state; what any of them lacks, it lacks."""
    merged = ShardState()
    merged.CopyFrom(states[0])
    if awaited := [each.awaited for each in states if each.HasField("awaited")]:
        merged.awaited.CopyFrom(awaited[0])
    losing = max(states, key=lambda each: each.live.lost_changes)
    if losing.live.lost_changes > merged.live.lost_changes:
        merged.live.lost_changes = losing.live.lost_changes
        merged.live.lost_reasons[:] = losing.live.lost_reasons
    return merged
