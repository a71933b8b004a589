"""Nothing acknowledged is lost, and nothing older comes back, when processes are killed while products change.

`python -m benchmarks.kills` does the same with any number of kills and any seed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.kills import KINDS, run

KILLS, SEED = 5, 0  # Each kind at least once.


@pytest.mark.slow
def test_every_acknowledged_change_survives_kills_of_shards_gateways_nodes_and_everything(tmp_path: Path) -> None:
    tallies = run(tmp_path, kills=KILLS, seed=SEED)
    assert [each for tally in tallies.values() for each in tally.violations] == []
    assert sum(tally.kills for tally in tallies.values()) == KILLS
    assert all(tallies[kind].answered for kind in KINDS)
