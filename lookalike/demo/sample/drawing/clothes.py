"""Drawings of clothes, lying flat."""

from __future__ import annotations

from lookalike.demo.sample.drawing.curves import both, box, mirror, path
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import GOLD, WHITE, darker, lighter
from lookalike.demo.sample.drawing.pen import Pen

_NECK_BACK = both("M50 15.5 Q57 15.5 61 19 Q57 25 50 26")


def _folds(pen: Pen, look: Look, outline: list[tuple[float, float]], *lines: str) -> None:
    """Soft creases."""
    for line in lines:
        crease = path(line)
        back = [(x + 2.6, y) for x, y in reversed(crease)]
        for points in (crease + back, mirror(crease + back)):
            pen.glaze(points, darker(look.main, 0.6), 0.28, blur=1.1, clip=outline)


def _sleeves(pen: Pen, look: Look, long: bool) -> None:
    cloth = look.cloth(pen)
    reach = look.vary(6, 0.3)
    short = f"M64 21 Q76 24 80 30 L{88 + reach / 2} {46 + reach / 2} Q84 53 78 54 L69 40"
    full = f"M64 21 Q77 24 80 32 L{89 + reach / 3} 79 Q85 82 80 81 L69 44"
    for outline in (path(full if long else short), mirror(path(full if long else short))):
        pen.shape(outline, cloth, edge=look.dark)
    cuff = path("M89.5 75 L90.6 79 Q85 82 80 81 L79.4 77 Q85 78 89.5 75") if long else []
    for outline in (cuff, mirror(cuff)) if long else ():
        pen.shape(outline, look.dark)


def t_shirt(pen: Pen, look: Look) -> None:
    long, v_neck = look.variant.startswith("long"), look.variant.endswith("v")
    pen.shape(_NECK_BACK, darker(look.main, 0.45))
    _sleeves(pen, look, long)
    hem = look.vary(87, 0.03)
    neck = "M50 32 L60 18.5" if v_neck else "M50 25.5 Q57 25 60.5 18.5"
    body = both(f"{neck} L70 22 Q72 32 70 42 Q71.5 66 71.5 {hem - 2} Q60 {hem} 50 {hem}")
    pen.shape(body, look.cloth(pen), edge=look.dark)
    rim = both("M50 33.5 L61.5 18.8" if v_neck else "M50 27.5 Q58.5 27 62 19")
    pen.line(rim[len(rim) // 2 :][::-1] + rim[: len(rim) // 2][::-1], darker(look.main, 0.15), 1.6)
    pen.line(both(f"M50 {hem - 2.6} Q60 {hem - 2.6} 71 {hem - 4.4}"), look.dark, 0.4)
    _folds(pen, look, body, "M69 44 Q64 50 62 60", "M68 70 Q64 76 65 84")
    if look.variant.endswith("logo"):
        pen.shape(box(41, 40, 59, 54, 2), look.accent)
        pen.oval(50, 47, 4.6, 4.6, look.main)


def shirt(pen: Pen, look: Look) -> None:
    _sleeves(pen, look, not look.variant.startswith("short"))
    body = both("M50 24 L60 17.5 L70 22 Q72 32 70 42 Q71 66 71.5 80 Q66 88 58 87 Q54 85 50 85")
    pen.shape(body, look.cloth(pen), edge=look.dark)
    _folds(pen, look, body, "M69 44 Q63 52 61 64", "M67 66 Q63 74 64 82")
    pen.shape(both("M50 16.5 Q56 16.5 60 18.5 L50 29"), darker(look.main, 0.35))
    pen.shape(box(47.6, 27, 52.4, 85.5), lighter(look.main, 0.18), edge=look.dark, width=0.3)
    button = WHITE if look.variant != "denim" else GOLD
    for number in range(6):
        pen.oval(50, 33 + number * 9.4, 1.1, 1.1, button, edge=darker(button, 0.4))
    collar = path("M50 29 L60.5 17 L64.5 22 L57.5 33.5")
    for outline in (collar, mirror(collar)):
        pen.shape(outline, lighter(look.main, 0.12), edge=look.dark)
    pen.line(path("M56 42 L66 42 L66 52 L61 54.5 L56 52 L56 42"), look.dark, 0.5)


def hoodie(pen: Pen, look: Look) -> None:
    _sleeves(pen, look, True)
    body = both("M50 26 L62 20 L71 23 Q73 34 71 43 Q73 66 72.5 80 Q60 82 50 82")
    pen.shape(body, look.cloth(pen), edge=look.dark)
    _folds(pen, look, body, "M70 45 Q64 52 63 62")
    hood = both(f"M50 {look.vary(9, 0.15)} Q64 9 66 20 Q66 28 56 33 L50 36")
    pen.shape(hood, look.main, edge=look.dark)
    pen.shape(both("M50 15 Q59 15 60 22 Q58 29 50 33"), darker(look.main, 0.5))
    pen.shape(both("M50 81 L72.6 79 L72 87 Q60 88.5 50 88.5"), look.dark)
    pen.shape(both("M50 58 L59 58 L66 70 L66 77 L50 77"), lighter(look.main, 0.07), edge=look.dark)
    if look.variant == "zip":
        pen.line([(50, 34), (50, 88)], lighter((150, 150, 156)), 1.2)
    for cord in (path("M46 33 Q45 42 46.5 50"), path("M54 33 Q55 40 53.5 47")):
        pen.line(cord, lighter(look.main, 0.65), 0.9)


def dress(pen: Pen, look: Look) -> None:
    flare, long = look.vary(24, 0.25), look.variant == "maxi"
    hem = 94 if long else look.vary(80, 0.05)
    if look.variant == "sleeved":
        sleeve = path("M58 12 Q70 14 74 24 L77 40 Q72 43 67 42 L62 30")
        for outline in (sleeve, mirror(sleeve)):
            pen.shape(outline, look.cloth(pen), edge=look.dark)
    pen.shape(both("M50 12 Q56 12 59 15 L50 26"), darker(look.main, 0.45))
    skirt = both(f"M50 44 L60.5 44 Q{62 + flare / 2} 62 {53 + flare} {hem - 3} Q{48 + flare * 0.6} {hem + 1} 50 {hem}")
    bodice = both("M50 25 Q56 23 57.5 12 L62 12 Q62 22 65 29 Q62 38 60.5 45 L50 45.5")
    pen.shape(skirt, look.cloth(pen), edge=look.dark)
    pen.shape(bodice, look.cloth(pen), edge=look.dark)
    _folds(pen, look, skirt, f"M55 46 Q58 62 {50 + flare * 0.4} {hem}", f"M59 46 Q64 62 {50 + flare * 0.75} {hem}")
    if look.variant == "belted" or long:
        pen.shape(both("M50 43 L60.8 43 L61 47 L50 47.5"), look.accent, edge=darker(look.accent))
        pen.shape(box(47.5, 42.2, 52.5, 48, 1), GOLD)


def skirt(pen: Pen, look: Look) -> None:
    flare, hem = look.vary(32, 0.15), look.vary(82, 0.05)
    if look.variant == "tight":
        flare, hem = look.vary(18, 0.08), 86
    outline = both(f"M50 20 L63 20 Q{60 + flare / 2} 44 {50 + flare} {hem - 5} Q{50 + flare / 2} {hem} 50 {hem}")
    pen.shape(outline, look.cloth(pen), edge=look.dark)
    if look.variant == "pleated":
        for share in (0.0, 0.18, 0.38, 0.58, 0.8):
            pleat = [
                (50 + 12 * share, 25),
                (50 + flare * share, hem - 4 * share),
                (50 + flare * (share + 0.09), hem - 3),
            ]
            pen.glaze(pleat, darker(look.main, 0.6), 0.4, blur=0.4, clip=outline)
            pen.glaze(mirror(pleat), darker(look.main, 0.6), 0.4, blur=0.4, clip=outline)
    else:
        _folds(
            pen, look, outline, f"M56 26 Q60 50 {50 + flare * 0.45} {hem}", f"M61 26 Q66 50 {50 + flare * 0.8} {hem}"
        )
    pen.shape(both("M50 15.5 L62.6 15.5 L63.4 22 Q56 23 50 23"), look.dark)


def trousers(pen: Pen, look: Look) -> None:
    wide, short = look.vary(15 if look.variant == "wide" else 9.5, 0.06), look.variant == "shorts"
    hem = 52 if short else 92
    knee, out = 70 + (wide - 9) * 0.9, 72 + (wide - 9) * (0.5 if short else 1)
    leg = path(
        f"M50 13 L66 13 Q70 30 {knee} 48 L{out} {hem} L{out - wide - 4} {hem} Q53 {hem - 8} 50 {38 if short else 40}"
    )
    for outline in (leg, mirror(leg)):
        pen.shape(outline, look.cloth(pen), edge=look.dark)
        pen.glaze([(x * 0.4 + 38, y) for x, y in outline], lighter(look.main, 0.5), 0.22, blur=3, clip=outline)
    seam = GOLD if look.variant in ("slim", "shorts") else darker(look.main, 0.4)
    pen.shape(both("M50 8 L65.6 8 L66.2 14.5 L50 15"), look.dark)
    pen.oval(50, 11.5, 1.5, 1.5, seam)
    for line in ("M55.5 15 Q57 23 67 24", "M50 15 L50 38"):
        pen.line(path(line), seam, 0.6)
        pen.line(mirror(path(line)), seam, 0.6)
    for x in (41, 59):
        pen.shape(box(x - 0.9, 7.4, x + 0.9, 15), darker(look.main, 0.4))
    for side in (1, -1):
        pen.line([(50 + side * (out - 50), hem - 3), (50 + side * (out - wide - 54), hem - 3)], seam, 0.6)
