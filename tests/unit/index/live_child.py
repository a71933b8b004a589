"""A process that takes updates from its standard input, says which it took, and is meant to be killed.

One serialized ApplyRequest in hexadecimal on a line; for each, a line when it is acknowledged.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from index.live.live import Bounds, Live
from index.serving.loaded import opened
from lookalike.v1.index_pb2 import ApplyRequest

BOUNDS = Bounds(delta_rows=10_000, changes=10_000)  # Nothing is refused.


def main(location: str, directory: str) -> None:
    shard = opened(Path(location), 0)
    live = Live(shard.base, shard.manifest, 0, Path(directory), BOUNDS)

    def compact() -> None:
        while True:
            live.compact()

    threading.Thread(target=compact, daemon=True).start()
    for line in sys.stdin:
        live.apply(ApplyRequest.FromString(bytes.fromhex(line)).updates)
        print(flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
