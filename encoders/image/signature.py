"""The signature of the exported image model: names and shapes of its inputs and outputs. Pure."""

from __future__ import annotations

from typing import Final

MODEL: Final = "mobilenet"  # Its name on the server, and its folder: MODELS_DIR/mobilenet/<version>.
SIGNATURE: Final = "serving_default"
IMAGES: Final = "images"  # in: (n, 224, 224, 3) uint8, RGB
FEATURES: Final = "features"  # out: (n, 1024) float32, rows of unit L2 norm
ENCODER: Final = "encoder"  # out: (n,) string, the fingerprint per row, since batching splits outputs by row.
DIM: Final = 1024
