"""What writing, opening, gathering, looking up and compacting a feature store costs, beside plain pyarrow and dd.

200,000 vectors of 1,024 float32, written 1,024 at a time, then compacted. All vectors are gathered in the order in
which they were written, and in random order, into memory and into a file; what they are compared with reads the same
files: pyarrow their column of vectors, dd all bytes. Cold: without the files in the page cache (posix_fadvise). Rounds
in turn, medians.

    python -m benchmarks.feature_store [--rows 200000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.meter import measurement_context, write
from lookalike.vectors import F32, normalised
from pipeline.features.compaction import CompactionOptions
from pipeline.features.key_index import keys_of
from pipeline.features.store import FeatureStore, Partition
from pipeline.features.vectors import VectorTable

DIM = 1024
BLOCK = 16_384
ROUNDS = 3
LOOKUPS = 300
IMAGES = Partition(kind="image", encoder="net")

CAVEATS = (
    "one process; the disk is a virtual one of a shared machine, so rates differ from run to run: compare those of one "
    "run, or CPU; the vectors of all blocks of 16,384 are the same, their keys are not; a gather reads, verifies and "
    "copies, pyarrow and dd only read"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where to write 2 GB (default: the temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lookalike-features-") as folder:
        results = _measure(Path(folder), options.rows)
    results = {"rows": options.rows, "dim": DIM, **results, "caveats": CAVEATS, **measurement_context()}
    print(json.dumps(results, indent=1), write("feature_store", results))


def _measure(folder: Path, count: int) -> dict[str, Any]:
    store = FeatureStore(folder / "store", notice=print)
    digests = [f"{number:032x}" for number in np.random.default_rng(0).permutation(1 << 24)[:count].tolist()]
    vector_bytes = 4 * DIM * count
    results: dict[str, Any] = {"write": _write(store, digests, vector_bytes)}
    results["small_parts"] = _read(store, digests, folder)
    with _timed() as times:
        report = store.compact(IMAGES, CompactionOptions())
        store.compact(IMAGES, CompactionOptions(grace_s=0))
    results["compact"] = {
        "parts": [report.merged_parts, report.written_parts],
        "mb_s": round(vector_bytes / 1e6 / times[0]),
        "cpu_s_per_gb": round(times[1] / vector_bytes * 1e9, 2),
    }
    results["compacted"] = _read(store, digests, folder)
    return results


def _write(store: FeatureStore, digests: list[str], vector_bytes: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    block: F32 = normalised(rng.standard_normal((min(BLOCK, len(digests)), DIM), dtype=np.float32))
    table = store.vectors("image", encoder="net", dim=DIM)
    with _timed() as times:
        for start in range(0, len(digests), 64):  # As batches of an encoder come.
            batch = digests[start : start + 64]
            at = start % len(block)
            table.add(batch, block[at : at + len(batch)] if at + len(batch) <= len(block) else block[: len(batch)])
        table.close()
    return {
        "mb_s": round(vector_bytes / 1e6 / times[0]),
        "cpu_us_per_vector": round(times[1] / len(digests) * 1e6, 1),
        "parts": store.status(IMAGES).parts,
    }


def _read(store: FeatureStore, digests: list[str], folder: Path) -> dict[str, Any]:
    opening = [_time(lambda: store.vectors("image", encoder="net", dim=DIM)) for _ in range(ROUNDS)]
    table = store.vectors("image", encoder="net", dim=DIM)
    files = sorted((folder / "store" / IMAGES.path).glob("*.parquet"))
    vector_bytes = 4 * DIM * len(digests)
    out: F32 = np.zeros((len(digests), DIM), np.float32)
    keys = keys_of(digests)
    shuffled = keys[np.random.default_rng(2).permutation(len(keys))]

    def gather_to_file() -> None:
        path = folder / "gathered.npy"
        table.gather(digests, path)
        path.unlink()

    ways: dict[str, Callable[[], Any]] = {
        "gather": lambda: table.parts.read_vectors(keys, out),
        "gather_shuffled": lambda: table.parts.read_vectors(shuffled, out),
        "gather_to_file": gather_to_file,
        "pyarrow": lambda: _pyarrow(files),
        "dd": lambda: _dd(files),
    }
    rates: dict[str, Any] = {}
    cpu: dict[str, list[float]] = {name: [] for name in ways if name != "dd"}
    for cold in (False, True):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, run in ways.items():
                if cold:
                    _evict(files)
                with _timed() as times:
                    run()
                seconds[name].append(times[0])
                if name in cpu and not cold:
                    cpu[name].append(times[1])
        rates["cold_mb_s" if cold else "warm_mb_s"] = {
            name: round(vector_bytes / 1e6 / statistics.median(times)) for name, times in seconds.items()
        }
    table.parts.read_vectors(keys, out)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-4)
    return {
        "parts": len(files),
        "open_s": round(statistics.median(opening), 3),
        "index_bytes_per_row": _index_bytes(table) // len(digests),
        **rates,
        "warm_cpu_s_per_gb": {
            name: round(statistics.median(times) / vector_bytes * 1e9, 3) for name, times in cpu.items()
        },
        "gather_to_pyarrow": {
            key: round(rates[key]["gather"] / rates[key]["pyarrow"], 2) for key in ("warm_mb_s", "cold_mb_s")
        },
        "lookup_us_per_vector": _lookups(table, digests),
    }


def _lookups(table: VectorTable, digests: list[str]) -> dict[str, dict[str, float]]:
    """Microseconds a vector, warm: of random digests, so many at a time; and to ask whether there is one."""
    rng = np.random.default_rng(3)
    figures: dict[str, dict[str, float]] = {}
    batches: list[list[str]] = []
    for size in (1, 16, LOOKUPS):
        batches = [[digests[i] for i in rng.integers(0, len(digests), size)] for _ in range(max(2000 // size, 50))]
        for batch in batches:
            table.lookup(batch)
        figures[f"{size} at once"] = _per_batch(table.lookup, batches, size)
    figures[f"contains, {LOOKUPS} at once"] = _per_batch(table.contains, batches, LOOKUPS)
    return figures


def _per_batch(call: Callable[[list[str]], Any], batches: list[list[str]], size: int) -> dict[str, float]:
    """Median wall time, and mean CPU time."""
    walls, cpu = [], time.process_time()
    for batch in batches:
        start = time.perf_counter()
        call(batch)
        walls.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    return {
        "wall": round(1e6 * statistics.median(walls) / size, 1),
        "cpu": round(1e6 * cpu / len(batches) / size, 1),
    }


def _index_bytes(table: VectorTable) -> int:
    rows = table.parts.index.rows()
    arrays = (rows.keys, rows.written_us, rows.parts, rows.rows, rows.checksums)
    return sum(array.nbytes for array in arrays)


def _pyarrow(files: list[Path]) -> None:
    for file in files:
        pq.ParquetFile(file).read(columns=["vector"])


def _dd(files: list[Path]) -> None:
    for file in files:
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none"], check=True)  # noqa: S603, S607


def _evict(files: list[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Wall and CPU seconds of the block."""
    times: list[float] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield times
    times += [time.perf_counter() - wall, time.process_time() - cpu]


if __name__ == "__main__":
    main()
