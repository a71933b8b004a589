"""Prometheus histograms: what was added between two scrapes, and what is known of its quantiles. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.parser import text_string_to_metric_families

from lookalike.errors import Unavailable

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Seconds, counted in buckets. Bucket i holds what is above bounds_s[i - 1] and not above bounds_s[i]."""

    bounds_s: tuple[float, ...]  # Rising; the last is infinity.
    counts: tuple[int, ...]  # One for each bucket, not cumulative.
    sum_s: float

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile is somewhere in low_s..high_s: more the buckets do not say. Between them it is estimated."""

    low_s: float
    high_s: float  # Infinity: beyond the last bound.
    estimate_s: float  # Linear within the bucket; infinity where that has no end.

    def __str__(self) -> str:
        if math.isinf(self.high_s):
            return f"> {self.low_s:g} s"
        scale, unit = (1, "s") if self.high_s > 1 else (1000, "ms")
        estimate, low, high = (f"{seconds * scale:.3g}" for seconds in (self.estimate_s, self.low_s, self.high_s))
        return f"{estimate} {unit} ({low}–{high})"


def parsed(page: str, name: str) -> dict[Labels, Histogram]:
    """Every series of the histogram `name` on a metrics page, by its labels (without `le`)."""
    cumulative: dict[Labels, dict[float, int]] = {}
    sums: dict[Labels, float] = {}
    for family in text_string_to_metric_families(page):
        if family.name != name:
            continue
        for sample in family.samples:
            labels = frozenset((key, value) for key, value in sample.labels.items() if key != "le")
            if sample.name == f"{name}_bucket":
                cumulative.setdefault(labels, {})[float(sample.labels["le"])] = int(sample.value)
            elif sample.name == f"{name}_sum":
                sums[labels] = sample.value
    return {labels: _histogram(series, sums.get(labels, 0.0)) for labels, series in cumulative.items()}


def _histogram(cumulative: Mapping[float, int], sum_s: float) -> Histogram:
    bounds = tuple(sorted(cumulative))
    below = (0, *(cumulative[bound] for bound in bounds[:-1]))
    return Histogram(
        bounds, tuple(cumulative[bound] - under for bound, under in zip(bounds, below, strict=True)), sum_s
    )


def added(before: Mapping[Labels, Histogram], after: Mapping[Labels, Histogram]) -> dict[Labels, Histogram]:
    """What each series gained between two scrapes; series that gained nothing are left out.

    Raises Unavailable when a count fell: the process that counts was started anew in between.
    """
    gained = {}
    for labels, now in after.items():
        then = before.get(labels)
        gain = now if then is None else _difference(now, then)
        if min(gain.counts) < 0:
            raise Unavailable("a counter fell between two scrapes: the server was started anew during the run")
        if gain.count:
            gained[labels] = gain
    if before.keys() - after.keys():
        raise Unavailable("a series vanished between two scrapes: the server was started anew during the run")
    return gained


def _difference(now: Histogram, then: Histogram) -> Histogram:
    if now.bounds_s != then.bounds_s:
        raise Unavailable("the buckets changed between two scrapes: the server was started anew during the run")
    counts = tuple(a - b for a, b in zip(now.counts, then.counts, strict=True))
    return Histogram(now.bounds_s, counts, now.sum_s - then.sum_s)


def merged(series: Mapping[Labels, Histogram], **wanted: str) -> Histogram | None:
    """The sum of all series that carry the labels wanted; None where there are none."""
    chosen = [each for labels, each in series.items() if labels >= frozenset(wanted.items())]
    if not chosen:
        return None
    columns = zip(*(each.counts for each in chosen), strict=True)
    return Histogram(chosen[0].bounds_s, tuple(map(sum, columns)), sum(each.sum_s for each in chosen))


def quantile(histogram: Histogram, q: float) -> Quantile:
    """Where the share `q` (0..1) of the observations ends, as Prometheus' histogram_quantile has it.

    Raises ValueError for an empty histogram: it has no quantiles.
    """
    if not histogram.count:
        raise ValueError("an empty histogram has no quantiles")
    rank = round(q * histogram.count, 6)  # 0.99 has no exact float: 0.99 of some counts is a hair above a whole number.
    cumulative = list(accumulate(histogram.counts))
    i = next(i for i, reached in enumerate(cumulative) if reached >= rank and histogram.counts[i])
    low_s = histogram.bounds_s[i - 1] if i else 0.0
    high_s = histogram.bounds_s[i]
    if math.isinf(high_s):
        return Quantile(low_s, high_s, math.inf)
    within = (rank - (cumulative[i] - histogram.counts[i])) / histogram.counts[i]
    return Quantile(low_s, high_s, low_s + (high_s - low_s) * within)
