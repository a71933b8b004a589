"""The table of a run, in Markdown. Pure.

Queries per core are those per second of CPU of the server's processes, which other work on the machine changes least.
Those per second of time are in the JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

HEAD = (
    "system",
    "recall@10 (knob)",
    "QPS per core, 1 / 16 / 64 in flight",
    "server CPU, µs per query",
    "p50 / p99 ms at 16",
    "open loop: p50 / p99 ms",
    "memory, bytes per vector (of it not mapped files)",
    "build, s",
)
INFLIGHT = (1, 16, 64)
NONE = "–"


def report(result: Mapping[str, Any]) -> str:
    """The table, what was measured on what, and why systems are missing."""
    lines = [
        f"{result['vectors']}; {result['machine']}; {result['date']}, commit {result['commit']}; "
        f"{result['seconds']:g} s a cell, least recall {result['least_recall']:g}.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{' --- |' * len(HEAD)}",
        *(f"| {' | '.join(_cells(row, result['documents']))} |" for row in result["rows"]),
    ]
    if result["skipped"]:
        lines += ["", "Left out:", ""]
        lines += [f"* {name}: {_shortened(reason)}" for name, reason in result["skipped"].items()]
    return "\n".join(lines) + "\n"


def _shortened(reason: str) -> str:
    """What failed, and the last line of its log: the exception, if it was one."""
    what, _, log = reason.partition("; its last lines")
    return f"{what}: {log.splitlines()[-1].strip()}" if log else what


def _cells(row: Mapping[str, Any], documents: int) -> list[str]:
    cells = {cell["inflight"]: cell for cell in row["cells"]}
    open_loop, memory, knob = row.get("open_loop"), row["memory"], row["knob"]
    has_processes = memory["pss_bytes"] > 0
    return [
        row["label"],
        f"{row['recall']:.3f}" + (f" ({knob} {row['knob_value']})" if knob else ""),
        _joined(cells, lambda cell: 1e6 / cell["cpu_us"]) if has_processes else NONE,
        _joined(cells, lambda cell: cell["cpu_us"]) if has_processes else NONE,
        _latency(cells.get(16)),
        f"{_latency(open_loop)} at {open_loop['rate']:g}/s" if open_loop else NONE,
        f"{memory['pss_bytes'] / documents:,.0f} ({memory['own_bytes'] / documents:,.0f})" if has_processes else NONE,
        f"{row['build_s']:,.0f}",
    ]


def _joined(cells: Mapping[int, Mapping[str, float]], figure: Callable[[Mapping[str, float]], float]) -> str:
    return " / ".join(f"{figure(cells[each]):,.0f}" if each in cells else NONE for each in INFLIGHT)


def _latency(cell: Mapping[str, float] | None) -> str:
    return f"{cell['p50_ms']:.1f} / {cell['p99_ms']:.1f}" if cell else NONE
