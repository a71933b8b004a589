"""The numbers of changes over several replicas, and which replica lacks what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lookalike.v1.index_pb2 import (
    CHANGE_KIND_UPSERT,
    DescribeResponse,
    PeerPosition,
    RecentChanges,
    ShardState,
)
from server.change_history import ChangeHistory, Effect, effect_of_changes
from server.replica_changes import ChangeNumbers, MissedChanges, ReplicaPosition, positions_of


def told(*products: int) -> RecentChanges:
    return RecentChanges(products=products, kinds=bytes([CHANGE_KIND_UPSERT] * len(products)))


class Gateway:
    """The history of one shard as a gateway has it, with replicas "a" and "b"."""

    def __init__(self) -> None:
        self.numbers = ChangeNumbers()
        self.history = ChangeHistory(1)

    def poll(self, leader: str, replicas: Mapping[str, ReplicaPosition], changes: Sequence[int] = ()) -> None:
        number, merged = self.numbers.add_poll(leader, replicas, told(*changes), self.history.polled[0])
        self.history.add_polled({0: ShardState(sequence=number, changes=merged)})

    def write(self, product: int, sequences: Mapping[str, int]) -> None:
        number = self.numbers.add_own(1, sequences)
        self.history.add_own(0, number, [(product, CHANGE_KIND_UPSERT)])

    def effect(self, since: Sequence[int], product: int) -> Effect:
        return effect_of_changes(self.history.known, since, [product], filtered=False)

    @property
    def now(self) -> tuple[int, ...]:
        return self.history.known.sequences


def both(a: int, b: int, *, a_has: int | None = None, b_has: int | None = None) -> dict[str, ReplicaPosition]:
    """What two replicas have by their own numbers, and of each other; None: everything."""
    return {
        "a": ReplicaPosition(a, {"b": b if a_has is None else a_has}),
        "b": ReplicaPosition(b, {"a": a if b_has is None else b_has}),
    }


def test_the_numbers_of_the_only_replica_are_its_own() -> None:
    gateway = Gateway()
    gateway.poll("a", {"a": ReplicaPosition(7, None)})
    gateway.poll("a", {"a": ReplicaPosition(9, None)}, [5, 6])
    gateway.write(4, {"a": 10})
    assert gateway.now == (10,)
    assert gateway.effect((7,), 5) is Effect.CHANGED
    assert gateway.effect((8,), 5) is Effect.MORE_HITS
    assert gateway.effect((8,), 6) is Effect.CHANGED
    assert gateway.numbers.known_of("a", 9) == 9


def test_a_change_voids_answers_once_both_replicas_have_it() -> None:
    gateway = Gateway()
    gateway.poll("a", both(7, 3))
    answered = gateway.now
    gateway.poll("a", both(8, 3, b_has=7), [5])
    assert gateway.effect(answered, 5) is Effect.NONE
    by_the_other = gateway.now  # The answer of a replica that lacks the change yet.
    gateway.poll("a", both(8, 4), [5])
    assert gateway.effect(answered, 5) is Effect.CHANGED
    assert gateway.effect(by_the_other, 5) is Effect.CHANGED
    assert gateway.effect(by_the_other, 6) is Effect.MORE_HITS
    assert gateway.effect(gateway.now, 5) is Effect.NONE


def test_a_change_of_this_gateway_voids_answers_at_once_and_hides_no_other() -> None:
    gateway = Gateway()
    gateway.poll("a", both(7, 3))
    gateway.poll("a", both(7, 3))
    answered = gateway.now
    gateway.write(4, {"a": 9, "b": 5})  # 8 is another gateway's, which it has not heard of.
    assert gateway.effect(answered, 4) is Effect.CHANGED
    after = gateway.now
    gateway.poll("a", both(9, 5), [5, 4])
    assert gateway.effect(after, 5) is Effect.CHANGED
    assert gateway.effect(answered, 6) is Effect.MORE_HITS  # Nothing was forgotten.


def test_with_another_leader_everything_is_forgotten_once() -> None:
    gateway = Gateway()
    gateway.poll("a", both(7, 3))
    answered = gateway.now
    gateway.poll("b", {"b": ReplicaPosition(4, {"a": 7})})
    assert gateway.effect(answered, 5) is Effect.FORGOTTEN
    answered = gateway.now
    gateway.poll("b", {"b": ReplicaPosition(5, {"a": 7})}, [6])
    assert gateway.effect(answered, 6) is Effect.CHANGED
    assert gateway.effect(answered, 5) is Effect.MORE_HITS


def test_when_a_second_replica_appears_numbers_only_rise() -> None:
    gateway = Gateway()
    gateway.poll("a", {"a": ReplicaPosition(7, None)})
    answered = gateway.now
    gateway.poll("a", both(7, 2))
    assert gateway.effect(answered, 5) is Effect.FORGOTTEN
    assert gateway.now > answered


def test_changes_that_the_leader_does_not_remember_are_forgotten() -> None:
    gateway = Gateway()
    gateway.poll("a", both(7, 3))
    answered = gateway.now
    gateway.poll("a", both(90, 80), [5])
    assert gateway.effect(answered, 1) is Effect.FORGOTTEN


def test_while_a_replica_gets_nothing_from_another_no_answer_is_kept() -> None:
    gateway = Gateway()
    for _ in range(6):
        answered = gateway.now
        gateway.poll("a", both(9, 3, b_has=7))
    assert gateway.effect(answered, 1) is Effect.FORGOTTEN


def test_replicas_without_peers_are_taken_to_have_the_same() -> None:
    gateway = Gateway()
    gateway.poll("a", {"a": ReplicaPosition(7, None), "b": ReplicaPosition(7, None)})
    answered = gateway.now
    gateway.poll("a", {"a": ReplicaPosition(8, None), "b": ReplicaPosition(8, None)}, [5])
    assert gateway.effect(answered, 5) is Effect.CHANGED


def test_a_replica_that_missed_a_change_has_it_when_it_has_all_of_one_that_acknowledged_it() -> None:
    missed = MissedChanges()
    missed.add("v", {"a": 9, "c": 4})
    others = {"a": {"v": ReplicaPosition(9, {})}, "c": {"v": ReplicaPosition(4, {})}}
    missed.remove_caught_up({"v": ReplicaPosition(2, {"a": 8, "c": 3})}, others)
    assert missed
    assert missed.lag({"v": ReplicaPosition(2, {"a": 8, "c": 1})}) == 1
    missed.remove_caught_up({"v": ReplicaPosition(2, {"a": 3, "c": 4})}, others)
    assert not missed


def test_without_peers_a_replica_never_gets_what_it_missed() -> None:
    missed = MissedChanges()
    missed.add("v", {"a": 9})
    missed.remove_caught_up({"v": ReplicaPosition(9, None)}, {"a": {"v": ReplicaPosition(9, None)}})
    assert missed
    assert missed.lag({"v": ReplicaPosition(9, None)}) == float("inf")


def test_a_change_that_nobody_has_any_more_is_not_waited_for() -> None:
    missed = MissedChanges()
    missed.add("v", {"a": 9})
    missed.remove_caught_up({"v": ReplicaPosition(2, {"a": 3})}, {"a": {"v": ReplicaPosition(3, {})}})
    assert not missed


def test_positions_are_by_the_address_of_the_replica_that_has_the_name() -> None:
    peers = [PeerPosition(replica="one", version="v", sequence=4), PeerPosition(replica="one", version="w", sequence=1)]
    response = DescribeResponse(
        replica="two", versions=[ShardState(version="v", sequence=7), ShardState(version="x", sequence=8)], peers=peers
    )
    assert positions_of(response, {"one": "a:1", "two": "b:1"}) == {
        "v": ReplicaPosition(7, {"a:1": 4}),
        "x": ReplicaPosition(8, {}),
    }
