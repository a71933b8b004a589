"""Increases and quantiles of Prometheus histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as PrometheusHistogram

from lookalike.errors import Unavailable
from lookalike.runtime.histogram import Histogram, increase, merge_series, parse_histograms, quantile
from lookalike.runtime.telemetry import SECONDS_BUCKETS

INF = math.inf
IMAGE = frozenset({("space", "image"), ("outcome", "OK")})
TEXT = frozenset({("space", "text"), ("outcome", "OK")})


def histogram_of(*counts: int) -> Histogram:
    return Histogram((1.0, 2.0, INF), counts, sum_s=float(sum(counts)))


class Server:
    """A server whose metrics page is written by prometheus_client, as in production."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = PrometheusHistogram("a_seconds", "", ["space"], buckets=SECONDS_BUCKETS, registry=self.registry)

    def scrape(self) -> dict[frozenset[tuple[str, str]], Histogram]:
        return parse_histograms(generate_latest(self.registry).decode(), "a_seconds")


def test_a_page_is_read_into_one_histogram_per_series() -> None:
    server = Server()
    for seconds in (0.0005, 0.001, 0.3, 99):
        server.seconds.labels("image").observe(seconds)
    server.seconds.labels("text").observe(0.02)
    page = server.scrape()
    assert set(page) == {frozenset({("space", "image")}), frozenset({("space", "text")})}
    image = page[frozenset({("space", "image")})]
    assert image.bounds_s == (*SECONDS_BUCKETS, INF)
    assert (image.count, image.counts[0], image.counts[-1]) == (4, 2, 1)  # A bound belongs to the bucket below it.
    assert image.sum_s == pytest.approx(99.3015)


def test_a_page_without_the_histogram_has_no_series() -> None:
    assert parse_histograms("# TYPE other counter\nother_total 3\n", "a_seconds") == {}


def test_only_observations_between_two_scrapes_count() -> None:
    server = Server()
    server.seconds.labels("image").observe(0.3)
    server.seconds.labels("text").observe(0.3)
    before = server.scrape()
    server.seconds.labels("image").observe(0.004)
    server.seconds.labels("image").observe(0.004)
    added = increase(before, server.scrape())
    assert list(added) == [frozenset({("space", "image")})]
    (only,) = added.values()
    assert only.count == 2
    assert quantile(only, 0.99).high_s == 0.005
    assert only.sum_s == pytest.approx(0.008)


def test_a_new_series_counts_entirely() -> None:
    assert increase({}, {IMAGE: histogram_of(1, 2, 3)}) == {IMAGE: histogram_of(1, 2, 3)}


@pytest.mark.parametrize(
    "after",
    [{IMAGE: histogram_of(0, 9, 9)}, {TEXT: histogram_of(5, 5, 5)}, {IMAGE: Histogram((1.0, INF), (9, 9), sum_s=1)}],
)
def test_a_restart_of_the_server_is_an_error(after: dict[frozenset[tuple[str, str]], Histogram]) -> None:
    with pytest.raises(Unavailable, match="restarted"):
        increase({IMAGE: histogram_of(1, 1, 1)}, after)


def test_series_are_merged_by_labels() -> None:
    series = {
        IMAGE: histogram_of(1, 0, 0),
        TEXT: histogram_of(0, 2, 0),
        frozenset({("space", "text"), ("outcome", "INTERNAL")}): histogram_of(0, 0, 4),
    }
    assert merge_series(series) == Histogram((1.0, 2.0, INF), (1, 2, 4), sum_s=7)
    assert merge_series(series, space="text", outcome="OK") == histogram_of(0, 2, 0)
    assert merge_series(series, space="product") is None


@pytest.mark.parametrize(
    ("q", "low_s", "high_s", "estimate_s"),
    [(0.25, 0, 1, 0.5), (0.5, 0, 1, 1.0), (0.75, 1, 2, 1.5), (1.0, 1, 2, 2.0), (0.0, 0, 1, 0.0)],
)
def test_a_quantile_is_interpolated_within_its_bucket(q: float, low_s: float, high_s: float, estimate_s: float) -> None:
    result = quantile(histogram_of(2, 2, 0), q)
    assert (result.low_s, result.high_s, result.estimate_s) == (low_s, high_s, estimate_s)


def test_a_quantile_is_never_in_an_empty_bucket() -> None:
    assert quantile(histogram_of(0, 4, 0), 0.0).low_s == 1.0


def test_a_quantile_above_the_last_bound_has_no_estimate() -> None:
    server = Server()
    for seconds in (0.01, 11.0, 4000.0):
        server.seconds.labels("image").observe(seconds)
    (histogram,) = server.scrape().values()
    result = quantile(histogram, 0.99)
    assert (result.low_s, result.high_s, result.estimate_s) == (10.0, INF, INF)
    assert str(result) == "> 10 s"


def test_a_quantile_is_printed_with_the_bounds_of_its_bucket() -> None:
    assert str(quantile(Histogram((0.05, 0.1, 2.5, INF), (0, 4, 0, 0), 0.3), 0.5)) == "75 ms (50–100)"
    assert str(quantile(Histogram((1.0, 2.5, INF), (0, 1, 0), 2.0), 1.0)) == "2.5 s (1–2.5)"


def test_an_empty_histogram_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="empty"):
        quantile(histogram_of(0, 0, 0), 0.5)


@given(st.lists(st.floats(0.0001, 20), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_the_true_quantile_lies_between_the_reported_bounds(seconds: list[float], q: float) -> None:
    server = Server()
    for each in seconds:
        server.seconds.labels("image").observe(each)
    (histogram,) = server.scrape().values()
    result = quantile(histogram, q)
    true_s = float(np.quantile(seconds, q, method="inverted_cdf"))
    assert result.low_s < true_s <= result.high_s
    assert result.low_s <= result.estimate_s <= result.high_s
