"""Service level objectives: the file that states them, and when they are met."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from loadtest import slo
from loadtest.run import OBJECTIVES
from lookalike.errors import BadSettings
from lookalike.runtime.histogram import Histogram, Labels

NO_FAILURES = slo.ClientTotals(seconds=10, calls=1000, failed=0)
P99 = {"error_ratio": 0.01, "latency": [{"method": "Search", "p99_s": 0.5}]}


def series(*counts: int, space: str = "image", outcome: str = "OK", cached: str = "false") -> dict[Labels, Histogram]:
    labels = {"method": "Search", "space": space, "outcome": outcome, "cached": cached}
    return {frozenset(labels.items()): Histogram((0.1, 0.5, 10.0, math.inf), counts, sum_s=1.0)}


def met(
    document: dict[str, Any], observed: dict[Labels, Histogram], clients: slo.ClientTotals = NO_FAILURES
) -> dict[str, bool | None]:
    return {each.objective: each.met for each in slo.judge(slo.parse(document), observed, clients)}


def test_the_objectives_of_the_project_can_be_read() -> None:
    objectives = slo.read(OBJECTIVES)
    optional = {latency.labels.get("space"): latency.optional for latency in objectives.latencies}
    assert optional == {None: False, "image": True, "text": True, "product": True}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "error_ratio is missing"),
        ({"error_ratio": 2}, "not a number in 0..1"),
        ({"error_ratio": math.nan}, "not a number"),
        ({"error_ratio": True}, "not a number"),
        ({"error_ratio": 0, "p99": 1}, "p99: no such key"),
        ({"error_ratio": 0, "min_requests_per_s": -1}, "not a number"),
        ({"error_ratio": 0, "latency": {"method": "Search"}}, "write \\[\\[latency\\]\\]"),
        ({"error_ratio": 0, "latency": [{"method": "Search"}]}, "p50_s or p99_s"),
        ({"error_ratio": 0, "latency": [{"p50_s": 0.5}]}, "needs method"),
        ({"error_ratio": 0, "latency": [{"method": "Search", "p50_s": 0.5, "p95_s": 1.0}]}, "p95_s: no such key"),
        ({"error_ratio": 0, "latency": [{"method": "Search", "p50_s": 0.5, "cached": "no"}]}, "not a true or false"),
        ({"error_ratio": 0, "latency": [{"method": "Search", "p50_s": 0.3}]}, "not a bound of the server"),
        ({"error_ratio": 0, "latency": [{"method": "Search", "p50_s": 0.5, "optional": 1}]}, "not a true or false"),
    ],
)
def test_unknown_keys_and_invalid_values_are_refused(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        slo.parse(document)


def test_a_file_that_is_missing_or_not_toml_is_an_error_that_names_it(tmp_path: Path) -> None:
    bad = tmp_path / "slo.toml"
    bad.write_text("error_ratio = = 1")
    with pytest.raises(BadSettings, match=str(bad)):
        slo.read(bad)
    with pytest.raises(BadSettings, match=r"none\.toml"):
        slo.read(tmp_path / "none.toml")


def test_a_run_within_every_bound_meets_all() -> None:
    document = {**P99, "min_requests_per_s": 99}
    assert met(document, series(900, 100, 0, 0)) == {
        "error ratio, by the server": True,
        "error ratio, by its users": True,
        "answers per second": True,
        "Search p99": True,
    }


def test_a_quantile_above_its_bound_is_a_miss() -> None:
    assert met(P99, series(980, 11, 9, 0))["Search p99"]
    assert not met(P99, series(900, 80, 20, 0))["Search p99"]


def test_the_verdict_is_by_the_counts_of_the_buckets_not_by_the_estimated_quantile() -> None:
    # Of 1,000 answers 989 came in time: the 990th is somewhere in the next bucket.
    assert not met(P99, series(0, 989, 11, 0))["Search p99"]
    assert met(P99, series(0, 990, 10, 0))["Search p99"]


def test_a_quantile_beyond_the_last_bound_is_a_miss() -> None:
    slowest = {"error_ratio": 0, "latency": [{"method": "Search", "p50_s": 10.0}]}
    verdict = slo.judge(slo.parse(slowest), series(0, 0, 0, 1000), NO_FAILURES)[-1]
    assert (verdict.measured, verdict.met) == ("> 10 s", False)


def test_an_objective_without_any_measured_call_is_a_miss() -> None:
    text = {"error_ratio": 0, "latency": [{"method": "Search", "space": "text", "p50_s": 0.5}]}
    verdict = slo.judge(slo.parse(text), series(1000, 0, 0, 0), NO_FAILURES)[-1]
    assert (verdict.measured, verdict.met) == ("0 answers, too few: at least 2 are needed", False)


def test_an_optional_objective_is_left_out_with_too_few_answers_and_judged_otherwise() -> None:
    row = {"method": "Search", "space": "text", "p50_s": 0.1, "optional": True}
    objectives = slo.parse({"error_ratio": 0, "latency": [row]})
    assert slo.judge(objectives, series(1000, 0, 0, 0), NO_FAILURES)[-1].met is None
    assert slo.judge(objectives, series(1000, 0, 0, 0, space="text"), NO_FAILURES)[-1].met is True
    assert slo.judge(objectives, series(0, 1000, 0, 0, space="text"), NO_FAILURES)[-1].met is False
    assert slo.judge(objectives, series(1, 0, 0, 0, space="text"), NO_FAILURES)[-1].met is None


@pytest.mark.parametrize(("answers", "is_met"), [(99, False), (100, True)])
def test_a_p99_needs_a_hundred_answers(answers: int, is_met: bool) -> None:
    assert met(P99, series(answers, 0, 0, 0))["Search p99"] is is_met


def test_objectives_can_be_for_one_space_and_for_cached_or_computed_answers() -> None:
    observed = series(0, 1000, 0, 0) | series(1000, 0, 0, 0, cached="true") | series(0, 0, 1000, 0, space="text")
    rows = [
        {"method": "Search", "space": "image", "cached": False, "p50_s": 0.1},
        {"method": "Search", "space": "image", "cached": True, "p50_s": 0.1},
        {"method": "Search", "space": "text", "p50_s": 0.5},
    ]
    assert met({"error_ratio": 0, "latency": rows}, observed) == {
        "error ratio, by the server": True,
        "error ratio, by its users": True,
        "Search image computed p50": False,
        "Search image cached p50": True,
        "Search text p50": False,
    }


def test_too_many_errors_are_a_miss() -> None:
    observed = series(985, 0, 0, 0) | series(15, 0, 0, 0, outcome="UNAVAILABLE")
    assert not met(P99, observed)["error ratio, by the server"]
    assert met({"error_ratio": 0.015}, observed)["error ratio, by the server"]


def test_errors_that_never_reached_the_server_are_a_miss_too() -> None:
    clients = slo.ClientTotals.of(
        {"seconds": 10.0, "kinds": {"text": {"calls": 90, "failed": 30}, "photo": {"calls": 10, "failed": 0}}}
    )
    assert clients == slo.ClientTotals(seconds=10.0, calls=100, failed=30)
    assert not met(P99, series(1000, 0, 0, 0), clients)["error ratio, by its users"]


def test_errors_that_come_fast_do_not_make_answers_look_fast() -> None:
    observed = series(5000, 0, 0, 0, outcome="RESOURCE_EXHAUSTED") | series(0, 0, 200, 0)
    assert not met({"error_ratio": 1, **{"latency": P99["latency"]}}, observed)["Search p99"]


def test_a_run_without_any_call_misses_everything() -> None:
    verdicts = slo.judge(slo.parse({**P99, "min_requests_per_s": 1}), {}, slo.ClientTotals(10, 0, 0))
    assert [verdict.met for verdict in verdicts] == [False] * 4


def test_too_little_throughput_is_a_miss() -> None:
    assert not met({"error_ratio": 0, "min_requests_per_s": 101}, series(1000, 0, 0, 0))["answers per second"]
