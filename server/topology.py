"""What the shards serve, and which version of it requests pin: the same for every shard of an answer. Pure."""

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
    dim: int
    encoder: str
    documents: tuple[int, ...]  # Vectors per shard.


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The version that a request pins: everything it asks is asked of this version."""

    version: str
    spaces: Mapping[Space.ValueType, SpaceInfo]
    serving: tuple[bool, ...]  # Per shard: whether it said, when last asked, that it serves this version.
    sequences: tuple[int, ...]  # Per shard: how many updates it had applied since the version was built.

    @property
    def shards(self) -> int:
        return len(self.serving)

    @property
    def content(self) -> str:
        """What is searched, by name: the version, and what was changed since, as far as is known."""
        if not any(self.sequences):
            return self.version
        changes = blake2b(repr(self.sequences).encode(), digest_size=8).hexdigest()
        return f"{self.version}+{changes}"

    def after(self, sequences: Mapping[int, int]) -> Snapshot:
        """The same, once it is known how many updates these shards have applied at least."""
        latest = (max(known, sequences.get(shard, 0)) for shard, known in enumerate(self.sequences))
        return replace(self, sequences=tuple(latest))

    def searched(self, spaces: Sequence[Space.ValueType]) -> dict[Space.ValueType, SpaceInfo]:
        """What is known of each, in their order. Raises FailedPrecondition for one that the version lacks."""
        for space in spaces:
            if space not in self.spaces:
                has = ", ".join(space_name(each) for each in sorted(self.spaces)) or "none"
                raise FailedPrecondition(f"version {self.version} has no {space_name(space)} space; it has: {has}")
        return {space: self.spaces[space] for space in spaces}


def snapshot_of(told: Sequence[index_pb2.DescribeResponse | None], pinned: str | None) -> Snapshot:
    """The snapshot for what the shards (None: out of reach) said that they serve.

    The pinned version stays until every shard in reach has moved on to the same other one, or none serves it any more;
    then the one that most shards serve is next (among equals that which most call current, then the greatest name).
    Raises Unavailable when no shard is in reach, or one is not the shard it is taken for.
    """
    in_reach = [(ordinal, each) for ordinal, each in enumerate(told) if each is not None]
    if not in_reach:
        raise Unavailable("no shard is in reach")
    served = {ordinal: _askable(each.versions, ordinal, len(told)) for ordinal, each in in_reach}
    versions = [state.version for states in served.values() for state in states]
    currents = [states[0].version for states in served.values()]
    if len(set(currents)) == 1:
        version = currents[0]
    elif pinned in versions:
        version = pinned
    else:
        version = max(versions, key=lambda each: (versions.count(each), currents.count(each), each))
    witnesses = {ordinal: state for ordinal, states in served.items() for state in states if state.version == version}
    (witness, *_) = witnesses.values()
    spaces = {each.space: SpaceInfo(each.dim, each.encoder, _documents(each, witnesses)) for each in witness.spaces}
    serving = tuple(ordinal in witnesses for ordinal in range(len(told)))
    sequences = tuple(witnesses[ordinal].sequence if ordinal in witnesses else 0 for ordinal in range(len(told)))
    return Snapshot(version, spaces, serving, sequences)


def _documents(space: index_pb2.SpaceState, witnesses: Mapping[int, index_pb2.ShardState]) -> tuple[int, ...]:
    """Vectors per shard: each tells how many it has now; of one out of reach it is known how many it was built with."""
    documents = [*space.documents]
    for ordinal, state in witnesses.items():
        for own in state.spaces:
            if own.space == space.space and own.HasField("live"):
                documents[ordinal] = own.live
    return tuple(documents)


def _askable(states: Sequence[index_pb2.ShardState], ordinal: int, shards: int) -> Sequence[index_pb2.ShardState]:
    """Those that have as many shards as there are addresses, in their order. Raises Unavailable where none has."""
    askable = [state for state in states if (state.shard, state.shards) == (ordinal, shards)]
    if not askable:
        raise Unavailable(
            f"shard address {ordinal} of {shards} is shard {states[0].shard} of {states[0].shards}: "
            "the addresses are not in the order of the shards, or not all of them"
        )
    return askable
