"""What counts as worse than before a release: by more than a bound, and by more than chance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY, generate_latest

from lookalike.errors import BadSettings
from pipeline.metrics_page import Page, increase
from pipeline.release_comparison import Bounds, Finding, compare, recall_findings, wilson
from server import metrics
from tests.unit.pipeline.gateway_pages import GatewayPage

BOUNDS = Bounds()
Do = Callable[[GatewayPage], None]


def findings(before: Do, after: Do, bounds: Bounds = BOUNDS) -> dict[str, Finding]:
    gateway, pages = GatewayPage(), []
    for do in (lambda _: None, before, after):
        do(gateway)
        pages.append({"a": Page.parse(gateway.text())})
    found = compare(increase(pages[0], pages[1]), increase(pages[1], pages[2]), bounds)
    return {finding.figure: finding for finding in found}


def searches(ok: int, failed: int = 0, outcome: str = "INTERNAL") -> Do:
    def do(gateway: GatewayPage) -> None:
        gateway.search(ok)
        gateway.search(failed, outcome=outcome)

    return do


def timed(*groups: tuple[int, float], cached: bool = False) -> Do:
    def do(gateway: GatewayPage) -> None:
        for count, seconds in groups:
            gateway.search(count, seconds=seconds, cached=cached)

    return do


@pytest.mark.parametrize(
    ("before", "after", "within"),
    [
        (searches(1000), searches(1000), True),
        (searches(1000), searches(970, 30), False),
        (searches(1000), searches(998, 2), True),  # Chance.
        (searches(950, 50), searches(950, 50), True),  # As bad as before.
        (searches(950, 50), searches(850, 150), False),
        (searches(50), searches(970, 30), None),  # Too few before.
        (searches(1000), searches(20, 70), None),  # Too few after.
        (searches(100_000), searches(99_900, 100), True),  # One in a thousand more is allowed.
        (searches(100_000), searches(99_000, 1000), False),
    ],
)
def test_errors_count_by_their_share(before: Do, after: Do, within: bool | None) -> None:
    errors = [each for each in findings(before, after).values() if each.figure.startswith("Search: ")]
    assert [each.within for each in errors] == [within]


def test_each_kind_of_server_error_is_judged_alone_and_named() -> None:
    found = findings(searches(1000, 30), searches(1000, 300, "UNAVAILABLE"))
    assert found["Search: INTERNAL"].within is True
    assert found["Search: UNAVAILABLE"].within is False
    assert str(found["Search: UNAVAILABLE"]) == (
        "Search: UNAVAILABLE: 0.00% of 1030 before, 23.08% of 1300 after, allowed: 0.10% more"
    )


@pytest.mark.parametrize("outcome", ["INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED"])
def test_errors_of_callers_are_not_the_release_s(outcome: str) -> None:
    found = findings(searches(1000), searches(1000, 500, outcome))
    assert all(finding.within for figure, finding in found.items() if figure.startswith("Search: "))


def test_answers_that_are_degraded_more_often_are_told_by_their_reason() -> None:
    def after(gateway: GatewayPage) -> None:
        gateway.search(1000)
        gateway.degrade("shard_missing", 100)
        gateway.degrade("text_unknown", 5)
        gateway.degrade("changes_lost", 1000)  # An update does so, and mends it.

    found = findings(searches(1000), after)
    assert found["answers degraded by shard_missing"].within is False
    assert found["answers degraded by text_unknown"].within is True
    assert "answers degraded by changes_lost" not in found


def test_more_answers_without_a_hit_and_more_abstentions_are_out_of_bounds() -> None:
    def before(gateway: GatewayPage) -> None:
        gateway.search(1000)
        gateway.classify(900, 100)

    def after(gateway: GatewayPage) -> None:
        gateway.search(800)
        gateway.empty(200)
        gateway.classify(600, 400)

    same, worse = findings(before, before), findings(before, after)
    for figure in ("answers without a hit", "classifications that abstained"):
        assert (same[figure].within, worse[figure].within) == (True, False)


@pytest.mark.parametrize(
    ("after", "p50", "p99"),
    [
        (timed((1960, 0.004), (40, 0.03)), True, True),  # As before.
        (timed((1960, 0.012), (40, 0.03)), True, True),  # Three times the median, but nobody notices 12 ms.
        (timed((1960, 0.03), (40, 0.03)), False, True),
        (timed((1900, 0.004), (100, 0.2)), True, False),
        (timed((1975, 0.004), (25, 0.2)), True, True),  # 1.25 % are slower: chance.
        (timed((100, 0.004)), True, None),  # Too few for a p99.
        (timed((10, 0.004)), None, None),
    ],
)
def test_latency_is_judged_where_there_are_enough_answers(after: Do, p50: bool | None, p99: bool | None) -> None:
    found = findings(timed((1960, 0.004), (40, 0.03)), after)
    assert (found["Search image: p50"].within, found["Search image: p99"].within) == (p50, p99)


def test_answers_from_the_cache_do_not_make_a_release_look_slow() -> None:
    found = findings(timed((2000, 0.0005), cached=True), timed((2000, 0.03)))
    assert found["Search image: p50"].within is None
    found = findings(timed((2000, 0.03)), timed((2000, 0.0005), cached=True))
    assert "Search image: p50" not in found


def test_recall_below_the_promise_is_what_a_gateway_says_is_beyond_chance() -> None:
    good, poor, silent = GatewayPage("v2"), GatewayPage("v2"), GatewayPage("v2")
    good.recall(0.95, 0.97)
    poor.recall(0.95, 0.81, short=True)
    silent.recall(0.95, None)
    pages = {name: Page.parse(each.text()) for name, each in (("good", good), ("poor", poor), ("silent", silent))}

    def judged(*names: str) -> list[bool | None]:
        return [finding.within for finding in recall_findings([pages[name] for name in names], "v2")]

    assert judged("good", "silent") == [True]
    assert judged("good", "poor") == [False]
    assert judged("silent") == [None]
    assert recall_findings(pages.values(), "v1") == []
    (finding,) = recall_findings(pages.values(), "v2")
    assert "95.0% promised before, 81.0% at the gateway that finds least after" in str(finding)


def test_what_cannot_be_judged_says_so() -> None:
    found = findings(searches(10), searches(10))
    assert str(found["Search: server errors"]) == (
        "Search: server errors: not enough traffic to judge (0.00% of 10 before, 0.00% of 10 after)"
    )


def test_the_gateway_counts_all_that_is_compared_under_the_names_that_are_read() -> None:
    metrics.show_release("a version", {"image": 0.9})
    metrics.ANSWERS.labels("empty").inc(0)
    metrics.CLASSIFIED.labels("abstained").inc(0)
    metrics.DEGRADED.labels("shard_missing").inc(0)
    metrics.RECALL.labels("a version", "image").set(0.8)
    metrics.RECALL_SHORT.labels("a version", "image").set(1)
    metrics.observe_request("Search", metrics.RequestTimer(space="image"), "OK")
    real, stand_in = Page.parse(generate_latest(REGISTRY).decode()), GatewayPage("a version")
    stand_in.empty(1)
    stand_in.classify(1, 1)
    stand_in.degrade("shard_missing", 1)
    stand_in.recall(0.9, 0.8, short=True)
    page = Page.parse(stand_in.text())
    metrics.show_release("", {})
    assert real.started_s > 0
    for read, there in ((page.counters, real.counters), (page.gauges, real.gauges)):
        wanted = {(name, frozenset(dict(labels))) for name, labels in read}
        assert wanted <= {(name, frozenset(dict(labels))) for name, labels in there}


def test_wilson_s_bounds_are_those_of_the_formula() -> None:
    """By the score equation that defines them: the share is Z standard errors of each bound away from it."""
    for share, trials in ((0.1, 200.0), (0.5, 30.0), (0.99, 1000.0)):
        for bound in wilson(share, trials):
            assert abs(share - bound) / (bound * (1 - bound) / trials) ** 0.5 == pytest.approx(3.3)


@pytest.mark.parametrize("wrong", [{"error_share": -0.1}, {"latency_factor": 0.5}, {"min_calls": 0}])
def test_bounds_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSettings, match="bounds: "):
        Bounds(**wrong)  # type: ignore[arg-type]  # One of them.
