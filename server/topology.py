"""Which version of the index requests pin, chosen from what the shards say they serve. Pure.

All shards of an answer serve the same version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.spaces import space_name
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import Space


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """One space of a version, as the shards describe it."""

    dim: int
    encoder: str
    documents: tuple[int, ...]  # Vectors per shard.


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The version that a request pins: every call that it makes to a shard names this version."""

    version: str
    spaces: Mapping[Space.ValueType, SpaceInfo]
    serving: tuple[bool, ...]  # Per shard: whether it served this version when last asked.
    sequences: tuple[int, ...]  # Per shard: how many updates it has applied, at least, since the version was built.

    @property
    def shards(self) -> int:
        return len(self.serving)

    @property
    def content(self) -> str:
        """A name for what is searched: the version, and a digest of the updates known to have been applied to it."""
        if not any(self.sequences):
            return self.version
        changes = blake2b(repr(self.sequences).encode(), digest_size=8).hexdigest()
        return f"{self.version}+{changes}"

    def with_sequences(self, sequences: Mapping[int, int]) -> Snapshot:
        """The same version, these shards having applied at least so many updates (a sequence never falls)."""
        latest = (max(known, sequences.get(shard, 0)) for shard, known in enumerate(self.sequences))
        return replace(self, sequences=tuple(latest))

    def require_spaces(self, spaces: Sequence[Space.ValueType]) -> dict[Space.ValueType, SpaceInfo]:
        """These spaces, in their order. Raises FailedPrecondition for one that the version does not have."""
        for space in spaces:
            if space not in self.spaces:
                has = ", ".join(space_name(each) for each in sorted(self.spaces)) or "none"
                raise FailedPrecondition(f"version {self.version} has no {space_name(space)} space; it has: {has}")
        return {space: self.spaces[space] for space in spaces}


def choose_snapshot(responses: Sequence[index_pb2.DescribeResponse | None], pinned: str | None) -> Snapshot:
    """The snapshot to pin, chosen from the shards' Describe responses (None: the shard is out of reach).

    The pinned version stays until every shard in reach has moved on to the same other one, or none serves it any more;
    then the version that most shards serve is next (of equals the one that is current at most shards, then the greatest
    name). Raises Unavailable when no shard is in reach, or an address is that of another shard than expected.
    """
    in_reach = [(ordinal, response) for ordinal, response in enumerate(responses) if response is not None]
    if not in_reach:
        raise Unavailable("no shard is in reach")
    served = {ordinal: _matching_states(each.versions, ordinal, len(responses)) for ordinal, each in in_reach}
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
    spaces = {each.space: SpaceInfo(each.dim, each.encoder, _documents(each, states)) for each in any_state.spaces}
    serving = tuple(ordinal in states for ordinal in range(len(responses)))
    sequences = tuple(states[ordinal].sequence if ordinal in states else 0 for ordinal in range(len(responses)))
    return Snapshot(version, spaces, serving, sequences)


def _documents(space: index_pb2.SpaceState, states: Mapping[int, index_pb2.ShardState]) -> tuple[int, ...]:
    """Vectors per shard: the live ones of each shard that serves the version, those as built of one out of reach."""
    documents = [*space.documents]
    for ordinal, state in states.items():
        for own in state.spaces:
            if own.space == space.space and own.HasField("live"):
                documents[ordinal] = own.live
    return tuple(documents)


def _matching_states(
    states: Sequence[index_pb2.ShardState], ordinal: int, shards: int
) -> Sequence[index_pb2.ShardState]:
    """The versions that have as many shards as there are addresses. Raises Unavailable where there is none."""
    matching = [state for state in states if (state.shard, state.shards) == (ordinal, shards)]
    if not matching:
        raise Unavailable(
            f"shard address {ordinal} of {shards} is shard {states[0].shard} of {states[0].shards}: "
            "list the addresses of all shards, in the order of their ordinals"
        )
    return matching
