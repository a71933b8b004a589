"""What a gateway knows of changes: their effect on an answer, and what it forgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lookalike.v1.index_pb2 import (
    CHANGE_KIND_PATCH,
    CHANGE_KIND_REMOVAL,
    CHANGE_KIND_UPSERT,
    ChangeKind,
    RecentChanges,
    ShardState,
)
from server.change_history import ChangeHistory, Effect, effect_of_changes

UPSERT, PATCH, REMOVAL = CHANGE_KIND_UPSERT, CHANGE_KIND_PATCH, CHANGE_KIND_REMOVAL
# Hashes: even ones are of shard 0, odd ones of shard 1.
HIT, OTHER = 2, 4


def polled(sequence: int, *changes: tuple[int, ChangeKind.ValueType]) -> ShardState:
    """What a shard says that has applied `sequence` updates, the last of them these."""
    products, kinds = [product for product, _ in changes], bytes(kind for _, kind in changes)
    return ShardState(sequence=sequence, changes=RecentChanges(products=products, kinds=kinds))


def effect(
    history: ChangeHistory, since: Sequence[int] = (0, 0), products: Sequence[int] = (HIT,), *, filtered: bool = False
) -> Effect:
    return effect_of_changes(history.known, since, products, filtered=filtered)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("change", "filtered", "expected"),
    [
        ((HIT, UPSERT), False, Effect.CHANGED),
        ((HIT, PATCH), False, Effect.CHANGED),
        ((HIT, REMOVAL), False, Effect.CHANGED),
        ((OTHER, UPSERT), False, Effect.MORE_HITS),
        ((OTHER, PATCH), False, Effect.NONE),
        ((OTHER, REMOVAL), False, Effect.NONE),
        ((OTHER, UPSERT), True, Effect.MORE_HITS),
        ((OTHER, PATCH), True, Effect.MORE_HITS),
        ((OTHER, REMOVAL), True, Effect.NONE),
    ],
)
def test_a_change_has_its_effect_on_answers_from_before_and_none_on_those_from_after(
    own: bool, change: tuple[int, ChangeKind.ValueType], filtered: bool, expected: Effect
) -> None:
    history = ChangeHistory(2)
    if own:
        history.add_own(0, 1, [change])
    else:
        history.add_polled({0: polled(1, change)})
    assert effect(history, filtered=filtered) is expected
    assert effect(history, (1, 0), filtered=filtered) is Effect.NONE


def test_a_change_in_one_shard_leaves_answers_that_depend_on_products_of_another() -> None:
    history = ChangeHistory(2)
    history.add_polled({0: polled(0), 1: polled(5, *[(3, PATCH)] * 5)})
    assert effect(history, products=(HIT,)) is Effect.NONE
    assert effect(history, products=(HIT, 3)) is Effect.CHANGED
    assert effect(history, (0, 5), products=(HIT, 3)) is Effect.NONE


def test_the_number_of_a_change_is_its_place_among_those_of_the_poll() -> None:
    history = ChangeHistory(1)
    history.add_polled({0: polled(10, *[(OTHER, PATCH)] * 10)})
    history.add_polled({0: polled(13, (OTHER, PATCH), (HIT, UPSERT), (OTHER, PATCH))})
    assert effect(history, (11,)) is Effect.CHANGED
    assert effect(history, (12,)) is Effect.NONE
    assert effect(history, (12,), filtered=True) is Effect.MORE_HITS
    assert effect(history, (11,), products=()) is Effect.MORE_HITS


def test_the_poll_asks_for_what_came_after_the_one_before_also_where_own_changes_are_known_already() -> None:
    history = ChangeHistory(1)
    history.add_polled({0: polled(2, (OTHER, PATCH), (OTHER, PATCH))})
    history.add_own(0, 4, [(OTHER, PATCH)])  # Number 3 was sent by another gateway.
    assert (history.polled, history.known.sequences) == ((2,), (4,))
    assert effect(history, (2,)) is Effect.NONE
    history.add_polled({0: polled(4, (HIT, PATCH), (OTHER, PATCH))})
    assert effect(history, (2,)) is Effect.CHANGED
    assert effect(history, (4,)) is Effect.NONE


def test_a_poll_from_before_an_own_change_takes_nothing_back() -> None:
    history = ChangeHistory(1)
    history.add_own(0, 2, [(HIT, PATCH)])
    history.add_polled({0: polled(1, (HIT, PATCH))})
    assert history.known.sequences == (2,)
    assert effect(history, (1,)) is Effect.CHANGED


def test_a_late_poll_takes_nothing_back_of_what_is_kept_of_an_earlier_period() -> None:
    history = ChangeHistory(1, capacity=2)
    for sequence, product in enumerate((HIT, OTHER, HIT, 6), 1):
        history.add_own(0, sequence, [(product, PATCH)])
    history.add_polled({0: polled(1, (HIT, PATCH))})
    assert effect(history, (2,)) is Effect.CHANGED


def test_where_a_shard_remembers_too_little_every_answer_from_before_is_void() -> None:
    history = ChangeHistory(1)
    history.add_polled({0: polled(3, *[(OTHER, REMOVAL)] * 3)})
    history.add_polled({0: polled(9, (OTHER, REMOVAL), (OTHER, REMOVAL))})
    assert effect(history, (6,)) is Effect.FORGOTTEN
    assert effect(history, (7,)) is Effect.NONE


def test_a_gateway_that_starts_knows_what_the_shard_remembers() -> None:
    history = ChangeHistory(1)
    history.add_polled({0: polled(9, (OTHER, REMOVAL), (OTHER, REMOVAL))})
    assert effect(history, (6,)) is Effect.FORGOTTEN
    assert effect(history, (7,)) is Effect.NONE


def test_a_shard_that_has_lost_its_updates_begins_another_history() -> None:
    history = ChangeHistory(2)
    history.add_polled({0: polled(9, *[(HIT, UPSERT)] * 9), 1: polled(4, *[(3, UPSERT)] * 4)})
    history.add_polled({0: polled(1), 1: polled(4)})
    assert history.known.sequences == (1, 4)
    assert effect(history, (0, 4)) is Effect.FORGOTTEN
    assert effect(history, (1, 3)) is Effect.FORGOTTEN
    assert effect(history, (1, 4)) is Effect.NONE


def test_of_the_products_the_last_ones_to_change_are_remembered_and_older_answers_are_void() -> None:
    history = ChangeHistory(1, capacity=4)
    for sequence in range(1, 10):
        history.add_own(0, sequence, [(100 + sequence, REMOVAL)])
        known = history.known
        assert len(known.latest) + len(known.earlier) <= 8
        for since in range(sequence):
            changed = [100 + number for number in range(since + 1, sequence + 1)]
            effects = {effect(history, (since,), [product]) for product in changed}
            assert len(effects) == 1  # All changes since are known, or it is known that they are not.
            assert effects <= {Effect.CHANGED, Effect.FORGOTTEN}
        assert effect(history, (max(0, sequence - 4),), [100 + sequence]) is Effect.CHANGED
    assert effect(history, (0,), [HIT]) is Effect.FORGOTTEN


def test_one_product_that_changes_all_the_time_takes_one_place() -> None:
    history = ChangeHistory(1, capacity=4)
    for sequence in range(1, 100):
        history.add_own(0, sequence, [(OTHER, PATCH)])
    assert effect(history, (0,)) is Effect.NONE


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_no_answer_is_taken_for_current_that_a_change_before_the_last_poll_affects(seed: int) -> None:
    """Own changes and those of others, polls that bring all or the last five, and a memory of eight products."""
    random, history, log = np.random.default_rng(seed), ChangeHistory(1, capacity=8), list[tuple[int, int]]()
    answered = {0}  # The numbers that answers were computed at.
    all_found = set[Effect]()
    for _ in range(300):
        change = int(random.integers(30)), int(random.choice([UPSERT, PATCH, REMOVAL], p=[0.02, 0.49, 0.49]))
        match random.integers(4):
            case 0:
                log.append(change)
                history.add_own(0, len(log), [change])  # type: ignore[list-item]  # a kind
            case 1:
                log.append(change)
            case 2:
                answered.add(history.known.sequences[0])
            case _:
                since = max(history.polled[0], len(log) - 5)
                history.add_polled({0: polled(len(log), *log[since:])})  # type: ignore[arg-type]  # kinds
                for since in answered:
                    product, filtered = int(random.integers(30)), bool(random.integers(2))
                    kinds = {kind for _, kind in log[since:]}
                    expected = Effect.NONE
                    if UPSERT in kinds or (filtered and PATCH in kinds):
                        expected = Effect.MORE_HITS
                    if product in {changed for changed, _ in log[since:]}:
                        expected = Effect.CHANGED
                    found = effect(history, (since,), [product], filtered=filtered)
                    assert found in (expected, Effect.FORGOTTEN)
                    all_found.add(found)
    assert all_found >= {Effect.NONE, Effect.CHANGED, Effect.FORGOTTEN}
