"""Report the results of a load test as tables or as JSON. Prints; no other I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.plan import LoadPlan
from loadtest.slo import Verdict
from lookalike.runtime.histogram import Histogram, Labels, Quantile, merge_series, quantile


@dataclass(frozen=True, kw_only=True)
class LoadTestResult:
    """The results of a load test."""

    plan: LoadPlan
    client_measurements: Mapping[str, Any]  # Measured by the users: `seconds`, `kinds`, `errors`.
    left_out: Mapping[str, str]  # Kinds of query that were not sent, and the reasons.
    requests: Mapping[Labels, Histogram]  # Durations of requests that the gateway observed during the test.
    stages: Mapping[Labels, Histogram]  # The same for the stages of searches.
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """The response times of one method and space, from the cache or computed."""

    method: str
    space: str
    cached: str
    histogram: Histogram


def rows(requests: Mapping[Labels, Histogram]) -> Iterator[LatencyRow]:
    """Successful calls by method, space and whether cached. Failed calls count in the error ratio only."""
    names = ("method", "space", "cached")
    keys = {tuple(dict(labels).get(name, "") for name in names) for labels in requests}
    for method, space, cached in sorted(keys):
        succeeded = merge_series(requests, method=method, space=space, cached=cached, outcome="OK")
        if succeeded:
            yield LatencyRow(method=method, space=space, cached=cached, histogram=succeeded)


def outcomes(requests: Mapping[Labels, Histogram]) -> dict[str, int]:
    """The number of calls by gRPC status code."""
    counts: dict[str, int] = {}
    for labels, histogram in requests.items():
        code = dict(labels).get("outcome", "")
        counts[code] = counts.get(code, 0) + histogram.count
    return dict(sorted(counts.items()))


def cached_share(requests: Mapping[Labels, Histogram]) -> float:
    """The share of successful calls whose answer came from the cache."""
    succeeded, cached = merge_series(requests, outcome="OK"), merge_series(requests, outcome="OK", cached="true")
    return cached.count / succeeded.count if succeeded and cached else 0.0


def document(result: LoadTestResult) -> dict[str, Any]:
    """The content of the tables as JSON; times in seconds, null for an unknown bound."""
    return {
        "address": result.plan.address,
        "users": result.plan.users,
        "offered_per_s": result.plan.rate or None,
        "seconds": result.client_measurements["seconds"],
        "seed": result.plan.seed,
        "mix": dict(result.plan.mix),
        "left_out": dict(result.left_out),
        "outcomes": outcomes(result.requests),
        "cached_share": cached_share(result.requests),
        "server": [
            {
                "method": row.method,
                "space": row.space,
                "cached": row.cached == "true",
                "answers": row.histogram.count,
                "p50": _interval(quantile(row.histogram, 0.5)),
                "p99": _interval(quantile(row.histogram, 0.99)),
            }
            for row in rows(result.requests)
        ],
        "stages": {
            dict(labels)["stage"]: {"times": each.count, "mean_s": each.sum_s / each.count}
            for labels, each in sorted(result.stages.items(), key=str)
        },
        "client": result.client_measurements["kinds"],
        "errors": result.client_measurements["errors"],
        "objectives": [
            {"objective": each.objective, "allowed": each.allowed, "measured": each.measured, "met": each.met}
            for each in result.verdicts
        ],
        "met": not any(verdict.met is False for verdict in result.verdicts),
    }


def _interval(value: Quantile) -> dict[str, float | None]:
    bounded = math.isfinite(value.high_s)
    return {
        "estimate_s": value.estimate_s if bounded else None,
        "above_s": value.low_s,
        "at_most_s": value.high_s if bounded else None,
    }


def show(result: LoadTestResult) -> None:
    """Print the results as tables."""
    console = Console()
    succeeded = merge_series(result.requests, outcome="OK")
    seconds = result.client_measurements["seconds"]
    per_s = (succeeded.count if succeeded else 0) / seconds
    offered = f"{result.plan.rate:g} calls/s offered" if result.plan.rate else "no rate limit"
    console.print(
        f"{result.plan.users} users, {offered}, {seconds:.1f} s, seed {result.plan.seed}: {per_s:.1f} answers/s, "
        f"{cached_share(result.requests):.0%} from the cache; "
        + ", ".join(f"{code} {count}" for code, count in outcomes(result.requests).items())
    )
    for kind, reason in result.left_out.items():
        console.print(f"[yellow]{kind} queries were left out:[/] {escape(reason)}", highlight=False)
    console.print(_server_table(result), _stage_table(result), _client_table(result), _verdict_table(result), sep="\n")
    console.print("A quantile lies between the bounds of its bucket (in brackets); the value is an estimate.")
    for error in result.client_measurements["errors"]:
        console.print(f"[red]{error['times']} × {error['kind']}:[/] {escape(error['error'])}", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table


def _server_table(result: LoadTestResult) -> Table:
    table = _table("Measured by the gateway", "method, space", "answers", "p50", "p99")
    for row in rows(result.requests):
        name = f"{row.method} {row.space} {'cached' if row.cached == 'true' else 'computed'}"
        p50, p99 = quantile(row.histogram, 0.5), quantile(row.histogram, 0.99)
        table.add_row(name, str(row.histogram.count), str(p50), str(p99))
    return table


def _stage_table(result: LoadTestResult) -> Table:
    table = _table("Stages in the gateway", "stage", "count", "mean", "p99")
    for labels, each in sorted(result.stages.items(), key=str):
        mean = f"{each.sum_s / each.count * 1000:.3g} ms"
        table.add_row(dict(labels)["stage"], str(each.count), mean, str(quantile(each, 0.99)))
    return table


def _client_table(result: LoadTestResult) -> Table:
    table = _table("Measured by the users (includes their own time)", "kind", "calls", "failed", "p50", "p99")
    for kind, each in result.client_measurements["kinds"].items():
        p50, p99 = (f"{each[name] * 1000:.3g} ms" for name in ("p50_s", "p99_s"))
        table.add_row(kind, str(each["calls"]), str(each["failed"]), p50, p99)
    return table


_VERDICTS = {True: "[green]met[/]", False: "[red]MISSED[/]", None: "[yellow]left out[/]"}


def _verdict_table(result: LoadTestResult) -> Table:
    table = _table("Objectives", "objective", "allowed", "measured", "")
    for each in result.verdicts:
        table.add_row(each.objective, each.allowed, each.measured, _VERDICTS[each.met])
    return table
