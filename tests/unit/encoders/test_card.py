"""The card of an image model: what it may say, and what its fingerprint depends on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from encoders.image.card import (
    CARD_FILE,
    PREPROCESSINGS,
    Card,
    Preprocessing,
    compute_fingerprint,
    read_card,
    read_exported_card,
    write_card,
)
from lookalike.errors import BadArtifact

OWN = {"network": "shopnet", "input_px": 160, "preprocessing": "torch", "output": "embedding", "dimension": 256}
DIGEST = "89abcdef" * 8


def read(folder: Path, **changes: Any) -> Card:
    """The card `OWN` with changes; None leaves a key out."""
    values = {key: value for key, value in {**OWN, **changes}.items() if value is not None}
    (folder / CARD_FILE).write_text(json.dumps(values))
    return read_card(folder)


def exported(**changes: Any) -> Card:
    card = Card(**{**OWN, "digest": DIGEST, **changes})
    return dataclasses.replace(card, fingerprint=compute_fingerprint(card))


def test_five_keys_are_enough(tmp_path: Path) -> None:
    card = read(tmp_path)
    assert {key: getattr(card, key) for key in OWN} == OWN
    assert (card.signature, card.precision, card.fingerprint) == ("serving_default", "float32", "")
    assert card.scaling == PREPROCESSINGS["torch"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessing": "vgg"}, 'preprocessing "vgg": unknown; expected one of in-network, unit, tf, torch, caffe'),
        ({"preprocessing": {"scale": 2}}, "unknown; expected one of in-network"),
        (
            {"preprocessing": {"mean": [1, 2], "std": [1, 1, 1]}},
            r"preprocessing\.mean \[1, 2\]: expected three numbers",
        ),
        (
            {"preprocessing": {"mean": [1, 2, "3"], "std": [1, 1, 1]}},
            r"mean .* expected a list of three",
        ),
        ({"preprocessing": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, r"preprocessing\.std .* above 0"),
        ({"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1], "channels": "GBR"}}, "expected RGB or BGR"),
        ({"dimension": None}, "dimension is missing; a card is like"),
        ({"dimension": 0}, r"dimension 0: expected a whole number in 1\.\.65536"),
        ({"dimension": "256"}, 'dimension "256": expected a whole number'),
        ({"input_px": 1000}, r"input_px 1000: expected a whole number in 32\.\.512"),
        ({"input_px": True}, "input_px true: expected a whole number"),
        ({"output": ""}, 'output "": expected a text'),
        ({"network": "../net"}, r"network '\.\./net': expected up to 40 of a-z"),
        ({"network": "Net-1"}, "network 'Net-1'"),
        ({"precision": "int8"}, "precision 'int8': expected one of float32, bfloat16"),
        ({"dimensions": 3}, "dimensions: unknown key; known are digest, dimension"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key_with_what_is_allowed(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArtifact, match=rf"{CARD_FILE}: .*{message}"):
        read(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "{", "[]", '"card"', '{"seed": NaN}', "[" * 100_000])
def test_a_file_that_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(BadArtifact, match=r"card\.json( is not JSON|: expected an object such as)"):
        read_card(tmp_path)


def test_without_a_card_the_error_shows_one(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r'the model has no card.* \{"network": "shopnet", "input_px": 160'):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "preprocessing", ["in-network", Preprocessing(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), channels="BGR")]
)
def test_a_card_is_read_as_it_was_written(tmp_path: Path, preprocessing: str | Preprocessing) -> None:
    card = exported(preprocessing=preprocessing, weights="untrained", seed=3)
    write_card(card, tmp_path)
    assert read_exported_card(tmp_path) == card


def test_an_encoder_is_its_network_and_its_preprocessing() -> None:
    cards = [
        exported(),
        exported(preprocessing="caffe"),
        exported(input_px=192),
        exported(digest=DIGEST[::-1]),
        exported(network="othernet"),
        exported(preprocessing=dataclasses.replace(PREPROCESSINGS["torch"], channels="BGR")),
    ]
    assert len({card.fingerprint for card in cards}) == len(cards)
    assert exported(weights="other.h5").fingerprint == cards[0].fingerprint


def test_a_preprocessing_by_numbers_is_the_one_by_name(tmp_path: Path) -> None:
    numbers = read(tmp_path, preprocessing={"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]})
    same = dataclasses.replace(numbers, digest=DIGEST)
    assert compute_fingerprint(same) == exported().fingerprint
    whole = read(tmp_path, preprocessing={"mean": [0, 0, 0], "std": [255, 255, 255]})
    assert whole.scaling == PREPROCESSINGS["unit"]


def test_mobilenet_v1_with_its_own_preprocessing_is_named_by_its_weights_alone() -> None:
    trained_with = {"network": "mobilenet", "input_px": 224, "preprocessing": "tf"}
    assert exported(**trained_with).fingerprint == f"mobilenet-{DIGEST[:12]}"
    assert exported(**trained_with, precision="bfloat16").fingerprint == f"mobilenet-bfloat16-{DIGEST[:12]}"
    assert exported(**{**trained_with, "preprocessing": "unit"}).fingerprint != f"mobilenet-{DIGEST[:12]}"


@pytest.mark.parametrize("change", [{"preprocessing": "tf"}, {"input_px": 192}, {"digest": "0" * 64}])
def test_an_exported_card_that_was_edited_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    card = exported()
    write_card(dataclasses.replace(card, **change), tmp_path)
    with pytest.raises(BadArtifact, match=rf"its fingerprint is {card.fingerprint}, but this network with this prep"):
        read_exported_card(tmp_path)


def test_a_model_that_was_not_exported_is_refused_with_the_command_that_does(tmp_path: Path) -> None:
    read(tmp_path)
    with pytest.raises(BadArtifact, match="lookalike encoders export MODELS_DIR --saved-model"):
        read_exported_card(tmp_path)
