"""Every metric of the gateway, declared once: base units, bounded labels. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

from lookalike.runtime.telemetry import SECONDS_BUCKETS
from lookalike.status import code_of

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
REFUSED = Counter("lookalike_requests_refused_total", "Requests refused at once because too many were in flight.")
COSTLY = Gauge(
    "lookalike_costly_searches_inflight", "Searches in flight that are more work for the shards than an ordinary one."
)
COSTLY_REFUSED = Counter(
    "lookalike_costly_searches_refused_total", "Costly searches refused because too many were in flight."
)
DEGRADED = Counter(
    "lookalike_degraded_total", "Degraded answers, by reason; the answer states the reason, too.", ["reason"]
)
CACHE_FAILURES = Counter("lookalike_cache_failures_total", "Calls to the result cache that failed or were late.")
BATCH_SEARCHES = Counter(
    "lookalike_batch_searches_total", "Searches in batches, by outcome (gRPC status code).", ["outcome"]
)
STREAMS = Gauge("lookalike_search_streams", "Open search streams.")
SHARDS_SERVING = Gauge("lookalike_shards_serving", "Shards that serve the version that requests pin.")

_STAGES = {stage: STAGE.labels(stage) for stage in ("cache", "lookup", "encode", "search")}


@dataclass(slots=True)
class RequestTimer:
    """The timings of one call: its metric labels, filled in as they become known, and the seconds of each stage."""

    space: str = ""
    cached: bool = False
    started_s: float = field(default_factory=perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start_s = perf_counter()
        try:
            yield
        finally:
            took_s = perf_counter() - start_s
            self.stages[name] = self.stages.get(name, 0.0) + took_s
            _STAGES[name].observe(took_s)

    def elapsed_s(self) -> float:
        return perf_counter() - self.started_s


@contextmanager
def time_request(method: str) -> Iterator[RequestTimer]:
    """Time a call and record it in REQUEST, with the gRPC code of its exception, if any, as its outcome."""
    timer, outcome = RequestTimer(), "OK"
    try:
        yield timer
    except BaseException as error:
        outcome = code_of(error).name
        raise
    finally:
        cached = "true" if timer.cached else "false"
        REQUEST.labels(method, timer.space, outcome, cached).observe(timer.elapsed_s())
