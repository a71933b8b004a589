"""What a replica decides about its peers: which versions to pull, how far it is, and whether it may lack changes."""

from __future__ import annotations

import pytest

from index.serving.peer_progress import LATE_S, CatchingUp, End, Pair, Pull, ShardPart, pair_versions, peer_positions
from lookalike.v1.index_pb2 import AwaitedChanges, LiveState, PeerPosition, ShardState

PART = ShardPart(0, 2)
WAIT_S = 10.0
CPU_S = 0.0  # That the process has used.


def state(version: str, shards: int = 2, awaited: str = "") -> ShardState:
    awaiting = AwaitedChanges(version=awaited, shards=3) if awaited else None
    return ShardState(version=version, shard=0, shards=shards, live=LiveState(), awaited=awaiting)


def test_a_version_takes_the_changes_of_the_peers_own_copy() -> None:
    pairs = pair_versions([state("b"), state("a")], {"a": PART, "b": PART})
    assert pairs == [Pair("a", "a"), Pair("b", "b")]


def test_a_version_that_the_peer_does_not_have_takes_the_changes_of_the_peers_current_one() -> None:
    assert pair_versions([state("b"), state("c")], {"a": PART}) == [Pair("b", "a")]


def test_a_version_takes_no_changes_of_another_part_of_the_catalogue() -> None:
    assert pair_versions([state("b", shards=3)], {"a": PART}) == []
    assert pair_versions([state("b")], {"a": ShardPart(1, 2)}) == []


def test_a_version_that_awaits_a_handover_gives_its_changes_to_its_own_copy_only() -> None:
    awaiting = state("b", awaited="z")
    assert pair_versions([awaiting, state("c")], {"a": PART, "b": PART}) == [Pair("c", "a"), Pair("b", "b")]


def test_a_peer_that_takes_no_updates_has_no_changes() -> None:
    assert pair_versions([ShardState(version="a", shard=0, shards=2)], {"a": PART}) == []


def test_a_position_moves_when_what_was_lacking_has_arrived() -> None:
    pull = Pull()
    pull.note_listed(5, {})
    assert pull.position == 5
    pull.note_listed(9, {b"p": 3})
    assert (pull.position, pull.waiting) == (5, {b"p": 3})
    pull.note_arrived()
    assert (pull.position, pull.waiting) == (9, {})


def test_the_position_in_a_version_that_two_take_changes_of_is_that_of_the_one_that_has_least() -> None:
    pulls = {Pair("a", "a"): Pull(9, 7), Pair("a", "b"): Pull(9, 4), Pair("c", "c"): Pull(2, 2)}
    expected = [("a", 4), ("c", 2)]
    assert peer_positions("r", pulls) == [PeerPosition(replica="r", version=v, sequence=s) for v, s in expected]


def starting(*peers: str) -> CatchingUp:
    progress = CatchingUp(0.0, WAIT_S)
    progress.set_peers(peers)
    return progress


def test_a_replica_is_behind_until_it_has_the_changes_of_every_peer_that_answers() -> None:
    progress = starting("a", "b", "c")
    for peer in "ab":
        progress.note_answer(peer)
    progress.note_failure("c")
    progress.note_pulled("a", progress.episode)
    assert progress.end(0.5) is None
    assert progress.is_behind(0.5, CPU_S)
    progress.note_pulled("b", progress.episode)
    assert progress.end(0.5) is End.CAUGHT_UP
    assert not progress.is_behind(0.5, CPU_S)
    assert progress.end(0.6) is None


def test_a_peer_that_was_not_asked_yet_is_waited_for() -> None:
    progress = starting("a", "b")
    progress.note_pulled("a", progress.episode)
    assert progress.end(0.5) is None
    progress.note_failure("b")
    assert progress.end(0.5) is End.CAUGHT_UP


@pytest.mark.parametrize("peers", [(), ("a", "b")])
def test_where_no_peer_answers_a_replica_goes_into_service_after_the_wait(peers: tuple[str, ...]) -> None:
    progress = starting(*peers)
    for peer in peers:
        progress.note_failure(peer)
    assert progress.end(WAIT_S - 0.1) is None
    assert progress.end(WAIT_S) is End.ALONE


def test_a_peer_whose_changes_are_being_fetched_is_waited_for_longer_unless_it_dies() -> None:
    progress = starting("a")
    progress.note_answer("a")
    assert progress.end(5 * WAIT_S) is None
    progress.note_failure("a")
    assert progress.end(5 * WAIT_S) is End.ALONE


def test_a_peer_that_is_gone_is_not_waited_for() -> None:
    progress = starting("a", "b")
    progress.note_answer("b")
    progress.note_pulled("a", progress.episode)
    progress.set_peers("a")
    assert progress.end(0.5) is End.CAUGHT_UP


def caught_up() -> CatchingUp:
    progress = starting("a")
    progress.note_pulled("a", progress.episode)
    assert progress.end(0.0) is End.CAUGHT_UP
    return progress


def test_a_replica_whose_process_was_stopped_is_behind_until_the_next_pull() -> None:
    progress = caught_up()
    assert not progress.tick(LATE_S, CPU_S)
    assert progress.tick(2.1 * LATE_S, CPU_S)
    assert progress.is_behind(2.1 * LATE_S, CPU_S)
    progress.note_pulled("a", progress.episode)
    assert progress.end(2.2 * LATE_S) is End.CAUGHT_UP


def test_a_replica_whose_process_was_stopped_is_behind_before_it_has_noticed() -> None:
    progress = caught_up()
    assert not progress.is_behind(LATE_S, CPU_S)
    assert progress.is_behind(1.1 * LATE_S, CPU_S)


def test_a_replica_whose_process_is_busy_and_late_is_not_behind() -> None:
    progress = caught_up()
    assert not progress.is_behind(3 * LATE_S, 2 * LATE_S)
    assert not progress.tick(3 * LATE_S, 2 * LATE_S)
    assert progress.tick(6 * LATE_S, 2 * LATE_S)


def test_a_pull_that_began_before_the_process_was_stopped_counts_for_nothing() -> None:
    progress = caught_up()
    episode = progress.episode
    progress.tick(2 * LATE_S, CPU_S)
    progress.note_pulled("a", episode)
    assert progress.end(2 * LATE_S) is None
