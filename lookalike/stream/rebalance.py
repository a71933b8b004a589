"""Which partitions a member of a consumer group gives up, and which it takes. Pure.

Nobody assigns partitions: each member is due a number of them by its rank, gives up what it has beyond that, and takes
free ones below it. So a member that joins or leaves moves no more partitions than it must.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    give_up: frozenset[int]
    take: tuple[int, ...]


def share_of(member: str, members: Collection[str], partitions: int) -> int:
    """How many partitions a member is due: those of all members add up to `partitions`, and differ by one at most."""
    each, rest = divmod(partitions, len(members))
    return each + (sorted(members).index(member) < rest)


def plan(
    member: str, members: Collection[str], *, free: Sequence[bool], held: Collection[int], giving_up: Collection[int]
) -> Plan:
    """What a member does next.

    free:      of each partition, whether nobody holds it.
    held:      the partitions that the member holds.
    giving_up: those of them that it has begun to give up; they are kept after all where they are due to it again.
    """
    share = share_of(member, members, len(free))
    # Free partitions are looked at from another place by each member, so that they do not all try for the same.
    start = sorted(members).index(member) * len(free) // len(members)
    in_turn = [*range(start, len(free)), *range(start)]
    kept = sorted(held, key=lambda partition: (partition in giving_up, partition))[:share]
    take = [partition for partition in in_turn if free[partition]][: share - len(kept)]
    return Plan(frozenset(held) - frozenset(kept), tuple(take))
