"""Corrects words of which one letter is mistyped, by the words that are known. Pure.

All spellings that are one edit away are looked up (Damerau 1964): a letter left out, doubled or added, replaced, or
swapped with the next. At most a few thousand look-ups, without an index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_LATIN, _HIRAGANA, _KATAKANA = (
    "".join(map(chr, range(ord(first), ord(last) + 1))) for first, last in ("az", "ぁん", "ァヴ")
)
MAX_WORDS = 8  # A text of more is not corrected: a word costs up to 0.5 ms.
# With fewer letters a word is near many others; with more, most of its n-grams are right and find it.
_ALPHABETS = {
    re.compile(r"[a-z]{4,12}"): _LATIN,
    re.compile(r"[ぁ-んー]{4,12}"): _HIRAGANA + "ー",
    re.compile(r"[ァ-ヴー]{4,12}"): _KATAKANA + "ー",
}


def correct(text: str, rarity: Mapping[str, float]) -> list[str]:
    """The known words that those of a cleaned text may have been meant as; none for a text of more than MAX_WORDS.

    rarity: of each known word. Of several the least rare is meant, then the first by name.
    """
    words = text.split()
    corrected = []
    for word in words if len(words) <= MAX_WORDS else ():
        candidates = [(rare, near) for near in _one_edit_away(word) if (rare := rarity.get(near)) is not None]
        if candidates:
            corrected.append(min(candidates)[1])
    return corrected


def _one_edit_away(word: str) -> Iterator[str]:
    """Nothing for a word of more than one script, or with a digit: a model number is another product's by one edit."""
    alphabet = next((letters for pattern, letters in _ALPHABETS.items() if pattern.fullmatch(word)), "")
    if not alphabet:
        return
    for i in range(len(word) + 1):
        head, tail = word[:i], word[i:]
        if tail:
            yield head + tail[1:]
            for letter in alphabet:
                yield head + letter + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in alphabet:
            yield head + letter + tail
