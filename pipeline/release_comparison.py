"""Compares what gateways counted before and after a release: errors, degraded answers, latency, recall. Pure.

A difference counts only if it is larger than a bound, and by more than chance explains: its lower limit by Newcombe's
method (Statistics in Medicine 17, 1998, method 10) from Wilson's bounds of both shares lies above the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lookalike.errors import BadSettings
from lookalike.runtime.histogram import Histogram, quantile
from pipeline.metrics_page import Increase, Page

REQUESTS = "lookalike_request_seconds"
RELEASE = "lookalike_release"
# The server's own failures; others are of what callers sent, and come and go with the callers.
SERVER_ERRORS = ("DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
# Some ten figures are judged every ten seconds for ten minutes: at 3.3, one time in 2,000 each, a release that changes
# nothing is rarely refused, and a doubled share still shows within a hundred calls.
Z = 3.3


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much worse a figure may be than before. Shares are of 1."""

    # As the objectives of a load test (loadtest/slo.toml): one call in a thousand fails.
    error_share: float = 0.001
    # A shard that restarts meanwhile degrades some answers; a release that does so to one in a hundred is worse.
    degraded_share: float = 0.01
    # Shoppers' queries differ by the hour, more than answers without any hit do.
    empty_share: float = 0.01
    # A classifier that was trained anew sets its thresholds anew, and abstains more or less by that alone.
    abstained_share: float = 0.05
    # A release runs beside the one before, and its first answers find nothing in the caches of processes and files.
    latency_factor: float = 2.0
    # Below this nobody notices: a median that doubles from 2 ms to 4 ms is no reason to go back.
    latency_floor_s: float = 0.02
    # Fewer calls than this in either time say nothing of a share, and of a p99 a hundred times its share's inverse.
    min_calls: int = 100
    # What an update brings about by itself, and mends afterwards (`catalog reencode`).
    tolerated_degradations: tuple[str, ...] = ("changes_lost",)

    def __post_init__(self) -> None:
        shares = (self.error_share, self.degraded_share, self.empty_share, self.abstained_share)
        if not all(0 <= share <= 1 for share in shares):
            raise BadSettings(f"bounds: shares are in 0..1, not {', '.join(map(str, shares))}")
        if not (self.latency_factor >= 1 and self.latency_floor_s >= 0 and self.min_calls >= 1):
            raise BadSettings("bounds: latency_factor and min_calls are 1 at least, latency_floor_s is not negative")


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure, before and after."""

    figure: str
    before: str
    after: str
    bound: str
    within: bool | None  # None: there was not enough traffic to judge.

    def __str__(self) -> str:
        if self.within is None:
            return f"{self.figure}: not enough traffic to judge ({self.before} before, {self.after} after)"
        return f"{self.figure}: {self.before} before, {self.after} after, allowed: {self.bound}"


def compare(before: Increase, after: Increase, bounds: Bounds) -> list[Finding]:
    """One finding for each figure that has calls."""
    return [
        *compare_errors(before, after, bounds),
        *_degradations(before, after, bounds),
        *_outcomes(before, after, bounds),
        *_latencies(before, after, bounds),
    ]


def compare_errors(before: Increase, after: Increase, bounds: Bounds) -> Iterator[Finding]:
    """The share of each method's calls that ended with each of the server's own errors."""
    calls_before, calls_after = (each.by(f"{REQUESTS}_count", "method") for each in (before, after))
    for method, calls in calls_after.items():
        outcomes = after.by(f"{REQUESTS}_count", "outcome", method=method)
        then = before.by(f"{REQUESTS}_count", "outcome", method=method)
        codes = [code for code in SERVER_ERRORS if outcomes.get(code) or then.get(code)] or ["server errors"]
        for code in codes:
            yield _judge_share(
                f"{method}: {code}",
                (then.get(code, 0.0), calls_before.get(method, 0.0)),
                (outcomes.get(code, 0.0), calls),
                bounds.error_share,
                bounds,
            )


def recall_findings(pages: Iterable[Page], version: str) -> list[Finding]:
    """Of each space, whether a gateway has found less than the build of the version promised, beyond chance."""
    promised, found, short = dict[str, float](), dict[str, float](), dict[str, float]()
    for page in pages:
        for values, name, worse in (
            (promised, "lookalike_recall_promised", min),
            (found, "lookalike_recall_at_10", min),
            (short, "lookalike_recall_short", max),
        ):
            for (each, labels), value in page.gauges.items():
                own = dict(labels)
                if each == name and own["version"] == version:
                    values[own["space"]] = worse(values.get(own["space"], value), value)
    return [
        Finding(
            f"online recall@10 of {space}",
            f"{recall:.1%} promised",
            f"{found[space]:.1%} at the gateway that finds least" if space in found else "no search compared",
            "no less than promised, beyond chance",
            None if space not in found else not short.get(space),
        )
        for space, recall in sorted(promised.items())
    ]


def _degradations(before: Increase, after: Increase, bounds: Bounds) -> Iterator[Finding]:
    reasons_before, reasons_after = (each.by("lookalike_degraded_total", "reason") for each in (before, after))
    answers_before, answers_after = map(_answers, (before, after))
    for reason in sorted({*reasons_before, *reasons_after}.difference(bounds.tolerated_degradations)):
        yield _judge_share(
            f"answers degraded by {reason}",
            (reasons_before.get(reason, 0.0), answers_before),
            (reasons_after.get(reason, 0.0), answers_after),
            bounds.degraded_share,
            bounds,
        )


def _answers(increase: Increase) -> float:
    return increase.total("lookalike_answers_total") + increase.total("lookalike_classified_total")


def _outcomes(before: Increase, after: Increase, bounds: Bounds) -> Iterator[Finding]:
    """What is no error and no degraded answer, and yet worth less."""
    for figure, name, part, bound in (
        ("answers without a hit", "lookalike_answers_total", {"hits": "empty"}, bounds.empty_share),
        (
            "classifications that abstained",
            "lookalike_classified_total",
            {"outcome": "abstained"},
            bounds.abstained_share,
        ),
    ):
        if after.total(name):
            then, now = ((each.total(name, **part), each.total(name)) for each in (before, after))
            yield _judge_share(figure, then, now, bound, bounds)


def _judge_share(
    figure: str, before: tuple[float, float], after: tuple[float, float], bound: float, bounds: Bounds
) -> Finding:
    (count1, of1), (count2, of2) = before, after
    within = None
    if min(of1, of2) >= bounds.min_calls:
        share1, share2 = min(1.0, count1 / of1), min(1.0, count2 / of2)
        lower, upper = wilson(share2, of2)[0], wilson(share1, of1)[1]
        within = share2 - share1 - math.hypot(share2 - lower, upper - share1) <= bound
    return Finding(figure, _shown(count1, of1), _shown(count2, of2), f"{bound:.2%} more", within)


def _shown(count: float, of: float) -> str:
    return f"{count / of:.2%} of {of:.0f}" if of else "none of 0"


def _latencies(before: Increase, after: Increase, bounds: Bounds) -> Iterator[Finding]:
    """Of answers that were computed: the caches are empty after a release, so that more are."""
    computed: Mapping[str, str] = {"outcome": "OK", "cached": "false"}
    for method in after.by(f"{REQUESTS}_count", "method", **computed):
        for space in after.by(f"{REQUESTS}_count", "space", method=method, **computed):
            labels = {"method": method, "space": space, **computed}
            then, now = (each.histogram(REQUESTS, **labels) for each in (before, after))
            if now is not None and now.count:
                for q in (0.5, 0.99):
                    yield _judge_latency(f"{method} {space}".rstrip(), q, then, now, bounds)


def _judge_latency(what: str, q: float, then: Histogram | None, now: Histogram, bounds: Bounds) -> Finding:
    figure, count = f"{what}: p{q * 100:g}", then.count if then else 0
    needed = max(bounds.min_calls, math.ceil(10 / (1 - q)))  # Ten answers beyond the quantile.
    if then is None or min(count, now.count) < needed:
        return Finding(figure, f"{count} answers", f"{now.count} answers", f"{needed} answers are needed", None)
    was, is_ = quantile(then, q), quantile(now, q)
    allowed_s = max(bounds.latency_floor_s, bounds.latency_factor * was.high_s)
    # The next bound of a bucket, so that it is known of each answer whether it was slower.
    allowed_s = min((bound for bound in now.bounds_s if bound >= allowed_s - 1e-9), default=math.inf)
    slower = sum(n for bound, n in zip(now.bounds_s, now.counts, strict=True) if bound > allowed_s) / now.count
    within = wilson(slower, now.count)[0] <= 1 - q
    return Finding(figure, str(was), str(is_), f"{allowed_s:g} s", within)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """The lower and the upper bound of a share (Wilson 1927)."""
    spread = Z * Z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
