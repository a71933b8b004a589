"""Colours, each with its English and its Japanese name. Pure."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]

WHITE: RGB = (250, 250, 248)
INK: RGB = (38, 38, 42)
STEEL: RGB = (176, 182, 190)
GOLD: RGB = (204, 168, 92)
WOOD: RGB = (176, 128, 82)
LEATHER: RGB = (138, 88, 52)


@dataclass(frozen=True, slots=True)
class Colour:
    name: str
    ja: str
    rgb: RGB


COLOURS = (
    Colour("White", "ホワイト", (242, 241, 236)),
    Colour("Black", "ブラック", (44, 44, 48)),
    Colour("Grey", "グレー", (142, 146, 152)),
    Colour("Navy", "ネイビー", (38, 54, 96)),
    Colour("Blue", "ブルー", (62, 116, 190)),
    Colour("Sky Blue", "サックスブルー", (146, 190, 224)),
    Colour("Green", "グリーン", (72, 138, 92)),
    Colour("Khaki", "カーキ", (120, 120, 78)),
    Colour("Mint", "ミント", (160, 212, 190)),
    Colour("Yellow", "イエロー", (238, 200, 74)),
    Colour("Orange", "オレンジ", (230, 132, 58)),
    Colour("Red", "レッド", (196, 52, 56)),
    Colour("Wine", "ワインレッド", (118, 36, 58)),
    Colour("Pink", "ピンク", (236, 158, 176)),
    Colour("Purple", "パープル", (128, 96, 160)),
    Colour("Beige", "ベージュ", (220, 200, 168)),
    Colour("Camel", "キャメル", (190, 142, 88)),
    Colour("Brown", "ブラウン", (110, 76, 54)),
)


def mix(one: RGB, other: RGB, share: float) -> RGB:
    """Blend two colours; `share`: of the other one, 0..1."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(one, other, strict=True))
    return r, g, b


def darker(colour: RGB, share: float = 0.25) -> RGB:
    return mix(colour, (14, 12, 20), share)


def lighter(colour: RGB, share: float = 0.35) -> RGB:
    return mix(colour, (255, 255, 255), share)


def luminance(colour: RGB) -> float:
    """0 black .. 1 white (Rec. 601)."""
    r, g, b = colour
    return (0.299 * r + 0.587 * g + 0.114 * b) / 255


def contrast(colour: RGB) -> RGB:
    """A colour, dark or light, that is legible on this one."""
    return INK if luminance(colour) > 0.55 else WHITE
