"""The table of `benchmarks.serving`."""

from __future__ import annotations

from typing import Any

from benchmarks.serving import table

CELL = {"per_s": 300.0, "cpu_us": 500.0, "p50_ms": 1.0, "p99_ms": 2.5}
ROW = {
    "system": "x",
    "label": "X 1.0",
    "knob": "ef",
    "knob_value": 64,
    "recall": 0.9512,
    "build_s": 61.4,
    "cells": [{"inflight": 1, **CELL}, {"inflight": 16, **CELL, "cpu_us": 250.0}],
    "open_loop": {"rate": 100.0, **CELL},
    "memory": {"rss_bytes": 9_000_000, "pss_bytes": 8_000_000, "own_bytes": 6_000_000},
}
RESULT: dict[str, Any] = {
    "vectors": "1000 x 8",
    "documents": 1000,
    "least_recall": 0.95,
    "seconds": 3,
    "machine": "m",
    "date": "2026-01-01",
    "commit": "c",
    "rows": [ROW],
    "skipped": {},
}


def cells(result: dict[str, Any]) -> list[str]:
    row = table.report(result).splitlines()[4]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_row_has_queries_per_second_of_cpu_and_bytes_per_vector() -> None:
    assert cells(RESULT) == [
        "X 1.0",
        "0.951 (ef 64)",
        "2,000 / 4,000 / –",
        "500 / 250 / –",
        "1.0 / 2.5",
        "1.0 / 2.5 at 100/s",
        "8,000 (6,000)",
        "61",
    ]


def test_a_server_whose_processes_are_not_here_has_no_figures_of_cpu_and_memory() -> None:
    memory = {"rss_bytes": 0, "pss_bytes": 0, "own_bytes": 0}
    idle = [{**cell, "cpu_us": 0.0} for cell in ROW["cells"]]  # type: ignore[attr-defined]  # a list of cells
    row = cells({**RESULT, "rows": [{**ROW, "cells": idle, "memory": memory}]})
    assert (row[2], row[3], row[6]) == ("–", "–", "–")


def test_the_reason_of_a_missing_system_is_what_failed_and_the_last_line_of_its_log() -> None:
    reason = "build x failed, exit status 1; its last lines (x.log):\n  Traceback\n  ValueError: no"
    report = table.report({**RESULT, "skipped": {"x": reason, "y": "no package"}})
    assert report.endswith("Left out:\n\n* x: build x failed, exit status 1: ValueError: no\n* y: no package\n")
