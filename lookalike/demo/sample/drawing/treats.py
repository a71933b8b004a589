"""Drawings of sweets, drinks, fruit and cosmetics."""

from __future__ import annotations

import math

from lookalike.demo.sample.drawing.curves import both, box, move, oval, path, rotate
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import GOLD, INK, RGB, STEEL, WHITE, darker, lighter
from lookalike.demo.sample.drawing.pen import Pen

_CREAM: RGB = (252, 246, 232)
_SPONGE: RGB = (240, 206, 132)
_CHOCOLATE: RGB = (94, 56, 38)
_BERRY: RGB = (212, 50, 58)


def _strawberry(pen: Pen, x: float, y: float, size: float) -> None:
    berry = [(x + (px - 50) * size, y + (py - 50) * size) for px, py in both("M50 44 Q58 42 58 50 Q56 60 50 64")]
    pen.shape(berry, _BERRY, edge=darker(_BERRY))
    for dx, dy in ((-3, 3), (3, 3), (0, 7), (-2, 0), (3, -2)):
        pen.oval(x + dx * size, y + dy * size, 0.6 * size, 0.9 * size, (250, 220, 130))
    for turn in (-60, 0, 60):
        pen.shape(rotate(oval(x, y - 8 * size, 1.8 * size, 4 * size, sides=12), turn, (x, y - 5 * size)), (98, 150, 74))


def cake(pen: Pen, look: Look) -> None:
    pen.shape(oval(50, 80, 44, 9), look.light, edge=look.dark)
    pen.shape(oval(50, 79, 33, 6), lighter(look.main, 0.6))
    dark = look.variant == "chocolate"
    cream, sponge = (_CHOCOLATE, (132, 86, 58)) if dark else (_CREAM, _SPONGE)
    if look.variant == "roll":
        side = path("M34 46 L72 40 Q86 42 86 56 Q86 72 72 76 L36 80 Z")
        pen.shape(side, sponge, edge=darker(sponge))
        pen.shape(oval(34, 62, 18, 18), sponge, edge=darker(sponge))
        pen.shape(oval(34, 62, 14.4), cream)
        pen.line([(34 + (14 - n * 0.3) * c, 62 + (14 - n * 0.3) * s) for n, c, s in _spiral(34)], sponge, 2.2)
        _strawberry(pen, 62, 38, 0.9)
        return
    front = path("M14 52 L74 62 L74 80 L14 72 Z")
    back = path("M74 62 L88 46 L88 64 L74 80 Z")
    pen.shape(front, sponge, edge=darker(sponge))
    pen.shape(back, cream, edge=darker(cream, 0.15))
    pen.shape(path("M14 59 L74 69 L74 73 L14 63 Z"), cream)
    for share in (0.2, 0.42, 0.64, 0.86) if not dark else ():
        pen.oval(14 + 60 * share, 61.3 + 10 * share, 2.6, 2.1, _BERRY)
    top = path("M14 46 L62 34 Q84 36 88 46 L74 58 Z")
    pen.shape(path("M14 46 L74 58 L88 46 L88 51 L74 64 L14 53 Z"), cream, edge=darker(cream, 0.12))
    pen.shape(top, lighter(cream, 0.2), edge=darker(cream, 0.12))
    pen.oval(66, 43, 9, 5, _CREAM, edge=(226, 216, 196))
    _strawberry(pen, 66, 36, 1.1)


def _spiral(turns: int) -> list[tuple[int, float, float]]:
    return [(n, math.cos(n * 0.42), math.sin(n * 0.42)) for n in range(turns)]


def doughnut(pen: Pen, look: Look) -> None:
    dough: RGB = (214, 158, 92)
    pen.shape(oval(50, 50, 41), dough, edge=darker(dough))
    wave = oval(50, 50, 37, sides=40)
    icing = [
        (50 + (x - 50) * (1 + look.rng.uniform(-0.05, 0.05)), 50 + (y - 50) * (1 + look.rng.uniform(-0.05, 0.05)))
        for x, y in wave
    ]
    glaze = look.main if look.variant != "chocolate" else _CHOCOLATE
    pen.shape(icing, glaze, edge=darker(glaze, 0.15))
    for turn in range(0, 360, 40):
        pen.glaze(rotate(oval(50, 21, 6, 2, sides=16), turn, (50, 50)), (255, 255, 255), 0.3, blur=1)
    if look.variant != "stripes":
        colours = ((240, 90, 100), (250, 210, 90), (90, 170, 220), (250, 250, 250), (130, 200, 120))
        for _ in range(46):
            angle, far = look.rng.uniform(0, 360), look.rng.uniform(18, 33)
            grain = rotate(box(49, 50 - far, 51, 53.6 - far, 0.9), look.rng.uniform(0, 180), (50, 52 - far))
            pen.shape(rotate(grain, angle, (50, 50)), look.rng.choice(colours))
    else:
        for x in range(20, 84, 9):
            pen.line(
                [(x, 50 - (36**2 - (x - 50) ** 2) ** 0.5 + 4), (x, 46 + (36**2 - (x - 50) ** 2) ** 0.5)],
                look.accent,
                1.6,
            )
    pen.shape(oval(50, 50, 15), darker(dough, 0.1), edge=darker(dough, 0.3))
    pen.hole(oval(50, 51, 11.5))


def macaron(pen: Pen, look: Look) -> None:
    tones = [look.main, look.accent, lighter(look.main, 0.5)]
    places = {
        "tower": ((50, 76), (51, 56), (49, 36)),
        "three": ((31, 72), (69, 72), (50, 50)),
        "pair": ((36, 68), (64, 66)),
    }
    for (x, y), tone in zip(places[look.variant], tones, strict=False):
        shell = move(path("M-19 3 Q-20 -11 0 -11 Q20 -11 19 3 Z"), x, y - 4)
        base = move(path("M-19 0 L19 0 Q20 10 0 10 Q-20 10 -19 0 Z"), x, y + 5)
        pen.shape(base, tone, edge=darker(tone))
        pen.shape(move(box(-17, -1, 17, 5, 2), x, y), _CREAM if tone != look.accent else _CHOCOLATE)
        for ridge in range(9):
            pen.oval(x - 17 + ridge * 4.25, y - 1.4, 2.6, 1.6, lighter(tone, 0.2))
        pen.shape(shell, tone, edge=darker(tone))
        pen.glaze(move(oval(-6, -8, 8, 3), x, y - 3), (255, 255, 255), 0.4, blur=1.5)


def fruit(pen: Pen, look: Look) -> None:
    kind = look.variant
    tone: RGB = {"apple": (202, 48, 48), "orange": (240, 146, 44), "melon": (150, 190, 118)}[kind]
    if kind == "apple" and look.rng.random() < 0.35:
        tone = (156, 192, 84)
    if kind == "melon":
        body = oval(50, 56, 35, 34)
        pen.shape(body, tone, edge=darker(tone))
        for number in range(15):
            x = 18 + number * 4.6
            pen.line(
                path(f"M{50 + (x - 50) * 0.3} 23 Q{x + look.rng.uniform(-6, 6)} 56 {50 + (x - 50) * 0.3} 89"),
                (220, 228, 190),
                0.7,
            )
        for y in range(32, 86, 6):
            half = (1 - ((y - 56) / 34) ** 2) ** 0.5 * 33
            pen.line(path(f"M{50 - half} {y} Q50 {y + look.rng.uniform(2, 9)} {50 + half} {y}"), (220, 228, 190), 0.7)
        pen.line([(50, 24), (50, 12)], (112, 150, 84), 2.4)
        pen.line([(38, 11), (62, 12)], (112, 150, 84), 2.4)
    else:
        apple = both("M50 30 Q60 22 74 28 Q88 36 84 60 Q78 88 60 88 Q54 86 50 88")
        body = apple if kind == "apple" else oval(50, 56, 36, 34)
        pen.shape(body, tone, edge=darker(tone))
        pen.glaze(oval(62, 70, 24, 18), (244, 200, 90), 0.28, blur=8, clip=body)
        stem = "M50 33 Q49 20 56 13" if kind == "apple" else "M50 24 L51 19"
        pen.line(path(stem), (104, 74, 46), 1.9)
        pen.shape(path("M52 22 Q58 8 76 14 Q70 28 52 22 Z"), (96, 150, 74), edge=(64, 108, 52))
        pen.line(path("M54 21 Q62 15 72 15"), (64, 108, 52), 0.6)
        for _ in range(70 if kind == "orange" else 24):
            px, py = look.rng.gauss(50, 15), look.rng.gauss(58, 13)
            if (px - 50) ** 2 + (py - 56) ** 2 < 800:
                pen.oval(px, py, 0.5, 0.5, darker(tone, 0.15) if kind == "orange" else lighter(tone, 0.4))
    pen.glaze(oval(36, 42, 9, 7), (255, 255, 255), 0.5, blur=4)


def bottle(pen: Pen, look: Look) -> None:
    glass: RGB = {"wine": (40, 66, 50), "juice": (238, 168, 70), "sake": (150, 178, 190)}[look.variant]
    if look.variant == "juice":
        glass = look.rng.choice((glass, (200, 66, 74), (150, 178, 86)))
        outline = both("M50 18 L57 18 L57 26 Q68 36 68 44 L68 88 Q68 92 64 92 L50 92")
    elif look.variant == "wine":
        glass = look.rng.choice((glass, (86, 26, 40), (198, 178, 110)))
        outline = both("M50 6 L55 6 L55 32 Q66 38 66 48 L66 90 Q66 94 62 94 L50 94")
    else:
        glass = look.rng.choice((glass, (60, 92, 74), (110, 74, 48)))
        outline = both("M50 4 L54.5 4 L55 26 Q67 34 67 44 L67 92 Q67 95 63 95 L50 95")
    pen.gradient(outline, lighter(glass, 0.12), darker(glass, 0.45), across=True)
    neck = 12 if look.variant != "juice" else 24
    foil = [point for point in outline if point[1] < neck + 14 and abs(point[0] - 50) < 8]
    cap = max(abs(x - 50) for x, _ in foil) + 0.8
    pen.shape(
        box(50 - cap, min(y for _, y in foil) - 1, 50 + cap, neck + (8 if look.variant == "wine" else 0), 0.8),
        look.main,
        edge=look.dark,
    )
    half = max(x for x, _ in outline) - 50
    label = box(50 - half, 54, 50 + half, 82)
    pen.shape(label, _CREAM if look.variant != "juice" else WHITE, edge=(214, 204, 180))
    pen.shape(box(50 - half, 56, 50 + half, 58), look.main)
    pen.shape(box(50 - half, 78.6, 50 + half, 80), look.main)
    if look.variant == "sake":
        for y in (61, 66.5, 72):
            pen.line([(47, y), (53, y + 0.4)], INK, 1.1)
            pen.line([(50, y - 1.4), (49.4, y + 3.6)], INK, 1.1)
    elif look.variant == "juice":
        pen.oval(50, 68, 7, 7, glass, edge=darker(glass))
        pen.shape(path("M50 62 Q54 57 59 60 Q56 64 50 62 Z"), (96, 150, 74))
    else:
        pen.shape(oval(50, 66, 4.6, 5), look.accent)
        pen.line([(40, 74), (60, 74)], INK, 0.7)
    pen.glaze(box(50 - half + 2.5, 30, 50 - half + 5, 92), (255, 255, 255), 0.55, blur=1.1, clip=outline)


def lipstick(pen: Pen, look: Look) -> None:
    case = look.accent if look.variant == "stick" else INK
    pen.shape(path("M43 44 L43 18 Q50 10 57 24 L57 44 Z"), look.main, edge=look.dark)
    pen.shape(path("M43 18 Q50 10 57 24 Q50 26 43 18 Z"), lighter(look.main, 0.3), edge=look.dark)
    pen.glaze(box(45, 22, 47, 43), (255, 255, 255), 0.5, blur=0.7)
    pen.gradient(box(41.5, 42, 58.5, 60, 0.8), lighter(GOLD, 0.55), darker(GOLD, 0.35), across=True)
    pen.gradient(box(38.5, 59, 61.5, 93, 1), lighter(case, 0.3), darker(case, 0.4), across=True)
    pen.line([(38.5, 63), (61.5, 63)], GOLD, 0.9)
    if look.variant == "cap":
        pen.gradient(box(68, 60, 86, 93, 1.5), lighter(case, 0.3), darker(case, 0.4), across=True)
        pen.line([(68, 89), (86, 89)], GOLD, 0.9)


def perfume(pen: Pen, look: Look) -> None:
    liquid = lighter(look.main, 0.4)
    pen.gradient(box(43, 16, 57, 30, 1.5), lighter(STEEL, 0.5), darker(STEEL, 0.35), across=True)
    pen.gradient(box(45, 29, 55, 37), lighter(GOLD, 0.5), darker(GOLD, 0.3), across=True)
    body = {
        "square": box(26, 36, 74, 92, 5),
        "round": oval(50, 65, 30, 28),
        "tall": both("M50 36 L60 36 Q66 38 66 46 L70 88 Q70 92 66 92 L50 92"),
    }[look.variant]
    pen.gradient(body, lighter(liquid, 0.55), darker(liquid, 0.12))
    inner = [(50 + (x - 50) * 0.84, 64 + (y - 64) * 0.84) for x, y in body]
    full = [(x, max(y, 48)) for x, y in inner]
    pen.gradient(full, liquid, darker(look.main, 0.05))
    pen.line([*body, body[0]], darker(liquid, 0.2), 0.6)
    pen.shape(box(38, 62, 62, 76, 1), WHITE, edge=GOLD)
    pen.line([(42, 67), (58, 67)], INK, 0.8)
    pen.line([(45, 71.5), (55, 71.5)], STEEL, 0.7)
    pen.glaze(box(31, 40, 34, 88), (255, 255, 255), 0.7, blur=1, clip=body)
