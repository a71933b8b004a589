"""A version of the image model loaded by TensorFlow. Reads files; blocking, to be called on threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from encoders.image.card import CARD_FILE, Card, read_exported_card
from encoders.image.signature import ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.serving.batching import BatchingParameters
from encoders.serving.scheduler import Pixels
from encoders.serving.signatures import read_signatures
from encoders.tfserving.v1 import saved_model_pb2 as pb
from lookalike.errors import BadArtifact
from lookalike.vectors import F32

_EXPORT = "Do not edit a version: 'lookalike encoders export' writes another, with a card that agrees with it"


class Servable(Protocol):
    """A loaded version (TensorFlow-Serving's term). Thread-safe."""

    @property
    def encoder(self) -> str:
        """The fingerprint of the encoder."""
        ...

    @property
    def input_px(self) -> int:
        """Width and height of the images."""
        ...

    @property
    def signatures(self) -> pb.SignatureDefMap: ...

    def __call__(self, images: Pixels) -> F32:
        """Compute features (n, dim) float32 of unit norm."""
        ...


class SavedModel:
    """A Servable over a SavedModel, warmed up with the smallest and the largest batch.

    Raises BadArtifact, too if the model is not what its card says.
    """

    def __init__(self, tf: Any, path: Path, batching: BatchingParameters) -> None:
        self._tf = tf
        card = read_exported_card(path)
        self.encoder, self.input_px = card.fingerprint, card.input_px
        self.signatures = read_signatures(path)
        _check_signature(self.signatures, card, path)
        try:
            self._loaded: Any = tf.saved_model.load(str(path))  # Kept alive: it owns the variables.
            self._run = self._loaded.signatures[SIGNATURE]
            # The smallest first: in the other order a single image costs 7 % more CPU from then on (two EPYC cores).
            for count in (batching.padded_size(1), batching.max_execution_rows):
                outputs = self._outputs(np.zeros((count, card.input_px, card.input_px, 3), np.uint8))
        except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise BadArtifact(f"{path} is not an image model: {error}") from error
        graph_encoder = outputs[ENCODER].numpy()[0].decode()
        if graph_encoder != card.fingerprint:
            raise BadArtifact(
                f"{path}: the graph is of encoder {graph_encoder}, but {CARD_FILE} names {card.fingerprint}. {_EXPORT}"
            )

    def __call__(self, images: Pixels) -> F32:
        features: F32 = self._outputs(images)[FEATURES].numpy()
        return features

    def _outputs(self, images: Pixels) -> Any:
        return self._run(**{IMAGES: self._tf.constant(images)})


def _check_signature(signatures: pb.SignatureDefMap, card: Card, path: Path) -> None:
    """Raise BadArtifact unless the model has the inputs and outputs of the card, in its sizes."""
    signature = signatures.signature_def[SIGNATURE] if SIGNATURE in signatures.signature_def else pb.SignatureDef()
    for kind, name, tensors in (
        ("input", card.input, signature.inputs),
        ("output", card.output, signature.outputs),
        ("input", IMAGES, signature.inputs),
        ("output", FEATURES, signature.outputs),
        ("output", ENCODER, signature.outputs),
    ):
        if name not in tensors:
            names = ", ".join(sorted(tensors)) or "none"
            raise BadArtifact(
                f"{path / CARD_FILE}: {kind} {name!r} is missing in the model; its {kind}s are {names}. {_EXPORT}"
            )
    shapes = {
        "input_px": (card.input_px, signature.inputs[IMAGES], [-1, card.input_px, card.input_px, 3]),
        "dimension": (card.dimension, signature.outputs[FEATURES], [-1, card.dimension]),
    }
    for key, (value, tensor, expected) in shapes.items():
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        if sizes != expected:
            raise BadArtifact(
                f"{path / CARD_FILE}: {key} {value}, which is {expected}, but the model's is {sizes}. {_EXPORT}"
            )
