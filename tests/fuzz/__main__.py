"""The long form of the fuzz tests, `make fuzz`: rounds of random examples for a while, and what they add up to.

Each surface is a process of its own, which ends after its share of a round; a surface that fails goes on in the next
round, and its finds are printed as they come. The exit status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.budget import PROFILE

FOLDER = Path(__file__).parent
_TOTAL = re.compile(r"fuzz (\w+): (\d+) examples, ([\d.]+) s")
_WIND_UP_S = 60  # For a surface to end a test, and its system.


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("surfaces", nargs="*", metavar="SURFACE", help="rpcs, http2, …; default: all")
    options = parser.parse_args()
    surfaces = options.surfaces or sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))
    end_s = time.monotonic() + options.seconds
    examples, failed = Counter[str](), Counter[str]()
    seconds = dict.fromkeys(surfaces, 0.0)
    round_ = 0
    while (left_s := end_s - time.monotonic()) > 0:
        surface, seed = surfaces[round_ % len(surfaces)], options.seed + round_ // len(surfaces)
        round_ += 1
        status, output, took_s = _run(surface, seed, left_s + _WIND_UP_S)
        for _, count, _ in _TOTAL.findall(output):
            examples[surface] += int(count)
        seconds[surface] += took_s
        print(f"{surface}: seed {seed}, {took_s:.0f} s, {'passed' if not status else f'status {status}'}", flush=True)
        if status > 0:
            failed[surface] += 1
            print(output, flush=True)
    for surface in surfaces:
        print(f"{surface}: {examples[surface]} examples in {seconds[surface]:.0f} s, {failed[surface]} rounds failed")
    return 1 if failed else 0


def _run(surface: str, seed: int, timeout_s: float) -> tuple[int, str, float]:
    """The exit status of a round of one surface, its output, and how long it took; -15: its time was up."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=3", "-p", "no:cacheprovider"]
    command += [f"--hypothesis-profile={PROFILE}", f"--hypothesis-seed={seed}", str(FOLDER / f"test_{surface}.py")]
    started_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate()
    return process.returncode, output, time.monotonic() - started_s


if __name__ == "__main__":
    sys.exit(main())
