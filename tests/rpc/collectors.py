"""A real OTLP collector's gRPC service in this process, and what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from lookalike.runtime import tracing
from lookalike.runtime.otlp import SpanExporter


@dataclass
class Collector:
    """The spans of each Export call; refuses them while it has an error."""

    spans: list[Any] = field(default_factory=list)
    resources: list[Any] = field(default_factory=list)
    error: grpc.StatusCode | None = None
    address: str = ""

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # gRPC's name
        if self.error is not None:
            context.abort(self.error, "not now")
        for resource in request.resource_spans:
            self.resources.append(resource.resource)
            self.spans.extend(span for scope in resource.scope_spans for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def running_collector() -> Iterator[Collector]:
    server, collector = grpc.server(ThreadPoolExecutor(1)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


@contextmanager
def exported_to(collector: Collector, share: float = 0.0) -> Iterator[SpanExporter]:
    """Spans of this process go to the collector; all of them are there when the context ends."""
    exporter = SpanExporter(collector.address, {"service.name": "test"})
    tracing.start(exporter.offer, share)
    try:
        yield exporter
    finally:
        tracing.stop()
        tracing.activate(None)
        exporter.close()
