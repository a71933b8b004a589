"""The demo's build steps: each runs once for its inputs, and an interrupted step runs again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from lookalike.demo.preparation import BuiltIndex, Preparation
from lookalike.errors import BadCatalogue, BadSettings, OperatorError, Unavailable


class Commands:
    """Fakes the commands: writes the files that they would write, and records which ones ran."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.errors: dict[str, Exception] = {}  # By the name of the command, or the weights of an export.
        self.version = "v1"

    def __call__(self, name: str, command: Sequence[str], *, show_stderr: bool = False) -> str:
        arguments = list(command[3:])
        output = Path(arguments[2])
        weights = arguments[arguments.index("--weights") + 1] if "--weights" in arguments else ""
        self.runs.append(f"{name} {weights}".strip())
        if name == "catalog sample":
            output.mkdir(parents=True)
            (output / "products.jsonl").write_text("half")
        if (error := self.errors.get(name) or self.errors.get(weights)) is not None:
            raise error
        if name == "encoders export":
            output.mkdir(parents=True, exist_ok=True)
            return json.dumps({"encoder": f"mobilenet-{weights}"})
        if name == "update":
            (output / self.version).mkdir(parents=True, exist_ok=True)
            manifest = {"shards": 2, "spaces": [{"name": "text"}]}
            (output / self.version / "manifest.json").write_text(json.dumps(manifest))
            (output / "CURRENT").write_text(self.version)
            result = {
                "version": self.version,
                "products": 1,
                "rejected": 0,
            }
            return json.dumps({**result, "spaces": {"text": {"encoder": "scdv"}}})
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


def test_a_sample_catalogue_is_drawn_once(preparation: Preparation, commands: Commands) -> None:
    assert preparation.prepare_catalogue(None) == preparation.prepare_catalogue(None)
    assert commands.runs == ["catalog sample"]


def test_an_interrupted_sample_catalogue_is_drawn_again(preparation: Preparation, commands: Commands) -> None:
    commands.errors["catalog sample"] = Unavailable("killed")
    with pytest.raises(Unavailable):
        preparation.prepare_catalogue(None)
    del commands.errors["catalog sample"]
    assert (preparation.prepare_catalogue(None) / "products.jsonl").exists()
    assert commands.runs == ["catalog sample"] * 2


def test_the_users_own_catalogue_is_used_as_it_is(
    preparation: Preparation, commands: Commands, catalogue: Path
) -> None:
    assert preparation.prepare_catalogue(catalogue) == catalogue
    with pytest.raises(BadCatalogue):
        preparation.prepare_catalogue(catalogue / "none")
    assert commands.runs == []


def test_weights_that_cannot_be_downloaded_fall_back_to_untrained_ones_and_every_start_says_why(
    preparation: Preparation, commands: Commands
) -> None:
    commands.errors["imagenet"] = OperatorError("encoders export failed; its last lines:\n  error: no network")
    for _ in range(2):
        models = preparation.export_models("")
        assert (models.encoder, models.fallback_reason) == ("mobilenet-untrained", "error: no network")
    assert commands.runs == ["encoders export imagenet", "encoders export untrained"]


def test_weights_that_the_user_chose_never_fall_back(preparation: Preparation, commands: Commands) -> None:
    commands.errors["imagenet"] = OperatorError("no network")
    with pytest.raises(OperatorError):
        preparation.export_models("imagenet")
    with pytest.raises(BadSettings, match="expected imagenet, untrained, or an existing file"):
        preparation.export_models("/no/such/file.h5")


def test_each_choice_of_weights_is_exported_once_and_again_when_its_file_changes(
    preparation: Preparation, commands: Commands, tmp_path: Path
) -> None:
    file = tmp_path / "weights.h5"
    file.write_bytes(b"one")
    choices = ("", str(file), "untrained", "", str(file))
    assert len({preparation.export_models(weights).directory for weights in choices}) == 3
    assert len(commands.runs) == 3
    file.write_bytes(b"other")
    preparation.export_models(str(file))
    assert len(commands.runs) == 4


def test_an_index_is_rebuilt_when_the_catalogue_or_the_model_changes(
    preparation: Preparation, commands: Commands, catalogue: Path
) -> None:
    def rebuilds(weights: str = "imagenet") -> bool:
        models = preparation.export_models(weights)
        if preparation.cached_index(catalogue, models) is not None:
            return False
        preparation.build_index(catalogue, models, "127.0.0.1:1")
        return True

    assert rebuilds()
    assert not rebuilds()
    (catalogue / "products.jsonl").write_text("{}\n{}")
    assert rebuilds()
    assert rebuilds(weights="untrained")
    assert not rebuilds(weights="untrained")


def test_an_index_is_rebuilt_after_an_update_by_hand_or_an_interrupted_build(
    preparation: Preparation, commands: Commands, catalogue: Path
) -> None:
    models = preparation.export_models("imagenet")
    index = preparation.build_index(catalogue, models, "127.0.0.1:1")
    assert preparation.cached_index(catalogue, models) == index
    (index.location / "CURRENT").write_text("v0")
    assert preparation.cached_index(catalogue, models) is None

    (catalogue / "products.jsonl").write_text("{}\n{}")
    commands.errors["update"] = Unavailable("killed")
    with pytest.raises(Unavailable):
        preparation.build_index(catalogue, models, "127.0.0.1:1")
    assert preparation.cached_index(catalogue, models) is None


def test_a_built_index_is_what_the_update_command_reported(preparation: Preparation, catalogue: Path) -> None:
    index = preparation.build_index(catalogue, preparation.export_models("imagenet"), "127.0.0.1:1")
    assert index == BuiltIndex(
        location=index.location,
        version="v1",
        products=1,
        rejected=0,
        spaces=("text",),
    )


def test_another_catalogue_has_an_index_and_changes_of_its_own(
    preparation: Preparation, catalogue: Path, tmp_path: Path
) -> None:
    (other := tmp_path / "other" / "shop").mkdir(parents=True)
    models = preparation.export_models("imagenet")
    first, second = (preparation.build_index(each, models, "127.0.0.1:1") for each in (catalogue, other))
    assert first.location.parent != second.location.parent  # The changes are beside the index.
    assert all(each.location.is_relative_to(tmp_path / "state") for each in (first, second))
