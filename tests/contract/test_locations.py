"""The contract of a location, run over a directory, a store in memory, and S3 over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from index.building.build import SpaceVectors, build
from index.serving.shard_version import map_shard
from lookalike.errors import BadArtifact, BadSettings, OperatorError, Unavailable
from lookalike.releases import version
from lookalike.releases.cache import FileCache
from lookalike.releases.canary import Canary
from lookalike.releases.location import Directory, open_location
from lookalike.releases.names import shard_name
from lookalike.releases.store import ObjectStore
from lookalike.v1.index_pb2 import ShardQuery
from tests import stores
from tests.unit.index.samples import IMAGE, catalogue, clustered, query_vector, vectors_of

COUNT, SHARDS = 60, 2
ATTRIBUTES, VECTORS = "shard-00001/attributes.arrow", "shard-00001/image/vectors.npy"


@dataclass
class Built:
    """Versions built in a directory."""

    directory: Path
    names: list[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two versions."""
    directory = tmp_path_factory.mktemp("built")
    names = []
    for seed in (1, 2):
        spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, seed))}
        names.append(build(directory, catalogue(COUNT), spaces, shards=SHARDS))
    return Built(directory, names)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3() as options:
        yield options


@pytest.fixture(params=["directory", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Directory | ObjectStore:
    if request.param == "directory":
        (tmp_path / "index").mkdir()
        return Directory(tmp_path / "index")
    return stores.in_memory() if request.param == "memory" else stores.in_bucket(request.getfixturevalue("s3"))


def publish(location: Directory | ObjectStore, built: Built, name: str) -> None:
    if isinstance(location, ObjectStore):
        location.publish(built.directory, name)
    else:
        shutil.copytree(built.directory / name, location.path / name)
        location.make_current(name)


def overwrite(location: Directory | ObjectStore, path: str, change: Callable[[bytes], bytes | None]) -> None:
    """Change the bytes of a file; None removes it."""
    if isinstance(location, Directory):
        file = location.path / path
        changed = change(file.read_bytes())
        file.unlink()
        if changed is not None:
            file.write_bytes(changed)
        return
    files, where = location._filesystem, location._path(path)
    changed = change(files.cat_file(where))
    files.rm_file(where)
    if changed is not None:
        files.pipe_file(where, changed)


def test_the_version_published_last_serves_until_another_is_made_current(
    location: Directory | ObjectStore, built: Built
) -> None:
    first, second = built.names
    for name in built.names:
        publish(location, built, name)
        assert location.current() == name
    assert location.list_versions() == sorted(built.names)
    location.make_current(first)
    assert location.current() == first
    assert location.read_manifest(second) == version.read_manifest(built.directory, second)


def test_verifying_a_version_reads_every_file(location: Directory | ObjectStore, built: Built) -> None:
    (name, _) = built.names
    publish(location, built, name)
    manifest = location.read_manifest(name)
    assert location.verify(manifest) == sum(file.bytes for file in manifest.files.values())


def test_dropping_a_version_removes_only_that_version(location: Directory | ObjectStore, built: Built) -> None:
    for name in built.names:
        publish(location, built, name)
    first, second = built.names
    location.drop(first)
    assert location.list_versions() == [second]
    with pytest.raises(BadArtifact, match=first):
        location.read_manifest(first)
    assert location.verify(location.read_manifest(second))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "damaged: its checksum differs"),
        (lambda data: data[:-1], r"has \d+ bytes"),
        (lambda data: data + b"x", r"has \d+ bytes"),
        (lambda data: None, "not found|.*No such file"),
    ],
    ids=["flipped", "truncated", "longer", "missing"],
)
@pytest.mark.parametrize("path", [ATTRIBUTES, VECTORS])
def test_verifying_names_the_damaged_file(
    location: Directory | ObjectStore, built: Built, path: str, change: Callable[[bytes], bytes | None], reason: str
) -> None:
    (name, _) = built.names
    publish(location, built, name)
    overwrite(location, f"{name}/{path}", change)
    with pytest.raises(BadArtifact, match=f"{name}/{path}: ({reason})"):
        location.verify(location.read_manifest(name))


def test_reading_a_damaged_manifest_names_it(location: Directory | ObjectStore, built: Built) -> None:
    (name, _) = built.names
    publish(location, built, name)
    overwrite(location, f"{name}/{version.MANIFEST}", lambda data: data.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(BadArtifact, match=f"{name}/manifest.json: damaged"):
        location.read_manifest(name)


def test_a_location_without_an_index_is_refused(location: Directory | ObjectStore) -> None:
    with pytest.raises(BadArtifact, match="CURRENT: "):
        location.current()


@pytest.mark.parametrize("text", [b"", b"../elsewhere", b"\xff\xfe", b"a/b"])
def test_current_must_name_a_version(location: Directory | ObjectStore, built: Built, text: bytes) -> None:
    publish(location, built, built.names[0])
    overwrite(location, version.CURRENT, lambda _: text)
    with pytest.raises(BadArtifact, match="CURRENT: "):
        location.current()


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ""])
def test_a_version_name_must_not_be_a_path_out_of_the_location(location: Directory | ObjectStore, name: str) -> None:
    for method in (location.read_manifest, location.drop):
        with pytest.raises(BadArtifact, match="not the name of a version"):
            method(name)


def test_a_canary_is_named_with_its_share_and_named_no_more(location: Directory | ObjectStore, built: Built) -> None:
    publish(location, built, built.names[0])
    assert location.canary() is None
    location.set_canary(canary := Canary(version=built.names[1], share=0.25))
    assert location.canary() == canary
    location.set_canary(None)
    location.set_canary(None)
    assert location.canary() is None


@pytest.mark.parametrize("share", ["0", "1.5", "NaN", '"much"'])
def test_a_canary_needs_a_share_above_0_and_at_most_1(tmp_path: Path, share: str) -> None:
    (tmp_path / "CANARY").write_text(f'{{"version": "a", "share": {share}}}')
    with pytest.raises(BadArtifact, match="CANARY: "):
        Directory(tmp_path).canary()


def test_a_pinned_shard_can_be_loaded_and_searched(
    location: Directory | ObjectStore, built: Built, tmp_path: Path
) -> None:
    (name, _) = built.names
    publish(location, built, name)
    manifest = location.read_manifest(name)
    pin = (
        location.pin if isinstance(location, Directory) else FileCache(location, tmp_path / "cache", 1 << 20, bool).pin
    )
    pinned = pin(manifest, shard_name(1))
    shard = map_shard(pinned.location, manifest, 1)
    vector = np.asarray(shard.base.spaces[IMAGE].vectors[3])
    (hits,) = shard.search([ShardQuery(vectors=[query_vector(IMAGE, vector)], k=1)]).results
    assert list(hits.ids) == [shard.base.table.ids.text(3)]
    pinned.release()


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_failed_upload_leaves_the_serving_version_unchanged(
    kind: str, built: Built, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = stores.in_memory() if kind == "memory" else stores.in_bucket(request.getfixturevalue("s3"))
    first, second = built.names
    store.publish(built.directory, first)
    shutil.copytree(built.directory / second, tmp_path / second)
    (tmp_path / second / VECTORS).unlink()
    with pytest.raises(BadArtifact, match=f"{second}/{VECTORS}"):
        store.publish(tmp_path, second)
    assert store.current() == first
    with pytest.raises(BadArtifact, match=f"{second}/manifest.json: not found"):
        store.read_manifest(second)
    store.publish(built.directory, second)
    assert store.current() == second


def test_an_unreachable_store_is_an_operator_error() -> None:
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    no_retries = {"config_kwargs": {"retries": {"max_attempts": 0}}}
    unreachable = stores.stored("s3://bucket/index", json.dumps(options | no_retries))
    with pytest.raises(OperatorError, match="s3://bucket/index/CURRENT: "):
        unreachable.current()


def test_a_fetch_is_interrupted_when_the_process_stops(built: Built, tmp_path: Path) -> None:
    store = stores.in_memory()
    store.publish(built.directory, built.names[0])
    with pytest.raises(Unavailable, match="the process is stopping"):
        FileCache(store, tmp_path, 1 << 20, lambda: True).pin(store.read_manifest(built.names[0]), shard_name(0))


@pytest.mark.parametrize("options", ["{", "[]", "7"])
def test_storage_options_must_be_a_json_object(options: str) -> None:
    with pytest.raises(BadSettings, match="storage options: not"):
        open_location("s3://bucket/index", options)


@pytest.mark.parametrize("url", ["nonsense://bucket/index", "a b://c"])
def test_a_url_with_an_unknown_scheme_is_refused(url: str) -> None:
    with pytest.raises(OperatorError, match=url):
        open_location(url)


def test_a_small_file_beside_the_versions_is_written_read_and_removed(
    location: Directory | ObjectStore, built: Built
) -> None:
    publish(location, built, built.names[0])
    assert location.read_file("releases/a.json") is None
    location.write_file("releases/a.json", b"one")
    location.write_file("releases/a.json", b"two")
    assert location.read_file("releases/a.json") == b"two"
    assert location.list_versions() == [built.names[0]]
    location.remove_file("releases/a.json")
    location.remove_file("releases/a.json")
    assert location.read_file("releases/a.json") is None


def test_a_file_of_a_store_is_created_once(location: Directory | ObjectStore) -> None:
    if isinstance(location, Directory):
        pytest.skip("a directory has locks")
    assert location.create_file("lease.json", b"first")
    assert not location.create_file("lease.json", b"second")
    assert location.read_file("lease.json") == b"first"


def test_a_version_is_fetched_whole_or_not_at_all(
    location: Directory | ObjectStore, built: Built, tmp_path: Path
) -> None:
    if isinstance(location, Directory):
        pytest.skip("a directory's versions are there")
    (name, _) = built.names
    publish(location, built, name)
    location.download(name, tmp_path)
    manifest = version.read_manifest(tmp_path, name)
    assert manifest == version.read_manifest(built.directory, name)
    version.verify(tmp_path / name, manifest)
    overwrite(location, f"{name}/{VECTORS}", lambda data: data[:-1])
    with pytest.raises(BadArtifact, match="bytes"):
        location.download(name, tmp_path / "elsewhere")
    assert not [*(tmp_path / "elsewhere").iterdir()]
