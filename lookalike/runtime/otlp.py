"""Sends ended spans to an OpenTelemetry collector (OTLP over gRPC). Network I/O, on a thread of its own.

Whoever ends a span never waits: at most MAX_WAITING spans wait to be sent, further ones are dropped and counted, as are
those that a collector does not take.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata

import grpc
from prometheus_client import Counter

from lookalike.channels import collector_channel
from lookalike.errors import BadSettings
from lookalike.runtime import tracing
from lookalike.runtime.settings import ProcessSettings
from lookalike.runtime.tracing import Span

log = logging.getLogger(__name__)

MAX_WAITING = 8192  # Of some 1 KiB each.
_MAX_SENT = 512
_EVERY_S = 1.0
_TIMEOUT_S = 5.0
_LAST_S = 2.0  # For the last spans of a process that ends.

SPANS = Counter(
    "lookalike_spans_total",
    "Spans of sampled calls that ended, by outcome: exported; dropped: too many waited; failed: the collector did not "
    "take them.",
    ["outcome"],
)
_EXPORTED, _DROPPED, _FAILED = (SPANS.labels(outcome) for outcome in ("exported", "dropped", "failed"))


class SpanExporter:
    """Sends the spans of one process."""

    def __init__(self, endpoint: str, resource: Mapping[str, str]) -> None:
        """endpoint: http://host:port, or https://host:port. Raises BadSettings for another, or without the package."""
        try:
            from lookalike.runtime import otlp_messages
        except ImportError as error:
            reason = f"needs the package opentelemetry-proto: pip install opentelemetry-proto ({error})"
            raise BadSettings(f"otlp_endpoint={endpoint}: {reason}") from error
        try:
            self._channel = collector_channel(endpoint)
        except ValueError as error:
            raise BadSettings(f"otlp_endpoint={endpoint}: {error}") from None
        self._stub = otlp_messages.TraceServiceStub(self._channel)
        self._request = partial(otlp_messages.export_request, resource)
        self._waiting: deque[Span] = deque()
        self._wake, self._ending = threading.Event(), False
        self._is_down = False
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def offer(self, span: Span) -> None:
        """Send it soon, or drop it. Called on any thread."""
        if len(self._waiting) >= MAX_WAITING:
            _DROPPED.inc()
            return
        self._waiting.append(span)
        if len(self._waiting) == _MAX_SENT:
            self._wake.set()

    def close(self) -> None:
        """Send what waits, within `_LAST_S`."""
        self._ending = True
        self._wake.set()
        self._thread.join(_LAST_S)
        self._channel.close()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(_EVERY_S)
            self._wake.clear()
            while self._waiting and self._send([self._waiting.popleft() for _ in range(self._next_size())]):
                pass

    def _next_size(self) -> int:
        return min(len(self._waiting), _MAX_SENT)

    def _send(self, spans: Sequence[Span]) -> bool:
        try:
            self._stub.Export(self._request(spans), timeout=_LAST_S if self._ending else _TIMEOUT_S)
        except grpc.RpcError as error:
            _FAILED.inc(len(spans))
            if not self._is_down:
                log.warning("the collector takes no spans: %s: %s", error.code().name, error.details())
            self._is_down = True
            return False
        except Exception:
            _FAILED.inc(len(spans))
            if not self._ending:  # The channel may be closed.
                log.exception("spans could not be sent")
            return False
        _EXPORTED.inc(len(spans))
        if self._is_down:
            log.info("the collector takes spans again")
        self._is_down = False
        return True


def start(settings: ProcessSettings) -> Callable[[], None]:
    """Export the spans of this process, if its settings say where to. Returns what ends it. Raises BadSettings."""
    if not settings.otlp_endpoint:
        return lambda: None
    resource = {"service.namespace": "lookalike", "service.name": settings.role(), "service.version": _version()}
    exporter = SpanExporter(settings.otlp_endpoint, {**resource, "service.instance.id": tracing.new_id(64)})
    tracing.start(exporter.offer, settings.trace_share)

    def stop() -> None:
        tracing.stop()
        exporter.close()

    return stop


def _version() -> str:
    try:
        return metadata.version("lookalike")
    except metadata.PackageNotFoundError:  # In an image, it runs from its folder.
        return ""
