"""One's own SavedModel with a card, as the network of an image model. Reads files."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from encoders.image.card import CARD_FILE, Card, compute_fingerprint, read_card
from encoders.image.networks import Compute
from encoders.image.serving_graph import preprocess_pixels
from lookalike.errors import BadArtifact

# Files of a SavedModel that do not decide its vectors: our card, and what Keras and TF-Serving write beside it.
_NO_NETWORK: Final = (CARD_FILE, "fingerprint.pb", "keras_metadata.pb", "assets.extra")
_DIMENSIONS: Final = 2  # Of the output: images, features.


def load_network(tf: Any, folder: Path) -> tuple[Card, Compute, Any]:
    """The card with its fingerprint, the network, and the owner of its variables.

    Runs the network once. Raises BadArtifact, which names what of the card the SavedModel contradicts.
    """
    card, path = read_card(folder), folder / CARD_FILE
    try:
        loaded = tf.saved_model.load(str(folder))
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise BadArtifact(f"{folder} is not a SavedModel: {error}") from error
    run = _signature(loaded, card, path)
    name, spec = _input(run, card, path)
    if card.output not in run.structured_outputs:
        raise BadArtifact(
            f"{path}: output {card.output!r} is missing in the model; its outputs are {_names(run.structured_outputs)}"
        )
    card = dataclasses.replace(card, digest=_digest(folder, [card.signature, name, card.output]))
    fingerprint = compute_fingerprint(card)
    if card.fingerprint not in ("", fingerprint):
        raise BadArtifact(
            f"{path}: fingerprint {card.fingerprint!r}, but this network with this preprocessing is {fingerprint!r}; "
            "correct it, or leave it out"
        )

    def compute(pixels: Any) -> Any:
        return run(**{name: tf.cast(pixels, spec.dtype)})[card.output]

    _check_output(tf, card, compute, path)
    return dataclasses.replace(card, fingerprint=fingerprint), compute, loaded


def _signature(loaded: Any, card: Card, path: Path) -> Any:
    signatures = getattr(loaded, "signatures", {})
    if card.signature not in signatures:
        raise BadArtifact(
            f"{path}: signature {card.signature!r} is missing in the model; its signatures are {_names(signatures)}"
        )
    return signatures[card.signature]


def _input(run: Any, card: Card, path: Path) -> tuple[str, Any]:
    """Name and specification of the input. Raises BadArtifact unless it takes the pixels of the card."""
    specs: dict[str, Any] = run.structured_input_signature[1]
    if not card.input and len(specs) != 1:
        raise BadArtifact(f'{path}: the model has the inputs {_names(specs)}; add "input" with the one of the pixels')
    name = card.input or next(iter(specs))
    if name not in specs or len(specs) != 1:
        raise BadArtifact(f"{path}: input {name!r}: the model's inputs are {_names(specs)}; it must be the only one")
    spec, wanted = specs[name], (None, card.input_px, card.input_px, 3)
    if not spec.shape.is_compatible_with(wanted) or (spec.shape.rank is not None and spec.shape[0] is not None):
        raise BadArtifact(
            f"{path}: input_px {card.input_px}, but the model's input {name!r} is {_shape(spec.shape)}; it has to be "
            f"{_shape(wanted)}: images, rows, columns, channels, with any number of images"
        )
    if not (spec.dtype.is_floating or card.preprocessing == "in-network"):
        raise BadArtifact(
            f"{path}: preprocessing {card.preprocessing!r} gives fractions, but the model's input {name!r} is "
            f'{spec.dtype.name}; a network that takes bytes has its preprocessing inside: say "in-network"'
        )
    return name, spec


def _check_output(tf: Any, card: Card, compute: Compute, path: Path) -> None:
    """Run the network on a black and a noisy picture. Raises BadArtifact unless their features can be normalised."""
    pictures = np.zeros((2, card.input_px, card.input_px, 3), np.uint8)
    pictures[1] = np.random.default_rng(0).integers(0, 256, pictures.shape[1:], np.uint8)
    try:
        features = compute(preprocess_pixels(tf, pictures, card.scaling)).numpy()
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise BadArtifact(f"{path}: the model does not take two images of {card.input_px} px: {error}") from error
    if features.ndim != _DIMENSIONS or len(features) != len(pictures):
        raise BadArtifact(
            f"{path}: output {card.output!r} is {features.shape} for two images; it has to be (2, {card.dimension}): "
            "pool the features inside the network"
        )
    if features.shape[1] != card.dimension:
        raise BadArtifact(
            f"{path}: dimension {card.dimension}, but output {card.output!r} of the model has {features.shape[1]}; "
            "correct the card, or name another output"
        )
    norms = np.abs(features.astype(np.float64)).max(axis=1)
    if not (norms > 0).all() or not math.isfinite(norms.max()):
        raise BadArtifact(
            f"{path}: with preprocessing {card.preprocessing!r} the features of a black or of a noisy picture are all "
            "zero or not finite, so they have no direction; is it the preprocessing of the training?"
        )


def _digest(folder: Path, names: list[str]) -> str:
    """SHA-256 of the files of the network, and of the names that say which part of it is used."""
    digest = hashlib.sha256("\0".join(names).encode())
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and relative.parts[0] not in _NO_NETWORK:
            with file.open("rb") as content:
                digest.update(f"\0{relative.as_posix()}\0{hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def _names(mapping: Any) -> str:
    return ", ".join(sorted(mapping)) or "none"


def _shape(shape: Any) -> str:
    sizes = ["?" if size is None else str(size) for size in (shape.as_list() if hasattr(shape, "as_list") else shape)]
    return f"({', '.join(sizes)})"
