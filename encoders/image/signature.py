"""What the exported image model takes and gives, for whoever writes, serves or calls it. Pure."""

from __future__ import annotations

from typing import Final

MODEL: Final = "mobilenet"  # Its name at the server, and its folder: MODELS_DIR/mobilenet/<version>.
SIGNATURE: Final = "serving_default"
IMAGES: Final = "images"  # in: (n, 224, 224, 3) uint8, RGB
FEATURES: Final = "features"  # out: (n, 1024) float32, rows of unit L2 norm
ENCODER: Final = "encoder"  # out: (n,) string, the fingerprint in each row: a batcher splits every output by rows.
DIM: Final = 1024
