"""Shared tools of benchmarks: CPU and memory of processes, load, result files. Reads /proc, runs git."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
COMMAND = [sys.executable, "-m", "lookalike"]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(*pids: int) -> float:
    """User and system seconds that the processes have used since they began, and their children that have ended."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):  # It has ended: its parent has its time.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / _TICKS_PER_S


def with_children(pids: Iterable[int]) -> list[int]:
    """The processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It has ended.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = list(pids)
    for pid in found:
        found += children.get(pid, [])
    return found


def listening(port: int) -> int | None:
    """The process of this machine that listens on a TCP port."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    fields = [line.split() for line in lines]
    sockets = {f"socket:[{each[9]}]" for each in fields if each[1].endswith(f":{port:04X}") and each[3] == "0A"}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # It has ended, or is somebody else's.
            if any(str(link.readlink()) in sockets for link in folder.iterdir()):
                return int(folder.parent.name)
    return None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory of some processes. Pages that several share count once in `pss_bytes`, in each in `rss_bytes`."""

    rss_bytes: int
    pss_bytes: int
    own_bytes: int  # Of `pss_bytes` without mapped files, which the kernel may evict.


def memory(pids: Iterable[int]) -> Memory:
    total = dict.fromkeys(("Rss", "Pss", "Pss_File"), 0)
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It has ended.
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            values = dict(line.split(":", 1) for line in lines)
            for name in total:
                total[name] += int(values[name].split()[0]) << 10
    return Memory(rss_bytes=total["Rss"], pss_bytes=total["Pss"], own_bytes=total["Pss"] - total["Pss_File"])


@dataclass(frozen=True, kw_only=True)
class Load:
    """The measurements of one load of calls."""

    calls: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float  # Of this process, all threads.
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


Call = Callable[[int], Awaitable[object]]


async def closed_loop(call: Call, numbers: Iterable[int], inflight: int, pids: Sequence[int]) -> Load:
    """Make a call for each number, `inflight` at a time. As a closed loop it says nothing about overload."""
    took_s: list[float] = []
    left = iter(numbers)

    async def worker() -> None:
        for i in left:
            began_s = time.perf_counter()
            await call(i)
            took_s.append(time.perf_counter() - began_s)

    return await _measured(asyncio.gather(*(worker() for _ in range(inflight))), took_s, pids)


async def open_loop(call: Call, calls: int, per_s: float, pids: Sequence[int], *, seed: int = 0) -> Load:
    """Make calls 0 .. `calls` - 1 at random times, `per_s` a second (Poisson), whatever the earlier ones take.

    Latency counts from the time at which a call was due, so waiting for a slow server is part of it.
    """
    took_s: list[float] = []
    due_s = np.random.default_rng(seed).exponential(1 / per_s, calls).cumsum()

    async def make(i: int, due_s: float) -> None:
        await call(i)
        took_s.append(time.perf_counter() - due_s)

    async def make_all() -> None:
        began_s = time.perf_counter()
        made = []
        for i, offset_s in enumerate(due_s):
            await asyncio.sleep(began_s + offset_s - time.perf_counter())
            made.append(asyncio.create_task(make(i, began_s + offset_s)))
        await asyncio.gather(*made)

    return await _measured(make_all(), took_s, pids)


async def _measured(load: Awaitable[object], took_s: Sequence[float], pids: Sequence[int]) -> Load:
    client_before_s, server_before_s, began_s = time.process_time(), cpu_s(*pids), time.perf_counter()
    await load
    wall_s = time.perf_counter() - began_s
    p50_ms, p99_ms = (float(each) * 1e3 for each in np.percentile(took_s, (50, 99)))
    return Load(
        calls=len(took_s),
        wall_s=wall_s,
        server_cpu_s=cpu_s(*pids) - server_before_s,
        client_cpu_s=time.process_time() - client_before_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def for_seconds(seconds: float) -> Iterator[int]:
    """0, 1, 2, ... until the time is over; it begins with the first number."""
    end_s = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end_s:
        yield number
        number += 1


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


def write(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Write NAME.json: the result, with the machine, date and commit."""
    path = (folder or RESULTS) / f"{name}.json"
    path.write_text(json.dumps({**measurement_context(), **result}, indent=1, ensure_ascii=False) + "\n")
    return path
