"""Changes that a version of a shard could not take from another version, whole or in part, and why. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from index.live.live_shard import LiveShard
from index.live.updates import updated_id
from lookalike.v1.index_pb2 import Update, UpdateResult
from lookalike.v1.types_pb2 import Space, SpaceVector


class MigrationLoss(NamedTuple):
    """The products of which another version could not take a change, whole or in part, and why."""

    by_product: Mapping[bytes, str]  # The reason for each product, by its id.

    @property
    def changes(self) -> int:
        return len(self.by_product)

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset(self.by_product.values())


NO_LOSS = MigrationLoss({})
_OTHER_ENCODER = "vectors of another encoder were left out"


def shared_spaces(one: LiveShard, other: LiveShard) -> set[Space.ValueType]:
    """The spaces whose vectors the same encoder made in both versions."""
    return {space for space, encoder in one.encoders.items() if other.encoders.get(space) == encoder}


def keep_vectors(update: Update, spaces: set[Space.ValueType]) -> Update:
    """The update with only the vectors of these spaces: those of another encoder mean nothing to a version."""
    if not _has_other_vectors(update, spaces):
        return update
    reduced = Update()
    reduced.CopyFrom(update)
    for vectors in _vectors(reduced):
        kept = [each for each in vectors if each.space in spaces]
        del vectors[:]
        vectors.extend(kept)
    if reduced.WhichOneof("what") == "upsert":
        # It is lost in part, and not refused; the version's own vectors are better than none.
        reduced.upsert.require_vector, reduced.upsert.keep_vectors = False, True
    return reduced


def loss_reasons(
    updates: Sequence[Update], outcomes: Sequence[UpdateResult], spaces: set[Space.ValueType]
) -> dict[bytes, str]:
    """Why a version lost something of these updates: a reason for each product of which it did not take one whole.

    updates: whole, as another version has them; outcomes: of applying them with only the vectors of these spaces.
    """
    reasons = dict[bytes, str]()
    for update, outcome in zip(updates, outcomes, strict=True):
        if outcome.outcome in (UpdateResult.INVALID, UpdateResult.FULL, UpdateResult.EXHAUSTED):
            reasons[updated_id(update)] = outcome.error
        elif outcome.outcome == UpdateResult.APPLIED and _has_other_vectors(update, spaces):
            reasons[updated_id(update)] = _OTHER_ENCODER
    return reasons


def handover_loss(
    updates: Sequence[Update], outcomes: Sequence[UpdateResult], reduced: Container[bytes]
) -> dict[bytes, str]:
    """As `loss_reasons`, of updates without the vectors of other encoders. reduced: the products that had such."""
    reasons = dict[bytes, str]()
    for update, outcome in zip(updates, outcomes, strict=True):
        if outcome.outcome in (UpdateResult.INVALID, UpdateResult.EXHAUSTED):
            reasons[updated_id(update)] = outcome.error
        elif outcome.outcome == UpdateResult.APPLIED and updated_id(update) in reduced:
            reasons[updated_id(update)] = _OTHER_ENCODER
    return reasons


def _has_other_vectors(update: Update, spaces: set[Space.ValueType]) -> bool:
    return any(each.space not in spaces for vectors in _vectors(update) for each in vectors)


def _vectors(update: Update) -> Sequence[RepeatedCompositeFieldContainer[SpaceVector]]:
    match update.WhichOneof("what"):
        case "upsert":
            return update.upsert.vectors, update.upsert.stored_vectors
        case "patch":
            return (update.patch.vectors,)
    return ()
