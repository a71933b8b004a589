"""The choice of a search plan: operating point, depth, or exact search."""

from __future__ import annotations

import numpy as np

from index.search.plan import Plan, first_plan, next_plan
from lookalike.releases.manifest import IndexEntry, OperatingPoint

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


def effort(plan: Plan | None) -> tuple[int, int, int]:
    """The depth that is counted, the depth that is expected, and the search parameter."""
    assert plan is not None
    return plan.depth, plan.operating_point.depth, plan.operating_point.search_parameter


def test_without_a_filter_few_results_take_the_cheapest_operating_point() -> None:
    assert first_plan(INDEX, N, N, 10) == Plan(10, LADDER[0])
    assert effort(first_plan(INDEX, N, N, 3)) == (3, 3, 16)


def test_at_a_measured_depth_the_effort_is_what_was_measured() -> None:
    assert first_plan(INDEX, N, N, 100) == Plan(100, LADDER[1])
    assert first_plan(INDEX, N, N, 1000) == Plan(1000, LADDER[2])


def test_between_two_measured_depths_the_effort_lies_between_those_measured() -> None:
    efforts = [effort(first_plan(INDEX, N, N, k))[2] for k in range(10, 101)]
    assert efforts == sorted(efforts)
    assert (efforts[0], efforts[1], efforts[-1]) == (16, 17, 32)
    (plan, middle) = first_plan(INDEX, N, N, 32), 10**1.5  # Half-way by the ratio of the depths.
    assert plan is not None
    assert plan.operating_point.search_parameter == 25
    assert abs(plan.operating_point.cost - (1024 + 7 * 24)) < 7
    assert (plan.depth, plan.candidates) == (32, 128)
    assert 31 < middle < 32


def test_with_a_filter_the_depth_is_that_at_which_enough_rows_pass() -> None:
    """10 x 5, and of what does not pass half as much again."""
    assert effort(first_plan(INDEX, N, N // 5, 10)) == (70, 70, 30)
    assert effort(first_plan(INDEX, N, N // 10, 10)) == (145, 145, 48)


def test_where_few_are_deleted_too_few_pass_by_chance_in_less_than_1_of_100_searches() -> None:
    random = np.random.default_rng(0)
    for share in (0.7, 0.85, 0.99):
        depth, _, _ = effort(first_plan(INDEX, N, round(share * N), 10))
        assert (random.binomial(depth, share, 100_000) < 10).mean() < 0.01


def test_a_few_deletions_do_not_deepen_the_search() -> None:
    assert first_plan(INDEX, N, N - 10, 10) == Plan(10, LADDER[0])
    assert effort(first_plan(INDEX, N, N - N // 200, 10)) == (11, 10, 16)


def test_where_a_fifth_is_deleted_the_effort_hardly_grows() -> None:
    assert effort(first_plan(INDEX, N, N - N // 5, 10)) == (18, 13, 18)


def test_after_too_few_results_the_next_search_is_deeper_and_the_last_exact() -> None:
    first = first_plan(INDEX, N, N // 2, 10)
    assert effort(first)[:2] == (25, 25)
    assert first is not None
    second = next_plan(INDEX, N, N // 2, first)
    assert second == Plan(100, LADDER[1])
    third = next_plan(INDEX, N, N // 2, second)
    assert effort(third)[:2] == (400, 400)
    assert third is not None
    assert next_plan(INDEX, N, N // 2, third) is None


def test_where_few_are_deleted_a_deeper_search_counts_as_deep_as_it_looks() -> None:
    """Those near the query may all be deleted."""
    first = first_plan(INDEX, N, N - N // 5, 10)
    assert first is not None
    assert effort(next_plan(INDEX, N, N - N // 5, first))[:2] == (72, 72)


def test_exact_search_is_chosen_where_it_is_cheaper() -> None:
    # 745 deep: 1,834 for the lists, 894 for 2,980 candidates, and 60 of them pass.
    assert first_plan(INDEX, N, 2_000, 10) is None
    assert first_plan(INDEX, N, 2_700, 10) is not None


def test_few_passing_products_are_searched_exactly() -> None:
    assert first_plan(INDEX, N, 500, 1) is None


def test_deeper_than_any_operating_point_the_search_is_exact() -> None:
    assert first_plan(INDEX, N, N, 1001) is None


def test_there_is_no_plan_for_zero_results() -> None:
    assert first_plan(INDEX, N, 0, 10) is None
    assert first_plan(INDEX, N, N, 0) is None


def test_a_space_without_an_ann_index_is_searched_exactly() -> None:
    assert first_plan(IndexEntry(), N, N, 10) is None
