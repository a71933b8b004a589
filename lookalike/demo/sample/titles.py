"""Shops, and the titles, descriptions and tags of their products, in Japanese and in English. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lookalike.demo.sample.assortment import LEAVES, MATERIALS, Leaf, Words
from lookalike.demo.sample.drawing.palette import Colour
from lookalike.demo.sample.drawing.patterns import SOLID, Pattern

SHOPS = 72

_FIRST = (
    "aoyama",
    "hinata",
    "kamome",
    "mizuiro",
    "kotori",
    "sakura",
    "yukari",
    "nagisa",
    "tsubame",
    "komorebi",
    "hoshizora",
    "midori",
)
_SECOND = ("closet", "market", "select", "works", "store", "days", "shoten", "line")


@dataclass(frozen=True, slots=True)
class Shop:
    name: str
    departments: Sequence[str]  # The first parts of the categories that it sells.
    japanese: bool
    style: int  # The format of all its titles.


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFacts:
    """The facts about a product that its title, description, tags and photo agree on."""

    leaf: Leaf
    variant: str
    colour: Colour
    accent: Colour
    pattern: Pattern
    material: Words


def shops(seed: int) -> list[Shop]:
    """72 shops; several of them sell each department."""
    rng = random.Random(f"{seed}/shops")
    names = [f"{first}-{second}" for first in _FIRST for second in _SECOND]
    departments = sorted({leaf.department for leaf in LEAVES})
    result = []
    for number, name in enumerate(rng.sample(names, SHOPS)):
        sold = ["fashion"] if number % 3 == 0 else [*rng.sample(departments, 2), departments[number % len(departments)]]
        result.append(Shop(name, tuple(dict.fromkeys(sold)), rng.random() < 0.62, rng.randrange(4)))
    return result


def title(facts: ProductFacts, shop: Shop, rng: random.Random) -> str:
    return _japanese_title(facts, shop, rng) if shop.japanese else _english_title(facts, shop)


def _japanese_title(facts: ProductFacts, shop: Shop, rng: random.Random) -> str:
    noun, variant, material = facts.leaf.noun[1], facts.leaf.variants[facts.variant][1], facts.material[1]
    pattern = facts.pattern.ja if len(facts.leaf.patterns) > 1 else ""
    colour, lead = _colour_name(facts, 1), rng.choice(_LEADS)
    words = {
        0: (lead, pattern, variant, noun, material, colour),
        1: (noun, variant, pattern, colour, material, rng.choice(_TAILS)),
        2: (f"{colour} {noun}", variant, material, pattern),
        3: (lead, material, noun, variant, f"[{colour}]", pattern, rng.choice(_TAILS)),
    }[shop.style]
    return " ".join(word for word in words if word)


_LEADS = ("【送料無料】", "【あす楽】", "【新作】", "【ポイント10倍】", "＼期間限定SALE／", "")
_TAILS = ("プレゼント ギフト", "おしゃれ かわいい", "シンプル 人気", "誕生日 贈り物", "新生活", "")


def _english_title(facts: ProductFacts, shop: Shop) -> str:
    noun, variant, material = facts.leaf.noun[0], facts.leaf.variants[facts.variant][0], facts.material[0]
    pattern, colour = "" if facts.pattern is SOLID else facts.pattern.name, _colour_name(facts, 0)
    thing = variant if noun.lower() in variant.lower() else f"{variant} {noun}"
    return {
        0: " ".join(word for word in (colour, pattern, material, thing) if word),
        1: ", ".join(word for word in (thing, pattern, colour, material) if word),
        2: f"{thing} in {' '.join(word for word in (colour, pattern) if word)} - {material}",
        3: f"{' '.join(word for word in (pattern, thing) if word)} | {material} | {colour}",
    }[shop.style]


def _colour_name(facts: ProductFacts, language: int) -> str:
    """The colour's name; empty for balls and food (except macarons), which are drawn in their usual colours."""
    if (
        facts.leaf.category.startswith("food/") and "macaron" not in facts.leaf.category
    ) or facts.leaf.category == "sports/balls":
        return ""
    return facts.colour.ja if language else facts.colour.name


def tags(facts: ProductFacts) -> tuple[str, ...]:
    """Tags for colour, material and pattern if the product has a choice of them, always in English: "colour:navy"."""
    attributes = {
        "colour": _colour_name(facts, 0),
        "material": facts.material[0] if facts.material[0] in MATERIALS else "",
        "pattern": facts.pattern.name if len(facts.leaf.patterns) > 1 else "",
    }
    return tuple(f"{label}:{value.lower().replace(' ', '-')}" for label, value in attributes.items() if value)


def description(facts: ProductFacts, shop: Shop, rng: random.Random) -> str:
    language = 1 if shop.japanese else 0
    noun, variant = facts.leaf.noun[language], facts.leaf.variants[facts.variant][language]
    colour, material = _colour_name(facts, language), facts.material[language]
    if shop.japanese:
        about = f"{colour}の{facts.pattern.ja}" if len(facts.leaf.patterns) > 1 and colour else colour
        first = f"{about}が魅力の{variant} {noun}です。" if about else f"{variant}の{noun}です。"
        return first + f"素材・仕様は{material}。" + "".join(rng.sample(_JAPANESE[facts.leaf.department], 2))
    pattern = "" if facts.pattern is SOLID else f"{facts.pattern.name.lower()} "
    first = f"{pattern}{variant} {noun}{f' in {colour}' if colour else ''}, {material}.".capitalize() + " "
    return first + " ".join(rng.sample(_ENGLISH[facts.leaf.department], 2))


_JAPANESE = {
    "fashion": (
        "普段使いからお出かけまで活躍します。",
        "着回しやすいデザイン。",
        "ゆったりとした着心地です。",
        "季節を問わずお使いいただけます。",
    ),
    "home": (
        "お部屋になじむシンプルな形。",
        "毎日の暮らしを楽しくします。",
        "新生活や引っ越し祝いにもおすすめ。",
        "ていねいに仕上げました。",
    ),
    "garden": ("お部屋に緑を。", "育てやすく初心者にもおすすめです。", "鉢付きですぐに飾れます。"),
    "food": ("産地直送でお届けします。", "甘くてやさしい味わい。", "お中元・お歳暮にもどうぞ。", "冷蔵便でお届け。"),
    "beauty": ("肌にやさしい使い心地。", "毎日のメイクに。", "上品な香りが続きます。"),
    "electronics": ("1年保証付き。", "かんたん接続ですぐに使えます。", "長時間バッテリー。", "高音質・高画質。"),
    "books": ("読書の時間に。", "話題の一冊。", "プレゼントにも人気です。"),
    "toys": ("お誕生日プレゼントに。", "対象年齢3歳以上。", "安全な塗料を使用しています。"),
    "sports": ("部活や練習に。", "初心者から経験者まで。", "軽くて扱いやすい仕様です。"),
    "music": ("初心者にもおすすめ。", "豊かな響き。", "ケース付き。"),
}
_ENGLISH = {
    "fashion": ("Easy to wear every day.", "Pairs well with what you own.", "A relaxed fit.", "Made for all seasons."),
    "home": ("Fits quietly into any room.", "Made with care.", "A good gift for a new home.", "Easy to clean."),
    "garden": ("Brings green into your room.", "Easy to grow.", "Comes with its pot."),
    "food": ("Delivered fresh.", "Sweet and gentle in taste.", "A welcome gift.", "Shipped chilled."),
    "beauty": ("Kind to the skin.", "For every day.", "A lasting scent."),
    "electronics": ("One year of warranty.", "Connects in seconds.", "Long battery life.", "Clear sound and picture."),
    "books": ("For a quiet afternoon.", "Much talked about.", "A popular present."),
    "toys": ("For ages three and up.", "Painted with safe colours.", "A birthday favourite."),
    "sports": ("For club and practice.", "For beginners and experts.", "Light and easy to handle."),
    "music": ("Good for beginners.", "A rich tone.", "Case included."),
}
