"""The choice of a search plan: operating point, depth, or exact search."""

from __future__ import annotations

from index.search.plan import Plan, first_plan, next_plan
from index.storage.manifest import IndexEntry, OperatingPoint

LADDER = tuple(
    OperatingPoint(
        depth=depth,
        search_parameter=search_parameter,
        refine_factor=4,
        cost=1024 + 7 * search_parameter,
        recall=0.96,
        standard_error=0.004,
    )
    for depth, search_parameter in ((10, 16), (100, 32), (1000, 128))
)
INDEX = IndexEntry(recipe="IVF1024,PQ256x4fs", operating_points=LADDER)
N = 100_000


def test_without_a_filter_few_results_take_the_cheapest_operating_point() -> None:
    assert first_plan(INDEX, N, N, 10) == Plan(10, LADDER[0])


def test_more_results_take_a_deeper_search() -> None:
    assert first_plan(INDEX, N, N, 11) == Plan(11, LADDER[1])
    assert first_plan(INDEX, N, N, 1000) == Plan(1000, LADDER[2])


def test_with_a_filter_the_depth_is_that_at_which_enough_rows_pass() -> None:
    assert first_plan(INDEX, N, N // 5, 10) == Plan(
        70, LADDER[1]
    )  # 10 x 5, and of what does not pass half as much again.
    assert first_plan(INDEX, N, N // 10, 10) == Plan(145, LADDER[2])


def test_a_few_deletions_do_not_deepen_the_search() -> None:
    assert first_plan(INDEX, N, N - N // 200, 10) == Plan(10, LADDER[0])
    assert first_plan(INDEX, N, N - N // 50, 10) == Plan(11, LADDER[1])


def test_after_too_few_results_the_next_search_is_deeper_and_the_last_exact() -> None:
    first = first_plan(INDEX, N, N // 2, 10)
    assert first == Plan(25, LADDER[1])
    second = next_plan(INDEX, N, N // 2, first)
    assert second == Plan(100, LADDER[1])
    third = next_plan(INDEX, N, N // 2, second)
    assert third == Plan(400, LADDER[2])
    assert next_plan(INDEX, N, N // 2, third) is None


def test_exact_search_is_chosen_where_it_is_cheaper() -> None:
    # 572 deep: 1,920 for the lists, 686 for the candidates, and 60 of them pass.
    assert first_plan(INDEX, N, 2_600, 10) is None
    assert first_plan(INDEX, N, 2_700, 10) == Plan(551, LADDER[2])


def test_few_passing_products_are_searched_exactly() -> None:
    assert first_plan(INDEX, N, 500, 1) is None


def test_deeper_than_any_operating_point_the_search_is_exact() -> None:
    assert first_plan(INDEX, N, N, 1001) is None


def test_there_is_no_plan_for_zero_results() -> None:
    assert first_plan(INDEX, N, 0, 10) is None
    assert first_plan(INDEX, N, N, 0) is None


def test_a_space_without_an_ann_index_is_searched_exactly() -> None:
    assert first_plan(IndexEntry(), N, N, 10) is None
