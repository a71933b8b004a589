"""A process that is killed (-9) before any of its operations on files loses nothing of what it had flushed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lookalike.vectors import F32
from pipeline.features.compaction import CompactionOptions
from pipeline.features.directory import STAGED
from pipeline.features.store import FeatureStore, Partition

IMAGES = Partition(kind="image", encoder="net-1")
ROWS, ROUNDS = 20, 6

# Forks a process for each operation to be killed at. It tells on a pipe what it has flushed.
SCRIPT = f"""
import builtins, json, os, signal, sys
from pathlib import Path
import numpy as np
from pipeline.features import directory
from pipeline.features.compaction import CompactionOptions
from pipeline.features.store import FeatureStore, Partition

root, images = Path(sys.argv[1]), Partition(kind="image", encoder="net-1")

def work(kill_at, pipe):
    operations = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal operations
            operations += 1
            if operations == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    os.fsync = counted(os.fsync)
    Path.open, Path.replace, Path.mkdir = counted(Path.open), counted(Path.replace), counted(Path.mkdir)
    directory.Directory.remove = counted(directory.Directory.remove)
    store = FeatureStore(root / str(kill_at), notice=print)
    for start in range({ROUNDS}):
        table = store.vectors("image", encoder="net-1", dim=8)
        digests = [f"{{start * {ROWS} // 2 + n:032x}}" for n in range({ROWS})]  # Half of them in place of others.
        table.add(digests, np.full(({ROWS}, 8), start + 1, np.float32))
        table.flush()
        os.write(pipe, b".")
        if start % 2:
            store.compact(images, CompactionOptions(grace_s=0))

flushed = {{}}
for kill_at in range(1, 1000):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        work(kill_at, writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as acknowledged:
        flushed[kill_at] = len(acknowledged.read())
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0, status
        break
print(json.dumps(flushed))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Stores by the operation that their writer was killed at, and how many rounds it had flushed."""
    directory = tmp_path_factory.mktemp("killed")
    root = Path(__file__).parents[3]
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory)],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return directory, json.loads(finished.stdout.splitlines()[-1])


def expected_vectors(rounds: int) -> dict[str, F32]:
    return {
        f"{start * ROWS // 2 + n:032x}": np.full(8, start + 1, np.float32)
        for start in range(rounds)
        for n in range(ROWS)
    }


def test_what_was_flushed_is_read_whatever_the_moment_of_the_kill(killed: tuple[Path, dict[str, int]]) -> None:
    directory, flushed = killed
    assert len(flushed) > 5 * ROUNDS  # Operations: staged file, fsync, rename, fsync of each flush, and more.
    assert len({*flushed.values()}) == ROUNDS + 1
    for operation, rounds in flushed.items():
        notices: list[str] = []
        store = FeatureStore(directory / operation, notice=notices.append)
        for _ in range(2):
            table = store.vectors("image", encoder="net-1", dim=8)
            # The round that was being flushed is there whole, or not at all.
            written = rounds + (len(table) > len(expected_vectors(rounds)))
            expected = expected_vectors(written)
            assert len(table) == len(expected)
            found, has_vector = table.lookup([*expected])
            assert has_vector.all()
            np.testing.assert_array_equal(found, np.array([*expected.values()]).reshape(-1, 8))
            store.compact(IMAGES, CompactionOptions(grace_s=0))
        assert notices == []


def test_what_a_kill_leaves_is_removed_by_compaction(killed: tuple[Path, dict[str, int]]) -> None:
    directory, flushed = killed
    for operation in flushed:
        store = FeatureStore(directory / operation, notice=print)
        for _ in range(3):
            store.compact(IMAGES, CompactionOptions(grace_s=0))
        status = store.status(IMAGES)
        assert (status.replaced_parts, status.parts) in {(0, 1), (0, 0)}
        assert not [*(directory / operation).rglob(f"{STAGED}*")]
