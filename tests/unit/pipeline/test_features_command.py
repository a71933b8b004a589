"""`lookalike features`: what is stored is shown, compacted and dropped, and damage is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import BadArtifact, BadSettings
from pipeline.features.photo_register import FetchedPhoto
from pipeline.features.store import FeatureStore
from pipeline.features_command import main


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three parts of images, one of texts, and the register of a photo."""
    store = FeatureStore(tmp_path / "store", notice=print)
    for kind, encoder, parts in (("image", "net-1", 3), ("text", "hybrid-1", 1)):
        table = store.vectors(kind, encoder=encoder, dim=4)
        for number in range(parts):
            table.add([f"{number:032x}", "f" * 32], np.full((2, 4), number, np.float32))
            table.flush()
    register = store.photos()
    register.add([FetchedPhoto(source="https://shop/1.jpg", digest="a" * 32)])
    register.close()
    return store


def test_what_is_stored_is_listed(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(store), "--json"], {}) == 0

    listed = {(row["kind"], row["encoder"]): row for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == {("image", "net-1"), ("text", "hybrid-1"), ("photos", "")}
    images = listed["image", "net-1"]
    assert (images["rows"], images["parts"], images["dim"], images["unusable"]) == (4, 3, 4, {})
    assert images["bytes"] == sum(file.stat().st_size for file in Path(str(store)).glob("kind=image/*/*.parquet"))
    main(["list", str(store)], {})
    assert "hybrid-1" in capsys.readouterr().out


def test_torn_files_are_listed_and_told(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    torn = min(Path(str(store)).glob("kind=image/*/*.parquet"))
    torn.write_bytes(b"PAR1")

    main(["list", str(store), "--json"], {})

    output = capsys.readouterr()
    assert [[*row["unusable"]] for row in json.loads(output.out)] == [[torn.name], [], []]
    assert f"notice: {torn}: ignored, damaged" in output.err


def test_compaction_says_what_it_did(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compact", str(store), "image/net-1"], {})
    line = "image/net-1: 3 parts merged into 1, 2 superseded rows dropped, 0 files removed\n"
    assert capsys.readouterr().out == line

    main(["compact", str(store), "--grace", "0", "--json"], {})

    reports = json.loads(capsys.readouterr().out)
    assert {name: report["removed_files"] for name, report in reports.items()} == {
        "image/net-1": 3,
        "photos": 0,
        "text/hybrid-1": 0,
    }


def test_an_encoder_is_dropped_by_name(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    main(["drop", str(store), "text/hybrid-1"], {})

    assert [str(each) for each in store.partitions()] == ["image/net-1", "photos"]
    with pytest.raises(BadArtifact, match="text/hybrid-1 is not stored here; there is image/net-1, photos"):
        main(["drop", str(store), "text/hybrid-1"], {})


def test_options_that_make_no_sense_are_refused(store: FeatureStore) -> None:
    with pytest.raises(BadSettings, match="--grace -1"):
        main(["compact", str(store), "--grace", "-1"], {})
    with pytest.raises(BadSettings, match="expected image/ENCODER"):
        main(["drop", str(store), "video"], {})
