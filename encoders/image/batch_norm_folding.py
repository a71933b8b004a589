"""MobileNet as it is served: Keras' weights as constants, every batch normalisation folded into its convolution.

Constants let TensorFlow fuse a convolution with what follows it when it loads the model, which variables do not.
Folding is what it would do itself in float32; in bfloat16 it would compute each normalisation in float32 instead.
What that is worth: benchmarks/image_model.py. Pure, but for TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from lookalike.vectors import F32

Precision = Literal["float32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """One layer: convolve to input / stride rows and columns, add the bias, cut off below 0 and above 6."""

    kernel: F32  # (rows, columns, in, out), or (rows, columns, channels, 1) where depthwise
    bias: F32  # (out,)
    stride: int
    depthwise: bool


def fold_batch_norms(model: Any) -> list[Convolution]:
    """The 27 of Keras' MobileNet, whose layers with weights are a convolution and its normalisation, in turn."""
    layers = [layer for layer in model.layers if layer.weights]
    return [_fold(layer, norm) for layer, norm in zip(layers[::2], layers[1::2], strict=True)]


def compute_features(tf: Any, layers: Iterable[Convolution], images: Any, precision: Precision) -> Any:
    """(n, 1024) float32, means over the last layer's pixels, not normalised, of (n, 224, 224, 3) uint8."""
    pixels = tf.cast(images, tf.float32) / 127.5 - 1.0
    x = tf.cast(pixels, precision)
    for layer in layers:
        x = tf.nn.relu6(_convolve(tf, layer, x))
    return tf.reduce_mean(tf.cast(x, tf.float32), axis=(1, 2))


def normalise_rows(tf: Any, rows: Any) -> Any:
    """Rows of unit L2 norm, however small they were; a row of zeros stays one."""
    # First by the largest component: features of untrained weights have norms around 1e-18, whose squares are no
    # float32 any more, and no epsilon is small enough to add.
    scaled = tf.math.divide_no_nan(rows, tf.reduce_max(tf.abs(rows), axis=1, keepdims=True))
    return tf.math.divide_no_nan(scaled, tf.norm(scaled, axis=1, keepdims=True))


def _fold(layer: Any, norm: Any) -> Convolution:
    """In float64, so that folding rounds once."""
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
    # On sides that a stride of 2 divides, all of them here, SAME pads as Keras does: below and to the right.
    return tf.nn.bias_add(convolve(x, kernel, strides=[1, layer.stride, layer.stride, 1], padding="SAME"), bias)
