"""What the demo builds is built once, from what it was asked for, and never trusted half-done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from lookalike.demo.preparation import Index, Preparation
from lookalike.errors import BadCatalogue, BadSettings, OperatorError, Unavailable


class Commands:
    """Does in files what the real commands do, and remembers what was run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: dict[str, Exception] = {}  # By the name of a command, or the weights of an export.
        self.version = "v1"

    def __call__(self, name: str, command: Sequence[str], *, shown: bool = False) -> str:
        words = list(command[3:])
        made = Path(words[2])
        weights = words[words.index("--weights") + 1] if "--weights" in words else ""
        self.ran.append(f"{name} {weights}".strip())
        if name == "catalog sample":
            made.mkdir(parents=True)
            (made / "products.jsonl").write_text("half")
        if (error := self.failing.get(name) or self.failing.get(weights)) is not None:
            raise error
        if name == "encoders export":
            made.mkdir(parents=True, exist_ok=True)
            return json.dumps({"encoder": f"mobilenet-{weights}"})
        if name == "update":
            text = Path(words[words.index("--artifacts") + 1]) / "scdv"
            for directory in (made / self.version, text):
                directory.mkdir(parents=True, exist_ok=True)
            manifest = {"shards": 2, "spaces": [{"name": "text"}]}
            (made / self.version / "manifest.json").write_text(json.dumps(manifest))
            (made / "CURRENT").write_text(self.version)
            told = {
                "version": self.version,
                "text_artifact": str(text),
                "product_artifact": None,
                "products": 1,
                "rejected": 0,
            }
            return json.dumps({**told, "spaces": {"text": {"encoder": "scdv"}}})
        return ""


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def preparation(commands: Commands, tmp_path: Path) -> Preparation:
    return Preparation(Console(quiet=True), commands, tmp_path / "state")


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "products.jsonl").write_text("{}")
    return tmp_path / "shop"


def test_a_sample_is_drawn_once(preparation: Preparation, commands: Commands) -> None:
    assert preparation.catalogue(None) == preparation.catalogue(None)
    assert commands.ran == ["catalog sample"]


def test_a_sample_half_drawn_is_drawn_again(preparation: Preparation, commands: Commands) -> None:
    commands.failing["catalog sample"] = Unavailable("killed")
    with pytest.raises(Unavailable):
        preparation.catalogue(None)
    del commands.failing["catalog sample"]
    assert (preparation.catalogue(None) / "products.jsonl").exists()
    assert commands.ran == ["catalog sample"] * 2


def test_a_catalogue_of_ones_own_is_taken_as_it_is(
    preparation: Preparation, commands: Commands, catalogue: Path
) -> None:
    assert preparation.catalogue(catalogue) == catalogue
    with pytest.raises(BadCatalogue):
        preparation.catalogue(catalogue / "none")
    assert commands.ran == []


def test_weights_that_cannot_be_downloaded_fall_back_and_say_so_every_time(
    preparation: Preparation, commands: Commands
) -> None:
    commands.failing["imagenet"] = OperatorError("encoders export failed; its last lines:\n  error: no network")
    for _ in range(2):
        models = preparation.models("")
        assert (models.encoder, models.fell_back) == ("mobilenet-untrained", "error: no network")
    assert commands.ran == ["encoders export imagenet", "encoders export untrained"]


def test_weights_that_were_asked_for_do_not_fall_back(preparation: Preparation, commands: Commands) -> None:
    commands.failing["imagenet"] = OperatorError("no network")
    with pytest.raises(OperatorError):
        preparation.models("imagenet")
    with pytest.raises(BadSettings, match="neither imagenet, nor untrained, nor a file"):
        preparation.models("/no/such/file.h5")


def test_each_choice_of_weights_is_exported_once_and_again_when_its_file_changes(
    preparation: Preparation, commands: Commands, tmp_path: Path
) -> None:
    file = tmp_path / "weights.h5"
    file.write_bytes(b"one")
    choices = ("", str(file), "untrained", "", str(file))
    assert len({preparation.models(weights).directory for weights in choices}) == 3
    assert len(commands.ran) == 3
    file.write_bytes(b"other")
    preparation.models(str(file))
    assert len(commands.ran) == 4


def test_an_index_is_built_again_when_the_catalogue_or_the_model_changes(
    preparation: Preparation, commands: Commands, catalogue: Path
) -> None:
    def built_again(weights: str = "imagenet") -> bool:
        models = preparation.models(weights)
        if preparation.built_index(catalogue, models) is not None:
            return False
        preparation.build_index(catalogue, models, "127.0.0.1:1")
        return True

    assert built_again()
    assert not built_again()
    (catalogue / "products.jsonl").write_text("{}\n{}")
    assert built_again()
    assert built_again(weights="untrained")
    assert not built_again(weights="untrained")


def test_an_index_that_was_changed_by_hand_or_is_half_built_is_not_trusted(
    preparation: Preparation, commands: Commands, catalogue: Path
) -> None:
    models = preparation.models("imagenet")
    index = preparation.build_index(catalogue, models, "127.0.0.1:1")
    assert preparation.built_index(catalogue, models) == index
    (index.location / "CURRENT").write_text("v0")
    assert preparation.built_index(catalogue, models) is None

    (catalogue / "products.jsonl").write_text("{}\n{}")
    commands.failing["update"] = Unavailable("killed")
    with pytest.raises(Unavailable):
        preparation.build_index(catalogue, models, "127.0.0.1:1")
    assert preparation.built_index(catalogue, models) is None


def test_an_index_is_what_the_update_said(preparation: Preparation, catalogue: Path, tmp_path: Path) -> None:
    index = preparation.build_index(catalogue, preparation.models("imagenet"), "127.0.0.1:1")
    state = tmp_path / "state"
    assert index == Index(
        location=state / "index",
        version="v1",
        text_artifact=state / "encoders" / "scdv",
        product_artifact=None,
        products=1,
        rejected=0,
        spaces=("text",),
    )
