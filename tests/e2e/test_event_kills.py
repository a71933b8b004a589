"""No published event is lost, and none is made out of order, when what handles them is killed.

`python -m benchmarks.event_kills` does the same with any number of kills and any seed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.event_kills import ROLES, run

KILLS, SEED = 5, 0  # Each role once.


@pytest.mark.slow
def test_every_published_event_survives_kills_of_workers_redis_nodes_and_model_servers(
    tmp_path: Path, small_models: Path
) -> None:
    tally = run(tmp_path, small_models, kills=KILLS, seed=SEED, pause_s=0.1)
    assert tally.violations == []
    assert tally.kills == dict.fromkeys(ROLES, 1)
    assert tally.published > 100
    assert tally.dead_letters_replayed > 0
    assert tally.photos_requested > tally.photos_not_modified > 0
