"""What one version of a shard takes over of the changes of another, when it follows it. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from index.live.live import Live
from lookalike.v1.index_pb2 import Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import Product, Space, SpaceVector
from lookalike.vectors import pack

_TOGETHER = 256  # Changes in one write.
REMEMBERED = 8  # Versions that take over a removal of what they do not have: an older update may come late.


class Lost(NamedTuple):
    """Of the changes of a version, those that another could not take, whole or in part."""

    changes: int
    reasons: frozenset[str]


def carry(old: Live, new: Live) -> Lost:
    """Apply to `new` what changed in `old` and is newer.

    A vector goes along only where the same encoder made the vectors of both. A removal of what `new` does not have is
    remembered by so many versions. While `old` changes meanwhile, some changes may be missing, which another call
    brings.
    """
    common = _comparable(old, new)
    updates, reasons = _newer(old, new), list[str]()
    while True:
        if new.compaction_due:
            new.compact()
        if not (group := [*islice(updates, min(new.room, _TOGETHER))]):
            break
        outcomes = new.apply([_following(update, common) for update in group])
        reasons += _missed(group, outcomes, common)
    return Lost(len(reasons), frozenset(reasons))


def apply_to_all(asked: Live, others: Sequence[Live], updates: Sequence[Update]) -> tuple[list[UpdateResult], Lost]:
    """Apply updates to the version that they name, and to the others that are loaded: none may lack them.

    The outcomes are those of the version that was asked. What one of them has no room for, none takes; an error of the
    disk may leave some with it and some without, until the updates come again. Raises as `Live.apply`.
    """
    if not others:
        return asked.apply(updates), Lost(0, frozenset())
    room, full = _room((asked, *others), len(updates))
    taken, reasons = updates[:room], list[str]()
    outcomes = asked.apply(taken)
    for other in others:
        common = _comparable(asked, other)
        valid = [i for i, outcome in enumerate(outcomes) if outcome.outcome != UpdateResult.INVALID]
        given = [taken[i] for i in valid]
        theirs = other.apply([_following(update, common) for update in given])
        reasons += _missed(given, theirs, common)
        for i, its in zip(valid, theirs, strict=True):
            if (
                its.outcome == UpdateResult.APPLIED
            ):  # Where the one that was asked has it already, it came again for this.
                outcomes[i] = its
    outcomes += [UpdateResult(outcome=UpdateResult.FULL, error=full)] * (len(updates) - room)
    return outcomes, Lost(len(reasons), frozenset(reasons))


def _room(versions: Sequence[Live], coming: int) -> tuple[int, str]:
    """For how many of the changes that come all of them have room, and why not for more."""
    for room in range(coming):
        if full := next(filter(None, (each.full(room) for each in versions)), ""):
            return room, full
    return coming, ""


def _missed(updates: Sequence[Update], outcomes: Sequence[UpdateResult], common: set[Space.ValueType]) -> list[str]:
    """What a version did not take of updates that another has: the reason of each that it misses something of."""
    reasons = []
    for update, outcome in zip(updates, outcomes, strict=True):
        if outcome.outcome in (UpdateResult.INVALID, UpdateResult.FULL):
            reasons.append(outcome.error)
        elif outcome.outcome == UpdateResult.APPLIED and _loses(update, common):
            reasons.append("an encoder is another: its vectors are left out")
    return reasons


def _following(update: Update, common: set[Space.ValueType]) -> Update:
    """The update without the vectors that mean nothing to another version."""
    if not _loses(update, common):
        return update
    kept = Update(revision=update.revision, upsert=Upsert(product=update.upsert.product))
    kept.upsert.vectors.extend(each for each in update.upsert.vectors if each.space in common)
    return kept


def _comparable(old: Live, new: Live) -> set[Space.ValueType]:
    """The spaces that have vectors of the same encoder in both."""
    return {space for space, encoder in old.encoders.items() if new.encoders.get(space) == encoder}


def _loses(update: Update, common: set[Space.ValueType]) -> bool:
    return any(each.space not in common for each in update.upsert.vectors)


def _newer(old: Live, new: Live) -> Iterator[Update]:
    for product_id, revision in old.changes():
        if new.revision(product_id) >= revision:
            continue
        if (place := old.view.find(product_id.decode())) is None:
            if (generation := old.generation(product_id)) < REMEMBERED or new.knows(product_id):
                yield Update(revision=revision, remove=product_id.decode(), generation=generation + 1)
            continue
        product = Product.FromString(place.product)
        product.description = place.description
        found = {space: place.vector(space) for space in old.encoders}
        vectors = [SpaceVector(space=space, vector=pack(each)) for space, each in found.items() if each is not None]
        yield Update(revision=revision, upsert=Upsert(product=product, vectors=vectors))
