"""Tokenize titles and descriptions, Japanese and English. Pure, except that a Tokenizer loads its dictionary."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from encoders.text.synonyms import NO_SYNONYMS, Synonyms
from lookalike.limits import MAX_TEXT_BYTES

if TYPE_CHECKING:
    from sudachipy import Dictionary

MAX_WORD_CHARS = 40  # Longer "words" are codes, URLs and scripts without spaces: truncated, to bound the subwords.
MAX_RUN_CHARS = 4_000  # Sudachi accepts 49,149 bytes at a time; a normalised character has up to 9.

# Han, hiragana, katakana, and their iteration and length marks.
_JAPANESE = (
    r"[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
# Letters and digits of other scripts, and the vowel signs of Indic and Thai scripts, which are not letters to `re`.
_OTHER_SCRIPTS = r"(?:(?![\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff])[^\W_]|[\u0300-\u036f\u0900-\u0dff\u0e00-\u0eff])+"
_SCRIPT_RUNS = re.compile(f"(?P<japanese>{_JAPANESE})|{_OTHER_SCRIPTS}")

# Shop notices that say nothing about the product. Every repetition is bounded, since a text may be 64 KiB of digits.
_SHOP_NOTICES = re.compile(
    r"(?:全品|全国|宅配便)?送料(?:無料|込み?|別)|あす楽(?:対応)?|最短(?:即日|翌日)|(?:即日|翌日)(?:発送|出荷|配送)|即納|在庫(?:あり|処分)"
    r"|エントリーで|(?:最大)?(?:ポイント|(?<![a-z\d])p) ?(?:最大)? ?[\d〇○.~〜-]{1,6} ?倍|〇倍"
    r"|(?:最大)?(?:\d{1,2} ?%|\d{1,7} ?円) ?off(?![a-z])|(?:off)?クーポン(?:配布中|利用で?|対象)?"
    r"|(?:楽天)?(?:ランキング|楽天)第?\d{1,2}位|\d{1,2}位(?:獲得|受賞)|累計\d{1,4}万?[個本枚台]?突破"
    r"|メール便(?:対応|可|不可)?|ネコポス(?:対応|可)?|ゆうパケット|(?:数量|期間|本日|当店|会員|週末|\d{1,3}時間)限定"
    r"|レビュー(?:を書いて|特典|で)|代引き?(?:不可|手数料無料)|返品(?:不可|交換)|ラッピング(?:無料|対応|可)"
    r"|(?:タイム|スーパー)?セール(?:中|開催中|対象)?(?!ス)|半額|激安|大?特価|お買い?得|訳あり|お買い物マラソン"
    r"|税(?:込み?|抜き?|別)|free shipping|limited time offer|best price guaranteed|['’]s\b"
)
# 3,980円, ¥3980; but not 500円玉貯金箱 (a coin box) or 円形 (round).
_PRICES = re.compile(r"(?<!\d)(?:¥ ?\d{1,9}(?!\d)|\d{1,9} ?円(?![形筒卓錐盤柱玉札周]))")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Model numbers such as WH-1000XM5, NR-F609HPX: joined to one word, since some shops omit the hyphen. Not Pack-of-30.
_MODEL_NUMBERS = re.compile(r"(?<![a-z\d-])([a-z]{1,3})-(?=[a-z]{0,3}\d{2})")
# Characters that nobody sees: soft hyphen, zero-width spaces and joiners, marks of direction, variation selectors.
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_TRADEMARK_SIGNS = str.maketrans(dict.fromkeys("™®©℠", " "))  # NFKC would append "TM" to the brand.
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_HIDDEN_ELEMENTS = re.compile(r"<!--|<script\b|<style\b", re.IGNORECASE)
_CLOSING_TAGS = {
    "<!--": re.compile("-->"),
    "<script": re.compile("</script[^<>]*>", re.IGNORECASE),
    "<style": re.compile("</style[^<>]*>", re.IGNORECASE),
}
# Parts of speech that are dropped: particles, auxiliaries, punctuation, space.
_FUNCTION_WORDS = frozenset(("助詞", "助動詞", "補助記号", "空白"))


class LeftOutWord(NamedTuple):
    """A word of a text, and the text without it."""

    word: str  # As written in the text; if it is not found there, for example as its width differs, cleaned.
    rest: str  # Cleaned; empty where no other word is left.


class Tokenizer:
    """Splits text into words, synonyms in one form. The first loads the Japanese dictionary. Not thread-safe."""

    def __init__(self, synonyms: Synonyms = NO_SYNONYMS) -> None:
        from sudachipy import SplitMode

        self._synonyms = synonyms

        # Short units: 珈琲豆 becomes コーヒー + 豆, and so matches コーヒー豆.
        self._japanese = _japanese_dictionary().tokenizer(SplitMode.A)

    def __call__(self, text: str) -> list[str]:
        """The words of a text in order, lower-case and in dictionary spelling (引越し -> 引っ越し); may be empty."""
        return self._synonyms([word for word, _, _ in self._words(clean_text(text))])

    def leave_out_words(self, text: str, limit: int) -> list[LeftOutWord]:
        """The first `limit` words of a text in order, a phrase with a synonym as one, and the text without each."""
        cleaned = clean_text(text)
        words = [*self._words(cleaned)]
        phrases = self._synonyms.phrases([word for word, _, _ in words])
        spans = [(words[first][1], words[end - 1][2]) for first, end in phrases]
        rests = [f"{cleaned[:start]} {cleaned[end:]}" for start, end in spans[:limit]]
        if len(spans) == 1:
            rests = [""]  # Not the particle of 緑の, which says nothing.
        written = _as_written(text, [cleaned[start:end] for start, end in spans[:limit]])
        return [*map(LeftOutWord, written, rests)]

    def _words(self, cleaned: str) -> Iterator[tuple[str, int, int]]:
        """The words of a cleaned text, each with where it starts and ends there."""
        for run in _SCRIPT_RUNS.finditer(cleaned):
            if run.lastgroup:
                yield from self._japanese_words(run.group(), run.start())
            else:
                yield run.group()[:MAX_WORD_CHARS], run.start(), run.end()

    def _japanese_words(self, run: str, run_start: int) -> Iterator[tuple[str, int, int]]:
        for start in range(0, len(run), MAX_RUN_CHARS):
            for morpheme in self._japanese.tokenize(run[start : start + MAX_RUN_CHARS]):
                if morpheme.part_of_speech()[0] not in _FUNCTION_WORDS:
                    word = "".join(morpheme.normalized_form().lower().split())
                    if word:
                        offset = run_start + start
                        yield word[:MAX_WORD_CHARS], offset + morpheme.begin(), offset + morpheme.end()


@cache
def _japanese_dictionary() -> Dictionary:
    """One for the process: loading it holds the interpreter's lock for 30 ms, in which an encoder answers no call."""
    from sudachipy import Dictionary

    return Dictionary()


def _as_written(text: str, words: Sequence[str]) -> Iterator[str]:
    """Words of a cleaned text, in order, in the letter case of the text; cleaned where they are not found in it."""
    position = 0
    for word in words:
        found = re.compile(re.escape(word), re.IGNORECASE).search(text, position)
        if found is None:
            yield word
        else:
            position = found.end()
            yield found.group()


def clean_text(text: str) -> str:
    """Lower-case NFKC text without markup, character references, shop notices and prices; MAX_TEXT_BYTES at most."""
    text = _INVISIBLE.sub("", strip_markup(text[:MAX_TEXT_BYTES].translate(_TRADEMARK_SIGNS)))
    text = unicodedata.normalize("NFKC", text).lower()[:MAX_TEXT_BYTES]  # NFKC can turn one character into eighteen.
    text = _MODEL_NUMBERS.sub(r"\1", _THOUSANDS.sub("", text))
    return _PRICES.sub(" ", _SHOP_NOTICES.sub(" ", text))


def strip_markup(text: str) -> str:
    """A text without tags, comments, scripts, styles and character references."""
    if "&" in text:
        text = html.unescape(text)  # First, since feeds contain escaped markup.
    if "<" in text:
        text = _TAG.sub(" ", _strip_hidden_elements(text))
    return text


def _strip_hidden_elements(markup: str) -> str:
    """Remove comments, scripts and styles. One pass; an unclosed element hides the rest, as in a browser."""
    visible: list[str] = []
    position = 0
    while (start := _HIDDEN_ELEMENTS.search(markup, position)) is not None:
        visible.append(markup[position : start.start()])
        end = _CLOSING_TAGS[start.group().lower()].search(markup, start.end())
        if end is None:
            return " ".join(visible)
        position = end.end()
    return " ".join([*visible, markup[position:]])
