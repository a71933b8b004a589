"""The patterns printed on cloth, china and paper. Each fills the whole square in two colours."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from lookalike.demo.sample.drawing.curves import box, oval, star
from lookalike.demo.sample.drawing.palette import RGB, lighter, mix
from lookalike.demo.sample.drawing.pen import Pen

_AROUND = (-12, 112)  # The square, and a margin that a rotation may bring into it.


@dataclass(frozen=True, slots=True)
class Pattern:
    name: str
    ja: str
    draw: Callable[[Pen, RGB, RGB, random.Random], None]

    def cloth(self, pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> Image.Image:
        return pen.cloth(lambda layer: self.draw(layer, main, accent, rng), main)


def _steps(step: float, shift: float = 0.0) -> list[float]:
    first, last = _AROUND
    return [first + shift + number * step for number in range(int((last - first) / step) + 1)]


def _borders(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(4.5, 9)
    thick = step * rng.uniform(0.3, 0.55)
    for y in _steps(step, rng.uniform(0, 3)):
        pen.shape(box(_AROUND[0], y, _AROUND[1], y + thick), accent)


def _stripes(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(3.2, 7)
    thin = step * rng.uniform(0.15, 0.4)
    for x in _steps(step):
        pen.shape(box(x, _AROUND[0], x + thin, _AROUND[1]), accent)


def _dots(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(6, 10)
    radius = step * rng.uniform(0.16, 0.28)
    for row, y in enumerate(_steps(step)):
        for x in _steps(step, step / 2 * (row % 2)):
            pen.shape(oval(x, y, radius, sides=14), accent)


def _gingham(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(6, 9)
    half, middle = step / 2, mix(main, accent, 0.5)
    for at in _steps(step):
        pen.shape(box(at, _AROUND[0], at + half, _AROUND[1]), middle)
        pen.shape(box(_AROUND[0], at, _AROUND[1], at + half), middle)
    for x in _steps(step):
        for y in _steps(step):
            pen.shape(box(x, y, x + half, y + half), accent)


def _tartan(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(13, 19)
    veil, pale = mix(main, accent, 0.55), lighter(accent, 0.5)
    for at in _steps(step):
        pen.glaze(box(at, _AROUND[0], at + step * 0.4, _AROUND[1]), veil, 0.6)
        pen.glaze(box(_AROUND[0], at, _AROUND[1], at + step * 0.4), veil, 0.6)
    for at in _steps(step, step * 0.7):
        pen.shape(box(at, _AROUND[0], at + 0.8, _AROUND[1]), pale)
        pen.shape(box(_AROUND[0], at, _AROUND[1], at + 0.8), pale)


def _flowers(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(11, 15)
    for row, y in enumerate(_steps(step)):
        for x in _steps(step, step / 2 * (row % 2)):
            cx, cy, turn = x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), rng.uniform(0, 72)
            size = step * rng.uniform(0.22, 0.32)
            pen.shape(star(cx + size, cy + size * 0.9, size * 0.9, tips=2, inner=0.3, turn=turn), (96, 140, 92))
            for petal in star(cx, cy, size * 0.62, turn=turn)[::2]:
                pen.shape(oval(*petal, size * 0.5, sides=12), accent)
            pen.shape(oval(cx, cy, size * 0.36, sides=12), (246, 214, 110))


def _stars(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    step = rng.uniform(10, 14)
    for row, y in enumerate(_steps(step)):
        for x in _steps(step, step / 2 * (row % 2)):
            pen.shape(star(x, y, step * 0.27, turn=rng.uniform(-110, -70)), accent)


def _plain(pen: Pen, main: RGB, accent: RGB, rng: random.Random) -> None:
    """No pattern: only the ground colour."""


SOLID = Pattern("Solid", "無地", _plain)
BORDER = Pattern("Striped", "ボーダー", _borders)
STRIPE = Pattern("Pinstripe", "ストライプ", _stripes)
DOT = Pattern("Polka Dot", "ドット柄", _dots)
GINGHAM = Pattern("Gingham", "ギンガムチェック", _gingham)
TARTAN = Pattern("Tartan", "タータンチェック", _tartan)
FLOWER = Pattern("Floral", "花柄", _flowers)
STAR = Pattern("Star Print", "星柄", _stars)

CLOTHS = (SOLID, BORDER, STRIPE, DOT, GINGHAM, TARTAN, FLOWER, STAR)
