"""One exported version of the image model in memory, run by TensorFlow. Blocking: for threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from encoders.image.models import read_fingerprint
from encoders.image.preprocessing import SIDE_PX
from encoders.image.signature import ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.serving.batching import BatchingParameters
from encoders.serving.scheduler import Pixels
from encoders.serving.signatures import read_signatures
from encoders.tfserving.v1.saved_model_pb2 import SignatureDefMap
from lookalike.errors import BadArtifact
from lookalike.vectors import F32


class Servable(Protocol):
    """A version that can be run, by several threads at once."""

    @property
    def encoder(self) -> str:
        """The fingerprint of its weights."""
        ...

    @property
    def signatures(self) -> SignatureDefMap: ...

    def __call__(self, images: Pixels) -> F32:
        """(n, 1024) float32 of unit norm."""
        ...


class SavedModel:
    """Loaded and run once with the smallest and the largest batch when made. Raises BadArtifact."""

    def __init__(self, tf: Any, path: Path, batching: BatchingParameters) -> None:
        self._tf = tf
        self.encoder = read_fingerprint(path)
        self.signatures = read_signatures(path)
        try:
            self._loaded: Any = tf.saved_model.load(str(path))  # Kept: it owns the variables.
            self._run = self._loaded.signatures[SIGNATURE]
            # The smallest first: run after the largest, a single image costs 7 % more CPU ever after (two EPYC cores).
            for count in (batching.padded_size(1), batching.max_execution_rows):
                outputs = self._outputs(np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8))
        except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise BadArtifact(f"{path} is no image model: {error}") from error
        graph_encoder = outputs[ENCODER].numpy()[0].decode()
        if graph_encoder != self.encoder:
            raise BadArtifact(f"{path} says it is {graph_encoder}, its card says {self.encoder}")

    def __call__(self, images: Pixels) -> F32:
        features: F32 = self._outputs(images)[FEATURES].numpy()
        return features

    def _outputs(self, images: Pixels) -> Any:
        return self._run(**{IMAGES: self._tf.constant(images)})
