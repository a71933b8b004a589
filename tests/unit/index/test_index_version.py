"""Versions on disk: damage is detected, and the error names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from index.building.build import build
from index.serving.shard_version import open_shard
from lookalike.errors import BadArtifact
from lookalike.releases import version
from lookalike.releases.manifest import FORMAT, dump_manifest, parse_manifest
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

FILES = ["attributes.arrow", "image/codes", "image/rows.npy", "image/vectors.npy"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("built")
    build(location, catalogue(2000), {IMAGE: vectors_of(clustered(2000, 32))}, shards=1, exact_floats=1000)
    return location


@pytest.fixture
def location(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def directory_of(location: Path) -> Path:
    return location / version.read_current(location)


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("at", [0.0, 0.37, 1.0])
def test_a_flipped_bit_is_refused_with_the_files_name(location: Path, file: str, at: float) -> None:
    flip(directory_of(location) / "shard-00000" / file, at)
    with pytest.raises(BadArtifact, match=f"{file}: damaged"):
        open_shard(location, 0)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_refused_with_its_name(location: Path, file: str) -> None:
    path = directory_of(location) / "shard-00000" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadArtifact, match=f"{file}: has .* bytes, expected"):
        open_shard(location, 0)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_with_its_name(location: Path, file: str) -> None:
    (directory_of(location) / "shard-00000" / file).unlink()
    with pytest.raises(BadArtifact, match=f"{file}: "):
        open_shard(location, 0)


def test_a_link_out_of_the_version_is_refused(location: Path, tmp_path: Path) -> None:
    path = directory_of(location) / "shard-00000" / "attributes.arrow"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadArtifact, match="a link out of the version"):
        open_shard(location, 0)


@pytest.mark.parametrize("at", [0.01 * step for step in range(1, 100, 7)])
def test_a_flipped_bit_in_the_manifest_is_refused(location: Path, at: float) -> None:
    flip(directory_of(location) / version.MANIFEST, at)
    with pytest.raises(BadArtifact, match=r"manifest\.json"):
        open_shard(location, 0)


def test_a_manifest_is_read_as_it_was_written(location: Path) -> None:
    manifest = version.read_manifest(location, version.read_current(location))
    assert parse_manifest(dump_manifest(manifest), "here") == manifest
    assert manifest.spaces[0].indexes[0].recall_at_10 >= 0.95


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x"])
def test_a_path_in_a_manifest_may_not_leave_the_version(location: Path, path: str) -> None:
    manifest = version.read_manifest(location, version.read_current(location))
    (entry, *_) = manifest.files.values()
    manifest.files[path] = entry  # type: ignore[index]  # a Mapping to all but this test
    with pytest.raises(BadArtifact, match="leads out of the version"):
        parse_manifest(dump_manifest(manifest), "here")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", f'{{"format": {FORMAT}}}', "null", f'{{"format": {FORMAT}, "checksum": ""}}', "\x00"]
)
def test_text_that_is_not_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(BadArtifact, match="here: "):
        parse_manifest(text, "here")


@pytest.mark.parametrize("number", [FORMAT - 1, FORMAT + 1])
def test_a_manifest_of_another_format_is_refused(number: int) -> None:
    message = f"here: has format {number}, this program reads format {FORMAT}: build the index again"
    with pytest.raises(BadArtifact, match=message):
        parse_manifest(json.dumps({"format": number}), "here")


@pytest.mark.parametrize("name", ["", "../elsewhere", ".building", "a/b", "x" * 65])
def test_current_must_name_a_version(location: Path, name: str) -> None:
    (location / version.CURRENT).write_text(name)
    with pytest.raises(BadArtifact, match="not the name of a version"):
        open_shard(location, 0)


def test_a_location_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="no index here"):
        open_shard(tmp_path, 0)


def test_a_missing_version_is_refused(location: Path) -> None:
    with pytest.raises(BadArtifact, match="0123456789abcdef"):
        open_shard(location, 0, "0123456789abcdef")


def test_a_shard_number_out_of_range_is_refused(location: Path) -> None:
    with pytest.raises(BadArtifact, match=r"has shards 0 to 0, not shard 1"):
        open_shard(location, 1)


def test_a_version_under_the_name_of_another_is_refused(location: Path) -> None:
    directory_of(location).rename(location / "other")
    with pytest.raises(BadArtifact, match="is the manifest of version"):
        open_shard(location, 0, "other")
