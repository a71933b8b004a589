"""Which partitions members of a group give up and take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lookalike.stream.rebalance import plan, share_of


@given(st.integers(1, 40), st.integers(1, 12))
def test_shares_add_up_to_all_partitions_and_differ_by_one_at_most(partitions: int, count: int) -> None:
    members = [f"m{i}" for i in range(count)]
    shares = [share_of(member, members, partitions) for member in members]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


@given(st.integers(1, 24), st.lists(st.booleans(), min_size=1, max_size=30), st.randoms())
def test_members_that_come_and_go_end_with_their_shares_and_no_partition_is_held_twice(
    partitions: int, joins: list[bool], rng: object
) -> None:
    held: dict[str, set[int]] = {"m0": set()}
    for number, joins_ in enumerate(joins, 1):
        if joins_:
            held[f"m{number}"] = set()
        elif len(held) > 1:
            del held[rng.choice(sorted(held))]  # type: ignore[attr-defined]  # a random.Random
        for _ in range(2 * len(held) + 2):
            for member in sorted(held):
                owned = set().union(*held.values())
                todo = plan(
                    member,
                    held,
                    free=[partition not in owned for partition in range(partitions)],
                    held=held[member],
                    giving_up=(),
                )
                assert todo.give_up <= held[member]
                assert not owned & set(todo.take)
                held[member] = (held[member] - todo.give_up) | set(todo.take)
        assert sorted(each for owned in held.values() for each in owned) == [*range(partitions)]
        assert all(len(owned) == share_of(member, held, partitions) for member, owned in held.items())


def test_a_partition_that_is_given_up_is_kept_after_all_where_it_is_due_again() -> None:
    two = plan("a", ["a", "b"], free=[False] * 4, held={0, 1, 2, 3}, giving_up=())
    assert two.give_up == {2, 3}
    again = plan("a", ["a"], free=[False] * 4, held={0, 1, 2, 3}, giving_up=two.give_up)
    assert (again.give_up, again.take) == (frozenset(), ())


def test_those_that_are_given_up_already_go_before_others() -> None:
    assert plan("a", ["a", "b"], free=[False] * 4, held={0, 1, 2, 3}, giving_up={0, 1}).give_up == {0, 1}
