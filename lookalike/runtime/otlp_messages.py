"""Spans as OTLP messages. Pure; needs the package opentelemetry-proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from lookalike.runtime.tracing import Attribute, Span, TraceContext

__all__ = ["TraceServiceStub", "export_request"]

_VALUE_FIELDS: Mapping[type, str] = {
    bool: "bool_value",
    int: "int_value",
    float: "double_value",
    str: "string_value",
}


def export_request(resource: Mapping[str, str], spans: Sequence[Span]) -> Any:
    """The request that sends these spans of one process."""
    scope_spans = trace_pb2.ScopeSpans(scope=InstrumentationScope(name="lookalike"), spans=map(_message, spans))
    described = Resource(attributes=_attributes(resource))
    resource_spans = trace_pb2.ResourceSpans(resource=described, scope_spans=[scope_spans])
    return ExportTraceServiceRequest(resource_spans=[resource_spans])


def _message(span: Span) -> Any:
    status = trace_pb2.Status.STATUS_CODE_ERROR if span.error else trace_pb2.Status.STATUS_CODE_UNSET
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        trace_state=span.state,
        name=span.name,
        kind=int(span.kind),
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_attributes(span.attributes),
        links=[_link(other) for other in span.links],
        status=trace_pb2.Status(code=status, message=span.error),
    )


def _link(other: TraceContext) -> Any:
    ids = bytes.fromhex(other.trace_id), bytes.fromhex(other.span_id)
    return trace_pb2.Span.Link(trace_id=ids[0], span_id=ids[1], trace_state=other.state)


def _attributes(values: Mapping[str, Attribute]) -> list[Any]:
    return [KeyValue(key=key, value=AnyValue(**{_VALUE_FIELDS[type(value)]: value})) for key, value in values.items()]
