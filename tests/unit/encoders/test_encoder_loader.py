"""Loading the encoders of an index's versions, and finding the one that a request means."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoders.text.model import read_manifest
from encoders.text.train import train
from encoders.text_serving import encoder_set
from encoders.text_serving.encoder_set import EncoderSet, find_product_model, find_text_model, served_encoders
from encoders.text_serving.loader import EncoderLoader
from index.building.build import SpaceVectors, build
from lookalike.errors import BadArtifact, FailedPrecondition, Unavailable
from lookalike.releases.cache import FileCache
from lookalike.releases.location import Directory
from lookalike.releases.store import ObjectStore
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from tests.unit.index.samples import catalogue, unit_vectors, vectors_of

COUNT = 20


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "artifact"
    train(["red dress", "blue dress", "white mug"], out, dim=8)
    return out


@pytest.fixture(scope="module")
def fingerprint(artifact: Path) -> str:

    return str(read_manifest(artifact)["fingerprint"])


def build_version(location: Path, *, text_encoder: str = "", artifact: Path | None = None, seed: int = 0) -> str:
    """A version with image vectors; with a text space where its encoder is named."""
    spaces: dict[int, SpaceVectors] = {SPACE_IMAGE: vectors_of(unit_vectors(COUNT, 8, seed))}
    if text_encoder:
        spaces[SPACE_TEXT] = vectors_of(unit_vectors(COUNT, 8, seed + 1), encoder=text_encoder)
    kept: dict[int, Path] = {} if artifact is None else {SPACE_TEXT: artifact}
    return build(location, catalogue(COUNT), spaces, shards=1, encoders=kept)


def loader_of(location: Path) -> EncoderLoader:
    directory = Directory(location)
    return EncoderLoader(directory, directory.pin)


def test_the_encoders_of_a_version_are_loaded_from_its_files(tmp_path: Path, artifact: Path, fingerprint: str) -> None:
    name = build_version(tmp_path, text_encoder=fingerprint, artifact=artifact)
    handle = loader_of(tmp_path)(name)
    assert (handle.name, handle.loaded.product) == (name, None)
    assert handle.loaded.text is not None
    assert handle.loaded.text.fingerprint == fingerprint
    assert handle.loaded.text.encode(["mug"]).any()


def test_versions_that_have_the_same_encoder_share_it_and_its_files_are_verified_all_the_same(
    tmp_path: Path, artifact: Path, fingerprint: str
) -> None:
    first = build_version(tmp_path, text_encoder=fingerprint, artifact=artifact)
    second = build_version(tmp_path, text_encoder=fingerprint, artifact=artifact, seed=7)
    load = loader_of(tmp_path)
    loaded = load(first).loaded
    assert load(second).loaded.text is loaded.text
    damaged = tmp_path / second / "encoders" / "text" / "manifest.json"
    damaged.write_text(damaged.read_text() + " ")
    with pytest.raises(BadArtifact, match=str(damaged)):
        load(second)


def test_a_version_without_a_text_space_has_no_encoders_and_is_no_error(tmp_path: Path) -> None:
    assert loader_of(tmp_path)(build_version(tmp_path)).loaded == EncoderSet()


def test_a_version_whose_text_space_has_no_artifact_is_refused_by_name(tmp_path: Path) -> None:
    name = build_version(tmp_path, text_encoder="hybrid-of-mine")
    with pytest.raises(BadArtifact, match=f"version {name} lacks its encoder hybrid-of-mine"):
        loader_of(tmp_path)(name)


def test_an_artifact_of_another_encoder_than_the_version_was_built_with_is_refused_by_name(
    tmp_path: Path, artifact: Path, fingerprint: str
) -> None:
    name = build_version(tmp_path, text_encoder="hybrid-other", artifact=artifact)
    with pytest.raises(BadArtifact, match=f"is encoder {fingerprint}, the version was built with hybrid-other"):
        loader_of(tmp_path)(name)


def test_encoders_are_fetched_from_an_object_store_and_kept_in_a_cache(
    tmp_path: Path, artifact: Path, fingerprint: str
) -> None:
    name = build_version(tmp_path / "staging", text_encoder=fingerprint, artifact=artifact)
    store = ObjectStore("memory://encoders-of-a-store", {})
    store.publish(tmp_path / "staging", name)
    cache = FileCache(store, tmp_path / "cache", 1 << 30, lambda: False)
    loaded = EncoderLoader(store, cache.pin)(name).loaded
    assert loaded.text is not None
    assert loaded.text.fingerprint == fingerprint
    assert [entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()] == [f"{name}-encoders"]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_describing_the_encoders_keeps_those_of_the_version_that_the_gateway_names(
    tmp_path: Path, artifact: Path, fingerprint: str
) -> None:
    clock = Clock()
    served = served_encoders(lease_s=10, clock=clock)
    with pytest.raises(Unavailable, match="the text encoder is still loading"):
        encoder_set.describe(served, "")
    load = loader_of(tmp_path)
    old = build_version(tmp_path, text_encoder=fingerprint, artifact=artifact)
    new = build_version(tmp_path, seed=7)
    served.add(load(old))
    served.set_target(new)
    served.add(load(new))
    clock.now_s = 9.0
    served.refusal = "disk full"
    response = encoder_set.describe(served, old)
    assert [(each.version, each.text.fingerprint) for each in response.versions] == [(new, ""), (old, fingerprint)]
    assert response.refusal == "disk full"
    assert {name: use.pinned_until_s for name, use in served.uses().items()} == {old: 19.0, new: 19.0}


def test_a_request_finds_the_encoder_of_any_served_version_and_without_a_name_that_of_the_current_one(
    tmp_path: Path, artifact: Path, fingerprint: str
) -> None:
    served = served_encoders(lease_s=10)
    load = loader_of(tmp_path)
    served.add(load(build_version(tmp_path, text_encoder=fingerprint, artifact=artifact)))
    assert find_text_model(served, "").fingerprint == fingerprint
    served.add(load(build_version(tmp_path, seed=7)))
    assert find_text_model(served, fingerprint).fingerprint == fingerprint
    with pytest.raises(FailedPrecondition, match=f"serves the text encoder {fingerprint}, not hybrid-0"):
        find_text_model(served, "hybrid-0")
    with pytest.raises(FailedPrecondition, match="not one of the current version"):
        find_text_model(served, "")
    with pytest.raises(FailedPrecondition, match="this process has no product encoder"):
        find_product_model(served, "")
