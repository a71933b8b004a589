"""What products may be after changes with and without answers."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.v1.index_pb2 import Patch, Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, SpaceVector
from tests.product_states import ABSENT, Contradiction, PossibleStates, ProductState, after

VECTOR = np.array([0.6, 0.8], np.float32)


def upsert(revision: int, *, title: str = "", vector: bool = True, keep_vectors: bool = False) -> Update:
    vectors = [SpaceVector(space=SPACE_IMAGE, vector=VECTOR.tobytes())] if vector else []
    whole = Upsert(
        product=Product(id="p", title=title or f"title {revision}"),
        vectors=vectors,
        keep_vectors=keep_vectors,
        require_vector=True,
    )
    return Update(revision=revision, upsert=whole)


def patch(revision: int, price: float) -> Update:
    return Update(revision=revision, patch=Patch(product=Product(id="p", price=price), fields=["price"]))


def remove(revision: int) -> Update:
    return Update(revision=revision, remove="p")


def state_after(*updates: Update) -> ProductState:
    state = ABSENT
    for update in updates:
        _, state = after(state, update)
    return state


def applied(revision: int, spaces: tuple[int, ...] = (SPACE_IMAGE,)) -> UpdateResult:
    return UpdateResult(outcome=UpdateResult.APPLIED, revision=revision, spaces=spaces)  # type: ignore[arg-type]  # numbers


def test_an_acknowledged_change_that_is_not_there_is_a_contradiction() -> None:
    states = PossibleStates(state_after(upsert(1)))
    states.answered(patch(2, 7), applied(2))
    with pytest.raises(Contradiction, match="found revision 1"):
        states.found(state_after(upsert(1)))


def test_a_change_without_an_answer_may_have_been_made_or_not() -> None:
    for made in (True, False):
        states = PossibleStates(state_after(upsert(1)))
        states.sent(patch(2, 7))
        states.found(state_after(upsert(1), patch(2, 7)) if made else state_after(upsert(1)))
        assert len(states) == 1


def test_a_change_is_not_half_made() -> None:
    states = PossibleStates(state_after(upsert(1)))
    states.sent(upsert(2, title="new"))
    half = state_after(upsert(1), upsert(2, title="new"))
    with pytest.raises(Contradiction):
        states.found(ProductState(2, half.product, {SPACE_IMAGE: -VECTOR}))


def test_of_two_changes_without_an_answer_only_the_second_may_have_been_made() -> None:
    states = PossibleStates(state_after(upsert(1)))
    states.sent(patch(2, 7))
    states.sent(upsert(3, vector=False, keep_vectors=True))
    assert len(states) == 3  # None, the first, or the second: it replaces what the first has changed.
    states.found(state_after(upsert(1), upsert(3, vector=False, keep_vectors=True)))


def test_an_answer_rules_out_what_does_not_agree_with_it() -> None:
    states = PossibleStates(state_after(upsert(1)))
    states.sent(remove(2))
    states.answered(patch(3, 7), UpdateResult(outcome=UpdateResult.NOT_FOUND))
    assert len(states) == 1
    with pytest.raises(Contradiction, match="possible: absent at revision 2"):
        states.answered(patch(4, 7), applied(4))


def test_a_stale_change_tells_which_revision_is_stored() -> None:
    states = PossibleStates(state_after(upsert(5)))
    states.answered(patch(4, 7), UpdateResult(outcome=UpdateResult.STALE, revision=5))
    with pytest.raises(Contradiction):
        states.answered(patch(4, 7), UpdateResult(outcome=UpdateResult.STALE, revision=6))


def test_of_a_product_that_several_change_the_newest_acknowledged_change_or_a_later_one_is_there() -> None:
    changes = [upsert(4), remove(3), upsert(9)]
    states = PossibleStates(ABSENT)
    for change in changes:
        states.sent(change)
    states.at_least(4)
    with pytest.raises(Contradiction):
        states.found(ABSENT)
    states = PossibleStates(ABSENT)
    for change in reversed(changes):
        states.sent(change)
    states.at_least(4)
    states.found(state_after(upsert(9)))


def test_a_contradiction_is_told_once_until_the_product_is_read_again() -> None:
    states = PossibleStates(ABSENT)
    with pytest.raises(Contradiction):
        states.at_least(1)
    states.at_least(1)
    states.found(state_after(upsert(2)))
    with pytest.raises(Contradiction):
        states.found(ABSENT)


def test_products_that_passed_a_filter_are_removed_if_that_was_answered_and_may_be_if_not() -> None:
    for answered in (True, False):
        states = PossibleStates(state_after(upsert(1, title="closing")))
        states.removed_where(5, lambda product: product.title == "closing", answered=answered)
        assert len(states) == 2 - answered
        states.found(ABSENT)
        states.answered(patch(6, 7), UpdateResult(outcome=UpdateResult.NOT_FOUND))
    states = PossibleStates(state_after(upsert(1)))
    states.removed_where(5, lambda product: product.title == "closing", answered=True)
    states.found(state_after(upsert(1)))


def test_a_removal_keeps_older_changes_away_though_nobody_sees_its_revision() -> None:
    states = PossibleStates(state_after(upsert(1)))
    states.answered(remove(5), applied(5, ()))
    states.found(ABSENT)
    states.answered(upsert(4), UpdateResult(outcome=UpdateResult.STALE, revision=5))
