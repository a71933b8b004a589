"""Apply updates to every loaded version of a shard, so that none misses them. Writes files."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from index.live.live_shard import LiveShard
from index.live.migration_loss import NO_LOSS, MigrationLoss, keep_vectors, loss_reasons, shared_spaces
from lookalike.v1.index_pb2 import Update, UpdateResult


def apply_to_all(
    named: LiveShard, others: Sequence[LiveShard], updates: Sequence[Update]
) -> tuple[list[UpdateResult], MigrationLoss]:
    """Apply updates to the version that they name, and to the other loaded versions.

    Returns the outcomes in the named version, and what the others lost. An update for which one version has no room is
    applied to none. A disk error may leave updates in some versions only, until they are sent again. Raises as
    `LiveShard.apply`.
    """
    if not others:
        return named.apply(updates), NO_LOSS
    room, refusal = _shared_room((named, *others))
    accepted, reasons = updates[: max(0, room)], dict[bytes, str]()
    outcomes = named.apply(accepted)
    for other in others:
        shared = shared_spaces(named, other)
        refused = UpdateResult.INVALID, UpdateResult.NOT_FOUND
        valid = [i for i, outcome in enumerate(outcomes) if outcome.outcome not in refused]
        valid_updates = [accepted[i] for i in valid]
        other_outcomes = other.apply([keep_vectors(update, shared) for update in valid_updates])
        lost = loss_reasons(valid_updates, other_outcomes, shared)
        other.note_loss(lost)
        reasons |= lost
        for i, outcome in zip(valid, other_outcomes, strict=True):
            if outcome.outcome == UpdateResult.APPLIED:
                # An update that the named version had already was sent again for this one.
                outcomes[i] = outcome
    outcomes += [refusal] * max(0, len(updates) - room)
    return outcomes, MigrationLoss(reasons)


def _shared_room(versions: Sequence[LiveShard]) -> tuple[int, UpdateResult]:
    """How many changes fit into every version, and the outcome of the others."""
    return min((version.room() for version in versions), key=itemgetter(0))
