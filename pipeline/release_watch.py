"""Watches gateways after a release was published: did they move to it, and are they well? I/O through `read_pages`.

Before publishing, the caller reads the pages twice, at the beginning of the update and at its end: what was counted
between them is what "before" means. A reading can be kept as text (`Reading.dump`), so that another process may watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from lookalike.credentials import ApiKey
from lookalike.errors import BadSettings
from pipeline import release_comparison
from pipeline.gateway_metrics import Reading, check_url, read_pages
from pipeline.metrics_page import Page, increase
from pipeline.release_comparison import RELEASE, Bounds, Finding


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    metrics: tuple[str, ...]  # URLs of gateways' pages; a name may stand for several.
    watch_s: float = 600.0  # After all gateways have moved: at 10 calls a second 6,000, of which a p99 can be judged.
    interval_s: float = 10.0  # Between readings: what is out of bounds is seen so soon.
    move_timeout_s: float = 900.0  # Shards fetch, verify and warm up the release first, beside what they serve.
    read_timeout_s: float = 5.0  # Of one page.
    api_key: ApiKey | None = field(default=None, repr=False)  # With the scope admin, for gateways that ask for keys.
    # Readings in a row in which a gateway may be silent: a rolling restart is no fault of the release.
    max_silent_readings: int = 6
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise BadSettings("--gateway-metrics: name the metrics page of every gateway")
        for url in self.metrics:
            check_url(url)
        if min(self.watch_s, self.interval_s, self.move_timeout_s, self.read_timeout_s) <= 0:
            raise BadSettings("the watch's times must be above 0 s")
        if self.max_silent_readings < 1:
            raise BadSettings("max_silent_readings must be 1 at least")


class Outcome(Enum):
    OK = "ok"
    OUT_OF_BOUNDS = "out_of_bounds"
    NOT_MOVED = "not_moved"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What gateways said before a release was published."""

    start: Reading
    end: Reading


@dataclass(frozen=True, kw_only=True)
class WatchVerdict:
    outcome: Outcome
    reasons: tuple[str, ...]  # Why it is not OK, as sentences.
    findings: tuple[Finding, ...]  # Every figure at the last reading.
    watched_s: float  # Since all gateways had moved.

    @property
    def unjudged(self) -> list[str]:
        """The figures of which there was not enough traffic."""
        return [str(finding) for finding in self.findings if finding.within is None]


ReadPages = Callable[[], Awaitable[Reading]]


def page_reader(settings: WatchSettings) -> ReadPages:
    return partial(read_pages, settings.metrics, settings.read_timeout_s, settings.api_key)


async def watch_release(
    settings: WatchSettings,
    baseline: Baseline,
    version: str,
    *,
    read: ReadPages | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> WatchVerdict:
    """Wait until all gateways serve the version, then watch them; returns as soon as a figure is out of bounds."""
    watch = _Watch(settings, baseline, version, read or page_reader(settings))
    began_s = clock()
    while True:
        await watch.look()
        if reasons := watch.out_of_bounds():
            return watch.verdict(Outcome.OUT_OF_BOUNDS, reasons, 0.0)
        if not (waiting := [*watch.not_moved()]):
            break
        if clock() - began_s >= settings.move_timeout_s:
            return watch.verdict(Outcome.NOT_MOVED, waiting, 0.0)
        await sleep(settings.interval_s)
    watch.moved()
    began_s = clock()
    while (watched_s := clock() - began_s) < settings.watch_s:
        await sleep(min(settings.interval_s, settings.watch_s - watched_s))
        await watch.look()
        if reasons := watch.out_of_bounds():
            return watch.verdict(Outcome.OUT_OF_BOUNDS, reasons, clock() - began_s)
        if left := [*watch.not_moved()]:
            return watch.verdict(Outcome.NOT_MOVED, left, clock() - began_s)
    return watch.verdict(Outcome.OK, [], watched_s)


class _Watch:
    def __init__(self, settings: WatchSettings, baseline: Baseline, version: str, read: ReadPages) -> None:
        self._settings = settings
        self._version = version
        self._read = read
        self._before = increase(baseline.start.pages, baseline.end.pages)
        self._published = baseline.end
        self._latest = baseline.end
        self._moved: Reading | None = None
        self._silent: dict[str, int] = {}  # Readings in a row that a gateway did not answer.
        self._last_pages: dict[str, Page] = dict(baseline.end.pages)

    async def look(self) -> None:
        self._latest = await self._read()
        self._silent = {address: self._silent.get(address, 0) + 1 for address in self._latest.failures}
        self._last_pages.update(self._latest.pages)

    def moved(self) -> None:
        """From here on answers are of the version alone."""
        self._moved = self._latest

    def not_moved(self) -> Iterator[str]:
        """A sentence for each gateway that pins another version; until all have moved, for silent ones, too."""
        waiting = self._moved is None
        for address, page in self._latest.pages.items():
            pinned = [labels["version"] for labels in page.labels_of(RELEASE)]
            if pinned != [self._version] and (pinned or waiting):  # One that has just started pins none yet.
                yield f"{address} serves {', '.join(pinned) or 'no version'}, not {self._version}"
        if waiting:
            for address, reason in self._latest.failures.items():
                yield f"{address} does not answer: {reason}"

    def findings(self) -> list[Finding]:
        bounds = self._settings.bounds
        if self._moved is None:
            # Old and new answer side by side: whether calls fail is all that can be said.
            meanwhile = increase(self._published.pages, self._last_pages)
            return [*release_comparison.compare_errors(self._before, meanwhile, bounds)]
        # What has failed since it was published counts, so that a fault of the move is not forgotten after it.
        since_published = increase(self._published.pages, self._last_pages)
        since_moved = increase(self._moved.pages, self._last_pages)
        errors = {f.figure: f for f in release_comparison.compare_errors(self._before, since_published, bounds)}
        rest = [f for f in release_comparison.compare(self._before, since_moved, bounds) if f.figure not in errors]
        recall = release_comparison.recall_findings(self._latest.pages.values(), self._version)
        return [*errors.values(), *rest, *recall]

    def out_of_bounds(self) -> list[str]:
        limit, failures = self._settings.max_silent_readings, self._latest.failures
        silent = [
            f"{address} answered before the release, and not in {count} readings since: {failures[address]}"
            for address, count in self._silent.items()
            if count >= limit and (address in self._published.pages or not self._latest.pages)
        ]
        return [*silent, *(str(finding) for finding in self.findings() if finding.within is False)]

    def verdict(self, outcome: Outcome, reasons: list[str], watched_s: float) -> WatchVerdict:
        return WatchVerdict(
            outcome=outcome, reasons=tuple(reasons), findings=tuple(self.findings()), watched_s=watched_s
        )
