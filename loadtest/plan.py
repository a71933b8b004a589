"""The plan of a load test, which the command passes to the load-generating process as a JSON file. Does file I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.mix import ProductInfo, QueryInputs
from lookalike.cli import npy_files
from lookalike.errors import BadSettings
from lookalike.limits import MAX_IMAGE_BYTES
from lookalike.spaces import VECTOR_SPACES
from lookalike.vectors import F32

MAX_PHOTOS = 200
MAX_VECTORS = 10_000
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """The settings of a load test, and the inputs that queries are made of."""

    address: str
    users: int
    seconds: float  # How long queries are sent.
    rate: float  # Calls per second of all users together; 0: each user calls again when its response arrives.
    seed: int
    mix: Mapping[str, float]
    products: Sequence[ProductInfo]
    photos: Sequence[str]  # File names.
    vectors: str  # A .npy file; empty: none.
    vector_space: str
    api_key_file: str = ""  # Empty: no key.

    def read_inputs(self) -> QueryInputs:
        """Read the photos and vectors that the queries are made of."""
        return QueryInputs(
            products=self.products,
            photos=[Path(photo).read_bytes() for photo in self.photos],
            vectors=read_vectors(Path(self.vectors)) if self.vectors else None,
            vector_space=self.vector_space,
        )


def write(plan: LoadPlan, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(plan)), encoding="utf-8")


def read(path: Path) -> LoadPlan:
    document = json.loads(path.read_text(encoding="utf-8"))
    return LoadPlan(**{**document, "products": [ProductInfo(**product) for product in document["products"]]})


def find_photos(directory: Path) -> list[str]:
    """The first 200 photos of at most 8 MB below a directory, by name. Raises BadSettings if there are none."""
    files = (path for path in sorted(directory.rglob("*")) if path.suffix.lower() in _SUFFIXES and path.is_file())
    photos = [str(path) for path in files if 0 < path.stat().st_size <= MAX_IMAGE_BYTES][:MAX_PHOTOS]
    if not photos:
        raise BadSettings(f"--images {directory}: no photos there ({', '.join(_SUFFIXES)}; at most 8 MB each)")
    return photos


def parse_vectors(text: str | None) -> tuple[str, str]:
    """Parse `SPACE=FILE.npy` to a space and a file; two empty strings for None or an empty text."""
    if not text:
        return "", ""
    space, _, file = text.partition("=")
    if space not in VECTOR_SPACES or not file:
        raise BadSettings(f"--vectors {text!r}: write image=FILE.npy, text=FILE.npy or product=FILE.npy")
    read_vectors(Path(file))
    return space, file


def read_vectors(path: Path) -> F32:
    """The first 10,000 rows of a .npy file as (n, dim) float32. Raises BadSettings."""
    try:
        array = npy_files.read(path, mapped=True)
    except ValueError as error:
        raise BadSettings(f"--vectors {path}: {error}") from error
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.floating):
        raise BadSettings(
            f"--vectors {path}: {array.dtype} of shape {array.shape}, expected rows of floating-point numbers"
        )
    vectors: F32 = np.array(array[:MAX_VECTORS], dtype=np.float32)
    return vectors
