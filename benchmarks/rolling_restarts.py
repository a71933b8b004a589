"""Which calls does a rolling restart of two gateways fail? With clients in Python and Node, with retries and without.

One gateway's HTTP/2 is grpcio's, the other's pygrpc-native's. They get SIGTERM in turn, and are started again when they
have ended; sixteen callers of each of the four kinds of clients go on meanwhile. `tests/e2e/rolling_restarts.py` says
how. Needs node, and a folder node_modules that has @grpc/grpc-js. The exit status is 1 if a call failed.

    python -m benchmarks.rolling_restarts --node-modules DIR [--restarts 100] [--callers 16] [--pause-s 0.2]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.meter import write
from tests.e2e.rolling_restarts import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node-modules", type=Path, required=True)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--callers", type=int, default=16, help="of each kind")
    parser.add_argument("--pause-s", type=float, default=0.2, help="between a caller's calls")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        tally = run(
            Path(folder),
            restarts=options.restarts,
            callers=options.callers,
            pause_s=options.pause_s,
            node_modules=options.node_modules.resolve(),
            progress=print,
        )
    result = {
        "restarts": tally.restarts,
        "callers_of_each_kind": options.callers,
        "pause_s": options.pause_s,
        "answered": dict(tally.answered),
        "failed": dict(tally.failed),
        "drain_s": {f"p{q}": round(float(np.quantile(tally.drain_s, q / 100)), 3) for q in (50, 95, 100)},
        "caveats": "Loopback: nothing is between clients and gateways that learns late of a restart, as a load "
        "balancer may. Searches by product over one shard of 300 vectors take a few milliseconds. drain_s is from "
        "SIGTERM to the end of the process. Other work ran on the machine.",
    }
    print(write("rolling_restarts", result))
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
