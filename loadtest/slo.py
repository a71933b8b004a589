"""Service level objectives, and whether a load test meets them. Pure, except for `read`, which reads a TOML file:

error_ratio = 0.001             maximum share of failed calls, both by the server's counts and by its users'
min_requests_per_s = 40         optional

[[latency]]                     any number of them
method = "Search"
space = "image"                 optional: "image", "text", "product", "image+text"; default: all
cached = false                  optional; default: all
p50_s = 0.05                    p50_s, p99_s or both; a bound of the server's buckets, so that the verdict is exact
p99_s = 0.25
optional = true                 optional; with too few such answers the objective is left out, not missed
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import BadSettings
from lookalike.runtime.histogram import Histogram, Labels, merge_series, quantile
from lookalike.runtime.telemetry import SECONDS_BUCKETS

QUANTILES = {"p50_s": 0.5, "p99_s": 0.99}


@dataclass(frozen=True, kw_only=True)
class LatencyObjective:
    """An upper bound of one latency quantile of the successful calls that have these labels."""

    labels: Mapping[str, str]
    quantile: float
    at_most_s: float
    optional: bool = False  # Left out if there are too few answers.

    def __str__(self) -> str:
        calls = " ".join(
            ("cached" if value == "true" else "computed") if name == "cached" else value
            for name, value in self.labels.items()
        )
        return f"{calls} p{self.quantile * 100:g}"


@dataclass(frozen=True, kw_only=True)
class Objectives:
    error_ratio: float
    min_requests_per_s: float | None
    latencies: tuple[LatencyObjective, ...]


@dataclass(frozen=True, slots=True)
class ClientTotals:
    """What the clients counted: a call that never reached the server is in none of its histograms."""

    seconds: float
    calls: int
    failed: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> ClientTotals:
        kinds = document["kinds"].values()
        return cls(document["seconds"], sum(each["calls"] for each in kinds), sum(each["failed"] for each in kinds))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one objective is met, with the allowed and the measured value as text."""

    objective: str
    allowed: str
    measured: str
    met: bool | None  # None: an optional objective with too few answers.


def read(path: Path) -> Objectives:
    """Read a file of objectives. Raises BadSettings if it cannot be read or has an unknown or invalid entry."""
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, BadSettings) as error:
        raise BadSettings(f"{path}: {error}") from error


def parse(document: Mapping[str, Any]) -> Objectives:
    _refuse_unknown(document, ("error_ratio", "min_requests_per_s", "latency"), "the file")
    if "error_ratio" not in document:
        raise BadSettings("error_ratio is missing")
    rows = document.get("latency", [])
    if not isinstance(rows, list):
        raise BadSettings("latency: write [[latency]]")
    return Objectives(
        error_ratio=_number(document, "error_ratio", at_most=1.0),
        min_requests_per_s=_number(document, "min_requests_per_s") if "min_requests_per_s" in document else None,
        latencies=tuple(latency for row in rows for latency in _latencies(row)),
    )


def _latencies(row: Mapping[str, Any]) -> list[LatencyObjective]:
    _refuse_unknown(row, ("method", "space", "cached", "optional", *QUANTILES), "[[latency]]")
    labels = {}
    for name, kind in (("method", str), ("space", str), ("cached", bool)):
        if name in row:
            if not isinstance(row[name], kind):
                raise BadSettings(f"{name} = {row[name]!r}: not a {'string' if kind is str else 'true or false'}")
            labels[name] = str(row[name]).lower() if kind is bool else row[name]
    if "method" not in labels or not QUANTILES.keys() & row.keys():
        raise BadSettings("[[latency]] needs method, and p50_s or p99_s")
    if not isinstance(optional := row.get("optional", False), bool):
        raise BadSettings(f"optional = {optional!r}: not a true or false")
    return [
        LatencyObjective(labels=labels, quantile=q, at_most_s=_bound(row, name), optional=optional)
        for name, q in QUANTILES.items()
        if name in row
    ]


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := sorted(table.keys() - set(known)):
        raise BadSettings(f"{where}: {', '.join(unknown)}: no such key; there are {', '.join(known)}")


def _number(table: Mapping[str, Any], name: str, at_most: float = math.inf) -> float:
    value = table[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= at_most:
        raise BadSettings(f"{name} = {value!r}: not a number in 0..{at_most}")
    return float(value)


def _bound(table: Mapping[str, Any], name: str) -> float:
    seconds = _number(table, name)
    if seconds not in SECONDS_BUCKETS:
        bounds = ", ".join(f"{bound:g}" for bound in SECONDS_BUCKETS)
        raise BadSettings(f"{name} = {seconds:g}: not a bound of the server's histogram buckets, which are {bounds} s")
    return seconds


def judge(objectives: Objectives, series: Mapping[Labels, Histogram], clients: ClientTotals) -> list[Verdict]:
    """One verdict for each objective. `series`: the request histogram's increase during the test."""
    all_calls, successful = merge_series(series), merge_series(series, outcome="OK")
    calls, answers = (histogram.count if histogram else 0 for histogram in (all_calls, successful))
    verdicts = [
        _error_ratio("error ratio, by the server", calls - answers, calls, objectives.error_ratio),
        _error_ratio("error ratio, by its users", clients.failed, clients.calls, objectives.error_ratio),
    ]
    if (min_per_s := objectives.min_requests_per_s) is not None:
        per_s = answers / clients.seconds
        verdicts.append(Verdict("answers per second", f"≥ {min_per_s:g}", f"{per_s:.1f}", per_s >= min_per_s))
    return verdicts + [_judge_latency(latency, series) for latency in objectives.latencies]


def _error_ratio(name: str, failed: int, calls: int, allowed: float) -> Verdict:
    ratio = failed / calls if calls else 1.0
    return Verdict(name, f"≤ {allowed:g}", f"{ratio:.3g} ({failed} of {calls})", ratio <= allowed)


def _judge_latency(latency: LatencyObjective, series: Mapping[Labels, Histogram]) -> Verdict:
    allowed = f"≤ {latency.at_most_s:g} s"
    # Failed calls are left out: fast errors must not make answers look fast.
    answers = merge_series(series, outcome="OK", **latency.labels)
    if latency.optional and not (answers and answers.count):
        return Verdict(str(latency), allowed, "no such answer", met=None)
    min_answers = math.ceil(1 / (1 - latency.quantile) - 1e-9)
    unmet = None if latency.optional else False
    if answers is None or answers.count < min_answers:
        count = answers.count if answers else 0
        return Verdict(str(latency), allowed, f"{count} answers, too few: at least {min_answers} are needed", met=unmet)
    measured = quantile(answers, latency.quantile)
    return Verdict(str(latency), allowed, str(measured), measured.high_s <= latency.at_most_s)
