"""The signature of an exported image model: names and shapes of its inputs and outputs. Pure.

The sizes are those of its card; a client asks the server for them (GetModelMetadata).
"""

from __future__ import annotations

from typing import Final

MODEL: Final = "mobilenet"  # Its default name on the server, and its folder: MODELS_DIR/mobilenet/<version>.
SIGNATURE: Final = "serving_default"
IMAGES: Final = "images"  # in: (n, px, px, 3) uint8, RGB
FEATURES: Final = "features"  # out: (n, dim) float32, rows of unit L2 norm
ENCODER: Final = "encoder"  # out: (n,) string, the fingerprint per row, since batching splits outputs by row.
DEFAULT_INPUT_PX: Final = 224  # What the networks of Keras are trained with.
