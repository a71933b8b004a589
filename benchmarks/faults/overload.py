"""How many calls are answered in time at the peak, and beyond it. Network I/O."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from benchmarks.faults.calls import Calls
from benchmarks.faults.load import OK, Load, Record
from benchmarks.faults.report import latency

DEADLINE_S: Final = 2.0  # Of a call: what is answered later is no good to its caller.
FACTORS: Final = (0.8, 2.0, 10.0)  # Of the peak.
CALLERS: Final = (4, 16, 64)  # Of the closed loop: the best is the peak.
REFUSED: Final = "Overloaded"


@dataclass(frozen=True, kw_only=True)
class Offered:
    """What became of calls that were offered at a rate. `late_ms`: p99 of how late this process sent them."""

    offered_per_s: float
    sent_per_s: float
    good_per_s: float
    refused_per_s: float
    failed_per_s: float
    p50_ms: float | None  # Of those that were answered.
    p99_ms: float | None
    late_ms: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def peak_per_s(address: str, calls: Calls, *, seconds: float, seed: int) -> float:
    """Answers a second of the best closed loop."""
    found = []
    for inflight in CALLERS:
        load = Load(address, calls, seed=seed, deadline_s=DEADLINE_S)
        began_s = time.perf_counter()
        with load.running_closed(inflight=inflight):
            time.sleep(seconds)
        ended_s = time.perf_counter()
        found.append(sum(each.status == OK for each in load.records) / (ended_s - began_s))
    return max(found)


def offer(address: str, calls: Calls, *, per_s: float, seconds: float, seed: int) -> Offered:
    """An open loop at this rate."""
    load = Load(address, calls, seed=seed, deadline_s=DEADLINE_S)
    with load.running(per_s=per_s):
        time.sleep(seconds)
    return outcome(load.records, per_s, seconds)


def outcome(records: list[Record], per_s: float, seconds: float) -> Offered:
    answered = latency(records)
    refused = sum(each.status == REFUSED for each in records)
    good = sum(each.status == OK and each.took_s <= DEADLINE_S for each in records)
    failed = len(records) - refused - answered.calls
    return Offered(
        offered_per_s=round(per_s, 1),
        sent_per_s=round(len(records) / seconds, 1),
        good_per_s=round(good / seconds, 1),
        refused_per_s=round(refused / seconds, 1),
        failed_per_s=round(failed / seconds, 1),
        p50_ms=answered.p50_ms,
        p99_ms=answered.p99_ms,
        late_ms=round(float(np.percentile([(each.sent_s - each.due_s) * 1e3 for each in records], 99)), 1),
    )


def table(peak: float, rows: list[Offered]) -> str:
    """Markdown. Target: goodput at 2 and at 10 times the peak is at least nine tenths of it."""
    heads = "| x peak | offered/s | sent/s | good/s | refused/s | failed/s | p50 ms | p99 ms | sent late, p99 ms |"
    lines = [f"peak: {peak:.0f} a second", "", heads, "|" + " --- |" * 9]
    for each in rows:
        cells = [f"{each.offered_per_s / peak:.1f}", *(f"{value}" for value in each.to_json().values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
