"""What gateways counted between two readings."""

from __future__ import annotations

import pytest

from lookalike.runtime.histogram import quantile
from pipeline.metrics_page import Page, increase
from tests.unit.pipeline.gateway_pages import GatewayPage

CALLS = "lookalike_request_seconds_count"


def test_only_what_was_counted_between_the_readings_rises_and_all_gateways_count_together() -> None:
    first, second = GatewayPage(), GatewayPage()
    first.search(5)
    before = {"a": Page.parse(first.text()), "b": Page.parse(second.text())}
    first.search(3)
    second.search(4, outcome="INTERNAL")
    risen = increase(before, {"a": Page.parse(first.text()), "b": Page.parse(second.text())})
    assert risen.total(CALLS) == 7
    assert risen.total(CALLS, outcome="OK") == 3
    assert risen.by(CALLS, "outcome", method="Search") == {"INTERNAL": 4, "OK": 3}
    assert risen.by(CALLS, "outcome", method="Classify") == {}


@pytest.mark.parametrize("started_s", [1000.0, 2000.0])
def test_a_gateway_that_restarted_counts_from_zero(started_s: float) -> None:
    """By its start time, or, where a page tells none, by a counter that fell."""
    before, again = GatewayPage(), GatewayPage(started_s=started_s)
    before.search(5)
    again.search(3 if started_s == 1000.0 else 8)
    risen = increase({"a": Page.parse(before.text())}, {"a": Page.parse(again.text())})
    assert risen.total(CALLS) == (3 if started_s == 1000.0 else 8)


def test_a_gateway_that_is_new_counts_and_one_that_is_gone_does_not() -> None:
    old, new = GatewayPage(), GatewayPage()
    old.search(5)
    new.search(2)
    assert increase({"a": Page.parse(old.text())}, {"b": Page.parse(new.text())}).total(CALLS) == 2


def test_histograms_of_all_gateways_are_one() -> None:
    first, second = GatewayPage(), GatewayPage()
    before = {"a": Page.parse(first.text()), "b": Page.parse(second.text())}
    first.search(99, seconds=0.004)
    second.search(101, seconds=0.3)
    risen = increase(before, {"a": Page.parse(first.text()), "b": Page.parse(second.text())})
    histogram = risen.histogram("lookalike_request_seconds", outcome="OK")
    assert histogram is not None
    assert histogram.count == 200
    assert (quantile(histogram, 0.25).high_s, quantile(histogram, 0.99).high_s) == (0.005, 0.5)
    assert risen.histogram("lookalike_request_seconds", outcome="INTERNAL") is None


def test_what_is_no_metrics_page_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a metrics page"):
        Page.parse("<html>a page not found</html>\n")
