"""What kill -9 loses of published events: workers, Redis, a node and a model server, killed while products change.

A publisher appends puts, patches and removals to the stream, and again what was not acknowledged; two workers fetch
photos from a web server that fails now and then, have them encoded, and write the changes. In the end every product is
compared with what its events make it. `tests/e2e/event_kills.py` says how. The exit status is 1 if anything was lost.

    python -m benchmarks.event_kills [--kills 50] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.meter import write
from tests.e2e.event_kills import run
from tests.made_once import SMALL, export_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        models = Path(folder) / "models"
        export_model(models, *SMALL)
        tally = run(Path(folder), models, kills=options.kills, seed=options.seed, progress=print)
    caveats = (
        "kill -9 leaves the page cache: that events are synced to disk is not tested by it. Every photo is one of 48, "
        "so most are found in the feature store; one request in 50 fails."
    )
    result = {"seed": options.seed, **asdict(tally), "violations": len(tally.violations), "caveats": caveats}
    print(write("event_kills", result))
    print(*tally.violations, sep="\n")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
