"""Drawings of shoes, bags, watches, hats and other accessories."""

from __future__ import annotations

from lookalike.demo.sample.drawing.curves import arc, both, box, mirror, move, oval, path, rotate
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import GOLD, INK, LEATHER, STEEL, WHITE, darker, lighter, luminance, mix
from lookalike.demo.sample.drawing.pen import Pen


def sneaker(pen: Pen, look: Look) -> None:
    high = look.variant == "high"
    top, sole = (20 if high else 34), WHITE if luminance(look.main) < 0.85 else (214, 206, 190)
    upper = path(
        f"M10 66 C8 56 10 50 13 44 L14 {top + 4} Q18 {top - 3} 24 {top} Q30 {top + 5} 37 {top - 2}"
        f"L43 {top} Q47 {top + 8} 51 44 Q58 53 74 55 Q90 57 92 66 Z"
    )
    pen.shape(path(f"M30 {top + 6} L37 {top - 6} L44 {top - 5} L50 46 Z"), look.accent)
    pen.shape(upper, look.cloth(pen), edge=look.dark)
    pen.glaze(path("M40 66 Q56 54 92 66 Z"), darker(look.main, 0.6), 0.35, blur=2, clip=upper)
    pen.shape(path("M72 55 Q90 56 92 66 L74 66 Q77 60 72 55"), lighter(look.main, 0.3), edge=look.dark)
    pen.shape(path("M10 66 C8 56 10 50 13 44 L21 47 Q19 58 22 66 Z"), look.accent, edge=darker(look.accent))
    for number in range(2):
        pen.shape(
            path(f"M{33 + number * 9} 65 L{42 + number * 8} 50 L{46 + number * 8} 51 L{38.5 + number * 9} 65 Z"),
            look.accent,
        )
    rows = 6 if high else 4
    for number in range(rows):
        share = number / (rows - 1)
        x, y = 39 + 13 * share, top + 4 + (46 - top) * share
        pen.line([(x - 4.5, y + 3), (x + 5, y - 1)], WHITE if luminance(look.main) < 0.8 else INK, 1.3)
    pen.shape(path("M8 65 Q50 68 93 64 Q96 68 94 74 Q92 77 84 77 L16 77 Q8 77 8 65 Z"), sole, edge=darker(sole, 0.2))
    pen.line(path("M9 71 Q50 73 95 70"), look.accent, 1.0)
    pen.line(path("M10 76.5 L92 76.5"), darker(sole, 0.55), 1.6)


def boot(pen: Pen, look: Look) -> None:
    tall = look.variant == "long"
    top, sole = (8 if tall else 22), darker(look.main, 0.65)
    shaft = path(f"M22 {top + 2} Q36 {top - 2} 50 {top + 2} L50 50 Q54 60 70 63 Q88 66 89 80 L24 80 Q20 68 24 56 Z")
    pen.shape(shaft, look.main, edge=look.dark)
    pen.glaze(
        path(f"M28 {top} L34 {top} Q35 50 33 76 L27 76 Q31 50 28 {top}"),
        lighter(look.main, 0.6),
        0.4,
        blur=2,
        clip=shaft,
    )
    pen.glaze(path("M40 62 Q50 50 52 56 Q46 66 40 72"), darker(look.main, 0.6), 0.4, blur=1.5, clip=shaft)
    pen.shape(path(f"M21.5 {top} Q36 {top - 4} 50.5 {top} L50.5 {top + 6} Q36 {top + 3} 21.5 {top + 6} Z"), look.dark)
    if look.variant == "laced":
        pen.shape(
            path(f"M44 {top + 6} L50 {top + 6} L50 50 Q53 58 60 61 L54 64 Q45 58 44 50 Z"), darker(look.main, 0.4)
        )
        for number in range(6):
            y = top + 9 + number * 6.2
            pen.line([(41, y + 1.5), (50, y - 1.5)], look.accent, 1.2)
    elif look.variant == "sidegore":
        pen.shape(path(f"M31 {top + 5} L43 {top + 5} L40 52 Q37 56 34 52 Z"), darker(look.main, 0.5))
    else:
        pen.line(path("M23 58 Q36 54 51 55"), look.dark, 2.4)
        pen.shape(box(34, 53, 40, 59, 1), GOLD, edge=darker(GOLD))
    pen.shape(path("M20 78 L90 78 Q92 82 90 86 L54 86 Q46 85 44 86 L44 92 L21 92 Z"), sole)
    pen.line([(22, 79), (89, 79)], lighter(sole, 0.25), 0.7)


def pump(pen: Pen, look: Look) -> None:
    rise = {"high": 34, "low": 16, "ribbon": 24}[look.variant]
    heel, thick = 84 - rise, 2.4 if look.variant == "high" else 5
    lining = path(f"M13 {heel - 12} Q24 {heel - 16} 34 {heel - 6} Q48 {heel + 14} 66 66 L60 78 L20 {heel} Z")
    pen.shape(lining, mix(look.main, (240, 220, 194), 0.8))
    post = path(
        f"M11 {heel - 2} L27 {heel + 2} Q{18 + thick} {heel + 14} {15 + thick} 88"
        f"L{14 - thick / 2} 88 Q14 {heel + 16} 11 {heel - 2} Z"
    )
    pen.shape(post, look.dark, edge=darker(look.main, 0.4))
    body = path(
        f"M11 {heel - 14} Q13 {heel - 17} 16 {heel - 13} Q20 {heel + 6} 36 {heel + 10} Q48 {84 - rise * 0.3} 62 67"
        f"Q70 64 76 70 Q88 76 95 84 Q96 88 90 88 L66 88 Q54 87 44 {88 - rise * 0.35}"
        f"Q34 {heel + 12} 22 {heel + 6} Q10 {heel + 4} 11 {heel - 14} Z"
    )
    pen.shape(body, look.cloth(pen), edge=look.dark)
    pen.glaze(path("M66 72 Q78 72 88 83 Q76 78 66 72"), (255, 255, 255), 0.55, blur=1.2, clip=body)
    pen.line(path(f"M44 {88.5 - rise * 0.35} Q54 88 66 88.6 L91 88.6"), darker(look.main, 0.6), 1.2)
    if look.variant == "ribbon":
        for bow in (path("M72 67 Q78 54 87 60 Q86 68 72 67"), path("M72 67 Q62 56 58 64 Q61 71 72 67")):
            pen.shape(bow, look.accent, edge=darker(look.accent))
        pen.oval(72, 67, 2.4, 2.4, darker(look.accent, 0.15))


def handbag(pen: Pen, look: Look) -> None:
    tote = look.variant == "tote"
    rise, strap = look.vary(24, 0.2), darker(look.main, 0.1) if tote else LEATHER
    pen.line(arc(50, 42, 17, rise, 180, 360), darker(strap, 0.35), 2.8)
    pen.line(arc(50, 44, 17, rise - 4, 180, 360), strap, 2.8)
    wide = look.vary(34, 0.08)
    body = both(
        f"M50 42 L{50 + wide - 5} 42 Q{50 + wide} 64 {50 + wide + 1} 82 Q{50 + wide} 88 {50 + wide - 6} 88 L50 88"
    )
    if tote:
        body = both(f"M50 40 L{50 + wide - 2} 40 L{50 + wide - 6} 88 L50 88")
    pen.shape(body, look.cloth(pen), edge=look.dark)
    pen.glaze(both(f"M50 78 L{50 + wide} 74 L{50 + wide} 90 L50 90"), look.dark, 0.4, blur=3, clip=body)
    if look.variant == "flap":
        flap = both(f"M50 41 L{50 + wide - 4} 41 Q{50 + wide} 52 {50 + wide - 5} 60 Q{48 + wide / 2} 68 50 68")
        pen.shape(flap, lighter(look.main, 0.1), edge=look.dark)
        pen.shape(box(46, 63, 54, 71, 2), GOLD, edge=darker(GOLD))
    elif not tote:
        pen.line([(54 - wide, 47), (46 + wide, 47)], darker(look.main, 0.4), 1.0)
        pen.shape(box(40, 56, 60, 62, 1.5), lighter(look.main, 0.2), edge=look.dark)
    for x in (33, 67):
        pen.shape(box(x - 2.4, 38, x + 2.4, 49, 1), strap, edge=darker(strap))
        pen.oval(x, 46.5, 0.9, 0.9, GOLD)


def backpack(pen: Pen, look: Look) -> None:
    wide = look.vary(27, 0.06)
    pen.line(arc(50, 14, 7, 8, 180, 360), look.dark, 2.4)
    for outline in (path("M30 26 Q17 40 20 74 L26 76 Q24 46 36 32 Z"),):
        pen.shape(outline, darker(look.main, 0.4))
        pen.shape(mirror(outline), darker(look.main, 0.4))
    body = both(f"M50 12 Q{50 + wide} 12 {50 + wide} 40 L{51 + wide} 82 Q{50 + wide} 90 {42 + wide} 90 L50 90")
    pen.shape(body, look.cloth(pen), edge=look.dark)
    pen.line(both(f"M50 22 Q{45 + wide} 22 {45 + wide} 44")[::-1], darker(look.main, 0.5), 0.9)
    pocket = both(f"M50 54 L{44 + wide} 54 Q{46 + wide} 70 {45 + wide} 84 Q{44 + wide} 86 {40 + wide} 86 L50 86")
    pen.shape(pocket, look.accent if look.variant == "outdoor" else lighter(look.main, 0.08), edge=look.dark)
    pen.line([(55 - wide, 60), (45 + wide, 60)], darker(look.main, 0.5), 0.9)
    pen.line([(46 + wide, 60), (46 + wide, 66)], STEEL, 1.2)
    pen.shape(box(42, 34, 58, 44, 1.5), look.accent, edge=darker(look.accent))
    if look.variant == "outdoor":
        for x in (32, 68):
            pen.shape(box(x - 1.6, 14, x + 1.6, 54), darker(look.main, 0.4))
            pen.shape(box(x - 2.6, 47, x + 2.6, 52, 1), INK)
    if look.variant == "flap":
        flap = both(f"M50 10 Q{52 + wide} 10 {52 + wide} 40 Q{50 + wide} 48 {40 + wide} 48 L50 48")
        pen.shape(flap, look.main, edge=look.dark)
        for x in (38, 62):
            pen.shape(box(x - 2, 34, x + 2, 60), LEATHER, edge=darker(LEATHER))
            pen.shape(box(x - 3, 52, x + 3, 57, 1), GOLD, edge=darker(GOLD))


def watch(pen: Pen, look: Look) -> None:
    square, metal = look.variant == "square", look.variant == "metal"
    strap = STEEL if metal else look.main
    case = GOLD if look.rng.random() < 0.4 else STEEL
    for top, bottom in ((4, 34), (66, 96)):
        inner, outer = (13, 10) if top < 10 else (10, 13)
        band = [(50 - outer, top), (50 + outer, top), (50 + inner, bottom), (50 - inner, bottom)]
        pen.shape(band, strap, edge=darker(strap))
        for number in range(1, 6):
            y = top + number * (bottom - top) / 6
            if metal:
                pen.line([(39, y), (61, y)], darker(strap, 0.35), 0.7)
            elif top > 50 and number > 1:
                pen.oval(50, y, 1.0, 1.0, darker(strap, 0.5))
    pen.shape(box(71, 47.5, 76, 52.5, 1), darker(case, 0.2))
    radius = look.vary(23, 0.06)
    rim = box(50 - radius, 50 - radius, 50 + radius, 50 + radius, 6) if square else oval(50, 50, radius)
    dial = box(54 - radius, 54 - radius, 46 + radius, 46 + radius, 4) if square else oval(50, 50, radius - 3.6)
    pen.gradient(rim, lighter(case, 0.5), darker(case, 0.25))
    face = WHITE if look.rng.random() < 0.55 else look.accent
    pen.shape(dial, face, edge=darker(case, 0.4))
    ink = INK if luminance(face) > 0.5 else WHITE
    for hour in range(12):
        mark = box(49.3, 54.2 - radius + 1, 50.7, 54.2 - radius + (5 if hour % 3 == 0 else 3.4))
        pen.shape(rotate(mark, hour * 30, (50, 50)), ink)
    hours, minutes = look.rng.uniform(280, 320), look.rng.uniform(40, 80)
    pen.line(rotate([(50, 52), (50, 40)], hours, (50, 50)), ink, 1.7)
    pen.line(rotate([(50, 53), (50, 36)], minutes, (50, 50)), ink, 1.2)
    pen.oval(50, 50, 1.5, 1.5, GOLD)
    pen.glaze(path("M38 62 L62 32 L68 38 L44 68 Z"), (255, 255, 255), 0.16, blur=1, clip=dial)


def hat(pen: Pen, look: Look) -> None:
    if look.variant == "cap":
        crown = path("M18 62 Q16 28 50 26 Q76 26 78 60 Q50 68 18 62 Z")
        pen.shape(
            path("M44 62 Q74 52 94 62 Q98 70 88 71 Q64 66 44 66 Z"), darker(look.main, 0.2), edge=darker(look.main, 0.4)
        )
        pen.shape(crown, look.cloth(pen), edge=look.dark)
        for seam in ("M50 26 Q40 44 40 65", "M50 26 Q66 42 68 64"):
            pen.line(path(seam), look.dark, 0.6)
        pen.oval(50, 26, 2.4, 1.6, look.dark)
        pen.shape(box(48, 42, 62, 54, 3), look.accent, edge=darker(look.accent))
        return
    straw = look.variant == "straw"
    main = (226, 198, 146) if straw else look.main
    pen.shape(oval(50, 66, 42, 13), darker(main, 0.12), edge=darker(main, 0.35))
    crown = path("M26 64 Q26 30 38 28 Q50 25 62 28 Q74 30 74 64 Q50 74 26 64 Z")
    pen.shape(crown, main if straw else look.cloth(pen), edge=darker(main, 0.3))
    if straw:
        for y in range(32, 64, 4):
            half = 14 + 10 * ((y - 28) / 36) ** 0.35
            pen.line(path(f"M{50 - half} {y} Q50 {y + 6} {50 + half} {y}"), darker(main, 0.12), 0.5)
    band = path("M26.4 56 Q50 66 73.6 56 L74 64 Q50 74 26 64 Z")
    pen.shape(band, look.accent, edge=darker(look.accent))
    if straw:
        pen.shape(path("M70 62 L80 56 L80 70 Z"), look.accent, edge=darker(look.accent))


def sunglasses(pen: Pen, look: Look) -> None:
    tint, frame = mix((40, 44, 52), look.accent, 0.45), look.main
    pen.line(path("M12 42 Q6 30 20 24"), darker(frame, 0.3), 2.0)
    pen.line(path("M88 42 Q94 30 80 24"), darker(frame, 0.3), 2.0)
    lens = {
        "round": oval(30, 52, 16.5),
        "wellington": path("M12 42 Q30 36 46 42 Q48 60 40 66 Q28 70 18 64 Q12 56 12 42 Z"),
        "teardrop": path("M12 42 Q30 36 46 41 Q46 58 36 68 Q24 74 15 60 Q12 52 12 42 Z"),
    }[look.variant]
    width = 1.6 if look.variant == "teardrop" else 3.2
    pen.line(path("M44 47 Q50 42 56 47"), frame, width)
    if look.variant == "teardrop":
        pen.line([(40, 40), (60, 40)], frame, width)
    for outline in (lens, mirror(lens)):
        pen.gradient(outline, tint, lighter(tint, 0.45))
        pen.line([*outline, outline[0]], frame, width)
    for shift in (0, 40):
        pen.glaze(move(path("M18 56 L28 42 L33 42 L22 60 Z"), shift, 0), (255, 255, 255), 0.35, blur=0.6)


def umbrella(pen: Pen, look: Look) -> None:
    pen.tube([(50, 16), (50, 84)], STEEL, 1.8)
    pen.line(path("M50 82 Q50 94 57 94 Q63 94 62 87"), LEATHER, 3.0)
    scallops = "Q85.5 50 79 55 Q72 50 64 56 Q57 51 50 56 Q43 51 36 56 Q28 50 21 55 Q14.5 50 8 56"
    canopy = path(f"M8 56 Q10 16 50 15 Q90 16 92 56 {scallops} Z")
    pen.shape(canopy, look.cloth(pen), edge=look.dark)
    for x, bend in ((21, 30), (36, 42), (64, 58), (79, 70)):
        pen.line(path(f"M50 15 Q{bend} 26 {x} 55"), look.dark, 0.6)
    pen.glaze(path("M64 56 Q58 26 50 15 Q90 16 92 56 Z"), darker(look.main, 0.6), 0.25, blur=2, clip=canopy)
    pen.line([(50, 10), (50, 16)], STEEL, 1.6)
