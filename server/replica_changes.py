"""Which changes of a version its replicas have, and how a gateway numbers them. Pure.

Every replica numbers the changes that it applies by itself. `ChangeNumbers` makes one numbering of them, by which a
gateway knows which cached answers are void: a change is numbered when all replicas that are read have it, so that no
answer of a later number lacks it. `MissedChanges` is what a replica must have before it is read again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import CHANGE_KIND_REMOVAL, RecentChanges

NO_CHANGES = 1 << 62  # As `known_sequence`: a replica that is asked for the changes after it tells none.
_MAX_STALLED = 3  # Polls in a row at which a replica lacks what another had a poll before: peers take 0.2 s.


class ReplicaPosition(NamedTuple):
    """What one replica has of a version."""

    sequence: int  # Of its own last change.
    # By the address of another replica, the number of the last change of that one up to which it has all; None: it
    # does not say, as it has no peers.
    peers: Mapping[str, int] | None

    def of(self, address: str) -> int:
        """Up to which change of another replica it has all, if it says so at all."""
        return NO_CHANGES if self.peers is None else self.peers.get(address, 0)


class ChangeNumbers:
    """The numbers of the changes of one version, over all its replicas.

    Those of the only replica there is are its own.
    """

    def __init__(self) -> None:
        self.is_own = False  # Whether there were ever two replicas, so that the numbers are this gateway's.
        self._number = 0  # The last one given out.
        self._polled = 0  # The last one at the last poll.
        self._leader = ""
        self._announced = 0  # The leader's last change that has a number.
        self._before: Mapping[str, int] = {}  # By replica, its own last change at the poll before.
        self._stalled = 0

    def known_of(self, address: str, known_sequence: int) -> int:
        """After which change of its own a replica is to be asked for changes.

        known_sequence: the number of the last change that the gateway knows.
        """
        if not self.is_own:
            return known_sequence
        return self._announced if address == self._leader else NO_CHANGES

    def required_of(self) -> Mapping[str, int]:
        """The changes that a replica must have to be read, as `MissedChanges.add` takes them."""
        return {self._leader: self._announced} if self.is_own and self._leader else {}

    def add_poll(
        self, leader: str, replicas: Mapping[str, ReplicaPosition], changes: RecentChanges, known_sequence: int
    ) -> tuple[int, RecentChanges]:
        """The last number, and the changes since the last poll: all up to that number, or the gateway has to forget.

        leader: the replica that told `changes`, its last ones. replicas: all that are read.
        """
        sequence = replicas[leader].sequence
        self.is_own |= len(replicas) > 1 or self._leader not in ("", leader)
        if not self.is_own:
            self._leader, self._number = leader, max(self._number, sequence)
            return sequence, changes
        first = sequence - len(changes.products)  # The changes told are those after it.
        is_known = leader == self._leader and known_sequence == self._polled and first <= self._announced <= sequence
        others = [position.of(leader) for address, position in replicas.items() if address != leader]
        common = max(min([sequence, *others]), self._announced if is_known else 0)
        stalled = self._is_stalled(replicas)
        own = self._number - self._polled  # Changes of this gateway, which it knows: they only have to be counted.
        self._leader = leader
        if not is_known or stalled:
            self._announced = sequence if stalled else common
            self._polled = self._number = max(self._number, known_sequence) + 1
            return self._number, RecentChanges()
        start, end = self._announced - first, common - first
        self._announced = common
        self._polled = self._number = self._number + end - start
        kinds = bytes([CHANGE_KIND_REMOVAL]) * own + changes.kinds[start:end]
        return self._number, RecentChanges(products=[*[0] * own, *changes.products[start:end]], kinds=kinds)

    def add_own(self, count: int, sequences: Mapping[str, int]) -> int:
        """Number changes that this gateway sent and all replicas that are read have; returns the last number.

        sequences: by replica, its own number of the last of them.
        """
        if not self.is_own and len(sequences) == 1 and self._leader in ("", *sequences):
            (sequence,) = sequences.values()
            self._number = max(self._number, sequence)
            return sequence
        if not self.is_own:
            self.is_own, self._number = True, max(self._number, *sequences.values())
        self._number += count
        return self._number

    def _is_stalled(self, replicas: Mapping[str, ReplicaPosition]) -> bool:
        """Whether a replica has not got the changes of another for some polls: who knows what it lacks."""
        before, self._before = self._before, {address: each.sequence for address, each in replicas.items()}
        lags = any(
            position.of(other) < sequence
            for address, position in replicas.items()
            for other, sequence in before.items()
            if other != address and other in replicas
        )
        self._stalled = self._stalled + 1 if lags else 0
        return self._stalled >= _MAX_STALLED


class MissedChanges:
    """The changes that a replica has missed, by what other replicas have that acknowledged them."""

    def __init__(self) -> None:
        self._missed: dict[str, dict[str, int]] = {}  # By version: by address, that replica's number of the last one.

    def __bool__(self) -> bool:
        return bool(self._missed)

    def add(self, version: str, acknowledged: Mapping[str, int]) -> None:
        """acknowledged: by address, a replica's own number of the change. Whoever acknowledged it has all before."""
        self._missed[version] = dict(acknowledged)

    def lag(self, positions: Mapping[str, ReplicaPosition]) -> float:
        """How many changes the replica lacks, at most; infinite where it does not say."""
        return max((_lag(positions.get(version), each) for version, each in self._missed.items()), default=0)

    def remove_caught_up(
        self, positions: Mapping[str, ReplicaPosition], others: Mapping[str, Mapping[str, ReplicaPosition]]
    ) -> None:
        """Remove what the replica has by now.

        positions: its own, by version. others: of every other replica that can be asked, by address and version.
        """
        self._missed = {
            version: acknowledged
            for version, acknowledged in self._missed.items()
            if _lag(positions.get(version), acknowledged) > 0
            and any(_has_still(others.get(address, {}).get(version), n) for address, n in acknowledged.items())
        }


def _lag(position: ReplicaPosition | None, acknowledged: Mapping[str, int]) -> float:
    """How many changes the replica lacks of the one that it lacks the fewest of."""
    if position is None or position.peers is None:
        return math.inf
    peers = position.peers
    return min((max(0, number - peers.get(address, 0)) for address, number in acknowledged.items()), default=0)


def _has_still(position: ReplicaPosition | None, number: int) -> bool:
    """Whether a replica that acknowledged a change still has it: one that lost its disk counts anew."""
    return position is not None and position.sequence >= number


def positions_of(response: index_pb2.DescribeResponse, address_of: Mapping[str, str]) -> dict[str, ReplicaPosition]:
    """By version, what a replica has. address_of: of each replica, by the name that it has for as long as it runs."""
    peers: dict[str, dict[str, int]] = {}
    for each in response.peers:
        peers.setdefault(each.version, {})[address_of.get(each.replica, each.replica)] = each.sequence
    has_peers = bool(response.peers)
    return {
        state.version: ReplicaPosition(state.sequence, peers.get(state.version, {}) if has_peers else None)
        for state in response.versions
    }
