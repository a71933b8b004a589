"""When a cached answer is used, and when it is void."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lookalike.runtime.partition import product_hash
from lookalike.v1.index_pb2 import CHANGE_KIND_PATCH, CHANGE_KIND_REMOVAL, CHANGE_KIND_UPSERT, ChangeKind
from lookalike.v1.types_pb2 import Product
from server.answer import SearchAnswer
from server.cached_answer import CachedAnswer, Void, basis_of, pack_answer, read_answer
from server.change_history import ChangeHistory

ANSWER = SearchAnswer(b"hits", b"provenance", "image+text", complete=True)
NOW_S, BOUND_S = 1_000_000.0, 10.0


def cached_at(
    history: ChangeHistory, *, computed_s: float = NOW_S, filtered: bool = False, expires_at: Sequence[int] = (0, 0)
) -> bytes:
    """An answer that depends on the products p0, p1 and so on, which expire then."""
    products = [Product(id=f"p{i}", expires_at=each).SerializeToString() for i, each in enumerate(expires_at)]
    return pack_answer(ANSWER, basis_of(history.known, computed_s, products, filtered=filtered))


def read(value: bytes, history: ChangeHistory, now_s: float = NOW_S, max_stale_s: float = BOUND_S) -> float | Void:
    """How stale the answer is, or why it is void."""
    cached = read_answer(value, history.known, now_s, max_stale_s)
    if isinstance(cached, CachedAnswer):
        assert cached.answer == ANSWER
        return cached.stale_s
    return cached


def change(history: ChangeHistory, product_id: str, kind: ChangeKind.ValueType) -> None:
    shards = len(history.known.sequences)
    hashed = product_hash(product_id.encode())
    shard = hashed % shards
    history.add_own(shard, history.known.sequences[shard] + 1, [(hashed, kind)])


def test_while_nothing_changes_an_answer_is_used_however_old_it_is() -> None:
    history = ChangeHistory(3)
    change(history, "p1", CHANGE_KIND_UPSERT)
    value = cached_at(history)
    assert read(value, history) == read(value, history, NOW_S + 1e6) == 0


@pytest.mark.parametrize("kind", [CHANGE_KIND_UPSERT, CHANGE_KIND_PATCH, CHANGE_KIND_REMOVAL])
@pytest.mark.parametrize("product_id", ["p0", "p1"])
def test_a_change_of_a_product_that_it_depends_on_voids_an_answer(kind: ChangeKind.ValueType, product_id: str) -> None:
    history = ChangeHistory(3)
    value = cached_at(history)
    change(history, product_id, kind)
    assert read(value, history) is Void.CHANGED
    assert read(cached_at(history), history) == 0


@pytest.mark.parametrize(
    ("kind", "filtered", "may_add_a_hit"),
    [
        (CHANGE_KIND_REMOVAL, False, False),
        (CHANGE_KIND_REMOVAL, True, False),
        (CHANGE_KIND_PATCH, False, False),
        (CHANGE_KIND_PATCH, True, True),
        (CHANGE_KIND_UPSERT, False, True),
        (CHANGE_KIND_UPSERT, True, True),
    ],
)
def test_after_changes_elsewhere_that_may_add_a_hit_an_answer_is_used_until_the_bound_and_says_how_old_it_is(
    kind: ChangeKind.ValueType, filtered: bool, may_add_a_hit: bool
) -> None:
    history = ChangeHistory(3)
    value = cached_at(history, filtered=filtered)
    change(history, "other", kind)
    assert read(value, history, NOW_S + 4) == (4 if may_add_a_hit else 0)
    assert read(value, history, NOW_S + BOUND_S) == (Void.STALE if may_add_a_hit else 0)
    assert read(value, history, NOW_S, max_stale_s=0) == (Void.STALE if may_add_a_hit else 0)


def test_a_stale_answer_of_a_gateway_whose_clock_is_ahead_is_still_said_to_be_stale() -> None:
    history = ChangeHistory(1)
    value = cached_at(history, computed_s=NOW_S + 5)
    change(history, "other", CHANGE_KIND_UPSERT)
    assert read(value, history) == pytest.approx(0.001)
    assert read(value, history, max_stale_s=0) is Void.STALE


def test_an_answer_is_void_from_the_second_on_in_which_the_first_of_its_products_expires() -> None:
    history, first_s = ChangeHistory(1), int(NOW_S) + 60
    value = cached_at(history, expires_at=(0, first_s + 5, first_s))
    assert read(value, history, first_s - 0.001) == 0
    assert read(value, history, first_s) is Void.EXPIRED
    assert read(cached_at(history), history, 1e12) == 0


def test_an_answer_of_a_gateway_that_knows_more_is_used_until_every_gateway_must_know_as_much() -> None:
    behind, ahead = ChangeHistory(1), ChangeHistory(1)
    change(ahead, "p0", CHANGE_KIND_PATCH)
    value = cached_at(ahead)
    assert read(value, behind, NOW_S + 59) == 0
    assert read(value, behind, NOW_S + 61) is Void.FORGOTTEN
    change(behind, "p0", CHANGE_KIND_PATCH)
    assert read(value, behind, NOW_S + 61) == 0


def test_an_answer_of_a_gateway_that_knows_less_is_void_where_the_change_matters() -> None:
    behind, ahead = ChangeHistory(1), ChangeHistory(1)
    change(ahead, "p0", CHANGE_KIND_PATCH)
    assert read(cached_at(behind), ahead) is Void.CHANGED
    assert read(cached_at(behind, expires_at=()), ahead) == 0


def test_an_answer_from_before_what_is_remembered_is_void() -> None:
    history = ChangeHistory(1, capacity=2)
    value = cached_at(history)
    for number in range(9):
        change(history, f"other{number}", CHANGE_KIND_REMOVAL)
    assert read(value, history) is Void.FORGOTTEN
