"""Time from `lookalike demo` to its first answer: at the first start, which builds everything, and at the second.

Set-up of the virtual environment is not counted. Untrained weights unless --weights: reading a file costs the same.

    python -m benchmarks.demo_start [--weights FILE] [--rounds 3]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.meter import COMMAND, write

_FIRST_ANSWER = re.compile(r"First answer ([\d.]+) s after the start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        state = Path(folder) / "state"
        first_s = first_answer_s(state, options.weights)
        again_s = [first_answer_s(state, options.weights) for _ in range(options.rounds)]
    result = {
        "products": 2400,
        "first_start_s": first_s,
        "second_start_s": round(float(np.median(again_s)), 2),
        "second_starts_s": again_s,
        "caveats": "to the first answer, with an existing virtual environment; the second is mostly TensorFlow loading",
    }
    print(write("demo_start", result))


def first_answer_s(state: Path, weights: str) -> float:
    """Seconds to the first answer, as the demo prints them."""
    command = [*COMMAND, "demo", "--once", "--state", str(state), "--weights", weights]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603
    match = _FIRST_ANSWER.search(finished.stdout)
    if finished.returncode or match is None:
        raise RuntimeError(
            f"the demo exited with status {finished.returncode}:\n{finished.stdout[-2000:]}\n{finished.stderr[-2000:]}"
        )
    return float(match[1])


if __name__ == "__main__":
    main()
