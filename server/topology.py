"""What the shards serve: one version at a time, the same for every shard of an answer. The table is pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import Unavailable, WrongState
from protos.lookalike.v1 import index_pb2
from protos.lookalike.v1.types_pb2 import Space
from server.spaces import space_name


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

    @property
    def shards(self) -> int:
        return len(self.serving)

    def searched(self, spaces: Sequence[Space.ValueType]) -> dict[Space.ValueType, SpaceInfo]:
        """What is known of each, in their order. Raises WrongState for one that the version lacks."""
        for space in spaces:
            if space not in self.spaces:
                has = ", ".join(space_name(each) for each in sorted(self.spaces)) or "none"
                raise WrongState(f"version {self.version} has no {space_name(space)} space; it has: {has}")
        return {space: self.spaces[space] for space in spaces}


def snapshot_of(states: Sequence[index_pb2.ShardState | None], current: str | None) -> Snapshot:
    """The snapshot for what the shards (None: out of reach) said.

    The current version stays while any shard serves it; else the version that most shards serve is next (the greatest
    name among equals). Raises Unavailable when no shard serves anything, or one is not the shard it is taken for.
    """
    known = [state for state in states if state is not None]
    for ordinal, state in enumerate(states):
        if state is not None and (state.shard, state.shards) != (ordinal, len(states)):
            raise Unavailable(
                f"shard address {ordinal} of {len(states)} is shard {state.shard} of {state.shards}: "
                "the addresses are not in the order of the shards, or not all of them"
            )
    if not known:
        raise Unavailable("no shard is in reach")
    versions = [state.version for state in known]
    version = current if current in versions else max(versions, key=lambda each: (versions.count(each), each))
    serving = tuple(state is not None and state.version == version for state in states)
    witness = next(state for state in known if state.version == version)
    spaces = {s.space: SpaceInfo(s.dim, s.encoder, tuple(s.documents)) for s in witness.spaces}
    return Snapshot(version, spaces, serving)
