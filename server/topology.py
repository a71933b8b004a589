"""Choose the version of the index that requests pin, from the versions that the shards serve. In memory.

All shards that contribute to an answer serve the same version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.spaces import space_name
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import DuplicatesThreshold, Space
from server.change_history import ChangeHistory
from server.recall_estimate import PromisedRecall


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """One space of a version, as the shards describe it."""

    dim: int
    encoder: str
    documents: tuple[int, ...]  # Vectors per shard.
    duplicates: DuplicatesThreshold | None = None  # The score from which products are near-duplicates; None: unknown.
    recall: PromisedRecall | None = None  # As the build measured it; None: searched exactly.


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The version that a request pins: every call that it makes to a shard names this version.

    Snapshots are compared by identity, so that what is computed of one can be kept by it.
    """

    version: str
    spaces: Mapping[Space.ValueType, SpaceInfo]
    serving: tuple[bool, ...]  # Per shard: whether it served this version when last polled.
    changes: ChangeHistory  # Of this version; all its snapshots share it.
    losses: tuple[str, ...] = ()  # What changes of the version before this one lacks, and why, as sentences.
    # The spaces that words alone are best searched in, by number, and the share of each; empty: not measured.
    text_shares: tuple[tuple[Space.ValueType, float], ...] = ()

    @property
    def shards(self) -> int:
        return len(self.serving)

    @property
    def duplicates(self) -> dict[Space.ValueType, DuplicatesThreshold]:
        """The score from which products are near-duplicates, of each space in which it was measured."""
        return {space: info.duplicates for space, info in self.spaces.items() if info.duplicates is not None}

    def require_spaces(self, spaces: Sequence[Space.ValueType]) -> dict[Space.ValueType, SpaceInfo]:
        """Describe these spaces, in their order. Raises FailedPrecondition for one that the version does not have."""
        for space in spaces:
            if space not in self.spaces:
                names = ", ".join(map(space_name, sorted(self.spaces))) or "none"
                raise FailedPrecondition(f"version {self.version} has no {space_name(space)} space; it has: {names}")
        return {space: self.spaces[space] for space in spaces}

    def require_all_shards(self) -> Snapshot:
        """The snapshot itself. Raises Unavailable unless every shard serves its version."""
        if not all(self.serving):
            missing = [str(shard) for shard, serving in enumerate(self.serving) if not serving]
            raise Unavailable(f"shard {', '.join(missing)} of {self.shards} does not serve version {self.version}")
        return self


def choose_snapshot(
    responses: Sequence[index_pb2.DescribeResponse | None], pinned: str | None, changes: ChangeHistory | None = None
) -> Snapshot:
    """The snapshot to pin, chosen from the shards' Describe responses (None: the shard is unreachable).

    changes: those known of the pinned version, to which what the responses say is added; None: there is no history.

    The pinned version changes when every reachable shard has the same other version as its current one. If no shard
    serves it any more, the version that most shards serve is next; ties go to the one that is current at most shards,
    then to the greatest name. Raises Unavailable when no shard is reachable, or an address is not that of the expected
    shard.
    """
    reachable = [(ordinal, response) for ordinal, response in enumerate(responses) if response is not None]
    if not reachable:
        raise Unavailable("no shard is reachable")
    served = {ordinal: _matching_states(response.versions, ordinal, len(responses)) for ordinal, response in reachable}
    versions = [state.version for states in served.values() for state in states]
    currents = [states[0].version for states in served.values()]
    if len(set(currents)) == 1:
        version = currents[0]
    elif pinned in versions:
        version = pinned
    else:
        version = max(versions, key=lambda each: (versions.count(each), currents.count(each), each))
    states = {ordinal: state for ordinal, states in served.items() for state in states if state.version == version}
    (any_state, *_) = states.values()
    spaces = {
        each.space: SpaceInfo(
            each.dim,
            each.encoder,
            _documents(each, states),
            each.duplicates if each.HasField("duplicates") else None,
            PromisedRecall(each.recall.recall, each.recall.standard_error) if each.HasField("recall") else None,
        )
        for each in any_state.spaces
    }
    serving = tuple(ordinal in states for ordinal in range(len(responses)))
    if changes is None or version != pinned:
        changes = ChangeHistory(len(responses))
    changes.add_polled(states)
    text_shares = tuple(sorted((each.space, each.weight) for each in any_state.text_weights))
    return Snapshot(version, spaces, serving, changes, _losses(states), text_shares)


def _losses(states: Mapping[int, index_pb2.ShardState]) -> tuple[str, ...]:
    return tuple(
        f"shard {ordinal} lacks {state.live.lost_changes} changes of the version before: "
        + "; ".join(state.live.lost_reasons)
        for ordinal, state in sorted(states.items())
        if state.live.lost_changes
    )


def _documents(space: index_pb2.SpaceState, states: Mapping[int, index_pb2.ShardState]) -> tuple[int, ...]:
    """Vectors per shard: the current number where the shard serves the version, else the number when it was built."""
    documents = [*space.documents]
    for ordinal, state in states.items():
        for shard_space in state.spaces:
            if shard_space.space == space.space and shard_space.HasField("live"):
                documents[ordinal] = shard_space.live
    return tuple(documents)


def _matching_states(
    states: Sequence[index_pb2.ShardState], ordinal: int, shards: int
) -> Sequence[index_pb2.ShardState]:
    """The states of versions with as many shards as there are addresses. Raises Unavailable if there is none."""
    matching = [state for state in states if (state.shard, state.shards) == (ordinal, shards)]
    if not matching:
        raise Unavailable(
            f"shard address {ordinal} of {shards} is shard {states[0].shard} of {states[0].shards}: "
            "list the addresses of all shards, in the order of their ordinals"
        )
    return matching
