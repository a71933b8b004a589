"""Turns a drawing into a photo: light, shadow, background, JPEG. Uses Pillow; no I/O."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lookalike.demo.sample.drawing.palette import RGB, darker, lighter, mix
from lookalike.demo.sample.drawing.pen import Pen

PHOTO_PX = 300
_SIZE = (PHOTO_PX, PHOTO_PX)
_QUALITY = 88

BACKGROUNDS = ("white", "grey", "colour", "wood")
_WEIGHTS = (46, 26, 18, 10)
_PASTELS: tuple[RGB, ...] = (
    (244, 226, 222), (224, 236, 230), (222, 232, 242), (246, 238, 216), (234, 226, 240), (228, 234, 214),
    (214, 222, 228),
)  # fmt: skip
_WOODS: tuple[RGB, ...] = ((196, 152, 106), (224, 196, 158), (148, 106, 74))


def render_photo(pen: Pen, *, stands: bool, rng: random.Random) -> bytes:
    """Render a drawing as a JPEG, 300 x 300; `stands`: on a floor, else lying flat under the camera."""
    product = pen.image.resize(_SIZE, Image.Resampling.BOX)
    silhouette = pen.silhouette.resize(_SIZE, Image.Resampling.BOX)
    photo = _background(rng.choices(BACKGROUNDS, _WEIGHTS)[0], stands, rng)
    _cast_shadow(photo, silhouette, stands)
    photo.paste(_add_light(product, silhouette), mask=silhouette)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _add_light(product: Image.Image, silhouette: Image.Image) -> Image.Image:
    """Add light from the upper left: the rim towards it gets brighter, the opposite rim darker, as on a round body."""
    body = silhouette.filter(ImageFilter.BoxBlur(7)).filter(ImageFilter.BoxBlur(7))
    shade = ImageChops.offset(body, -5, -6).point(lambda value: 172 + value * 83 // 255)
    glow = ImageChops.offset(body, 5, 6).point(lambda value: (255 - value) * 46 // 255)
    lit = ImageChops.multiply(product, Image.merge("RGB", (shade, shade, shade)))
    return ImageChops.add(lit, Image.merge("RGB", (glow, glow, glow)))


def _cast_shadow(photo: Image.Image, silhouette: Image.Image, stands: bool) -> None:
    small = silhouette.resize((75, 75), Image.Resampling.BOX)
    soft = small.filter(ImageFilter.GaussianBlur(2.2)).resize(_SIZE, Image.Resampling.BILINEAR)
    photo.paste((52, 46, 56), (4, 6), soft.point(lambda value: value * 78 // 255))
    if stands and (foot := _foot(silhouette)) is not None:
        left, right, bottom = foot
        contact = Image.new("L", _SIZE)
        ImageDraw.Draw(contact).ellipse((left - 2, bottom - 8, right + 6, bottom + 4), fill=165)
        photo.paste((46, 40, 48), mask=contact.filter(ImageFilter.GaussianBlur(3.5)))


def _foot(silhouette: Image.Image) -> tuple[int, int, int] | None:
    """Where the product touches the floor: left, right and bottom of its lowest twelve pixels."""
    bounds = silhouette.getbbox()
    if bounds is None:
        return None
    bottom = bounds[3]
    lowest = silhouette.crop((0, bottom - 12, PHOTO_PX, bottom)).getbbox() or bounds
    return lowest[0], lowest[2], bottom


def _background(kind: str, stands: bool, rng: random.Random) -> Image.Image:
    if kind == "white":
        return Image.new("RGB", _SIZE, (255, 255, 255))
    if kind == "wood":
        return _wood_background(stands, rng)
    tone: RGB = (236, 236, 238) if kind == "grey" else rng.choice(_PASTELS)
    photo = _gradient(lighter(tone, 0.45), darker(tone, 0.1), PHOTO_PX)
    if stands:
        floor_px = rng.randint(84, 112)
        photo.paste(_gradient(darker(tone, 0.05), lighter(tone, 0.3), floor_px), (0, PHOTO_PX - floor_px))
        # The fold of the paper between wall and floor is round.
        fold = (0, PHOTO_PX - floor_px - 24, PHOTO_PX, PHOTO_PX - floor_px + 24)
        photo.paste(photo.crop(fold).filter(ImageFilter.BoxBlur(14)), fold)
    return photo


def _gradient(top: RGB, bottom: RGB, height_px: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((PHOTO_PX, height_px))
    return Image.composite(Image.new("RGB", ramp.size, bottom), Image.new("RGB", ramp.size, top), ramp)


def _wood_background(stands: bool, rng: random.Random) -> Image.Image:
    """Planks seen from above; for a standing product, a table in front of a wall."""
    tone, planks = rng.choice(_WOODS), Image.new("RGB", _SIZE)
    plank_px = rng.choice((50, 60, 75))
    for top in range(0, PHOTO_PX, plank_px):
        planks.paste(_plank(mix(tone, (255, 240, 220), rng.uniform(0, 0.18)), plank_px, rng), (0, top))
    if not stands:
        return planks
    photo = _gradient((244, 241, 236), (226, 221, 214), PHOTO_PX)
    table_px = rng.randint(84, 112)
    table = planks.resize((PHOTO_PX, table_px), Image.Resampling.BOX)
    photo.paste(table, (0, PHOTO_PX - table_px))
    return photo


def _plank(tone: RGB, height_px: int, rng: random.Random) -> Image.Image:
    """One plank of wood; its grain is noise stretched along the plank."""
    noise = Image.frombytes("L", (5, height_px), rng.randbytes(5 * height_px))
    grain = noise.resize((PHOTO_PX, height_px), Image.Resampling.BICUBIC).filter(ImageFilter.BoxBlur(1))
    plank = Image.composite(
        Image.new("RGB", grain.size, lighter(tone, 0.16)), Image.new("RGB", grain.size, darker(tone, 0.2)), grain
    )
    ImageDraw.Draw(plank).line((0, 0, PHOTO_PX, 0), fill=darker(tone, 0.5), width=2)
    return plank
