"""Shared tools of benchmarks: CPU time of processes, closed-loop load, result files. Reads /proc, runs git."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
COMMAND = [sys.executable, "-m", "lookalike"]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(*pids: int) -> float:
    """User and system seconds that the processes have used since they began."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


@dataclass(frozen=True, kw_only=True)
class Load:
    """The measurements of one closed loop of calls."""

    calls: int
    wall_s: float
    server_cpu_s: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.calls / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Server CPU per call, in microseconds."""
        return self.server_cpu_s / self.calls * 1e6

    def row(self) -> dict[str, float]:
        return {
            **{k: round(v, 3) for k, v in asdict(self).items()},
            "per_s": round(self.per_s, 1),
            "cpu_us": round(self.cpu_us, 1),
        }


async def closed_loop(call: Callable[[int], Awaitable[object]], calls: int, inflight: int, pids: Sequence[int]) -> Load:
    """Make calls 0 .. `calls` - 1, `inflight` at a time. As a closed loop it says nothing about overload."""
    took_s = np.zeros(calls)
    numbers = iter(range(calls))

    async def worker() -> None:
        for i in numbers:
            began_s = time.perf_counter()
            await call(i)
            took_s[i] = time.perf_counter() - began_s

    cpu_before_s, began_s = cpu_s(*pids), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(inflight)))
    wall_s = time.perf_counter() - began_s
    p50_ms, p99_ms = (float(each) * 1e3 for each in np.percentile(took_s, (50, 99)))
    return Load(calls=calls, wall_s=wall_s, server_cpu_s=cpu_s(*pids) - cpu_before_s, p50_ms=p50_ms, p99_ms=p99_ms)


def median(loads: Sequence[Load], figure: str) -> float:
    return float(np.median([getattr(load, figure) for load in loads]))


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.machine()
    return f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}"


def measurement_context() -> dict[str, str]:
    """The machine, date and commit, for a result file."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json: the result, with the machine, date and commit."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**measurement_context(), **result}, indent=1, ensure_ascii=False) + "\n")
    return path
