"""Cut the synonyms of SudachiDict to product words: writes encoders/text/dictionaries/sudachi.txt.

The source is sudachi-synonyms-dictionary.json of the npm package sudachi-synonyms-dictionary, which holds SudachiDict's
synonyms.txt as JSON.

Groups of colours are taken whole. Of groups of other goods only the spellings and transliterations of one word make a
line: Sudachi's groups join near synonyms, such as bracelet and bangle, that shops keep apart. Words that Sudachi marks
as ambiguous (expandControl 1, such as パンツ and レザー) or withdrawn (2) are left out, but for the names of colours.

    PYTHONPATH=. python tools/sudachi_synonyms.py sudachi-synonyms-dictionary.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from encoders.text.tokens import Tokenizer

OUT = Path(__file__).parent.parent / "encoders/text/dictionaries/sudachi.txt"
COLOUR = "色"
FIELDS = {COLOUR, "ファッション", "美容", "料理", "音楽"}
NAMES = {"企業名", "人名", "地名", "店名", "商品", "キャラ", "組織名", "人", "店", "娯楽", "教育"}
HEADER = """\
# Spellings of product words in Japanese and English, in the format of docs/synonyms.md.
#
# Made by tools/sudachi_synonyms.py from the synonym dictionary of SudachiDict, of which it is a part, rearranged.
# Copyright (c) 2017 Works Applications Co., Ltd. Licensed under the Apache License, Version 2.0 (LICENSE).
"""

Item = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    options = parser.parse_args()
    groups = json.loads(options.source.read_text("utf-8"))
    split, taken = Tokenizer(), set[tuple[str, ...]]()
    lines = [", ".join(line) for group in groups for line in cut(group["items"], split, taken)]
    OUT.write_text("\n".join([HEADER, *sorted(lines)]) + "\n", encoding="utf-8")
    print(f"{OUT}: {len(lines)} groups of {len(taken)} words")


def cut(items: Sequence[Item], split: Tokenizer, taken: set[tuple[str, ...]]) -> Iterator[list[str]]:
    """The lines of one of Sudachi's groups; `taken`, the words of all lines so far, is extended.

    Spellings that the tokenizer unites anyway count once.
    """
    fields = {field for item in items for field in item["bunya"]}
    if not fields & FIELDS or fields & NAMES:
        return
    if COLOUR in fields:
        lexemes = [list(items)]
    else:
        in_order = sorted(items, key=_lexeme)
        lexemes = [list(each) for _, each in groupby(in_order, key=_lexeme)]
    for lexeme in lexemes:
        allowed = 1 if COLOUR in fields else 0
        words = [item["midashi"] for item in lexeme if item["expandControl"] <= allowed and _usable(item["midashi"])]
        line = {tuple(split(word)): word for word in reversed(words)}
        new = [words for words in reversed(line) if words and words not in taken]
        if len(new) > 1:
            taken.update(new)
            # English first: as the canonical word it keeps its likeness to English words that are in no group.
            yield sorted((line[words] for words in new), key=lambda word: not word.isascii())


def _lexeme(item: Item) -> int:
    return int(item["vocabularyNumber"] or 0)


def _usable(word: str) -> bool:
    """Whether a dictionary can hold it, and it is no single letter."""
    return len(word) > 1 and not set(word) & set(",#=>\t")


if __name__ == "__main__":
    main()
