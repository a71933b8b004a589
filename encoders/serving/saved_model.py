"""A version of the image model loaded by TensorFlow. Reads files; blocking, to be called on threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from encoders.image.models import METADATA_FILE, read_fingerprint
from encoders.image.preprocessing import SIDE_PX
from encoders.image.signature import ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.serving.batching import BatchingParameters
from encoders.serving.scheduler import Pixels
from encoders.serving.signatures import read_signatures
from encoders.tfserving.v1.saved_model_pb2 import SignatureDefMap
from lookalike.errors import BadArtifact
from lookalike.vectors import F32


class Servable(Protocol):
    """A loaded version (TensorFlow-Serving's term). Thread-safe."""

    @property
    def encoder(self) -> str:
        """The fingerprint of the encoder."""
        ...

    @property
    def signatures(self) -> SignatureDefMap: ...

    def __call__(self, images: Pixels) -> F32:
        """Compute features (n, 1024) float32 of unit norm."""
        ...


class SavedModel:
    """A Servable over a SavedModel, warmed up with the smallest and the largest batch. Raises BadArtifact."""

    def __init__(self, tf: Any, path: Path, batching: BatchingParameters) -> None:
        self._tf = tf
        self.encoder = read_fingerprint(path)
        self.signatures = read_signatures(path)
        try:
            self._loaded: Any = tf.saved_model.load(str(path))  # Kept alive: it owns the variables.
            self._run = self._loaded.signatures[SIGNATURE]
            # The smallest first: in the other order a single image costs 7 % more CPU from then on (two EPYC cores).
            for count in (batching.padded_size(1), batching.max_execution_rows):
                outputs = self._outputs(np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8))
        except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise BadArtifact(f"{path} is not an image model: {error}") from error
        graph_encoder = outputs[ENCODER].numpy()[0].decode()
        if graph_encoder != self.encoder:
            raise BadArtifact(
                f"{path}: the graph is of encoder {graph_encoder}, but {METADATA_FILE} names {self.encoder}"
            )

    def __call__(self, images: Pixels) -> F32:
        features: F32 = self._outputs(images)[FEATURES].numpy()
        return features

    def _outputs(self, images: Pixels) -> Any:
        return self._run(**{IMAGES: self._tf.constant(images)})
