"""Every metric of the gateway, declared once: base units, bounded labels. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter
from types import TracebackType

from prometheus_client import Counter, Gauge, Histogram

from lookalike.runtime import tracing
from lookalike.runtime.telemetry import SECONDS_BUCKETS
from lookalike.status import code_of
from server.recall_estimate import RecallEstimate

REQUEST = Histogram(
    "lookalike_request_seconds",
    "Time of a request, by gRPC method, searched spaces (image+text), outcome (a gRPC code), whether it hit the cache.",
    ["method", "space", "outcome", "cached"],
    buckets=SECONDS_BUCKETS,
)
STAGE = Histogram(
    "lookalike_stage_seconds",
    "Time in a stage of a search: cache, lookup, encode, search.",
    ["stage"],
    buckets=SECONDS_BUCKETS,
)
INFLIGHT = Gauge("lookalike_requests_inflight", "Requests in flight.")
INFLIGHT_BYTES = Gauge("lookalike_request_bytes_inflight", "Bytes of the requests in flight.")
CONCURRENCY_LIMIT = Gauge(
    "lookalike_concurrency_limit", "Requests that may be in flight now: fewer than max_inflight while searches wait."
)
REFUSED = Counter(
    "lookalike_requests_refused_total",
    "Requests refused at once: too many, or too many bytes, in flight, or too late for their deadline.",
)
AUDIT_LOST = Counter("lookalike_audit_lines_lost_total", "Lines that the audit log lacks: they could not be written.")
AUDIT_REFUSED = Counter(
    "lookalike_audit_refused_total", "Changes and calls of Admin refused because the audit log cannot be written."
)
KEY_REFUSED = Counter(
    "lookalike_key_limit_refusals_total",
    "Requests refused for the limits of their API key: calls, bytes and photos per second, concurrency; share: more "
    "than its part of the requests in flight while other keys ask.",
    ["limit"],
)
COSTLY = Gauge(
    "lookalike_costly_searches_inflight", "Searches in flight that are more work for the shards than an ordinary one."
)
COSTLY_REFUSED = Counter(
    "lookalike_costly_searches_refused_total", "Costly searches refused because too many were in flight."
)
DEGRADED = Counter(
    "lookalike_degraded_total", "Degraded answers, by reason; the answer states the reason, too.", ["reason"]
)
CACHE_LOOKUPS = Counter(
    "lookalike_cache_lookups_total",
    "Look-ups in the result cache, by outcome: hit; stale_hit: a search might find more; miss: there was no answer; "
    "changed, stale, expired, forgotten: there was one, but it was void.",
    ["outcome"],
)
CACHE_DAMAGED = Counter(
    "lookalike_cache_damaged_total", "Values of the result cache that were not what was stored: they are not used."
)
CACHE_FAILURES = Counter("lookalike_cache_failures_total", "Calls to the result cache that failed or were late.")
BATCH_SEARCHES = Counter(
    "lookalike_batch_searches_total", "Searches in batches, by outcome (gRPC status code).", ["outcome"]
)
STREAMS = Gauge("lookalike_search_streams", "Open search streams.")
WAITING_FOR_ENCODERS = Gauge(
    "lookalike_waiting_for_encoders",
    "Encoders in reach that are not ready for the shards' current version: requests pin the one before.",
)
SHARDS_SERVING = Gauge("lookalike_shards_serving", "Shards that serve the version that requests pin.")
SHARD_REPLICAS = Gauge(
    "lookalike_shard_replicas",
    "Replicas of a shard by state: in_service, new, catching_up, behind, connection_failed, hung, duplicate.",
    ["shard", "state"],
)
SHARD_EJECTIONS = Counter(
    "lookalike_shard_ejections_total",
    "Replicas that were taken out of service, by their state since.",
    ["shard", "reason"],
)
SHARD_HEDGES = Counter(
    "lookalike_shard_hedges_total", "Reads that were sent to a second replica, as the first was late.", ["shard"]
)
SHARD_RETRIES = Counter(
    "lookalike_shard_retries_total", "Reads that were sent to another replica, as one failed.", ["shard"]
)
WRITES_DISORDERED = Counter(
    "lookalike_shard_writes_disordered_total",
    "Changes that replicas got in another order than later ones of the same products: of patches, they may differ.",
    ["shard"],
)
RELEASE = Gauge("lookalike_release", "1: the version that requests pin.", ["version"])
CLASSIFIED = Counter(
    "lookalike_classified_total", "Answers of Classify, by whether they have a category: named, abstained.", ["outcome"]
)
ANSWERS = Counter(
    "lookalike_answers_total",
    "Answers to searches, not from the cache, by whether they have a hit: found, empty.",
    ["hits"],
)

# Of the version that requests pin; series of others are dropped. Counters beside gauges: their increases may be summed
# over gateways and taken over any time, while the gateway's own bounds are what its answers go by.
_RECALL_LABELS = ["version", "space"]
RECALL_EXPECTED = Counter(
    "lookalike_recall_expected_total", "True neighbours of searches that were compared with exact ones.", _RECALL_LABELS
)
RECALL_FOUND = Counter("lookalike_recall_found_total", "Those of them that the searches found.", _RECALL_LABELS)
RECALL = Gauge("lookalike_recall_at_10", "Recall of the newest searches that were compared.", _RECALL_LABELS)
RECALL_LOWER = Gauge("lookalike_recall_at_10_lower", "Its lower bound: below it once in 2,000.", _RECALL_LABELS)
RECALL_UPPER = Gauge("lookalike_recall_at_10_upper", "Its upper bound: above it once in 2,000.", _RECALL_LABELS)
RECALL_PROMISED = Gauge(
    "lookalike_recall_promised",
    "recall@10 that the build measured; none where a space is searched exactly.",
    _RECALL_LABELS,
)
RECALL_SHORT = Gauge(
    "lookalike_recall_short", "1: recall is lower than promised, beyond chance; answers say so.", _RECALL_LABELS
)
RECALL_SAMPLES = Counter(
    "lookalike_recall_samples_total",
    "Searches sampled for a comparison with exact ones: compared; dropped: too many waited; failed; outdated: the "
    "version changed meanwhile.",
    ["outcome"],
)
RECALL_CPU = Counter("lookalike_recall_cpu_seconds_total", "CPU of the exact searches for these comparisons.")
_OF_RELEASE = RECALL_EXPECTED, RECALL_FOUND, RECALL, RECALL_LOWER, RECALL_UPPER, RECALL_PROMISED, RECALL_SHORT

SEARCH_BY_RELEASE = Histogram(
    "lookalike_search_by_release_seconds",
    "Time of a search while a canary answers some, by release (current or canary) and outcome (a gRPC code).",
    ["release", "outcome"],
    buckets=SECONDS_BUCKETS,
)

_STAGES = {stage: STAGE.labels(stage) for stage in ("cache", "lookup", "encode", "search")}


def show_release(version: str, promised: Mapping[str, float]) -> None:
    """The version that requests pin, and the recall that its build promised, by space; drops what is of others."""
    RELEASE.clear()
    RELEASE.labels(version).set(1)
    for metric in _OF_RELEASE:
        metric.clear()
    for space, recall in promised.items():
        RECALL_PROMISED.labels(version, space).set(recall)


def show_recall(version: str, space: str, found: int, expected: int, estimate: RecallEstimate, *, short: bool) -> None:
    """Count one comparison, and show what is known of the recall since."""
    RECALL_EXPECTED.labels(version, space).inc(expected)
    RECALL_FOUND.labels(version, space).inc(found)
    for gauge, value in (
        (RECALL, estimate.recall),
        (RECALL_LOWER, estimate.lower),
        (RECALL_UPPER, estimate.upper),
        (RECALL_SHORT, short),
    ):
        gauge.labels(version, space).set(value)


@dataclass(slots=True)
class RequestTimer:
    """The timings of one call: its metric labels, filled in as they become known, and the seconds of each stage."""

    space: str = ""
    cached: bool = False
    costly: bool = False  # Whether the search is more work than an ordinary one, as far as the request says.
    stale_s: float = 0.0  # As Provenance.stale_s.
    started_s: float = field(default_factory=perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    details: object = None  # `server.slow_searches.SearchDetails`, where such a search is logged.

    def record(self, name: str, took_s: float) -> None:
        """Add to the seconds of a stage, and record them in STAGE."""
        self.stages[name] = self.stages.get(name, 0.0) + took_s
        _STAGES[name].observe(took_s)

    def stage(self, name: str) -> TimedStage:
        """A context that times a stage; stages that do no work for a call are left out."""
        return TimedStage(self, name)

    def elapsed_s(self) -> float:
        return perf_counter() - self.started_s


class TimedStage:
    """Adds the time in the context to the stage's seconds, and records it in STAGE; a span, too."""

    __slots__ = ("_name", "_span", "_started_s", "_timer")

    def __init__(self, timer: RequestTimer, name: str) -> None:
        self._timer = timer
        self._name = name

    def __enter__(self) -> None:
        self._span = tracing.span(self._name)
        self._span.__enter__()
        self._started_s = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.record(self._name, perf_counter() - self._started_s)
        self._span.__exit__(kind, error, traceback)


class time_request:  # noqa: N801  # used as a function, as contextlib's context managers are
    """Time a call and record it in REQUEST, with the gRPC code of its exception, if any, as its outcome."""

    __slots__ = ("_method", "_timer")

    def __init__(self, method: str) -> None:
        self._method = method
        self._timer = RequestTimer()

    def __enter__(self) -> RequestTimer:
        return self._timer

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        observe_request(self._method, self._timer, "OK" if error is None else code_of(error).name)


@contextmanager
def time_release(release: str) -> Iterator[None]:
    """Time a search in SEARCH_BY_RELEASE, with the gRPC code of its exception, if any, as its outcome."""
    started_s, outcome = perf_counter(), "OK"
    try:
        yield
    except Exception as error:
        outcome = code_of(error).name
        raise
    finally:
        SEARCH_BY_RELEASE.labels(release, outcome).observe(perf_counter() - started_s)


def observe_request(method: str, timer: RequestTimer, outcome: str) -> None:
    """Record a call that has ended in REQUEST, and what is known of it in its span."""
    if tracing.sink is not None and (span := tracing.active()) is not None:
        span.set(cached=timer.cached, spaces=timer.space)
    _request_histogram(method, timer.space, outcome, timer.cached).observe(timer.elapsed_s())


@cache  # As many entries as the metric has children; finding a child by its labels takes as long as observing it.
def _request_histogram(method: str, space: str, outcome: str, cached: bool) -> Histogram:
    return REQUEST.labels(method, space, outcome, "true" if cached else "false")
