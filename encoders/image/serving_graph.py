"""The graph that is exported: uint8 pixels to unit features, preprocessing and fingerprint included. Pure (TensorFlow).

A client sends pixels as they are decoded, and every output row contains the fingerprint.
"""

from __future__ import annotations

from typing import Any

from encoders.image.card import Card, Preprocessing
from encoders.image.networks import Compute
from encoders.image.signature import ENCODER, FEATURES, IMAGES


def serving_module(tf: Any, card: Card, compute: Compute, *, owner: Any = None) -> Any:
    """A tf.Module whose one function has the signature of `encoders.image.signature`.

    card:    with its fingerprint.
    compute: the network, from preprocessed pixels. owner: what owns its variables, if it has any.
    """

    class ServingModule(tf.Module):  # type: ignore[misc]  # tf is Any
        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec((None, card.input_px, card.input_px, 3), tf.uint8, name=IMAGES)],
            autograph=False,
        )
        def serve(self, images: Any) -> dict[str, Any]:
            features = tf.cast(compute(preprocess_pixels(tf, images, card.scaling)), tf.float32)
            return {
                FEATURES: tf.ensure_shape(normalise_rows(tf, features), (None, card.dimension)),
                ENCODER: tf.fill(tf.shape(images)[:1], card.fingerprint),
            }

    module = ServingModule()
    module.owner = owner
    return module


def preprocess_pixels(tf: Any, images: Any, preprocessing: Preprocessing) -> Any:
    """Pixels (n, px, px, 3) of 0..255 RGB to what the network takes, float32."""
    pixels = tf.cast(images, tf.float32)
    if preprocessing.channels == "BGR":
        pixels = tf.reverse(pixels, axis=[-1])
    return (pixels - tf.constant(preprocessing.mean)) / tf.constant(preprocessing.std)


def normalise_rows(tf: Any, rows: Any) -> Any:
    """Scale rows to unit L2 norm, however small they are; zero rows stay zero."""
    # Divide by the largest component first: features of untrained weights have norms around 1e-18, whose squares
    # underflow float32, and no epsilon is small enough to add.
    scaled = tf.math.divide_no_nan(rows, tf.reduce_max(tf.abs(rows), axis=1, keepdims=True))
    return tf.math.divide_no_nan(scaled, tf.norm(scaled, axis=1, keepdims=True))
