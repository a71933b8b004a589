"""Measure a search function in this process: the cheapest knob that is good enough, then its speed. Prints JSON.

What a library would cost without any server. It runs in the environment of the library: no other package than NumPy.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.meter import memory
from benchmarks.neighbours import recall
from benchmarks.serving.system import QUERIES, TRUTH, load_array
from lookalike.vectors import F32

Search = Callable[
    [F32, int], Sequence[Sequence[int]]
]  # (n, dim) queries and the knob: the rows of each one's K nearest.
BATCHES = (1, 16, 64)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("build", "measure"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--factory", default="")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--seconds", type=float, default=3)
    return parser.parse_args()


def measure(search: Search, knob_values: Sequence[int], settings: argparse.Namespace) -> None:
    """Print the knob, its recall, the CPU microseconds of a query and its p50 and p99, in batches of 1, 16 and 64."""
    queries, truth = np.array(load_array(settings.data, QUERIES)), np.load(settings.data / TRUTH)
    for knob in knob_values:
        measured = recall(search(queries[: len(truth)], knob), truth)
        if measured >= settings.recall:
            break
    cells = [time_batches(search, queries, knob, size, settings.seconds) for size in BATCHES]
    own_memory = asdict(memory([os.getpid()]))
    print(json.dumps({"knob_value": knob, "recall": round(measured, 4), "cells": cells, "memory": own_memory}))


def time_batches(search: Search, queries: F32, knob: int, size: int, seconds: float) -> dict[str, float]:
    took_ms: list[float] = []
    starts = cycle(range(0, max(1, len(queries) - size + 1), size))
    cpu_before_s, began_s = time.process_time(), time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        start, batch_began_s = next(starts), time.perf_counter()
        search(queries[start : start + size], knob)
        took_ms.append((time.perf_counter() - batch_began_s) * 1e3)
    cpu_s, done = time.process_time() - cpu_before_s, len(took_ms) * size
    p50_ms, p99_ms = np.percentile(took_ms, (50, 99))
    return {
        "inflight": size,
        "per_s": done / (time.perf_counter() - began_s),
        "cpu_us": cpu_s / done * 1e6,
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
    }
