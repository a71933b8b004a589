"""After kill -9 at any moment, of updates and of compactions, the state is exactly that which was acknowledged."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from index.kinds.engine import use_threads
from index.live.live_shard import LiveShard
from lookalike.v1.index_pb2 import ApplyRequest, UpdateResult
from tests.conftest import REPOSITORY
from tests.unit.index.live_child import LIMITS
from tests.unit.index.live_samples import Oracle, build_version, random_updates

KILLS = 6
REQUESTS = 400


@pytest.mark.slow
def test_killed_again_and_again_it_comes_back_with_all_that_was_acknowledged_and_nothing_half(
    tmp_path: Path,
) -> None:
    """What was sent and not acknowledged may be there, request by request in the order sent."""
    use_threads(1)
    shard, random, moved = build_version(tmp_path / "index"), np.random.default_rng(0), 0
    oracle, sequence = Oracle.of(shard), 0
    for killed in range(KILLS):
        requests = [
            ApplyRequest(updates=random_updates(random, int(random.integers(1, 6)), above=10 * killed))
            for _ in range(REQUESTS)
        ]
        acknowledged = _killed_after(int(random.integers(1, REQUESTS // 2)), tmp_path, requests)
        recovered = LiveShard(shard.base, shard.manifest, 0, tmp_path / "live", LIMITS)
        for number, request in enumerate(requests):
            if number >= acknowledged and sequence == recovered.sequence:
                break
            sequence += sum(oracle.apply(update) == UpdateResult.APPLIED for update in request.updates)
        assert sequence == recovered.sequence
        oracle.check(recovered)
        moved += recovered.state().segment_rows > 0
        recovered.close()
    assert moved  # A compaction was under way, or done, at some of the kills.


def _killed_after(count: int, place: Path, requests: list[ApplyRequest]) -> int:
    """Send all, kill after so many were acknowledged; how many were at last."""
    sent = place / "requests"
    sent.write_text("".join(f"{request.SerializeToString().hex()}\n" for request in requests))
    command = [sys.executable, "-m", "tests.unit.index.live_child", str(place / "index"), str(place / "live")]
    with (
        sent.open() as requests_file,
        subprocess.Popen(command, cwd=REPOSITORY, stdin=requests_file, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        acknowledged = sum(1 for _ in islice(child.stdout, count))
        child.kill()
        return acknowledged + sum(1 for _ in child.stdout)
