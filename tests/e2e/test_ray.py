"""Builds on a real Ray cluster of several nodes, one of which is killed, and what a node lacks is named."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from index.building.build import IndexOptions, SpaceVectors, build
from index.storage.names import ANN_INDEX
from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases.version import MANIFEST
from lookalike.runtime import ray_engine
from lookalike.runtime.engine import Engine, TaskNeeds
from lookalike.runtime.local_engine import LocalEngine
from pipeline.update import command as update_command
from tests.e2e.updates import read_index_vectors
from tests.ray_clusters import RayCluster, ray_cluster
from tests.rpc.model_servers import ArithmeticModel, run_model_server, write_version
from tests.unit.index.samples import IMAGE, catalogue, clustered
from tests.unit.pipeline.catalogues import photo, write_jsonl

# Ray leaves files open, and its sockets, when it shuts down.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SHARDS, PRODUCTS, DIM = 4, 10_000, 64
VECTORS = clustered(PRODUCTS, DIM)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


def build_index(location: Path, engine: Engine) -> dict[str, bytes]:
    """Build a version of several shards; returns all its files."""
    space = SpaceVectors(encoder="test", vectors=VECTORS, rows=np.arange(PRODUCTS))
    options = IndexOptions(recipe="HNSW32,SQ8")
    name = build(
        location, catalogue(PRODUCTS), {IMAGE: space}, shards=SHARDS, options=options, engine=engine, exact_floats=0
    )
    assert not (location / ".building").exists()
    root = location / name
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def raise_bad_artifact(path: Path) -> None:
    raise BadArtifact(f"{path}: damaged")


def test_an_error_of_a_task_arrives_as_it_was_raised(cluster: RayCluster) -> None:
    with ray_engine.connect(cluster.address) as engine, pytest.raises(BadArtifact, match="x/y: damaged"):
        list(engine.map(raise_bad_artifact, [Path("x/y")], TaskNeeds()))


def test_results_come_in_the_order_of_the_items_which_are_not_read_far_ahead(cluster: RayCluster) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(40):
            read = number
            yield -number

    with ray_engine.connect(cluster.address) as engine:
        results = engine.map(abs, items(), TaskNeeds())
        assert next(results) == 0
        assert read <= 4  # Two for each core.
        assert list(results) == list(range(1, 40))


def test_a_node_without_the_shared_directory_is_named(cluster: RayCluster, tmp_path: Path) -> None:
    file = tmp_path / "shared"
    file.write_text("here")
    with ray_engine.connect(cluster.address) as engine:

        def items() -> Iterator[int]:
            file.write_text("elsewhere")  # The nodes of this cluster see all files of this machine.
            yield 1

        with pytest.raises(OperatorError, match=r"node .* does not have .*shared as this machine does"):
            list(engine.map(abs, items(), TaskNeeds(files=(file,))))


def test_a_node_with_other_software_is_named(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tuple((name, "0.1" if name == "numpy" else found) for name, found in ray_engine.software())
    monkeypatch.setattr(ray_engine, "software", lambda: here)
    with (
        ray_engine.connect(cluster.address) as engine,
        pytest.raises(OperatorError, match=r"node .* has numpy .*, this machine 0\.1: they must be the same"),
    ):
        list(engine.map(abs, [1], TaskNeeds()))


async def test_an_update_by_tasks_gives_the_version_that_it_gives_here(cluster: RayCluster, tmp_path: Path) -> None:
    things = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cotton shirt", "table lamp")]
    rows = [{"id": f"p{row}", "title": things[row % len(things)], "image": f"{row}.png"} for row in range(100)]
    photos = {f"{number}.png": photo((number, 0, 0)) for number in range(99)}
    shop = write_jsonl(tmp_path / "shop", *rows, photos={**photos, "99.png": photo()[:60]})
    write_version(tmp_path / "models", 1)
    reports = {}
    async with run_model_server(tmp_path / "models", lambda _: ArithmeticModel(input_px=32)) as address:
        for engine in (["--engine=ray", f"--ray-address={cluster.address}"], ["--engine=local"]):
            location = tmp_path / engine[0].partition("=")[2]
            command = [str(shop), str(location), f"--model-server={address}", f"--artifacts={tmp_path / 'text'}"]
            command.append("--text-kind=fasttext")
            with redirect_stdout(StringIO()) as out:
                assert await asyncio.to_thread(update_command.main, [*command, *engine, "--json"], {}) == 0
            reports[location] = json.loads(out.getvalue())

    by_ray, here = reports.values()
    assert by_ray["encoded"] == here["encoded"] == {"photos": 99, "texts": len(things)}
    assert by_ray["version"] == here["version"]
    assert by_ray["unused_photos"] == here["unused_photos"]
    by_tasks, in_process = (read_index_vectors(location) for location in reports)
    assert by_tasks.keys() == in_process.keys() >= {"image", "text"}
    for space, vectors in by_tasks.items():
        np.testing.assert_array_equal(vectors, in_process[space])


def test_a_node_killed_while_it_builds_shards_leaves_the_index_byte_for_byte_as_it_is_built_here(
    cluster: RayCluster, tmp_path: Path
) -> None:
    built: list[dict[str, bytes]] = []
    with ray_engine.connect(cluster.address) as engine:
        building = threading.Thread(target=lambda: built.append(build_index(tmp_path / "ray", engine)))
        building.start()
        while not (running := cluster.process_ids(0, "build_index")) and building.is_alive():
            building.join(0.01)
        cluster.kill_node(0)
        assert running
        assert building.is_alive()
        building.join()

    (files,) = built
    here = build_index(tmp_path / "here", LocalEngine(threads=2))
    assert sum(name.endswith(f"/{ANN_INDEX}") for name in files) == SHARDS
    assert files.keys() == here.keys()
    assert [name for name in files if files[name] != here[name]] == []
    assert MANIFEST in files


def test_without_a_cluster_the_address_is_named() -> None:
    with pytest.raises(OperatorError, match=r"--ray-address 127\.0\.0\.1:1: no Ray cluster answers"):
        ray_engine.connect("127.0.0.1:1").__enter__()
