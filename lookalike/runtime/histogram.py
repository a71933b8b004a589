"""Parse Prometheus histograms, take the increase between two scrapes, and estimate quantiles. Pure."""

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
    """Durations counted in buckets: bucket i counts those above bounds_s[i - 1] and at most bounds_s[i]."""

    bounds_s: tuple[float, ...]  # Ascending; the last is infinity.
    counts: tuple[int, ...]  # One for each bucket, not cumulative.
    sum_s: float

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile between low_s and high_s, the bounds of its bucket; its place between them is an estimate."""

    low_s: float
    high_s: float  # Infinity: above the last finite bound.
    estimate_s: float  # Interpolated linearly within the bucket; infinity if high_s is.

    def __str__(self) -> str:
        if math.isinf(self.high_s):
            return f"> {self.low_s:g} s"
        scale, unit = (1, "s") if self.high_s > 1 else (1000, "ms")
        estimate, low, high = (f"{seconds * scale:.3g}" for seconds in (self.estimate_s, self.low_s, self.high_s))
        return f"{estimate} {unit} ({low}–{high})"


def parse_histograms(page: str, name: str) -> dict[Labels, Histogram]:
    """Parse the histogram `name` on a metrics page: each of its series by its labels (without `le`)."""
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
    return {labels: histogram_of(series, sums.get(labels, 0.0)) for labels, series in cumulative.items()}


def histogram_of(cumulative: Mapping[float, int], sum_s: float) -> Histogram:
    """The histogram whose buckets count all durations up to their bounds, as metrics pages have them."""
    bounds = tuple(sorted(cumulative))
    previous = (0, *(cumulative[bound] for bound in bounds[:-1]))
    counts = tuple(cumulative[bound] - before for bound, before in zip(bounds, previous, strict=True))
    return Histogram(bounds, counts, sum_s)


def increase(before: Mapping[Labels, Histogram], after: Mapping[Labels, Histogram]) -> dict[Labels, Histogram]:
    """The observations of each series between two scrapes; series without any are left out.

    Raises Unavailable if a count fell: the server restarted in between.
    """
    increases = {}
    for labels, now in after.items():
        then = before.get(labels)
        added = now if then is None else _difference(now, then)
        if min(added.counts) < 0:
            raise Unavailable("a counter fell between two scrapes: the server restarted during the run")
        if added.count:
            increases[labels] = added
    if before.keys() - after.keys():
        raise Unavailable("a series vanished between two scrapes: the server restarted during the run")
    return increases


def _difference(now: Histogram, then: Histogram) -> Histogram:
    if now.bounds_s != then.bounds_s:
        raise Unavailable("the buckets changed between two scrapes: the server restarted during the run")
    counts = tuple(a - b for a, b in zip(now.counts, then.counts, strict=True))
    return Histogram(now.bounds_s, counts, now.sum_s - then.sum_s)


def merge_series(series: Mapping[Labels, Histogram], **labels: str) -> Histogram | None:
    """Sum all series that have these labels; None if there is none."""
    matching = [each for own, each in series.items() if own >= frozenset(labels.items())]
    if not matching:
        return None
    columns = zip(*(each.counts for each in matching), strict=True)
    return Histogram(matching[0].bounds_s, tuple(map(sum, columns)), sum(each.sum_s for each in matching))


def quantile(histogram: Histogram, q: float) -> Quantile:
    """Estimate the quantile `q` (0..1) of the observations, as Prometheus' histogram_quantile does.

    Raises ValueError for an empty histogram.
    """
    if not histogram.count:
        raise ValueError("an empty histogram has no quantiles")
    rank = round(q * histogram.count, 6)  # Rounded because 0.99 * count may be slightly above an integer.
    cumulative = list(accumulate(histogram.counts))
    i = next(i for i, count in enumerate(cumulative) if count >= rank and histogram.counts[i])
    low_s = histogram.bounds_s[i - 1] if i else 0.0
    high_s = histogram.bounds_s[i]
    if math.isinf(high_s):
        return Quantile(low_s, high_s, math.inf)
    fraction = (rank - (cumulative[i] - histogram.counts[i])) / histogram.counts[i]
    return Quantile(low_s, high_s, low_s + (high_s - low_s) * fraction)
