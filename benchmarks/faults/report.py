"""What the calls around a fault met, as a row of figures, and rows as a table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.faults.calls import GATEWAY
from benchmarks.faults.faults import Fault
from benchmarks.faults.load import OK, Record

FIRST_S: Final = 1.0  # After the injection, in which a process that hangs is found out.
TARGET_RATIO: Final = {"p99": 3.0, "p50, R = 1": 1.2, "p99 after 1 s, R = 1": 2.0}
_HEALED_RATIO = 1.5  # Of the p99 before.
_WINDOW_S, _STEP_S = 2.0, 0.25
_HEADS = (
    "fault",
    "calls",
    "failed",
    "its own",
    "partial",
    "stale",
    "lost",
    "p50 before",
    "during",
    "after",
    "p99 before",
    "during",
    "after 1 s",
    "after",
    "healed s",
    "target",
)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When the fault began and ended, between the begin and end of the calls. Seconds of `time.perf_counter`."""

    began_s: float
    injected_s: float
    in_force_s: float  # A signal has had its effect.
    healed_s: float  # The process is let go on, or started again: not that it is ready.
    ended_s: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of answered calls, from when they were due. None: there was none."""

    calls: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault. Of calls that only its process can answer there is but `own_failed`; all else is about the others.

    during_later:  during the fault, without its first second
    heal_s:        from the end of the fault until all calls are answered in full, with a p99 as before; None: not yet
    lost:          replicas' products that are not what acknowledged changes made them, when all has healed
    """

    fault: str
    replicas: int
    calls: int
    failed: Mapping[str, int]
    own_failed: Mapping[str, int]
    partial: int
    stale: int
    before: Latency
    during: Latency
    during_later: Latency
    after: Latency
    by_kind: Mapping[str, Mapping[str, Latency]] = field(default_factory=dict)
    heal_s: float | None
    acknowledged: int
    lost: Sequence[str]

    @property
    def p99_ratio(self) -> float | None:
        return _ratio(self.during.p99_ms, self.before.p99_ms)

    @property
    def meets_target(self) -> bool:
        """With several replicas no call fails or is late; with one, only what the process alone could answer."""
        if self.failed or self.lost or self.stale:
            return False
        if self.replicas > 1:
            return not self.partial and _at_most(self.p99_ratio, TARGET_RATIO["p99"])
        p50, p99 = (
            _ratio(self.during.p50_ms, self.before.p50_ms),
            _ratio(self.during_later.p99_ms, self.before.p99_ms),
        )
        return _at_most(p50, TARGET_RATIO["p50, R = 1"]) and _at_most(p99, TARGET_RATIO["p99 after 1 s, R = 1"])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "meets_target": self.meets_target}


def row(
    fault: Fault,
    records: Sequence[Record],
    timeline: Timeline,
    *,
    only_ones: frozenset[str],
    replicas: int,
    acknowledged: int,
    lost: Sequence[str],
) -> Row:
    """Failures are those of all records, latencies those of the timeline.

    only_ones: what there is only one process for.
    """
    own = [each for each in records if is_own(fault, each, timeline, only_ones)]
    others = [each for each in records if not is_own(fault, each, timeline, only_ones)]
    phases = {
        "before": _due(others, timeline.began_s, timeline.injected_s),
        "during": _due(others, timeline.injected_s, timeline.healed_s),
        "during_later": _due(others, timeline.injected_s + FIRST_S, timeline.healed_s),
        "after": _due(others, timeline.healed_s, timeline.ended_s),
    }
    kinds = sorted({each.kind for each in others})
    return Row(
        fault=fault.name,
        replicas=replicas,
        calls=len(records),
        failed=_failures(others),
        own_failed=_failures(own),
        partial=sum(each.coverage < 1 for each in others),
        stale=sum(each.is_stale for each in records),
        **{name: latency(each) for name, each in phases.items()},
        by_kind={
            kind: {name: latency([it for it in each if it.kind == kind]) for name, each in phases.items()}
            for kind in kinds
        },
        heal_s=seconds_to_heal(others, timeline),
        acknowledged=acknowledged,
        lost=lost,
    )


def is_own(fault: Fault, record: Record, timeline: Timeline, only_ones: frozenset[str]) -> bool:
    """Whether nothing but the process of the fault could answer the call."""
    is_in_flight = record.sent_s <= timeline.in_force_s and timeline.injected_s < record.ended_s
    if fault.loses_in_flight and is_in_flight and record.status != OK:
        return True
    return fault.takes in only_ones and (fault.takes == GATEWAY or fault.takes in record.needs)


def seconds_to_heal(records: Sequence[Record], timeline: Timeline) -> float | None:
    """From the end of the fault to the first two seconds in which calls are as before; None: there are none."""
    if (before := latency(_due(records, timeline.began_s, timeline.injected_s)).p99_ms) is None:
        return None
    for start_s in np.arange(timeline.healed_s, timeline.ended_s - _WINDOW_S, _STEP_S):
        window = _due(records, start_s, start_s + _WINDOW_S)
        now = latency(window).p99_ms
        is_whole = all(each.status == OK and each.coverage == 1 for each in window)
        if now is not None and is_whole and now <= _HEALED_RATIO * before:
            return round(float(start_s - timeline.healed_s), 2)
    return None


def latency(records: Iterable[Record]) -> Latency:
    took_ms = [each.took_s * 1e3 for each in records if each.status == OK]
    if not took_ms:
        return Latency(calls=0, p50_ms=None, p99_ms=None)
    p50, p99 = np.percentile(took_ms, (50, 99))
    return Latency(calls=len(took_ms), p50_ms=round(float(p50), 1), p99_ms=round(float(p99), 1))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [_line(_HEADS), _line(["---"] * len(_HEADS))]
    return "\n".join([*lines, *(_line(_cells(each)) for each in rows)])


def _cells(row: Row) -> Sequence[str]:
    milliseconds = [row.before.p50_ms, row.during.p50_ms, row.after.p50_ms, row.before.p99_ms, row.during.p99_ms]
    milliseconds += [row.during_later.p99_ms, row.after.p99_ms]
    return [
        row.fault,
        str(row.calls),
        _counts(row.failed),
        _counts(row.own_failed),
        str(row.partial),
        str(row.stale),
        str(len(row.lost)),
        *("–" if each is None else f"{each:.0f}" for each in milliseconds),
        "not" if row.heal_s is None else f"{row.heal_s:.1f}",
        "met" if row.meets_target else "missed",
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "0"


def _due(records: Iterable[Record], from_s: float, to_s: float) -> Sequence[Record]:
    return [each for each in records if from_s <= each.due_s < to_s]


def _failures(records: Iterable[Record]) -> dict[str, int]:
    return dict(Counter(each.status for each in records if each.status != OK))


def _ratio(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else now / before


def _at_most(ratio: float | None, bound: float) -> bool:
    """No call at all was answered: the others were none."""
    return ratio is None or ratio <= bound
