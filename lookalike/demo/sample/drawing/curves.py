"""Outlines as points, in a square of 100 x 100 with y downwards. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
Points = Sequence[Point]

_STEPS = 10  # Straight pieces per curve: at 600 pixels a piece is too short to see.
_TOKEN = re.compile(r"[MLQC]|-?\d*\.?\d+(?:e-?\d+)?")
_ARITY = {"M": 1, "L": 1, "Q": 2, "C": 3}


def path(text: str) -> list[Point]:
    """The points along a path in SVG's words M, L, Q and C, absolute coordinates only."""
    points: list[Point] = []
    for word, controls in _pieces(text):
        if word in "ML":
            points.append(controls[0])
        else:
            points += bezier([points[-1], *controls])[1:]
    return points


def _pieces(text: str) -> list[tuple[str, list[Point]]]:
    pieces: list[tuple[str, list[Point]]] = []
    word, numbers = "M", list[float]()
    for token in _TOKEN.findall(text):
        if token in _ARITY:
            word = token
            continue
        numbers.append(float(token))
        if len(numbers) == 2 * _ARITY[word]:
            pieces.append((word, list(zip(numbers[::2], numbers[1::2], strict=True))))
            numbers = []
    return pieces


def bezier(controls: Points) -> list[Point]:
    """A Bézier curve of any degree, by de Casteljau."""
    return [_at(controls, step / _STEPS) for step in range(_STEPS + 1)]


def _at(controls: Points, t: float) -> Point:
    while len(controls) > 1:
        controls = [(ax + (bx - ax) * t, ay + (by - ay) * t) for (ax, ay), (bx, by) in pairwise(controls)]
    return controls[0]


def both(half: str | Points, *, axis: float = 50) -> list[Point]:
    """A symmetric outline from its right half, given from top to bottom."""
    right = path(half) if isinstance(half, str) else list(half)
    return right + [(2 * axis - x, y) for x, y in reversed(right)]


def mirror(points: Points, *, axis: float = 50) -> list[Point]:
    return [(2 * axis - x, y) for x, y in points]


def move(points: Points, dx: float, dy: float) -> list[Point]:
    return [(x + dx, y + dy) for x, y in points]


def rotate(points: Points, degrees: float, around: Point) -> list[Point]:
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    ax, ay = around
    return [(ax + (x - ax) * cos - (y - ay) * sin, ay + (x - ax) * sin + (y - ay) * cos) for x, y in points]


def oval(x: float, y: float, rx: float, ry: float | None = None, *, sides: int = 48) -> list[Point]:
    return arc(x, y, rx, rx if ry is None else ry, 0, 360 * (1 - 1 / sides), sides=sides)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, *, sides: int = 32) -> list[Point]:  # noqa: PLR0917  # as everybody writes an arc
    """From `start` to `end` degrees, clockwise on the screen, 0 to the right."""
    angles = [math.radians(start + (end - start) * side / (sides - 1)) for side in range(sides)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def box(left: float, top: float, right: float, bottom: float, radius: float = 0) -> list[Point]:
    """A rectangle with round corners."""
    if radius <= 0:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    corners = ((right, top, -90), (right, bottom, 0), (left, bottom, 90), (left, top, 180))
    points: list[Point] = []
    for x, y, start in corners:
        cx = x - radius if x == right else x + radius
        cy = y - radius if y == bottom else y + radius
        points += arc(cx, cy, radius, radius, start, start + 90, sides=8)
    return points


def star(x: float, y: float, radius: float, *, tips: int = 5, inner: float = 0.45, turn: float = -90) -> list[Point]:
    points = []
    for tip in range(2 * tips):
        angle, r = math.radians(turn + 180 * tip / tips), radius if tip % 2 == 0 else radius * inner
        points.append((x + r * math.cos(angle), y + r * math.sin(angle)))
    return points
