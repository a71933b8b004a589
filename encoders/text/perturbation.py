"""Other titles of the same product, as another shop would write them: for measuring whether a text says which it is.

Pure. Words are dropped and swapped, a letter is mistyped, and words that shops add are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# Words that say nothing about the product, and that the tokenizer does not know as shop notices.
_SHOP_WORDS = ("new", "sale", "genuine", "original", "official", "hot", "新品", "正規品", "人気", "おすすめ")
_MIN_WORDS_TO_DROP = 3
_MIN_LETTERS_TO_MISTYPE = 4


def perturb_titles(titles: Sequence[str], seed: int) -> list[str]:
    """Each title as another shop would write it: one to four of the changes, chosen at random."""
    rng = np.random.default_rng(seed)
    return [_perturb(title, rng) for title in titles]


def _perturb(title: str, rng: np.random.Generator) -> str:
    words = title.split()
    chosen = rng.random(len(_CHANGES)) < 1 / 2
    chosen[rng.integers(len(_CHANGES))] = True
    for change, apply in zip(_CHANGES, chosen, strict=True):
        if apply:
            change(words, rng)
    return " ".join(words)


def _drop_word(words: list[str], rng: np.random.Generator) -> None:
    if len(words) >= _MIN_WORDS_TO_DROP:
        del words[rng.integers(len(words))]


def _swap_words(words: list[str], rng: np.random.Generator) -> None:
    if len(words) > 1:
        i = int(rng.integers(len(words) - 1))
        words[i], words[i + 1] = words[i + 1], words[i]


def _mistype(words: list[str], rng: np.random.Generator) -> None:
    """Leave out a letter, double it or swap it with the next, in a word without digits: another number is another."""
    long_words = [
        i for i, word in enumerate(words) if len(word) >= _MIN_LETTERS_TO_MISTYPE and not any(map(str.isdigit, word))
    ]
    if not long_words:
        return
    i = long_words[rng.integers(len(long_words))]
    word, at = words[i], int(rng.integers(len(words[i]) - 1))
    replacements = ("", word[at] * 2, word[at + 1] + word[at])
    chosen = int(rng.integers(len(replacements)))
    words[i] = word[:at] + replacements[chosen] + word[at + (2 if chosen == 2 else 1) :]


def _add_shop_word(words: list[str], rng: np.random.Generator) -> None:
    words.insert(0 if rng.random() < 1 / 2 else len(words), _SHOP_WORDS[rng.integers(len(_SHOP_WORDS))])


_CHANGES: tuple[Callable[[list[str], np.random.Generator], None], ...] = (
    _drop_word,
    _swap_words,
    _mistype,
    _add_shop_word,
)
