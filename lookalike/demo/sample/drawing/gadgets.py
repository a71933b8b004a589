"""Drawings of electronics, books, toys, instruments and sports goods."""

from __future__ import annotations

import math

from lookalike.demo.sample.drawing.curves import arc, both, box, mirror, move, oval, path, rotate, star
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import GOLD, INK, RGB, STEEL, WHITE, WOOD, contrast, darker, lighter
from lookalike.demo.sample.drawing.pen import Pen

_RUBBER: RGB = (52, 52, 56)


def headphones(pen: Pen, look: Look) -> None:
    if look.variant == "earbuds":
        pen.shape(box(24, 56, 76, 92, 12), look.main, edge=look.dark)
        pen.line([(24, 68), (76, 68)], look.dark, 0.8)
        pen.oval(50, 76, 1.4, 1.4, (120, 220, 140))
        for x, turn in ((34, -14), (66, 14)):
            pen.shape(rotate(box(x - 3, 24, x + 3, 48, 3), turn, (x, 24)), look.main, edge=look.dark)
            pen.shape(rotate(oval(x, 22, 9, 8), turn, (x, 24)), look.main, edge=look.dark)
            pen.shape(rotate(oval(x, 21, 4.6, 4), turn, (x, 24)), _RUBBER)
        return
    rise = look.vary(40, 0.05)
    pen.line(arc(50, 54, 33, rise, 180, 360), look.dark, 6)
    pen.line(arc(50, 54, 33, rise, 182, 358), look.main, 4.4)
    pen.line(arc(50, 55, 31, rise - 4, 215, 325), look.accent, 2.4)
    for side in (-1, 1):
        x = 50 + side * 33
        pen.shape(box(x - side * 6 - 5, 46, x - side * 6 + 5, 84, 5), _RUBBER)
        pen.shape(box(x - 7, 46, x + 7, 84, 7), look.cloth(pen), edge=look.dark)
        pen.shape(oval(x + side * 2, 65, 3.6, 11), look.accent, edge=darker(look.accent))
    if look.variant == "wired":
        pen.line(path("M17 84 Q18 96 34 94 Q48 92 50 97"), _RUBBER, 1.2)


def camera(pen: Pen, look: Look) -> None:
    if look.variant == "instant":
        pen.shape(box(30, 72, 70, 94, 1), WHITE, edge=(210, 208, 204))
        pen.gradient(box(33, 72, 67, 90), (134, 184, 214), (226, 190, 150))
        pen.shape(box(14, 20, 86, 76, 12), look.main, edge=look.dark)
        pen.shape(box(22, 27, 38, 37, 2), (248, 246, 226), edge=INK)
        pen.shape(box(58, 27, 76, 39, 2), INK)
        lens, radius = (50, 53), 17.0
    else:
        pen.shape(
            both("M50 22 L60 22 L63 30 L50 31") if look.variant == "mirrorless" else box(58, 24, 76, 32, 1.5),
            darker(look.main, 0.3),
        )
        pen.shape(box(18, 25, 30, 32, 1.5), STEEL, edge=darker(STEEL))
        pen.shape(box(70, 26, 80, 32, 1.5), STEEL, edge=darker(STEEL))
        pen.shape(box(10, 30, 90, 80, 6), look.main, edge=look.dark)
        pen.shape(box(10, 40, 90, 70), look.accent)
        pen.shape(box(74, 34, 84, 38.5, 1), (248, 240, 214), edge=INK)
        lens, radius = (48, 56), look.vary(22, 0.08)
    x, y = lens
    for share, tone in ((1.0, STEEL), (0.88, INK), (0.7, (66, 68, 76)), (0.56, (24, 26, 40)), (0.34, (60, 74, 120))):
        pen.oval(x, y, radius * share, radius * share, tone)
    pen.glaze(oval(x - radius * 0.2, y - radius * 0.22, radius * 0.2, radius * 0.14), (255, 255, 255), 0.8, blur=0.8)


def phone(pen: Pen, look: Look) -> None:
    tall = look.vary(42, 0.02)
    pen.shape(box(29, 50 - tall, 71, 50 + tall, 7), look.dark, edge=darker(look.main, 0.5))
    if look.variant == "back":
        pen.gradient(box(30, 51 - tall, 70, 49 + tall, 6), look.light, look.main)
        pen.shape(box(34, 55 - tall, 51, 76 - tall, 5), darker(look.main, 0.12), edge=look.dark)
        for dx, dy in ((38.5, 60), (46.5, 65.5), (38.5, 71)):
            pen.oval(dx, dy - tall, 3.4, 3.4, INK, edge=STEEL)
        pen.oval(50, 50, 3, 3, look.light)
        return
    screen = box(31.5, 52.5 - tall, 68.5, 47.5 + tall, 5)
    pen.gradient(screen, lighter(look.accent, 0.5), darker(look.accent, 0.35))
    pen.shape(box(44, 54.5 - tall, 56, 57.5 - tall, 1.5), INK)
    for row in range(4):
        for column in range(4):
            icon = box(34.6 + column * 8, 34 + row * 9.5, 40.2 + column * 8, 39.6 + row * 9.5, 1.4)
            tones: tuple[RGB, ...] = (
                (246, 98, 92),
                (86, 176, 240),
                (110, 206, 124),
                (250, 206, 96),
                (246, 246, 248),
                (160, 120, 220),
            )
            pen.shape(icon, look.rng.choice(tones))
    pen.shape(box(42, 45 + tall, 58, 46 + tall, 0.5), WHITE)


def speaker(pen: Pen, look: Look) -> None:
    if look.variant == "tube":
        outline = box(10, 38, 90, 74, 18)
        pen.shape(outline, look.main, edge=look.dark)
        for row in range(7):
            for column in range(17):
                pen.oval(22 + column * 3.5 + (row % 2) * 1.7, 45 + row * 3.7, 0.8, 0.8, darker(look.main, 0.5))
        for x in (13, 87):
            pen.oval(x, 56, 3, 16, look.accent, edge=darker(look.accent))
        pen.line(arc(50, 38, 14, 12, 190, 350), look.dark, 2.4)
        return
    wood = look.variant == "wood"
    pen.shape(box(26, 8, 74, 92, 3), WOOD if wood else look.main, edge=darker(WOOD if wood else look.main))
    pen.shape(box(30, 12, 70, 88, 2), darker(look.main, 0.55))
    for y, radius in ((27, 9), (62, 17)):
        for share, tone in ((1.0, STEEL), (0.9, _RUBBER), (0.72, look.accent), (0.3, INK)):
            pen.oval(50, y, radius * share, radius * share, tone)
        pen.glaze(oval(50 - radius * 0.3, y - radius * 0.3, radius * 0.25, radius * 0.2), (255, 255, 255), 0.4, blur=1)


def keyboard(pen: Pen, look: Look) -> None:
    left, right = (4, 96) if look.variant == "full" else (14, 86)
    pen.shape(box(left, 30, right, 70, 4), look.dark, edge=darker(look.main, 0.5))
    columns = 15 if look.variant == "full" else 12
    width = (right - left - 4) / columns
    for row in range(4):
        for column in range(columns):
            x, y = left + 2 + column * width, 33 + row * 7
            edge_key = column in (0, columns - 1)
            pen.shape(box(x + 0.4, y, x + width - 0.4, y + 6.2, 0.9), look.accent if edge_key else look.light)
    for start, end, tone in ((0, 0.22, look.accent), (0.23, 0.72, look.light), (0.73, 1, look.accent)):
        span = right - left - 4
        pen.shape(box(left + 2.4 + span * start, 61, left + 1.6 + span * end, 67, 0.9), tone)


def book(pen: Pen, look: Look) -> None:
    pen.shape([(24, 10), (78, 10), (82, 14), (82, 92), (28, 92), (24, 88)], (238, 232, 216), edge=(190, 182, 164))
    for y in (89, 90.4):
        pen.line([(27, y), (81, y)], (204, 196, 178), 0.4)
    cover = box(20, 7, 77, 88, 1)
    pen.shape(cover, look.cloth(pen), edge=look.dark)
    pen.shape(box(20, 7, 26, 88), look.dark)
    ink = contrast(look.accent)
    if look.variant == "hard":
        pen.shape(box(32, 18, 72, 44), look.accent, edge=darker(look.accent))
        for y, wide in ((25, 15), (31, 17), (37, 10)):
            pen.line([(52 - wide, y), (52 + wide, y)], ink, 2.0)
        pen.oval(52, 64, 9, 9, look.accent)
        pen.shape(star(52, 64, 6, tips=look.rng.randint(4, 8)), look.main)
    elif look.variant == "picture":
        pen.shape(box(30, 36, 74, 82, 2), (176, 214, 236))
        pen.oval(66, 45, 4, 4, (250, 214, 96))
        hill = path("M30 82 L30 70 Q42 56 54 68 Q64 60 74 68 L74 82 Z")
        pen.shape(hill, (116, 174, 100))
        pen.shape(box(30, 14, 74, 30, 2), look.accent)
        pen.line([(35, 22), (69, 22)], ink, 3)
    else:
        pen.shape(box(26, 56, 77, 76), look.accent)
        pen.line([(32, 63), (70, 63)], ink, 2.2)
        pen.line([(32, 69), (58, 69)], ink, 1.4)


def bear(pen: Pen, look: Look) -> None:
    fur, pale = look.main, lighter(look.main, 0.5)
    if look.variant == "rabbit":
        for x, turn in ((40, -8), (60, 10)):
            pen.shape(rotate(oval(x, 15, 6, 17), turn, (x, 30)), fur, edge=look.dark)
            pen.shape(rotate(oval(x, 16, 3, 12), turn, (x, 30)), (240, 180, 186))
    else:
        for x in (33, 67):
            pen.oval(x, 18, 9, 9, fur, edge=look.dark)
            pen.oval(x, 18.6, 5, 5, pale)
    for side in (-1, 1):
        pen.shape(rotate(oval(50 + side * 26, 60, 8, 15), side * -32, (50 + side * 26, 54)), fur, edge=look.dark)
    pen.shape(oval(50, 68, 24, 24), fur, edge=look.dark)
    pen.shape(oval(50, 70, 14, 16), pale)
    for x in (30, 70):
        pen.oval(x, 86, 11, 9.5, fur, edge=look.dark)
        pen.oval(x, 87, 6, 5.4, pale)
    pen.shape(oval(50, 34, 25, 21), fur, edge=look.dark)
    pen.oval(50, 42, 10, 8, pale)
    pen.oval(50, 38.5, 3.4, 2.4, INK)
    pen.line(path("M50 41 L50 44 Q46 47 44 44"), INK, 0.8)
    pen.line(path("M50 44 Q54 47 56 44"), INK, 0.8)
    for x in (40, 60):
        pen.oval(x, 32, 2.4, 2.6, INK)
        pen.oval(x - 0.7, 31, 0.8, 0.8, WHITE)
    if look.variant != "bear":
        return
    bow = path("M50 55 L38 49 L38 61 Z")
    for outline in (bow, mirror(bow)):
        pen.shape(outline, look.accent, edge=darker(look.accent))
    pen.oval(50, 55, 3, 3, darker(look.accent, 0.2))


def toy_car(pen: Pen, look: Look) -> None:
    pane: RGB = (190, 220, 236)
    if look.variant == "bus":
        pen.shape(box(8, 26, 92, 76, 6), look.main, edge=look.dark)
        pen.shape(box(8, 56, 92, 62), look.accent)
        for x in range(14, 74, 15):
            pen.shape(box(x, 33, x + 12, 50, 2), pane, edge=look.dark)
        pen.shape(box(76, 33, 88, 72, 2), pane, edge=look.dark)
    elif look.variant == "truck":
        pen.shape(box(6, 28, 62, 74, 2), look.accent, edge=darker(look.accent))
        for x in range(14, 60, 9):
            pen.line([(x, 31), (x, 71)], darker(look.accent, 0.15), 0.7)
        pen.shape(path("M64 40 L80 40 Q86 42 90 56 L94 58 L94 76 L64 76 Z"), look.main, edge=look.dark)
        pen.shape(path("M70 45 L79 45 Q83 48 86 57 L70 57 Z"), pane, edge=look.dark)
        pen.shape(box(6, 73, 94, 78), _RUBBER)
    else:
        cabin = path("M24 50 Q30 28 44 28 L60 28 Q70 30 78 50 Z")
        pen.shape(cabin, look.main, edge=look.dark)
        pen.shape(path("M30 50 Q34 33 45 33 L50 33 L50 50 Z"), pane, edge=look.dark)
        pen.shape(path("M53 33 L60 33 Q67 36 72 50 L53 50 Z"), pane, edge=look.dark)
        pen.shape(path("M6 54 Q8 49 20 49 L78 49 Q94 52 95 62 L95 74 L6 74 Z"), look.main, edge=look.dark)
        pen.shape(box(6, 60, 95, 64), look.accent)
    pen.oval(92, 64, 2.2, 3, (254, 240, 170), edge=darker(GOLD))
    for x in (26, 76):
        pen.oval(x, 77, 11, 11, _RUBBER)
        pen.oval(x, 77, 5.6, 5.6, STEEL, edge=darker(STEEL))
        pen.oval(x, 77, 2, 2, look.accent)


def blocks(pen: Pen, look: Look) -> None:
    tones: tuple[RGB, ...] = (look.main, look.accent, (238, 200, 80), (86, 160, 210), (112, 180, 110), (226, 98, 90))
    tower = ((20, 70), (41, 70), (62, 70), (30, 49), (51, 49), (40, 28))
    for number, (x, y) in enumerate(tower):
        tone = tones[(number + look.rng.randrange(6)) % 6]
        square = rotate(box(x, y, x + 20, y + 20, 2), look.rng.uniform(-3, 3), (x + 10, y + 20))
        pen.shape(square, tone, edge=darker(tone))
        mark = (oval(x + 10, y + 10, 5.5), star(x + 10, y + 10, 6.5), box(x + 5, y + 5, x + 15, y + 15, 1))[number % 3]
        pen.shape(mark, lighter(tone, 0.65))
    if look.variant == "castle":
        pen.shape([(40, 28), (60, 28), (50, 10)], look.accent, edge=darker(look.accent))


def ball(pen: Pen, look: Look) -> None:
    round_ = oval(50, 52, 38)
    if look.variant == "soccer":
        pen.shape(round_, WHITE, edge=(170, 170, 174))
        patch = look.main if look.rng.random() < 0.6 else INK
        pen.shape(star(50, 52, 12.5, inner=0.81), patch)
        for turn in range(0, 360, 72):
            pen.line(rotate([(50, 40), (50, 27)], turn, (50, 52)), (120, 120, 126), 0.9)
            far = [(50 - 11, 20), (50, 26), (50 + 11, 20), (50 + 8, 15.6), (50 - 8, 15.6)]
            pen.shape(rotate(far, turn, (50, 52)), patch)
            pen.line(rotate([(61, 20), (66, 26)], turn, (50, 52)), (120, 120, 126), 0.9)
            pen.line(rotate([(39, 20), (34, 26)], turn, (50, 52)), (120, 120, 126), 0.9)
            pen.line(rotate([(66, 26), (66.6, 29)], turn, (50, 52)), (120, 120, 126), 0.9)
    elif look.variant == "basket":
        tone: RGB = (214, 118, 54)
        pen.shape(round_, tone, edge=darker(tone))
        for seam in ("M50 14 Q46 52 50 90", "M12 52 Q50 46 88 52", "M24 25 Q46 52 24 79", "M76 25 Q54 52 76 79"):
            pen.line(path(seam), INK, 1.4)
    else:
        tone = (204, 222, 74)
        pen.shape(round_, tone, edge=darker(tone))
        for seam in ("M20 28 Q48 46 34 86", "M80 76 Q52 58 66 18"):
            pen.line(path(seam), WHITE, 2.2)
    pen.glaze(oval(36, 36, 11, 9), (255, 255, 255), 0.4, blur=5, clip=round_)


def racket(pen: Pen, look: Look) -> None:
    slim = look.variant == "badminton"
    wide, tall, y = (17, 21, 26) if slim else (22, 27, 32)
    for number in range(-7, 8):
        offset = number / 8
        across, down = wide * (1 - offset**2) ** 0.5, tall * (1 - offset**2) ** 0.5
        pen.line([(50 + wide * offset, y - down), (50 + wide * offset, y + down)], (206, 206, 200), 0.5)
        pen.line([(50 - across, y + tall * offset), (50 + across, y + tall * offset)], (206, 206, 200), 0.5)
    pen.line([*oval(50, y, wide, tall), (50 + wide, y)], look.main, 2.2 if slim else 3.4)
    if slim:
        pen.tube([(50, y + tall), (50, 76)], look.accent, 1.6)
        pen.shape(move(both("M50 70 L54 70 L59 86 Q50 88 50 88"), 26, 0), WHITE, edge=STEEL)
        for x in (72, 76, 80):
            pen.line([(x, 72), (76 + (x - 76) * 1.8, 87)], STEEL, 0.5)
        pen.oval(76, 69, 4.4, 4, look.main)
    else:
        pen.line([(38, 54), (48, 68)], look.main, 3)
        pen.line([(62, 54), (52, 68)], look.main, 3)
    pen.shape(box(47, 68 if not slim else 74, 53, 97, 1.5), _RUBBER)
    for wrap in range(72 if not slim else 78, 96, 4):
        pen.line([(47, wrap), (53, wrap - 2)], look.accent, 0.7)


def guitar(pen: Pen, look: Look) -> None:
    electric = look.variant == "electric"
    body_tone = look.main
    if electric:
        body = path(
            "M34 58 Q30 46 38 50 Q44 58 50 58 Q58 58 62 48 Q70 46 66 60 Q62 70 70 78"
            "Q74 96 50 96 Q28 96 30 78 Q38 70 34 58 Z"
        )
    else:
        body = both("M50 46 Q64 46 64 56 Q64 62 61 66 Q72 70 72 82 Q70 97 50 97")
        body_tone = look.main if look.variant == "painted" else (206, 146, 82)
    pen.shape(body, body_tone, edge=darker(body_tone, 0.45), width=1.2)
    if electric:
        pen.shape(path("M44 60 L60 58 Q62 70 60 80 L46 84 Z"), WHITE, edge=STEEL)
        for y in (66, 74):
            pen.shape(box(44, y, 57, y + 3.4, 1), INK)
        pen.oval(62, 86, 1.8, 1.8, GOLD)
    else:
        pen.oval(50, 66, 8, 8, darker(body_tone, 0.2))
        pen.oval(50, 66, 6.6, 6.6, (48, 32, 24))
    pen.shape(box(47.4, 14, 52.6, 60), (92, 60, 42), edge=(58, 38, 28))
    for y in range(18, 58, 5):
        pen.line([(47.4, y), (52.6, y)], STEEL, 0.5)
    pen.shape(both("M50 3 L55 4 L53.6 15 L50 15"), darker(body_tone, 0.3), edge=INK)
    for y in (6, 9, 12):
        for x in (43.6, 56.4):
            pen.oval(x, y, 1.3, 1.0, GOLD)
    pen.shape(box(42, 84, 58, 87, 1), (58, 38, 28))
    for x in (48.4, 49.5, 50.5, 51.6):
        pen.line([(x, 10), (x, 85)], (236, 232, 220), 0.3)


def bicycle(pen: Pen, look: Look) -> None:
    sport, wheel = look.variant == "sport", look.vary(18.5, 0.04)
    left, right, low = 24, 76, 66
    for x in (left, right):
        for turn in range(0, 180, 20):
            spoke = (math.cos(math.radians(turn)) * wheel, math.sin(math.radians(turn)) * wheel)
            pen.line([(x - spoke[0], low - spoke[1]), (x + spoke[0], low + spoke[1])], STEEL, 0.3)
        pen.line([*oval(x, low, wheel), (x + wheel, low)], _RUBBER, 1.6 if sport else 2.4)
        pen.oval(x, low, 1.8, 1.8, STEEL)
    seat, head, pedal = (38, 36), (66, 34), (48, 68)
    frame = [
        [(left, low), seat, pedal, (left, low)],
        [seat, head] if sport else [(41, 46), (68, 42)],
        [pedal, (67, 40)],
    ]
    for tube in frame:
        pen.line(tube, look.dark, 2.6)
        pen.line(tube, look.main, 2.0)
    pen.line([head, (right, low)], look.main, 2.2)
    pen.line([seat, (36, 30)], STEEL, 1.8)
    pen.line([head, (64, 26)], STEEL, 1.8)
    pen.shape(path("M28 28 Q36 25 45 29 Q38 33 30 32 Z"), INK)
    pen.line(path("M64 26 Q74 24 74 30 Q74 34 70 34") if sport else path("M64 26 Q60 20 52 22"), INK, 1.8)
    pen.oval(*pedal, 4.6, 4.6, darker(STEEL, 0.3))
    pen.line([pedal, (52, 76), (56, 76)], INK, 1.4)
    if not sport:
        pen.shape(path("M68 30 L88 30 L85 44 L71 44 Z"), look.accent, edge=darker(look.accent))
        for x in (74, 78, 82):
            pen.line([(x, 31), (x, 43)], darker(look.accent, 0.25), 0.6)
        pen.line(arc(left, low, wheel + 3, wheel + 3, 190, 320), look.main, 1.6)
