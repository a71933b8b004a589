"""The card of an image model: what its network takes and gives, and the fingerprint of both. Reads files.

A SavedModel has its card beside it, as `card.json`. The pixels that a network sees decide its vectors as much as its
weights do, so an encoder is named by both: `<network>-[untrained-][bfloat16-]<12 hex>`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from encoders.image.signature import DEFAULT_INPUT_PX, SIGNATURE
from lookalike.errors import BadArtifact
from lookalike.strict_json import parse_json

CARD_FILE: Final = "card.json"  # Beside saved_model.pb; TF-Serving ignores unknown files.

Precision = Literal["float32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
UNTRAINED: Final = "untrained"

MIN_INPUT_PX: Final = 32  # Below it five strides of 2 leave nothing.
MAX_INPUT_PX: Final = 512  # Decoding takes more memory with it (preprocessing.py); 41 images fit in a message.
MAX_DIMENSION: Final = 65_536  # Of any vector in a request.
_CHANNELS: Final = 3
_MAX_LEVEL: Final = 65_535.0  # Of a mean or a scale; pixels are at most 255.
_NETWORK: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")  # A part of the fingerprint, which names a directory.
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_EXAMPLE: Final = (
    '{"network": "shopnet", "input_px": 160, "preprocessing": "torch", "output": "embedding", "dimension": 256}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What a pixel of 0..255 becomes before the network: `(pixel - mean) / std` of each of three channels."""

    mean: tuple[float, float, float]  # In the order of `channels`.
    std: tuple[float, float, float]
    channels: Literal["RGB", "BGR"] = "RGB"


# "tf", "torch" and "caffe" are the modes of keras.applications (imagenet_utils.preprocess_input).
PREPROCESSINGS: Final[Mapping[str, Preprocessing]] = {
    "in-network": Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "unit": Preprocessing(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)),
    "tf": Preprocessing(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),
    "torch": Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    "caffe": Preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What an image model's network takes and gives.

    An exported version states all of it, of the network inside; the graph around it takes bytes (`signature.py`).
    The card of one's own SavedModel states the first five, and what else is not the default.
    """

    network: str
    input_px: int  # Width and height of the pixels.
    preprocessing: str | Preprocessing  # A name in PREPROCESSINGS, or numbers.
    output: str
    dimension: int
    input: str = ""  # "": the signature has one.
    signature: str = SIGNATURE
    precision: Precision = "float32"  # Of the layers; features are always float32.
    weights: str = ""  # Where they are from: a file's name, "imagenet" or "untrained".
    seed: int | None = None  # Of untrained weights.
    digest: str = ""  # SHA-256 of the network; "" in a card that nobody exported.
    fingerprint: str = ""  # Of the network with this preprocessing; "": to be computed.

    @property
    def scaling(self) -> Preprocessing:
        """The preprocessing as numbers."""
        return PREPROCESSINGS[self.preprocessing] if isinstance(self.preprocessing, str) else self.preprocessing


def compute_fingerprint(card: Card) -> str:
    """The fingerprint of the card's network (its `digest`) with the card's preprocessing."""
    kinds = [UNTRAINED] if card.weights == UNTRAINED else []
    kinds += [] if card.precision == "float32" else [card.precision]
    return "-".join([card.network, *kinds, _digest(card)[:12]])


def _digest(card: Card) -> str:
    """Digest of network and preprocessing. What MobileNet v1 was trained with adds nothing: its weights name it."""
    if (card.network, card.input_px, card.scaling) == ("mobilenet", DEFAULT_INPUT_PX, PREPROCESSINGS["tf"]):
        return card.digest
    pixels = json.dumps([card.input_px, asdict(card.scaling)], sort_keys=True)
    return hashlib.sha256(f"{card.digest} {pixels}".encode()).hexdigest()


def write_card(card: Card, folder: Path) -> None:
    """Write the card into the folder of its SavedModel."""
    (folder / CARD_FILE).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")


def read_exported_card(folder: Path) -> Card:
    """The card of an exported version. Raises BadArtifact, too if it was changed after the export."""
    card, path = read_card(folder), folder / CARD_FILE
    if not _DIGEST.fullmatch(card.digest) or not card.fingerprint:
        raise BadArtifact(
            f"{path}: no fingerprint with the network's digest, so this is not an exported version; "
            f"'lookalike encoders export MODELS_DIR --saved-model {folder}' makes one of it"
        )
    if (computed := compute_fingerprint(card)) != card.fingerprint:
        raise BadArtifact(
            f"{path}: its fingerprint is {card.fingerprint}, but this network with this preprocessing is {computed}; "
            "do not edit the card of an exported version: export it again with what should be different"
        )
    return card


def read_card(folder: Path) -> Card:
    """The card beside a SavedModel. Raises BadArtifact, which names the key that is wrong and what is allowed."""
    path = folder / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadArtifact(
            f"{path}: the model has no card. 'lookalike encoders export' writes one; for your own SavedModel write "
            f"one like {_EXAMPLE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}") from error
    try:
        return _parse(parse_json(text))
    except _BadCard as error:
        raise BadArtifact(f"{path}: {error}") from None
    except ValueError as error:
        raise BadArtifact(f"{path} is not JSON: {error}") from error


class _BadCard(ValueError):
    """A key of a card has a value that is not allowed."""


def _parse(values: Any) -> Card:
    if not isinstance(values, dict):
        raise _BadCard(f"expected an object such as {_EXAMPLE}")
    known = {field.name for field in fields(Card)}
    if unknown := sorted(set(values) - known):
        raise _BadCard(f"{unknown[0]}: unknown key; known are {', '.join(sorted(known))}")
    if missing := [key for key in ("network", "input_px", "preprocessing", "output", "dimension") if key not in values]:
        raise _BadCard(f"{missing[0]} is missing; a card is like {_EXAMPLE}")
    network = _text(values, "network")
    if not _NETWORK.fullmatch(network):
        raise _BadCard(f"network {network!r}: expected up to 40 of a-z, 0-9 and _, a letter first")
    precision = values.get("precision", "float32")
    if precision not in PRECISIONS:
        raise _BadCard(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return Card(
        network=network,
        input_px=_integer(values, "input_px", MIN_INPUT_PX, MAX_INPUT_PX),
        preprocessing=_preprocessing(values["preprocessing"]),
        output=_text(values, "output"),
        dimension=_integer(values, "dimension", 1, MAX_DIMENSION),
        input=_text(values, "input", ""),
        signature=_text(values, "signature", SIGNATURE),
        precision=precision,
        weights=_text(values, "weights", ""),
        seed=None if values.get("seed") is None else _integer(values, "seed", 0, 2**32 - 1),
        digest=_text(values, "digest", ""),
        fingerprint=_text(values, "fingerprint", ""),
    )


def _preprocessing(value: Any) -> str | Preprocessing:
    if isinstance(value, str) and value in PREPROCESSINGS:
        return value
    if not isinstance(value, dict) or not set(value) <= {"mean", "std", "channels"}:
        names = ", ".join(PREPROCESSINGS)
        raise _BadCard(
            f"preprocessing {json.dumps(value)}: unknown; expected one of {names}, or numbers of 0..255 like "
            '{"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "channels": "RGB"}'
        )
    channels = value.get("channels", "RGB")
    if channels not in ("RGB", "BGR"):
        raise _BadCard(f"preprocessing.channels {channels!r}: expected RGB or BGR")
    mean, std = (_numbers(value, key) for key in ("mean", "std"))
    if min(std) <= 0:
        raise _BadCard(f"preprocessing.std {list(std)}: expected three numbers above 0")
    return Preprocessing(mean=mean, std=std, channels=channels)


def _numbers(value: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    numbers = value.get(key)
    if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
        raise _BadCard(f"preprocessing.{key} {json.dumps(numbers)}: expected a list of three numbers, one per channel")
    if len(numbers) != _CHANNELS or not all(abs(number) <= _MAX_LEVEL for number in numbers):  # NaN fails too.
        raise _BadCard(f"preprocessing.{key} {json.dumps(numbers)}: expected three numbers of at most {_MAX_LEVEL:g}")
    first, second, third = map(float, numbers)
    return first, second, third


def _text(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise _BadCard(f"{key} {json.dumps(value)}: expected a text in quotes")
    return value


def _integer(values: Mapping[str, Any], key: str, at_least: int, at_most: int) -> int:
    value = values[key]
    if type(value) is not int or not at_least <= value <= at_most:
        raise _BadCard(f"{key} {json.dumps(value)}: expected a whole number in {at_least}..{at_most}")
    return value
