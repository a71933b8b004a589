"""Other photos of the same product, as another shop would show it: for measuring whether an encoder knows it again.

Pure (Pillow). Photos are cropped, compressed, changed in colour, mirrored and shrunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from io import BytesIO
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

Pixels = npt.NDArray[np.uint8]  # (height, width, 3) RGB.
Change = Callable[[Image.Image, np.random.Generator], Image.Image]

_MAX_CROP = 0.1  # Of the width or height, at each side.
_QUALITIES = range(30, 71)  # Of JPEG; libjpeg's default is 75, and most shops are above.
_ENHANCE = 0.8, 1.25  # Factors of brightness, contrast and saturation.
_SHRINK = 0.4, 0.8  # Of width and height.
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def perturb_photo(pixels: Pixels, rng: np.random.Generator, changes: Collection[str] = ()) -> Pixels:
    """The photo after the named changes, in the order of CHANGES; without a name one to all of them, at random."""
    if not changes:
        chosen = rng.random(len(CHANGES)) < 1 / 2
        chosen[rng.integers(len(CHANGES))] = True
        changes = [name for name, apply in zip(CHANGES, chosen, strict=True) if apply]
    photo = Image.fromarray(pixels)
    for name, change in CHANGES.items():
        if name in changes:
            photo = change(photo, rng)
    return np.asarray(photo)


def photo_rng(key: str, seed: int) -> np.random.Generator:
    """Random numbers for one photo: the same whichever other photos are perturbed before it."""
    return np.random.default_rng([seed, int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")])


def to_square(pixels: Pixels, side_px: int) -> Pixels:
    """The photo as an image model takes it: resized as in `encoders.image.preprocessing`."""
    return np.asarray(Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BILINEAR))


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    left, upper, right, lower = rng.uniform(0, _MAX_CROP, 4).tolist()
    width, height = photo.size
    end = round((1 - right) * width), round((1 - lower) * height)
    return photo.crop((round(left * width), round(upper * height), *end))


def _change_colour(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = enhance(photo).enhance(float(rng.uniform(*_ENHANCE)))
    return photo


def _flip(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(photo)


def _shrink(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = float(rng.uniform(*_SHRINK))
    size = max(round(photo.width * factor), 1), max(round(photo.height * factor), 1)
    return photo.resize(size, _FILTERS[rng.integers(len(_FILTERS))])


def _compress(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = BytesIO()
    photo.save(buffer, "JPEG", quality=int(rng.choice(_QUALITIES)))
    with Image.open(buffer) as compressed:
        return compressed.convert("RGB")


# In the order in which a shop would make them: what is compressed is the photo that it shows.
CHANGES: Mapping[str, Change] = MappingProxyType(
    {"crop": _crop, "colour": _change_colour, "flip": _flip, "shrink": _shrink, "compression": _compress}
)
