"""What a gateway's metrics page says, and how much its counters rose between two readings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from lookalike.runtime.histogram import Histogram, histogram_of

Series = tuple[str, frozenset[tuple[str, str]]]  # A sample's name and its labels.

_PREFIX, _STARTED = "lookalike_", "process_start_time_seconds"
_COUNTED = frozenset({"counter", "histogram"})


@dataclass(frozen=True)
class Page:
    """One page: the gateway's own samples."""

    started_s: float  # Unix time; 0: it does not say.
    counters: Mapping[Series, float]  # Those of histograms, too.
    gauges: Mapping[Series, float]

    @classmethod
    def parse(cls, text: str) -> Page:
        """Raises ValueError for what is no metrics page."""
        started_s, counters, gauges = 0.0, dict[Series, float](), dict[Series, float]()
        for family in _families(text):
            if family.name == _STARTED:
                started_s = family.samples[0].value
            if not family.name.startswith(_PREFIX):
                continue
            target = counters if family.type in _COUNTED else gauges
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    target[sample.name, frozenset(sample.labels.items())] = sample.value
        return cls(started_s, counters, gauges)

    def labels_of(self, name: str) -> list[dict[str, str]]:
        """The labels of the gauge's series."""
        return [dict(labels) for (each, labels) in self.gauges if each == name]


def _families(text: str) -> list[Metric]:
    try:
        return [*text_string_to_metric_families(text)]
    except ValueError as error:
        raise ValueError(f"not a metrics page: {error}") from error


@dataclass(frozen=True)
class Increase:
    """How much the counters of all gateways rose together in a time."""

    rises: Mapping[Series, float]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series that have these labels."""
        return sum(rise for _, rise in self._having(name, labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The sums by the values of a label, those with these other labels."""
        sums: dict[str, float] = {}
        for own, rise in self._having(name, labels):
            value = dict(own)[label]
            sums[value] = sums.get(value, 0.0) + rise
        return dict(sorted(sums.items()))

    def histogram(self, name: str, **labels: str) -> Histogram | None:
        """The sum of all series of a histogram that have these labels; None if there is none."""
        buckets = {float(bound): int(count) for bound, count in self.by(f"{name}_bucket", "le", **labels).items()}
        return histogram_of(buckets, self.total(f"{name}_sum", **labels)) if buckets else None

    def _having(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[frozenset[tuple[str, str]], float]]:
        wanted = labels.items()
        return ((own, rise) for (each, own), rise in self.rises.items() if each == name and own >= wanted)


def increase(before: Mapping[str, Page], after: Mapping[str, Page]) -> Increase:
    """The rise of each counter between two readings of pages, by the gateways' addresses.

    A gateway that restarted counts from zero, so that its calls from before are left out; so does one that is new.
    """
    rises: dict[Series, float] = {}
    for address, page in after.items():
        for series, rise in _rises(before.get(address), page):
            rises[series] = rises.get(series, 0.0) + rise
    return Increase(rises)


def _rises(before: Page | None, after: Page) -> Iterable[tuple[Series, float]]:
    if before is None or _restarted(before, after):
        return after.counters.items()
    return ((series, value - before.counters.get(series, 0.0)) for series, value in after.counters.items())


def _restarted(before: Page, after: Page) -> bool:
    """A series that is gone says nothing: those of a version end with it."""
    fell = any(after.counters.get(series, value) < value for series, value in before.counters.items())
    return fell or before.started_s != after.started_s
