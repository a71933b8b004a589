"""Choose the version of the index that requests pin, from those that shards and encoders serve. In memory.

All shards that contribute to an answer serve the same version.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from encoders.clients import EncoderReplica
from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.spaces import space_name
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import DuplicatesThreshold, Space
from server.change_history import ChangeHistory
from server.encoder_readiness import EncoderNames, unready_encoders
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
    waits_for: tuple[str, ...] = ()  # Why requests do not pin the version that the shards have as their current one.

    def encoder(self, space: Space.ValueType) -> str:
        """The fingerprint of the encoder of a space; empty if the version does not have the space."""
        return self.spaces[space].encoder if space in self.spaces else ""

    is_canary: bool = False  # Whether the version answers only a share of requests yet.

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
    responses: Sequence[index_pb2.DescribeResponse | None],
    pinned: str | None,
    changes: ChangeHistory | None = None,
    encoders: Sequence[EncoderReplica] = (),
) -> Snapshot:
    """The snapshot to pin, chosen from the shards' Describe responses (None: the shard is unreachable).

    changes: those known of the pinned version, to which what the responses say is added; None: there is no history.
    encoders: those in reach.

    The pinned version changes when every reachable shard that another version has, has that as its current one, and no
    query that can be encoded now could not be then; for the encoders it waits only while every reachable shard serves
    the pinned version. For a version of another number of shards all of them must serve it, and no change may wait to
    be handed over. If no shard serves the pinned version any more, the version that most shards serve is next; ties go
    to the one that is current at most shards, then to the greatest name.
    Raises Unavailable when no shard is reachable, or an address is not that of the expected shard.
    """
    reachable = [(ordinal, response) for ordinal, response in enumerate(responses) if response is not None]
    if not reachable:
        raise Unavailable("no shard is reachable")
    served = {ordinal: _matching_states(response.versions, ordinal, len(responses)) for ordinal, response in reachable}
    states_of: dict[str, dict[int, index_pb2.ShardState]] = {}
    for ordinal, matching in served.items():
        for state in matching:
            states_of.setdefault(state.version, {})[ordinal] = state
    currents = {ordinal: matching[0].version for ordinal, matching in served.items()}
    # At most one: every version has the reachable shard with the lowest ordinal.
    current = next((each for each, its in states_of.items() if _is_current(each, its, currents)), None)
    waits_for: list[str] = []
    if current is not None and (pinned not in states_of or _may_follow(states_of[current], states_of[pinned])):
        version = current
        if pinned in states_of and pinned != version and _is_everywhere(states_of[pinned], served):
            old, new = _encoder_names(states_of[pinned]), _encoder_names(states_of[version])
            if waits_for := unready_encoders(old, new, encoders):
                version = pinned
    elif pinned in states_of:
        version = pinned
    else:
        named = [*currents.values()]
        version = max(states_of, key=lambda each: (len(states_of[each]), named.count(each), each))
    states = states_of[version]
    if changes is None or version != pinned:
        changes = ChangeHistory(_shards_of(states))
    changes.add_polled(states)
    return _snapshot(states, changes, tuple(waits_for), responses)


class CanarySnapshot(NamedTuple):
    """A version that answers a share of requests before it serves all."""

    snapshot: Snapshot
    share: float


def choose_canary(
    responses: Sequence[index_pb2.DescribeResponse | None], pinned: Snapshot, encoders: Sequence[EncoderReplica] = ()
) -> CanarySnapshot | None:
    """The version that the shards name as canary, if all of them serve it and the encoders in reach do; else None.

    It has as many shards as the pinned version: only so every change is made in both.
    """
    states: dict[int, index_pb2.ShardState] = {}
    # A shard of which it has become the current version names it no more.
    named = {
        each.canary.version: each.canary.share for each in responses if each is not None and each.HasField("canary")
    }
    for version, share in named.items():
        for ordinal, response in enumerate(responses[: pinned.shards]):
            for state in response.versions if response is not None else ():
                if (state.version, state.shard, state.shards) == (version, ordinal, pinned.shards):
                    states[ordinal] = state
        if version == pinned.version or len(named) > 1 or len(states) < pinned.shards:
            return None
        before = {space: info.encoder for space, info in pinned.spaces.items()}
        if unready_encoders(before, _encoder_names(states), encoders):
            return None
        snapshot = _snapshot(states, ChangeHistory(pinned.shards), (), responses)
        return CanarySnapshot(replace(snapshot, is_canary=True), share)
    return None


def _snapshot(
    states: Mapping[int, index_pb2.ShardState],
    changes: ChangeHistory,
    waits_for: tuple[str, ...],
    responses: Sequence[index_pb2.DescribeResponse | None],
) -> Snapshot:
    """states: of one version, at each shard that serves it."""
    lags = [
        f"shard {ordinal} may lack the latest changes: none of its replicas that answer is known to have them all"
        for ordinal, response in enumerate(responses)
        if ordinal in states and response is not None and response.catching_up
    ]
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
    return Snapshot(
        version=any_state.version,
        spaces=spaces,
        serving=tuple(ordinal in states for ordinal in range(any_state.shards)),
        changes=changes,
        losses=(*_losses(states), *lags),
        text_shares=tuple(sorted((each.space, each.weight) for each in any_state.text_weights)),
        waits_for=waits_for,
    )


def _encoder_names(states: Mapping[int, index_pb2.ShardState]) -> EncoderNames:
    return {each.space: each.encoder for each in next(iter(states.values())).spaces}


def _shards_of(states: Mapping[int, index_pb2.ShardState]) -> int:
    return next(iter(states.values())).shards


def _is_everywhere(states: Mapping[int, index_pb2.ShardState], reachable: Container[int]) -> bool:
    """Whether every reachable shard that the version has serves it."""
    return all(ordinal in states for ordinal in range(_shards_of(states)) if ordinal in reachable)


def _is_current(version: str, states: Mapping[int, index_pb2.ShardState], currents: Mapping[int, str]) -> bool:
    """Whether the version is the current one of every reachable shard that it has."""
    shards = _shards_of(states)
    return all(current == version for ordinal, current in currents.items() if ordinal < shards)


def _may_follow(states: Mapping[int, index_pb2.ShardState], pinned: Mapping[int, index_pb2.ShardState]) -> bool:
    """Whether requests may move from the pinned version to this one: nothing is lost by it."""
    shards = _shards_of(states)
    if shards == _shards_of(pinned):
        return True
    return len(states) == shards and not any(state.HasField("awaited") for state in states.values())


def _losses(states: Mapping[int, index_pb2.ShardState]) -> tuple[str, ...]:
    lacking = tuple(
        f"shard {ordinal} lacks {state.live.lost_changes} changes of the version before: "
        + "; ".join(state.live.lost_reasons)
        for ordinal, state in sorted(states.items())
        if state.live.lost_changes
    )
    awaited = sorted({state.awaited.version for state in states.values() if state.HasField("awaited")})
    return (*lacking, *(f"the changes of version {each} are not handed over yet" for each in awaited))


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
    """The states of versions with no more shards than there are addresses. Raises Unavailable if there is none."""
    matching = [state for state in states if state.shard == ordinal and state.shards <= shards]
    if not matching:
        raise Unavailable(
            f"shard address {ordinal} of {shards} is shard {states[0].shard} of {states[0].shards}: "
            "list the addresses of all shards, in the order of their ordinals"
        )
    return matching
