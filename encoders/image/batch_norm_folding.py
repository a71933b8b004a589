"""MobileNet v1 for inference: batch normalisations folded into convolutions, weights as constants. Pure (TensorFlow).

With constants, unlike variables, TensorFlow fuses a convolution with the operations after it when it loads the model.
In float32 TensorFlow would fold by itself; in bfloat16 it would compute each normalisation in float32 instead.
Speed-up: benchmarks/image_model.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.image.card import Precision
from lookalike.vectors import F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """One layer: convolution with a stride, bias, ReLU6."""

    kernel: F32  # (rows, columns, in, out), or (rows, columns, channels, 1) where depthwise
    bias: F32  # (out,)
    stride: int
    depthwise: bool


def fold_batch_norms(model: Any) -> list[Convolution]:
    """Fold the 27 layers of Keras' MobileNet v1. Those with weights alternate: convolution, batch normalisation."""
    layers = [layer for layer in model.layers if layer.weights]
    return [_fold(layer, norm) for layer, norm in zip(layers[::2], layers[1::2], strict=True)]


def compute_features(tf: Any, layers: Iterable[Convolution], pixels: Any, precision: Precision) -> Any:
    """Run the layers: (n, px, px, 3) in -1..1 to (n, dim) float32, average-pooled, not normalised."""
    x = tf.cast(pixels, precision)
    for layer in layers:
        x = tf.nn.relu6(_convolve(tf, layer, x))
    return tf.reduce_mean(tf.cast(x, tf.float32), axis=(1, 2))


def _fold(layer: Any, norm: Any) -> Convolution:
    """Fold one normalisation into its convolution. In float64, so that the result is rounded only once."""
    import keras

    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in norm.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    kernel = np.asarray(layer.get_weights()[0], np.float64) * (scale[:, None] if depthwise else scale)
    bias = beta - mean * scale
    return Convolution(
        kernel=kernel.astype(np.float32),
        bias=bias.astype(np.float32),
        stride=_equal_stride(layer.strides),
        depthwise=depthwise,
    )


def _equal_stride(strides: Sequence[int]) -> int:
    (stride,) = set(strides)
    return stride


def _convolve(tf: Any, layer: Convolution, x: Any) -> Any:
    dtype = x.dtype.as_numpy_dtype
    kernel, bias = tf.constant(layer.kernel.astype(dtype)), tf.constant(layer.bias.astype(dtype))
    convolve = tf.nn.depthwise_conv2d if layer.depthwise else tf.nn.conv2d
    # SAME pads as Keras does, below and to the right, if the stride of 2 divides the sides: true of all layers
    # where 32 divides the input's.
    return tf.nn.bias_add(convolve(x, kernel, strides=[1, layer.stride, layer.stride, 1], padding="SAME"), bias)
