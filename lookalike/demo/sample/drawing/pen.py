"""A canvas to draw outlines on, with four times the pixels of the finished photo. Uses Pillow; no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lookalike.demo.sample.drawing.curves import Point, Points, oval
from lookalike.demo.sample.drawing.palette import RGB, darker

SIZE_PX = 600
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class CameraView:
    """Maps points of a 100 x 100 square to pixels: rotated about the centre, scaled, moved, and optionally mirrored."""

    degrees: float = 0.0
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    mirrored: bool = False

    def __call__(self, points: Points) -> list[Point]:
        unit = SIZE_PX / 100
        sin, cos = math.sin(math.radians(self.degrees)), math.cos(math.radians(self.degrees))
        across, ox, oy = -1 if self.mirrored else 1, 50 + self.dx, 50 + self.dy
        result = []
        for px, py in points:
            x, y = (px - 50) * across * self.scale, (py - 50) * self.scale
            result.append(((ox + x * cos - y * sin) * unit, (oy + x * sin + y * cos) * unit))
        return result

    @property
    def unit_px(self) -> float:
        return self.scale * SIZE_PX / 100


class Pen:
    """A canvas with the product's colours, and its silhouette.

    A paint is a colour, or a cloth: an image of the canvas' size, which shows through the shape.
    """

    def __init__(self, view: CameraView, ground: RGB) -> None:
        # The ground shows through at the silhouette's soft edge: the product's own colour makes it invisible.
        self.image = Image.new("RGB", (SIZE_PX, SIZE_PX), ground)
        self.silhouette = Image.new("L", (SIZE_PX, SIZE_PX))
        self.view = view
        self._cloth: Image.Image | None = None
        self._draw = ImageDraw.Draw(self.image)
        self._cut = ImageDraw.Draw(self.silhouette)

    def shape(self, points: Points, paint: RGB | Image.Image, *, edge: RGB | None = None, width: float = 0.5) -> None:
        """Fill an outline; `edge`: the colour of a line around it."""
        pixels = self.view(points)
        self._cut.polygon(pixels, fill=255)
        if isinstance(paint, Image.Image):
            box = _bounds(pixels)
            self.image.paste(paint.crop(box), box, _mask(pixels, box))
        else:
            self._draw.polygon(pixels, fill=paint)
        if edge is not None:
            self.line([*points, points[0]], edge, width)

    def hole(self, points: Points) -> None:
        """Cut a hole: the background shows through."""
        self._cut.polygon(self.view(points), fill=0)

    def oval(
        self, x: float, y: float, rx: float, ry: float, paint: RGB | Image.Image, *, edge: RGB | None = None
    ) -> None:
        self.shape(oval(x, y, rx, ry), paint, edge=edge)

    def line(self, points: Points, colour: RGB, width: float = 1.0) -> None:
        """Draw a line with round ends and corners."""
        pixels, width_px = self.view(points), max(round(width * self.view.unit_px), 1)
        for draw, fill in ((self._draw, colour), (self._cut, 255)):
            draw.line(pixels, fill=fill, width=width_px, joint="curve")
            if width_px > 3:
                for x, y in (pixels[0], pixels[-1]):
                    draw.circle((x, y), width_px / 2 - 0.5, fill=fill)

    def tube(self, points: Points, colour: RGB, width: float) -> None:
        """Draw a round rod: dark edges, a bright ridge."""
        self.line(points, darker(colour, 0.35), width)
        self.line(points, colour, width * 0.7)
        self.line(points, _bright(colour), width * 0.2)

    def dashes(self, points: Points, colour: RGB, width: float = 0.5) -> None:
        """Draw a dashed line, such as a seam."""
        for start, end in zip(points[::2], points[1::2], strict=False):
            self.line([start, end], colour, width)

    def glaze(
        self, points: Points, colour: RGB, opacity: float, *, blur: float = 0, clip: Points | None = None
    ) -> None:
        """Paint a translucent area, its rim softened over `blur`, only inside `clip`; the silhouette is unchanged."""
        pixels = self.view(points)
        margin_px = math.ceil(blur * 2 * self.view.unit_px)
        box = _bounds(pixels if clip is None else self.view(clip), 0 if clip is not None else margin_px)
        mask = _mask(pixels, box, round(255 * opacity))
        if blur:
            mask = mask.filter(ImageFilter.BoxBlur(blur * self.view.unit_px))
        if clip is not None:
            mask = ImageChops.multiply(mask, _mask(self.view(clip), box))
        self.image.paste(colour, box, mask)

    def gradient(self, points: Points, first: RGB, last: RGB, *, across: bool = False) -> None:
        """Fill a shape with a gradient from top to bottom or, `across`, from left to right."""
        pixels = self.view(points)
        self._cut.polygon(pixels, fill=255)
        box = _bounds(pixels)
        ramp = Image.linear_gradient("L")
        ramp = (ramp.transpose(Image.Transpose.ROTATE_90) if across else ramp).resize(
            (box[2] - box[0], box[3] - box[1])
        )
        shades = Image.composite(Image.new("RGB", ramp.size, last), Image.new("RGB", ramp.size, first), ramp)
        self.image.paste(shades, box, _mask(pixels, box))

    def cloth(self, draw: Callable[[Pen], None], ground: RGB) -> Image.Image:
        """The output of `draw` as a paint that moves and rotates with the product; all parts of it share one cloth."""
        if self._cloth is None:
            pen = Pen(self.view, ground)
            draw(pen)
            self._cloth = pen.image
        return self._cloth


def _bright(colour: RGB) -> RGB:
    r, g, b = (min(part + 46, 255) for part in colour)
    return r, g, b


def _bounds(pixels: Points, margin_px: int = 1) -> Box:
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    left, top = max(math.floor(min(xs)) - margin_px, 0), max(math.floor(min(ys)) - margin_px, 0)
    right, bottom = min(math.ceil(max(xs)) + margin_px + 1, SIZE_PX), min(math.ceil(max(ys)) + margin_px + 1, SIZE_PX)
    return min(left, SIZE_PX - 1), min(top, SIZE_PX - 1), max(right, left + 1, 1), max(bottom, top + 1, 1)


def _mask(pixels: Points, box: Box, value: int = 255) -> Image.Image:
    left, top, right, bottom = box
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=value)
    return mask
