"""Finding and listing exported models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoders.image import list_models
from encoders.image.models import METADATA_FILE, find_model, find_versions, list_versions
from lookalike.errors import BadArtifact


def write_version(models: Path, name: str, encoder: object = "mobilenet-0123456789ab") -> Path:
    path = models / "mobilenet" / name
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    (path / METADATA_FILE).write_text(json.dumps({"encoder": encoder}))
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


@pytest.mark.parametrize("metadata", ["", "{", "[]", '{"encoder": 7}', '{"encoder": ""}', "{}"])
def test_a_version_whose_metadata_does_not_name_the_encoder_is_refused(tmp_path: Path, metadata: str) -> None:
    (write_version(tmp_path, "1") / METADATA_FILE).write_text(metadata)
    with pytest.raises(BadArtifact, match="does not name the encoder"):
        find_model(tmp_path)


def test_the_list_has_every_version_with_its_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"encoder": "mobilenet-bfloat16-0123456789ab", "precision": "bfloat16", "weights": "own.h5"}
    (write_version(tmp_path, "10") / METADATA_FILE).write_text(json.dumps(metadata))
    write_version(tmp_path, "9")
    assert list_models.main([str(tmp_path), "--json"], {}) == 0
    ninth, tenth = json.loads(capsys.readouterr().out)
    assert (ninth["version"], ninth["encoder"], ninth["precision"]) == (9, "mobilenet-0123456789ab", "")
    assert {name: tenth[name] for name in metadata} == metadata
    assert tenth["path"] == str(tmp_path / "mobilenet" / "10")
    assert tenth["size_bytes"] == len(json.dumps(metadata))


def test_a_damaged_version_is_listed_with_its_error_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_version(tmp_path, "1") / METADATA_FILE).write_text("{")
    write_version(tmp_path, "2")
    assert [listing.encoder for listing in list_versions(tmp_path)] == ["", "mobilenet-0123456789ab"]
    assert "does not name the encoder" in list_versions(tmp_path)[0].error
    list_models.main([str(tmp_path)], {})
    assert "mobilenet-0123456789ab" in capsys.readouterr().out


def test_a_narrow_terminal_does_not_truncate_fingerprints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    encoder = "mobilenet-untrained-bfloat16-0123456789ab"
    metadata = {"encoder": encoder, "precision": "bfloat16", "weights": "mobilenet_v1_1.0_224_qat_notop.weights.h5"}
    (write_version(tmp_path, "1") / METADATA_FILE).write_text(json.dumps(metadata))
    list_models.main([str(tmp_path)], {})
    cells = [line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(cells) == encoder


def test_an_empty_list_says_how_to_export_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_models.main([str(tmp_path / "nowhere")], {}) == 0
    assert "lookalike encoders export" in capsys.readouterr().out.replace("\n", " ")
