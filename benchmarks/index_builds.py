"""CPU and memory of a whole `lookalike index build` by recipe, at two sizes: calibration and checksums included.

One shard of random vectors (`benchmarks/dataset.py`), one thread, a process for each build; user and system seconds and
the greatest resident memory of that process. The exponent says how CPU grows from the smaller size to the larger.

    python -m benchmarks.index_builds [--counts 10000 40000] [--recipe PCAR256,IVF,RaBitQfs …]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, write

RECIPES = ("PCAR256,IVF,RaBitQfs", "PCAR256,SymQG32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs=2, default=(10_000, 40_000))
    parser.add_argument("--recipe", nargs="+", default=RECIPES)
    options = parser.parse_args()
    few, many = options.counts
    vectors, _ = cnn_like(many, 0)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        for recipe in options.recipe:
            builds = {count: measure_build(Path(folder), vectors[:count], recipe) for count in options.counts}
            exponent = log(builds[many]["cpu_s"] / builds[few]["cpu_s"]) / log(many / few)
            rows[recipe] = {**{str(count): row for count, row in builds.items()}, "exponent": round(exponent, 3)}
            print(recipe, rows[recipe], flush=True)
    caveats = "a shared machine, beside other work: CPU, one thread; float16 for rescoring, recall@10 .95"
    print(write("index_builds", {"vectors": f"{few} and {many} x {DIM}, CNN-like", "rows": rows, "caveats": caveats}))


def measure_build(folder: Path, vectors: np.ndarray[Any, Any], recipe: str) -> dict[str, float]:
    count = len(vectors)
    path = folder / f"{count}.npy"
    np.save(path, vectors)
    command = [*COMMAND, "index", "build", "--vectors", str(path), "--space", "image", "--threads", "1"]
    command += ["--recipe", recipe, "--recall", "0.95", "--rescore", "float16", str(folder / f"{recipe}-{count}")]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environ = {**os.environ, **one_thread}  # noqa: TID251  # a script of its own
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)  # noqa: S603  # our own command
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}")
    cpu_s = used.ru_utime + used.ru_stime
    peak_bytes = used.ru_maxrss << 10
    return {"cpu_s": round(cpu_s, 2), "cpu_us_per_vector": round(cpu_s / count * 1e6), "peak_rss_bytes": peak_bytes}


if __name__ == "__main__":
    main()
