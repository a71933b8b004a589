"""A process that applies updates from its standard input and acknowledges them; the test kills it.

Input: one serialized ApplyRequest per line, in hexadecimal. Output: an empty line for each acknowledgement.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from index.live.live_shard import LiveLimits, LiveShard
from index.serving.shard_version import open_shard
from lookalike.v1.index_pb2 import ApplyRequest

LIMITS = LiveLimits(delta_rows=10_000, changes=10_000)  # Nothing is refused.


def main(location: str, directory: str) -> None:
    shard = open_shard(Path(location), 0)
    live = LiveShard(shard.base, shard.manifest, 0, Path(directory), LIMITS)

    def compact() -> None:
        while True:
            live.compact()

    threading.Thread(target=compact, daemon=True).start()
    for line in sys.stdin:
        live.apply(ApplyRequest.FromString(bytes.fromhex(line)).updates)
        print(flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
