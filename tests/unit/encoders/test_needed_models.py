"""Which image encoders releases need, of which a model server keeps the models."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from encoders.serving.needed_models import NeededEncoders
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.manifest import IndexEntry, Manifest, SpaceEntry


@dataclass(frozen=True)
class Location:
    path: Path

    def serve(self, name: str, encoder: str = "") -> None:
        """Let a version serve; it has an image space if an encoder is named."""
        image = SpaceEntry(
            name="image", dim=8, encoder=encoder, rescore="float32", documents=(1,), indexes=(IndexEntry(),)
        )
        (self.path / name).mkdir(exist_ok=True)
        spaces = (image,) if encoder else ()
        manifest = Manifest(version=name, shards=1, seed=0, products=(1,), spaces=spaces, files={})
        version.write_manifest(self.path / name, manifest)
        version.make_current(self.path, name)


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location(tmp_path)


def test_the_encoder_of_the_release_that_serves_and_that_of_the_one_before_are_needed(location: Location) -> None:
    needed = NeededEncoders(Directory(location.path))
    location.serve("v1", "shopnet-1")
    assert [*needed()] == ["shopnet-1"]
    location.serve("v2", "shopnet-2")
    assert [*needed()] == ["shopnet-2", "shopnet-1"]
    location.serve("v3", "shopnet-3")
    assert [*needed()] == ["shopnet-3", "shopnet-2"]


def test_a_release_with_the_same_encoder_or_without_one_takes_none_away(location: Location) -> None:
    needed = NeededEncoders(Directory(location.path))
    for name, encoder in (("v1", "shopnet-1"), ("v2", "shopnet-2"), ("v3", "shopnet-2"), ("v4", "")):
        location.serve(name, encoder)
        needed()
    assert [*needed()] == ["shopnet-2", "shopnet-1"]
    location.serve("v1", "shopnet-1")
    assert [*needed()] == ["shopnet-1", "shopnet-2"]


def test_while_the_location_cannot_be_read_what_was_needed_stays_and_the_reason_is_logged_once(
    location: Location, caplog: pytest.LogCaptureFixture
) -> None:
    needed = NeededEncoders(Directory(location.path))
    location.serve("v1", "shopnet-1")
    needed()
    (location.path / "CURRENT").write_text("v2")
    with caplog.at_level(logging.ERROR):
        assert [[*needed()], [*needed()]] == [["shopnet-1"]] * 2
    assert len(caplog.records) == 1
    assert "v2" in caplog.text
