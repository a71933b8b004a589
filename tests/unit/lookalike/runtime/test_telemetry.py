"""Logs."""

from __future__ import annotations

import json
import logging

from lookalike.runtime.call import NO_CALL, Call, begin
from lookalike.runtime.telemetry import JsonFormatter, TextFormatter

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "order-7"))


def test_a_text_line_ends_with_the_ids_of_the_call() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "done", None, None)
    begin(Call("/a.B/C", TRACED), None)
    try:
        assert (
            TextFormatter()
            .format(record)
            .endswith(f"INFO a: done [request_id=order-7 trace_id={TRACE} span_id={CALLER}]")
        )
    finally:
        begin(NO_CALL, None)
    assert TextFormatter().format(record).endswith("INFO a: done")


def test_a_json_line_has_the_exception_and_no_line_breaks() -> None:
    try:
        raise ValueError("wrong\nthing")
    except ValueError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "", 0, "failed %s", ("x",), (type(error), error, error.__traceback__)
        )
    line = JsonFormatter("shard").format(record)
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["level"], entry["logger"], entry["role"], entry["message"]) == ("error", "a", "shard", "failed x")
    assert "ValueError: wrong" in entry["exception"]
    assert entry["time"].endswith("+00:00")
