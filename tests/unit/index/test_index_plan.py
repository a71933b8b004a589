"""How hard to look."""

from __future__ import annotations

from index.search.plan import plan
from index.storage.manifest import IndexEntry, Rung

LADDER = tuple(
    Rung(depth=depth, effort=effort, factor=4, cost=1024 + 7 * effort, recall=0.96)
    for depth, effort in ((10, 16), (100, 32), (1000, 128))
)
INDEX = IndexEntry(recipe="IVF1024,PQ256x4fs", ladder=LADDER)
N = 100_000


def test_few_results_of_all_products_need_the_least_work() -> None:
    assert plan(INDEX, N, N, 10) == LADDER[0]


def test_more_results_lie_deeper() -> None:
    assert plan(INDEX, N, N, 11) == LADDER[1]
    assert plan(INDEX, N, N, 1000) == LADDER[2]


def test_a_filter_needs_the_depth_at_which_enough_pass() -> None:
    assert plan(INDEX, N, N // 6, 10) == LADDER[1]
    assert plan(INDEX, N, N // 7, 10) == LADDER[2]  # 10 x 7 x 1.5 is more than 100.


def test_few_passing_products_are_all_compared() -> None:
    assert plan(INDEX, N, 500, 1) is None


def test_deeper_than_measured_every_product_is_compared() -> None:
    assert plan(INDEX, N, N, 1001) is None


def test_nothing_to_find_is_not_looked_for() -> None:
    assert plan(INDEX, N, 0, 10) is None
    assert plan(INDEX, N, N, 0) is None


def test_a_space_without_codes_is_searched_exactly() -> None:
    assert plan(IndexEntry(), N, N, 10) is None
