"""Similarity of a photo to copies of itself and to photos of other products, to choose a threshold for FindDuplicates.

Photos are of fashion products at 224 × 224, in the order of their archive; weights are trained ones. Copies are as
shops make them: smaller and recompressed, cropped, lighter, mirrored. The result has, for each threshold, the share of
copies of each kind that reach it, and the share of photos for which another product does: among these are true
duplicates without a label.

    python -m benchmarks.duplicates WEIGHTS.h5 FASHION_DIR [--photos 2000]
"""

from __future__ import annotations

import argparse
import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.meter import write
from encoders.image.export import keras_module
from encoders.image.networks import build_network
from encoders.image.preprocessing import preprocess
from encoders.image.signature import DEFAULT_INPUT_PX, FEATURES
from encoders.image.tensorflow_runtime import import_tensorflow
from lookalike.vectors import F32

BATCH = 16
THRESHOLDS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda photo: photo,
    "half as wide": lambda photo: photo.resize((photo.width // 2, photo.height // 2)),
    "cut by 5 % at each side": lambda photo: ImageOps.crop(photo, round(photo.width * 0.05)),
    "a fifth lighter": lambda photo: ImageEnhance.Brightness(photo).enhance(1.2),
    "mirrored": ImageOps.mirror,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("--photos", type=int, default=2000)
    options = parser.parse_args()
    tf = import_tensorflow(os.environ)  # noqa: TID251  # a script of its own
    weights = str(options.weights)
    _, model = keras_module(tf, build_network(weights), weights=weights)
    photos = read_photos(options.fashion, options.photos)

    def encode(change: Callable[[Image.Image], Image.Image] | None) -> F32:
        parts = []
        for start in range(0, len(photos), BATCH):
            part = photos[start : start + BATCH]
            copies = part if change is None else [edited_copy(photo, change) for photo in part]
            pixels = np.stack([preprocess(copy, DEFAULT_INPUT_PX) for copy in copies])
            parts.append(model.serve(tf.constant(pixels))[FEATURES].numpy())
        return np.concatenate(parts)

    originals = encode(None)
    others = originals @ originals.T
    np.fill_diagonal(others, -1)
    rows = [row("another product", others.max(axis=1))]
    rows += [row(name, (originals * encode(change)).sum(axis=1)) for name, change in COPIES.items()]
    result = {
        "weights": options.weights.name,
        "photos": len(photos),
        "jpeg_quality_of_copies": 70,
        "rows": rows,
        "caveats": "one catalogue of clean product photos; its own near-identical products count as others",
    }
    print(write("duplicates", result))


def read_photos(fashion: Path, count: int) -> list[bytes]:
    with tarfile.open(fashion / "images_224.tar.xz", "r|xz") as archive:
        files = (archive.extractfile(member) for member in archive if member.isfile())
        return [file.read() for file in islice(files, count) if file is not None]


def edited_copy(photo: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    buffer = BytesIO()
    with Image.open(BytesIO(photo)) as image:
        change(image.convert("RGB")).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def row(what: str, cosines: F32) -> dict[str, object]:
    return {
        "cosine_with": what,
        "median": round(float(np.median(cosines)), 4),
        "at_least": {str(threshold): round(float((cosines >= threshold).mean()), 4) for threshold in THRESHOLDS},
    }


if __name__ == "__main__":
    main()
