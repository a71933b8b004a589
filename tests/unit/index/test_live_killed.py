"""After kill -9 at any moment of updates and compactions, the shard has exactly the acknowledged updates."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from index.backends.faiss_support import use_threads
from index.live.live_shard import LiveShard
from lookalike.v1.index_pb2 import ApplyRequest, UpdateResult
from tests.conftest import REPOSITORY
from tests.unit.index.live_child import LIMITS
from tests.unit.index.live_samples import Oracle, build_version, random_updates

KILLS = 6
REQUESTS = 400


@pytest.mark.slow
def test_after_repeated_kills_all_acknowledged_updates_are_there_and_none_is_half_applied(
    tmp_path: Path,
) -> None:
    """Requests that were sent but not acknowledged may be applied too, each whole, in the order sent."""
    use_threads(1)
    shard, random, compacted = build_version(tmp_path / "index"), np.random.default_rng(0), 0
    oracle, sequence = Oracle.of(shard), 0
    for killed in range(KILLS):
        requests = [
            ApplyRequest(updates=random_updates(random, int(random.integers(1, 6)), above=10 * killed))
            for _ in range(REQUESTS)
        ]
        acknowledged = _kill_after(int(random.integers(1, REQUESTS // 2)), tmp_path, requests)
        recovered = LiveShard(shard.base, shard.manifest, 0, tmp_path / "live", LIMITS)
        for number, request in enumerate(requests):
            if number >= acknowledged and sequence == recovered.sequence:
                break
            sequence += sum(oracle.apply(update) == UpdateResult.APPLIED for update in request.updates)
        assert sequence == recovered.sequence
        oracle.check(recovered)
        compacted += recovered.state().segment_rows > 0
        recovered.close()
    assert compacted  # A compaction was under way, or done, at some of the kills.


def _kill_after(count: int, root: Path, requests: list[ApplyRequest]) -> int:
    """Send all requests, and kill the process after `count` acknowledgements. Returns how many arrived in the end."""
    sent = root / "requests"
    sent.write_text("".join(f"{request.SerializeToString().hex()}\n" for request in requests))
    command = [sys.executable, "-m", "tests.unit.index.live_child", str(root / "index"), str(root / "live")]
    with (
        sent.open() as requests_file,
        subprocess.Popen(command, cwd=REPOSITORY, stdin=requests_file, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        acknowledged = sum(1 for _ in islice(child.stdout, count))
        child.kill()
        return acknowledged + sum(1 for _ in child.stdout)
