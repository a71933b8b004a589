"""A directory, a store in memory and S3 over HTTP keep versions alike."""

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
from index.storage import version
from index.storage.cache import Cache
from index.storage.location import Directory, located
from index.storage.store import Store
from lookalike.errors import BadArtifact, BadSettings, OperatorError, Unavailable
from lookalike.v1.index_pb2 import ShardQuery
from tests import stores
from tests.unit.index.samples import IMAGE, by, catalogue, clustered, vectors_of

COUNT, SHARDS = 60, 2
ATTRIBUTES, VECTORS = "shard-00001/attributes.arrow", "shard-00001/image/vectors.npy"


@dataclass
class Built:
    directory: Path
    names: list[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two versions."""
    directory = tmp_path_factory.mktemp("built")
    names = []
    for seed in (1, 2):
        given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, seed))}
        names.append(build(directory, catalogue(COUNT), given, shards=SHARDS))
    return Built(directory, names)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3() as options:
        yield options


@pytest.fixture(params=["directory", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Directory | Store:
    if request.param == "directory":
        (tmp_path / "index").mkdir()
        return Directory(tmp_path / "index")
    return stores.in_memory() if request.param == "memory" else stores.in_bucket(request.getfixturevalue("s3"))


def publish(location: Directory | Store, built: Built, name: str) -> None:
    if isinstance(location, Store):
        location.publish(built.directory, name)
    else:
        shutil.copytree(built.directory / name, location.path / name)
        location.make_current(name)


def overwrite(location: Directory | Store, path: str, change: Callable[[bytes], bytes | None]) -> None:
    """What the bytes of a file become; None: it goes."""
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


def test_what_was_published_last_serves_until_another_is_chosen(location: Directory | Store, built: Built) -> None:
    first, second = built.names
    for name in built.names:
        publish(location, built, name)
        assert location.current() == name
    assert location.names() == sorted(built.names)
    location.make_current(first)
    assert location.current() == first
    assert location.read(second) == version.read(built.directory, second)


def test_every_file_is_read_to_verify_a_version(location: Directory | Store, built: Built) -> None:
    (name, _) = built.names
    publish(location, built, name)
    manifest = location.read(name)
    assert location.verify(manifest) == sum(file.bytes for file in manifest.files.values())


def test_a_version_that_is_dropped_is_gone_and_no_other(location: Directory | Store, built: Built) -> None:
    for name in built.names:
        publish(location, built, name)
    first, second = built.names
    location.drop(first)
    assert location.names() == [second]
    with pytest.raises(BadArtifact, match=first):
        location.read(first)
    assert location.verify(location.read(second))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "damaged: its checksum differs"),
        (lambda data: data[:-1], r"has \d+ bytes"),
        (lambda data: data + b"x", r"has \d+ bytes"),
        (lambda data: None, "not there|.*No such file"),
    ],
    ids=["flipped", "truncated", "longer", "missing"],
)
@pytest.mark.parametrize("path", [ATTRIBUTES, VECTORS])
def test_a_damaged_file_is_refused_by_name(
    location: Directory | Store, built: Built, path: str, change: Callable[[bytes], bytes | None], reason: str
) -> None:
    (name, _) = built.names
    publish(location, built, name)
    overwrite(location, f"{name}/{path}", change)
    with pytest.raises(BadArtifact, match=f"{name}/{path}: ({reason})"):
        location.verify(location.read(name))


def test_a_damaged_manifest_is_refused_by_name(location: Directory | Store, built: Built) -> None:
    (name, _) = built.names
    publish(location, built, name)
    overwrite(location, f"{name}/{version.MANIFEST}", lambda data: data.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(BadArtifact, match=f"{name}/manifest.json: damaged"):
        location.read(name)


def test_a_place_without_an_index_is_refused(location: Directory | Store) -> None:
    with pytest.raises(BadArtifact, match="CURRENT: "):
        location.current()


@pytest.mark.parametrize("text", [b"", b"../elsewhere", b"\xff\xfe", b"a/b"])
def test_current_must_name_a_version(location: Directory | Store, built: Built, text: bytes) -> None:
    publish(location, built, built.names[0])
    overwrite(location, version.CURRENT, lambda _: text)
    with pytest.raises(BadArtifact, match="CURRENT: "):
        location.current()


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ""])
def test_a_name_may_not_lead_out_of_the_location(location: Directory | Store, name: str) -> None:
    for step in (location.read, location.drop):
        with pytest.raises(BadArtifact, match="not the name of a version"):
            step(name)


def test_one_shard_comes_to_this_machine_and_answers(location: Directory | Store, built: Built, tmp_path: Path) -> None:
    (name, _) = built.names
    publish(location, built, name)
    manifest = location.read(name)
    hold = location.hold if isinstance(location, Directory) else Cache(location, tmp_path / "cache", 1 << 20, bool).hold
    held = hold(manifest, 1)
    shard = map_shard(held.location, manifest, 1)
    vector = np.asarray(shard.base.spaces[IMAGE].vectors[3])
    (hits,) = shard.search([ShardQuery(vectors=[by(IMAGE, vector)], k=1)]).results
    assert list(hits.ids) == [shard.base.table.ids.text(3)]
    held.release()


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_an_upload_that_fails_leaves_what_serves_as_it_is(
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
    with pytest.raises(BadArtifact, match=f"{second}/manifest.json: not there"):
        store.read(second)
    store.publish(built.directory, second)
    assert store.current() == second


def test_a_store_out_of_reach_is_the_operators_to_mend() -> None:
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    once = {"config_kwargs": {"retries": {"max_attempts": 0}}}
    nowhere = stores.stored("s3://bucket/index", json.dumps(options | once))
    with pytest.raises(OperatorError, match="s3://bucket/index/CURRENT: "):
        nowhere.current()


def test_a_fetch_ends_when_the_process_stops(built: Built, tmp_path: Path) -> None:
    store = stores.in_memory()
    store.publish(built.directory, built.names[0])
    with pytest.raises(Unavailable, match="the process stops"):
        Cache(store, tmp_path, 1 << 20, lambda: True).hold(store.read(built.names[0]), 0)


@pytest.mark.parametrize("options", ["{", "[]", "7"])
def test_options_that_are_no_json_object_are_refused(options: str) -> None:
    with pytest.raises(BadSettings, match="storage options: not"):
        located("s3://bucket/index", options)


@pytest.mark.parametrize("url", ["nonsense://bucket/index", "a b://c"])
def test_a_url_that_nobody_can_read_is_refused(url: str) -> None:
    with pytest.raises(OperatorError, match=url):
        located(url)
