"""Logging of a process, with the ids of the call in which something is logged. Writes to standard error."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lookalike.runtime import tracing
from lookalike.runtime.call import NO_CALL, current
from lookalike.runtime.settings import ProcessSettings

# Bounds of classic histogram buckets, dense around the latency objectives. Above 1 s something is wrong.
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


FIELDS = "fields"  # Of a log record, as `extra={FIELDS: {...}}`: what belongs to its entry beside the message.


def configure_logging(level: str, formatter: logging.Formatter | None = None) -> None:
    """One entry per event on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter or TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def configure_process_logging(settings: ProcessSettings) -> None:
    formatter = JsonFormatter(settings.role()) if settings.log_format == "json" else TextFormatter()
    configure_logging(settings.log_level, formatter)


class TextFormatter(logging.Formatter):
    """Lines for people, with the ids of the call in which something is logged."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        line = super().formatMessage(record)
        if fields := getattr(record, FIELDS, None):
            line += f" {json.dumps(fields, ensure_ascii=False, default=str)}"
        ids = " ".join(f"{name}={value}" for name, value in call_ids().items())
        return f"{line} [{ids}]" if ids else line


class JsonFormatter(logging.Formatter):
    """A JSON object per line: time, level, logger, role, message, the ids of the call, `FIELDS`, the exception."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        entry |= {"role": self._role, "message": record.getMessage(), **call_ids()}
        fields: Mapping[str, Any] = getattr(record, FIELDS, {})
        entry |= {key: value for key, value in fields.items() if key not in entry}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def call_ids() -> dict[str, str]:
    """The ids of the current call, for logs: request_id and, where it has a trace, trace_id and span_id."""
    if (call := current()) is NO_CALL:
        return {}
    span, ids = tracing.active(), {"request_id": call.request_id()}
    trace = call.trace() if span is None else span.context()
    if trace is not None:
        ids["trace_id"] = trace.trace_id
        if trace.span_id:
            ids["span_id"] = trace.span_id
    return ids
