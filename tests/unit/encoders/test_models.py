"""Finding and listing exported models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from encoders.image import list_models
from encoders.image.card import CARD_FILE, Card, compute_fingerprint, write_card
from encoders.image.models import find_model, find_versions, list_versions
from lookalike.errors import BadArtifact

DIGEST = "0123456789ab" + "0" * 52


def exported_card(**changes: Any) -> Card:
    values = {
        "network": "mobilenet",
        "input_px": 224,
        "preprocessing": "tf",
        "output": "features",
        "dimension": 1024,
        "digest": DIGEST,
    }
    card = Card(**{**values, **changes})
    return dataclasses.replace(card, fingerprint=compute_fingerprint(card))


def write_version(models: Path, name: str, **card: Any) -> Path:
    path = models / "mobilenet" / name
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    write_card(exported_card(**card), path)
    return path


def test_the_default_is_the_numerically_highest_version(tmp_path: Path) -> None:
    for name in ("9", "10", "2"):
        write_version(tmp_path, name)
    assert list(find_versions(tmp_path)) == [2, 9, 10]
    assert find_model(tmp_path).version == 10
    assert find_model(tmp_path, 2).path == tmp_path / "mobilenet" / "2"


def test_incomplete_folders_and_names_that_are_not_int64_are_not_versions(tmp_path: Path) -> None:
    write_version(tmp_path, ".unfinished-x")
    write_version(tmp_path, "latest")
    write_version(tmp_path, "²")
    write_version(tmp_path, str(1 << 63))  # Does not fit the int64 of a response.
    (tmp_path / "mobilenet" / "7").mkdir()
    assert find_versions(tmp_path) == {}


def test_without_a_model_the_error_says_how_to_export_one(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="lookalike encoders export"):
        find_model(tmp_path / "nowhere")
    write_version(tmp_path, "1")
    with pytest.raises(BadArtifact, match=r"no version 2 .*found: 1"):
        find_model(tmp_path, 2)


def test_the_list_has_every_version_with_its_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenth = write_version(tmp_path, "10", precision="bfloat16", weights="own.h5")
    write_version(tmp_path, "9", network="shopnet", input_px=160, dimension=256)
    assert list_models.main([str(tmp_path), "--json"], {}) == 0
    own, last = json.loads(capsys.readouterr().out)
    assert (own["version"], own["input_px"], own["dimension"], own["precision"]) == (9, 160, 256, "float32")
    assert own["encoder"].startswith("shopnet-")
    assert (last["encoder"], last["precision"], last["weights"]) == (
        "mobilenet-bfloat16-0123456789ab",
        "bfloat16",
        "own.h5",
    )
    assert last["path"] == str(tenth)
    assert last["size_bytes"] == (tenth / CARD_FILE).stat().st_size


def test_a_model_of_another_name_has_versions_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_version(tmp_path, "2")
    (tmp_path / "mobilenet").rename(tmp_path / "shopnet")
    assert find_model(tmp_path, name="shopnet").version == 2
    with pytest.raises(BadArtifact, match="no model in"):
        find_model(tmp_path)
    assert list_models.main([str(tmp_path), "--model", "shopnet", "--json"], {}) == 0
    assert [listing["version"] for listing in json.loads(capsys.readouterr().out)] == [2]


def test_a_damaged_version_is_listed_with_its_error_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_version(tmp_path, "1") / CARD_FILE).write_text("{")
    write_version(tmp_path, "2")
    assert [listing.encoder for listing in list_versions(tmp_path)] == ["", "mobilenet-0123456789ab"]
    assert "card.json is not JSON" in list_versions(tmp_path)[0].error
    list_models.main([str(tmp_path)], {})
    assert "mobilenet-0123456789ab" in capsys.readouterr().out


def test_a_narrow_terminal_does_not_truncate_fingerprints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    encoder = "a_network_with_a_long_name-untrained-bfloat16-"
    write_version(tmp_path, "1", network="a_network_with_a_long_name", precision="bfloat16", weights="untrained")
    list_models.main([str(tmp_path)], {})
    cells = [line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(cells).startswith(encoder)
    assert len("".join(cells)) == len(encoder) + 12


def test_an_empty_list_says_how_to_export_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_models.main([str(tmp_path / "nowhere")], {}) == 0
    assert "lookalike encoders export" in capsys.readouterr().out.replace("\n", " ")
