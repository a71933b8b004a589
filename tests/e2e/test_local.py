"""`lookalike serve local`: an index of vectors, served and queried with the commands a person would type."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
                "title": [f"{'red' if row % 2 else 'blue'} shoe number {row}" for row in range(300)],
                "category": ["shoes/red" if row % 2 else "shoes/blue" for row in range(300)],
                "shop": [f"shop {row % 3}" for row in range(300)],
                "price": [float(row) for row in range(300)],
                "tags": [["even"] if row % 2 == 0 else [] for row in range(300)],
                "created_at": [datetime(2025, 1, 1) + timedelta(days=row) for row in range(300)],
            }
        ),
        folder / "attributes.parquet",
    )
    arguments = ["index", "build", "--vectors", str(folder / "base.npy"), "--space", "image", "--shards", "2"]
    arguments += ["--attributes", str(folder / "attributes.parquet")]
    subprocess.run([*LOOKALIKE, *arguments, str(folder / "index")], check=True, timeout=120)
    return folder / "index"


@contextmanager
def serving(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `serve local`, and its address."""
    (port,) = probes.free_ports(1)
    arguments = ["serve", "local", str(index), "--port", str(port)]
    with subprocess.Popen([*LOOKALIKE, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]  # It prints its address when it is ready.
        assert f"127.0.0.1:{port}" in lines[0], lines
        yield process, f"127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def address(index: Path) -> Iterator[str]:
    """Of a running `serve local`, for tests that leave it as it was."""
    with serving(index) as (_, address):
        yield address


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_hits_are_the_nearest_of_all_shards(address: str) -> None:
    query = VECTORS[7]
    with Client(address) as client:
        response = client.search(vector=query, space="image", limit=5)
        unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
        expected = np.argsort(-(unit @ query))[:5]
        assert [hit.product.id for hit in response.hits] == [str(row) for row in expected]
        assert (response.provenance.shards_answered, response.provenance.coverage) == (2, 1.0)
        assert client.count() == 300
        with pytest.raises(InvalidRequest, match="vector"):
            client.search(vector=query[:3], space="image")
        with pytest.raises(FailedPrecondition, match="text"):
            client.search(product_id="7", space="text")


def test_the_search_command_gets_hits(address: str) -> None:
    arguments = ["search", "--product", "7", "--space", "image", "--address", address, "--json"]
    result = subprocess.run([*LOOKALIKE, *arguments], check=True, capture_output=True, text=True, timeout=60)
    assert len(json.loads(result.stdout)["hits"]) == 10


def test_commands_filter_limit_hits_per_shop_and_find_duplicates(address: str) -> None:
    def run_json(*arguments: str) -> dict[str, Any]:
        command = [*LOOKALIKE, *arguments, "--space", "image", "--address", address, "--json"]
        response: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        )
        return response

    def rows(response: dict[str, Any]) -> list[int]:
        return [int(hit["product"]["id"]) for hit in response["hits"]]

    filter_tree = '{"any_of": [{"max_price": 99}, {"none_of": [{"max_price": 199}]}]}'
    arguments = [
        "--tag",
        "even",
        "--created-after",
        "2025-01-11",
        "--filter",
        filter_tree,
        "--limit",
        "300",
        "--explain",
    ]
    filtered = run_json("search", "--product", "7", *arguments)
    expected = [row for row in range(11, 300) if row % 2 == 0 and (row <= 99 or row > 199)]
    assert sorted(rows(filtered)) == expected
    assert sum(int(plan["matching"]) for plan in filtered["provenance"]["plans"]) == len(expected)
    one_each = rows(run_json("search", "--product", "7", "--max-per-shop", "1"))
    assert sorted(row % 3 for row in one_each) == [0, 1, 2]
    assert rows(run_json("search", "--product", "7", "--diversity", "0.5", "--limit", "3"))[0] != 7
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    near = [row for row in np.argsort(-(unit @ unit[7])).tolist() if row != 7 and unit[row] @ unit[7] >= 0.4]
    duplicates = run_json("duplicates", "--product", "7", "--min-score", "0.4", "--limit", "2")
    assert len(near) > 2
    assert (rows(duplicates), duplicates["truncated"]) == (near[:2], True)


def test_a_new_version_is_served_without_a_restart_and_the_old_one_can_be_restored_and_ctrl_c_stops_the_node(
    index: Path,
) -> None:
    def wait_for(version: str) -> None:
        while (provenance := client.search(product_id="7", space="image").provenance).version != version:
            assert provenance.coverage == 1.0
            time.sleep(0.1)

    with serving(index) as (process, address), Client(address) as client:
        old = client.search(product_id="7", space="image").provenance.version
        arguments = ["index", "build", "--vectors", str(index.parent / "base.npy"), "--space", "image", "--shards", "2"]
        arguments += ["--attributes", str(index.parent / "attributes.parquet")]
        build = [*LOOKALIKE, *arguments, "--seed", "1", "--json", str(index)]
        built = subprocess.run(build, check=True, capture_output=True, text=True, timeout=120)
        wait_for(json.loads(built.stdout)["version"])
        subprocess.run([*LOOKALIKE, "versions", "use", str(index), old], check=True, timeout=60)
        wait_for(old)
        running = children_of(process.pid)
        assert len(running) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_a_node_that_dies_ends_the_command_and_is_named(index: Path) -> None:
    (port,) = probes.free_ports(1)
    arguments = ["serve", "local", str(index), "--port", str(port)]
    command = [*LOOKALIKE, *arguments]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Ctrl-C"):
            assert process.poll() is None
        (node,) = children_of(process.pid)
        subprocess.run(["kill", "-9", str(node)], check=True)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "node ended, killed by SIGKILL" in errors


def test_a_live_directory_that_cannot_be_written_is_an_error_with_the_reason(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (port,) = probes.free_ports(1)
    arguments = ["serve", "local", str(index), "--port", str(port), "--live-dir", str(tmp_path / "file")]
    result = subprocess.run([*LOOKALIKE, *arguments], check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "cannot keep changes there: Not a directory" in result.stderr
    assert "Traceback" not in result.stderr


@contextmanager
def serving_changes(index: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `serve local` that keeps changes in `folder`, and its address."""
    (port,) = probes.free_ports(1)
    command = [*LOOKALIKE, "serve", "local", str(index), "--port", str(port), "--live-dir", str(folder / "live")]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Ctrl-C"):
            assert process.poll() is None
        yield process, f"127.0.0.1:{port}"
        (node,) = children_of(process.pid)
        subprocess.run(["kill", "-9", str(node)], check=True)
        assert process.wait(timeout=60) == 1


def run_catalog(address: str, *arguments: str) -> str:
    """What `lookalike catalog` prints."""
    command = [*LOOKALIKE, "catalog", *arguments, "--address", address]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_changes_made_by_commands_are_searchable_and_survive_a_killed_node(index: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "vector.npy", VECTORS[7])
    for restart in (False, True):
        with serving_changes(index, tmp_path) as (_, address):
            if not restart:
                arguments = ["--title", "seven again", "--category", "shoes", "--revision", "2"]
                arguments += ["--vector", f"image={tmp_path / 'vector.npy'}"]
                upserted = run_catalog(address, "upsert", "new", *arguments)
                assert upserted == "new: changed, revision 2; in the spaces: image\n"
                assert run_catalog(address, "remove", "7", "--revision", "1") == "7: changed, revision 1\n"
            stored = "new: not changed: revision 1 is not above the stored one, 2\n"
            assert run_catalog(address, "remove", "new", "--revision", "1") == stored
            with Client(address) as client:
                (hit,) = client.search(vector=VECTORS[7], space="image", limit=1).hits
                assert (hit.product.id, hit.product.title) == ("new", "seven again")
                assert (client.count(), client.exists(["7"])) == (300, [False])


def test_patches_keep_vectors_and_what_is_exported_is_the_catalogue_of_the_next_update(
    index: Path, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    changes = tmp_path / "changes.jsonl"
    patches = [{"patch": {"id": str(row), "price": 9000 + row, "revision": 5}} for row in range(10, 300)]
    changes.write_text("".join(json.dumps(patch) + "\n" for patch in patches), encoding="utf-8")
    with serving_changes(index, tmp_path) as (_, address):
        patched = run_catalog(address, "patch", "7", "--clear", "price", "--no-in-stock", "--revision", "5")
        assert patched == "7: changed, revision 5; in the spaces: image\n"
        assert run_catalog(address, "write", str(changes), "--batch", "50") == "290 changes applied\n"
        conditions = ["--where", "--shop", "shop 2", "--revision", "6"]
        counted = run_catalog(address, "remove", *conditions, "--dry-run")
        assert counted == "100 products pass the conditions; none is removed\n"
        assert run_catalog(address, "remove", *conditions, "--yes") == "100 products removed\n"
        with Client(address) as client:
            (hit,) = client.search(vector=VECTORS[7], space="image", limit=1).hits
            assert (hit.product.id, hit.product.HasField("price"), hit.product.in_stock) == ("7", False, False)
            unit = VECTORS[7] / np.linalg.norm(VECTORS[7])
            np.testing.assert_allclose(client.vectors("7")["image"], unit, atol=1e-6)
            assert client.count(min_price=9000) == client.count(min_price=9010) == 193
            stored = {product.id: product for product in client.list(descriptions=True)}
        file = shop / "products.jsonl"
        assert run_catalog(address, "export", str(file)) == f"{file}: 200 products\n"
    update = [*LOOKALIKE, "update", str(shop), str(tmp_path / "next"), "--artifacts", str(tmp_path / "encoders")]
    update += ["--text-kind", "fasttext"]
    subprocess.run(update, check=True, capture_output=True, timeout=300)
    with serving_changes(tmp_path / "next", tmp_path / "next-changes") as (_, address), Client(address) as client:
        assert {product.id: product for product in client.list(descriptions=True)} == stored
        response = client.patch("10", revision=5, price=1)
        assert (response.applied, response.revision) == (False, 5)  # The catalogue had this change already.
