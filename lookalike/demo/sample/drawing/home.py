"""Drawings of household goods and furniture, standing."""

from __future__ import annotations

from lookalike.demo.sample.drawing.curves import arc, both, box, mirror, move, oval, path, rotate
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import INK, STEEL, WHITE, WOOD, darker, lighter
from lookalike.demo.sample.drawing.pen import Pen

_TEA, _COFFEE = (158, 176, 90), (78, 50, 36)


def _sheen(pen: Pen, outline: list[tuple[float, float]], left: float, right: float) -> None:
    """The reflection of a window on a glazed body: a bright band, and shade where the body turns away."""
    wide = right - left
    pen.glaze(box(right - wide * 0.28, 0, right + 3, 100), (30, 24, 34), 0.34, blur=wide * 0.09, clip=outline)
    pen.glaze(box(left + wide * 0.14, 0, left + wide * 0.26, 100), (255, 255, 255), 0.5, blur=wide * 0.05, clip=outline)


def mug(pen: Pen, look: Look) -> None:
    wide, top = look.vary(25, 0.1), 28 if look.variant == "tall" else 34
    ring = [*arc(46 + wide, 58, 15, 16, -80, 80), *reversed(arc(46 + wide, 58, 9, 10, -80, 80))]
    pen.shape(ring, look.main, edge=look.dark)
    foot = wide - (6 if look.variant == "round" else 1)
    bulge = wide + (5 if look.variant == "round" else 0)
    body = both(f"M46 {top} L{46 + wide} {top} Q{46 + bulge} 66 {46 + foot} 82 Q{46 + foot / 2} 88 46 88", axis=46)
    pen.shape(body, look.cloth(pen), edge=look.dark)
    _sheen(pen, body, 46 - wide, 46 + wide)
    if look.variant == "tall":
        pen.shape(box(36, 50, 56, 68, 3), look.accent)
        pen.oval(46, 59, 5, 5, look.main)
    pen.shape(oval(46, top, wide, 5.5), lighter(look.main, 0.45), edge=look.dark)
    pen.shape(oval(46, top + 0.8, wide - 2.4, 4), darker(look.main, 0.4))
    pen.shape(oval(46, top + 1.8, wide - 4, 2.9), _COFFEE)


def teapot(pen: Pen, look: Look) -> None:
    wide = look.vary(27, 0.08)
    kyusu = look.variant == "kyusu"
    if kyusu:
        pen.shape(path("M64 56 L92 44 Q97 46 95 52 L66 66 Z"), look.main, edge=look.dark)
    else:
        pen.line(arc(50 + wide, 60, 13, 14, -85, 95), look.dark, 5)
        pen.line(arc(50 + wide, 60, 13, 14, -85, 95), look.main, 3.6)
    spout = path(f"M{56 - wide} 70 Q{40 - wide} 66 {38 - wide} 44 L{44 - wide} 41 Q{48 - wide} 54 {58 - wide} 54 Z")
    pen.shape(spout, look.main, edge=look.dark)
    body = both(f"M50 38 Q{50 + wide * 0.8} 38 {50 + wide} 60 Q{50 + wide} 84 {50 + wide * 0.5} 86 L50 86")
    pen.shape(body, look.cloth(pen), edge=look.dark)
    _sheen(pen, body, 50 - wide, 50 + wide)
    pen.shape(
        both(f"M50 30 Q{52 + wide * 0.5} 31 {50 + wide * 0.62} 40 Q50 44 50 44"),
        lighter(look.main, 0.1),
        edge=look.dark,
    )
    pen.oval(50, 27.5, 3.6, 3.6, look.accent, edge=darker(look.accent))
    pen.shape(both(f"M50 85 L{50 + wide * 0.5} 85 L{50 + wide * 0.52} 89 L50 89"), look.dark)


def bowl(pen: Pen, look: Look) -> None:
    wide = look.vary(37, 0.06)
    deep = 84 if look.variant == "donburi" else 76
    body = both(f"M50 46 L{50 + wide} 46 Q{48 + wide} {deep - 6} {50 + wide * 0.4} {deep} L50 {deep}")
    pen.shape(
        both(f"M50 {deep - 1} L{50 + wide * 0.36} {deep - 1} L{50 + wide * 0.33} {deep + 5} L50 {deep + 5}"), look.dark
    )
    pen.shape(body, look.cloth(pen), edge=look.dark)
    _sheen(pen, body, 50 - wide, 50 + wide)
    pen.shape(oval(50, 46, wide, 9), lighter(look.main, 0.4), edge=look.dark)
    pen.shape(oval(50, 47, wide - 2.5, 7.2), darker(look.main, 0.3))
    if look.variant == "rice":
        pen.shape(path("M20 48 Q26 28 44 27 Q66 24 80 48 Q50 60 20 48 Z"), (250, 248, 242), edge=(218, 214, 204))
        for _ in range(40):
            x, y = look.rng.uniform(28, 72), look.rng.uniform(32, 50)
            pen.line([(x, y), (x + 1.4, y + look.rng.uniform(-0.6, 0.6))], (222, 218, 208), 0.7)
    else:
        pen.shape(oval(50, 48.5, wide - 5, 5.4), (206, 150, 84))
        for x, colour in ((38, (98, 148, 84)), (52, (238, 206, 96)), (63, (214, 106, 92))):
            pen.oval(x, 48, 5.4, 2.6, colour)
    for shift in (0, 4):
        pen.line([(22 + shift, 24 + shift * 0.3), (92, 34 + shift * 0.7)], (142, 58, 44), 1.5)


def lamp(pen: Pen, look: Look) -> None:
    glow = (255, 240, 196)
    if look.variant == "desk":
        pen.shape(both("M50 86 L66 86 Q68 90 68 92 L50 92"), look.dark)
        pen.tube([(50, 88), (36, 54)], STEEL, 2.6)
        pen.tube([(36, 54), (60, 26)], STEEL, 2.6)
        pen.oval(36, 54, 3, 3, INK)
        shade = rotate(both("M60 18 L66 20 L76 42 Q68 45 60 45", axis=60), -32, (60, 28))
        pen.shape(rotate(oval(60, 44, 15, 4), -32, (60, 28)), glow)
        pen.shape(shade, look.main, edge=look.dark)
        return
    if look.variant == "pendant":
        pen.line([(50, 0), (50, 34)], INK, 1.0)
        shade = both(f"M50 32 L55 32 Q{78 + look.vary(6)} 44 86 68 Q68 72 50 72")
        pen.shape(oval(50, 68, 36, 6), glow)
        pen.oval(50, 70, 6, 7, (255, 250, 226))
        pen.shape(shade, look.cloth(pen), edge=look.dark)
        _sheen(pen, shade, 14, 86)
        pen.shape(oval(50, 69, 35, 3.6), lighter(glow, 0.3))
        return
    wood = look.variant == "wood"
    stem = WOOD if wood else look.accent
    pen.shape(both("M50 86 Q66 86 67 91 L67 93 L50 93"), stem, edge=darker(stem))
    if wood:
        pen.tube([(50, 54), (50, 87)], stem, 4)
    else:
        pen.shape(both("M50 52 L53 52 Q66 70 55 87 L50 87"), stem, edge=darker(stem))
    top, low = look.vary(13, 0.2), look.vary(30, 0.08)
    shade = both(f"M50 12 L{50 + top} 12 L{50 + low} 54 Q{50 + low / 2} 57 50 57")
    pen.shape(shade, look.cloth(pen), edge=look.dark)
    pen.glaze(oval(50, 42, 13, 15), glow, 0.75, blur=6, clip=shade)
    _sheen(pen, shade, 50 - low, 50 + low)


def chair(pen: Pen, look: Look) -> None:
    wood = WOOD if look.rng.random() < 0.7 else (84, 58, 44)
    if look.variant == "stool":
        for leg in ("M36 46 L26 92", "M64 46 L74 92", "M45 47 L42 86", "M55 47 L58 86"):
            pen.tube(path(leg), wood, 3.6)
        pen.tube([(30, 74), (70, 74)], wood, 2.6)
        pen.shape(oval(50, 44, 25, 7), darker(look.main, 0.3))
        pen.shape(oval(50, 41, 25, 7), look.cloth(pen), edge=look.dark)
        return
    if look.variant == "office":
        for end in ((28, 90), (72, 90), (50, 93), (38, 86), (62, 86)):
            pen.line([(50, 80), end], INK, 2.6)
            pen.oval(*end, 2.6, 2.6, darker(STEEL, 0.5))
        pen.tube([(50, 62), (50, 81)], STEEL, 4)
        pen.shape(box(30, 8, 70, 50, 9), look.cloth(pen), edge=look.dark)
        pen.shape(box(46, 46, 54, 60), INK)
        pen.shape(box(25, 56, 75, 66, 5), look.main, edge=look.dark)
        for x in (22, 78):
            pen.line([(x, 62), (x, 44), (x + (4 if x < 50 else -4), 44)], INK, 2.6)
        return
    for leg in ("M70 60 L76 92", "M40 62 L38 84", "M66 58 L68 82"):
        pen.tube(path(leg), darker(wood, 0.15), 3.4)
    pen.tube(path("M30 8 L26 58 L22 92"), wood, 3.6)
    pen.tube(path("M64 6 L66 54"), wood, 3.6)
    for y in (14, 26, 38):
        pen.shape(path(f"M29 {y} Q48 {y - 6} 65 {y - 2} L65 {y + 4} Q48 {y} 29 {y + 6} Z"), wood, edge=darker(wood))
    seat = path("M24 60 L66 54 L79 61 L36 69 Z")
    pen.shape(move(seat, 0, 4), darker(wood, 0.3))
    pen.shape(seat, look.cloth(pen), edge=look.dark)
    pen.tube([(36, 68), (34, 94)], wood, 3.6)


def sofa(pen: Pen, look: Look) -> None:
    wide = 44 if look.variant == "three" else 38
    for x in (50 - wide + 6, 50 + wide - 6):
        pen.shape([(x - 2, 80), (x + 2, 80), (x + 1, 89), (x - 1, 89)], WOOD)
    pen.shape(
        both(f"M50 28 L{50 + wide - 8} 28 Q{50 + wide - 4} 28 {50 + wide - 4} 36 L{50 + wide - 4} 74 L50 74"),
        look.cloth(pen),
        edge=look.dark,
    )
    pen.shape(box(50 - wide, 62, 50 + wide, 82, 4), look.dark)
    seats = 3 if look.variant == "three" else 2
    width = (2 * wide - 16) / seats
    for number in range(seats):
        left = 58 - wide + number * width
        pen.shape(box(left + 0.6, 54, left + width - 0.6, 68, 4), lighter(look.main, 0.1), edge=look.dark)
    arm = both("M50 46 L56 46 Q58 46 58 52 L58 82 L50 82")
    for x in (4 - wide, wide - 4):
        pen.shape(move(arm, x, 0), look.main, edge=look.dark)
    for x, paint in ((66 - wide, look.accent), (34 + wide, lighter(look.accent, 0.5)))[: look.rng.randint(0, 2)]:
        pen.shape(rotate(box(x - 7, 42, x + 7, 56, 3), 12 if x < 50 else -10, (x, 49)), paint, edge=darker(paint))


def cushion(pen: Pen, look: Look) -> None:
    pull = look.vary(8, 0.3)
    if look.variant == "round":
        outline = oval(50, 50, 37, 37)
    else:
        outline = path(
            f"M10 12 Q50 {12 + pull} 90 12 Q{90 - pull} 50 90 88 Q50 {88 - pull} 10 88 Q{10 + pull} 50 10 12 Z"
        )
    pen.shape(outline, look.cloth(pen), edge=look.dark, width=1.2)
    pen.glaze(oval(38, 36, 20, 16), (255, 255, 255), 0.22, blur=9, clip=outline)
    pen.glaze(path("M90 40 Q80 84 30 90 L95 95 Z"), darker(look.main, 0.7), 0.35, blur=6, clip=outline)
    if look.variant == "round":
        for turn in range(0, 360, 45):
            crease = rotate([(50, 50), (49.2, 20), (50.8, 20)], turn, (50, 50))
            pen.glaze(crease, darker(look.main, 0.6), 0.45, blur=0.6, clip=outline)
        pen.oval(50, 50, 3, 3, look.accent, edge=darker(look.accent))
    if look.variant == "button":
        for tuck in ("M50 50 L30 34", "M50 50 L70 34", "M50 50 L30 68", "M50 50 L70 68"):
            pen.glaze([*path(tuck), (50, 52)], darker(look.main, 0.6), 0.6, blur=1, clip=outline)
        pen.oval(50, 50, 3, 3, look.accent, edge=darker(look.accent))


def clock(pen: Pen, look: Look) -> None:
    radius = look.vary(39, 0.04)
    square = look.variant == "square"
    rim = box(50 - radius, 50 - radius, 50 + radius, 50 + radius, 8) if square else oval(50, 50, radius)
    face = box(56 - radius, 56 - radius, 44 + radius, 44 + radius, 5) if square else oval(50, 50, radius - 5)
    wood = look.variant == "wood"
    pen.shape(rim, WOOD if wood else look.main, edge=darker(WOOD if wood else look.main))
    pen.shape(face, WHITE, edge=(200, 198, 194))
    for hour in range(12):
        mark = box(49, 60 - radius, 51, 60 - radius + (5 if hour % 3 else 7.5))
        pen.shape(rotate(mark, hour * 30, (50, 50)), INK if hour % 3 else look.accent)
    pen.line(rotate([(50, 54), (50, 34)], look.rng.uniform(0, 360), (50, 50)), INK, 2.4)
    pen.line(rotate([(50, 56), (50, 26)], look.rng.uniform(0, 360), (50, 50)), INK, 1.6)
    pen.line(rotate([(50, 58), (50, 24)], look.rng.uniform(0, 360), (50, 50)), (200, 60, 56), 0.8)
    pen.oval(50, 50, 2.2, 2.2, INK)


def vase(pen: Pen, look: Look) -> None:
    petals, rng = look.accent, look.rng
    for number in range(rng.randint(3, 6)):
        x, y = 50 + (number - 2) * rng.uniform(9, 13), rng.uniform(12, 30)
        pen.line(path(f"M50 60 Q{50 + (x - 50) * 0.3} 44 {x} {y}"), (92, 132, 84), 1.2)
        pen.shape(
            path(f"M{(50 + x) / 2} 46 Q{x + 8} 40 {x + 6} {y + 10} Q{x - 1} 38 {(50 + x) / 2} 46 Z"), (108, 152, 96)
        )
        for petal in range(6):
            pen.shape(rotate(oval(x, y - 4.4, 3, 4.6, sides=16), petal * 60, (x, y)), petals, edge=darker(petals, 0.15))
        pen.oval(x, y, 2.4, 2.4, (244, 206, 98))
    if look.variant == "bottle":
        outline = both(f"M50 44 L56 44 L55 56 Q{66 + look.vary(6)} 62 70 76 Q70 91 60 92 L50 92")
    elif look.variant == "cylinder":
        outline = both("M50 46 L66 46 L66 90 Q60 93 50 93")
    else:
        outline = both(f"M50 46 L61 46 Q56 54 {68 + look.vary(6)} 66 Q78 82 62 92 L50 92")
    pen.shape(outline, look.cloth(pen), edge=look.dark)
    _sheen(pen, outline, min(x for x, _ in outline), max(x for x, _ in outline))
    pen.line([(min(x for x, y in outline if y < 47), 45), (max(x for x, y in outline if y < 47), 45)], look.dark, 1.4)


def plant(pen: Pen, look: Look) -> None:
    green = look.rng.choice(((72, 128, 78), (92, 148, 84), (58, 110, 84)))
    if look.variant == "cactus":
        body = both(f"M50 22 Q{66 + look.vary(4)} 24 66 46 L64 70 L50 70")
        arm = path("M64 52 Q78 54 78 40 Q78 33 74 33 Q70 33 70 41 Q70 46 64 45 Z")
        for outline in (arm, move(mirror(arm), 0, -6), body):
            pen.shape(outline, green, edge=darker(green))
        for x in (42, 50, 58):
            pen.line([(x, 30), (x, 68)], darker(green, 0.2), 0.7)
            for y in range(30, 66, 6):
                pen.line([(x - 1, y), (x + 1, y - 1.4)], (240, 236, 210), 0.5)
        pen.oval(50, 22, 4, 3, (236, 130, 150))
    elif look.variant == "monstera":
        for turn in (-66, -38, -12, 16, 44, 70):
            leaf = path("M50 64 L50 42 Q34 36 38 22 Q42 10 50 6 Q58 10 62 22 Q66 36 50 42 Z")
            tone = lighter(green, look.rng.uniform(0, 0.22))
            pen.shape(rotate(leaf, turn, (50, 68)), tone, edge=darker(green))
            pen.line(rotate([(50, 66), (50, 10)], turn, (50, 68)), darker(green, 0.25), 0.7)
            for y, side in ((18, 1), (26, -1), (32, 1)):
                notch = [(50 + side * 12, y), (50 + side * 12, y + 3), (50 + side * 4, y + 3)]
                pen.glaze(rotate(notch, turn, (50, 68)), darker(green, 0.5), 0.8)
    else:
        for turn in (-52, -30, -12, 8, 28, 50):
            leaf = path(f"M47 68 Q43 34 50 {look.vary(10, 0.4)} Q57 34 53 68 Z")
            tone = lighter(green, look.rng.uniform(0, 0.2))
            pen.shape(rotate(leaf, turn, (50, 72)), tone, edge=(206, 210, 130), width=0.7)
    pot = both("M50 68 L69 68 L64 92 Q58 94 50 94")
    pen.shape(pot, look.cloth(pen), edge=look.dark)
    _sheen(pen, pot, 31, 69)
    pen.shape(box(29, 64, 71, 71, 1.5), lighter(look.main, 0.12), edge=look.dark)
