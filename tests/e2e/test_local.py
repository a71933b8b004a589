"""`serve local`: an index of vectors, served and asked through the commands a person would type."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.client import Client
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.local import probes

LOOKALIKE = [sys.executable, "-m", "lookalike"]
VECTORS = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    np.save(folder / "base.npy", VECTORS)
    pq.write_table(
        pa.table(
            {
                "id": [str(row) for row in range(300)],
                "shop": [f"shop {row % 3}" for row in range(300)],
                "price": [float(row) for row in range(300)],
                "tags": [["even"] if row % 2 == 0 else [] for row in range(300)],
                "created_at": [datetime(2025, 1, 1) + timedelta(days=row) for row in range(300)],
            }
        ),
        folder / "attributes.parquet",
    )
    words = ["index", "build", "--vectors", str(folder / "base.npy"), "--space", "image", "--shards", "2"]
    words += ["--attributes", str(folder / "attributes.parquet")]
    subprocess.run([*LOOKALIKE, *words, str(folder / "index")], check=True, timeout=120)
    return folder / "index"


@pytest.fixture
def served(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the address of its gateway."""
    (port,) = probes.free_ports(1)
    words = ["serve", "local", str(index), "--port", str(port)]
    with subprocess.Popen([*LOOKALIKE, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]  # It says where it is when it is ready.
        assert f"127.0.0.1:{port}" in lines[0], lines
        yield process, f"127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_nearest_of_all_shards_are_found_and_ctrl_c_stops_everything(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = served
    query = VECTORS[7]
    with Client(address) as client:
        answer = client.search(vector=query, space="image", limit=5)
        unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
        expected = np.argsort(-(unit @ query))[:5]
        assert [hit.product.id for hit in answer.hits] == [str(row) for row in expected]
        assert (answer.provenance.shards_answered, answer.provenance.coverage) == (2, 1.0)
        assert client.count() == 300
        with pytest.raises(InvalidRequest, match="vector"):
            client.search(vector=query[:3], space="image")
        with pytest.raises(FailedPrecondition, match="text"):
            client.search(product_id="7", space="text")
    running = children_of(process.pid)
    assert len(running) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_the_search_command_asks_it(served: tuple[subprocess.Popen[str], str]) -> None:
    words = ["search", "--product", "7", "--space", "image", "--address", served[1], "--json"]
    told = subprocess.run([*LOOKALIKE, *words], check=True, capture_output=True, text=True, timeout=60)
    assert len(json.loads(told.stdout)["hits"]) == 10


def test_commands_filter_group_and_find_duplicates(served: tuple[subprocess.Popen[str], str]) -> None:
    def told(*words: str) -> dict[str, Any]:
        asked = [*LOOKALIKE, *words, "--space", "image", "--address", served[1], "--json"]
        found: dict[str, Any] = json.loads(
            subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout
        )
        return found

    def rows(answer: dict[str, Any]) -> list[int]:
        return [int(hit["product"]["id"]) for hit in answer["hits"]]

    tree = '{"any_of": [{"max_price": 99}, {"none_of": [{"max_price": 199}]}]}'
    words = ["--tag", "even", "--created-after", "2025-01-11", "--filter", tree, "--limit", "300", "--explain"]
    filtered = told("search", "--product", "7", *words)
    expected = [row for row in range(11, 300) if row % 2 == 0 and (row <= 99 or row > 199)]
    assert sorted(rows(filtered)) == expected
    assert sum(int(plan["passing"]) for plan in filtered["provenance"]["plans"]) == len(expected)
    one_each = rows(told("search", "--product", "7", "--max-per-shop", "1"))
    assert sorted(row % 3 for row in one_each) == [0, 1, 2]
    assert rows(told("search", "--product", "7", "--diversity", "0.5", "--limit", "3"))[0] != 7
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    near = [row for row in np.argsort(-(unit @ unit[7])).tolist() if row != 7 and unit[row] @ unit[7] >= 0.4]
    duplicates = told("duplicates", "--product", "7", "--min-score", "0.4", "--limit", "2")
    assert len(near) > 2
    assert (rows(duplicates), duplicates["truncated"]) == (near[:2], True)


def test_a_version_that_is_built_meanwhile_is_served_without_a_restart_and_one_can_go_back(
    served: tuple[subprocess.Popen[str], str], index: Path
) -> None:
    def until(name: str) -> None:
        while (told := client.search(product_id="7", space="image").provenance).version != name:
            assert told.coverage == 1.0
            time.sleep(0.1)

    with Client(served[1]) as client:
        old = client.search(product_id="7", space="image").provenance.version
        words = ["index", "build", "--vectors", str(index.parent / "base.npy"), "--space", "image", "--shards", "2"]
        words += ["--attributes", str(index.parent / "attributes.parquet")]
        build = [*LOOKALIKE, *words, "--seed", "1", "--json", str(index)]
        built = subprocess.run(build, check=True, capture_output=True, text=True, timeout=120)
        until(json.loads(built.stdout)["version"])
        subprocess.run([*LOOKALIKE, "versions", "use", str(index), old], check=True, timeout=60)
        until(old)


def test_a_shard_that_dies_ends_it_all_with_its_name(index: Path) -> None:
    (port,) = probes.free_ports(1)
    words = ["serve", "local", str(index), "--port", str(port)]
    command = [*LOOKALIKE, *words]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Ctrl-C"):
            assert process.poll() is None
        first, *others = children_of(process.pid)
        subprocess.run(["kill", "-9", str(first)], check=True)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "shard 0 ended, killed by SIGKILL" in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)


def test_a_live_directory_that_cannot_be_written_ends_it_with_the_reason(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (port,) = probes.free_ports(1)
    words = ["serve", "local", str(index), "--port", str(port), "--live-dir", str(tmp_path / "file")]
    told = subprocess.run([*LOOKALIKE, *words], check=False, capture_output=True, text=True, timeout=60)
    assert told.returncode == 2
    assert "cannot keep changes there: Not a directory" in told.stderr
    assert "Traceback" not in told.stderr


def test_changes_by_command_are_found_and_outlive_shards_that_are_killed(index: Path, tmp_path: Path) -> None:
    (port,) = probes.free_ports(1)
    np.save(tmp_path / "vector.npy", VECTORS[7])
    address = f"127.0.0.1:{port}"
    command = [*LOOKALIKE, "serve", "local", str(index), "--port", str(port), "--live-dir", str(tmp_path / "live")]

    def change(*words: str) -> str:
        told = [*LOOKALIKE, "catalog", *words, "--address", address]
        return subprocess.run(told, check=True, capture_output=True, text=True, timeout=60).stdout

    for started in range(2):
        with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("Ctrl-C"):
                assert process.poll() is None
            if not started:
                words = ["--title", "seven again", "--vector", f"image={tmp_path / 'vector.npy'}", "--revision", "2"]
                assert change("upsert", "new", *words) == "new: changed, revision 2; in the spaces: image\n"
                assert change("remove", "7", "--revision", "1") == "7: changed, revision 1\n"
            assert "nothing changed" in change("remove", "new", "--revision", "1")
            with Client(address) as client:
                (hit,) = client.search(vector=VECTORS[7], space="image", limit=1).hits
                assert (hit.product.id, hit.product.title) == ("new", "seven again")
                assert (client.count(), client.exists(["7"])) == (300, [False])
            for pid in children_of(process.pid):
                subprocess.run(["kill", "-9", str(pid)], check=False)  # It ends the others when the first is gone.
            assert process.wait(timeout=60) == 1
