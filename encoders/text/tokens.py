"""Titles and descriptions to words, Japanese and English. Pure, but that making a Tokenizer loads its dictionary."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator

from lookalike.limits import MAX_TEXT_BYTES

MAX_WORD_CHARS = 40  # Longer "words" are codes, addresses, and scripts without spaces: cut, so that subwords stay few.
RUN_CHARS = 4_000  # Sudachi refuses more than 49,149 bytes at a time; a character in its normal form has up to 9.

# Han, hiragana, katakana, and the marks that continue a word in them.
_JAPANESE = (
    r"[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
# Letters and digits of other scripts; vowel signs of Indic and Thai scripts are no letters to `re`, but parts of words.
_OTHER = r"(?:(?![\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff])[^\W_]|[\u0300-\u036f\u0900-\u0dff\u0e00-\u0eff])+"
_RUNS = re.compile(f"(?P<japanese>{_JAPANESE})|{_OTHER}")

# What shops write into any title, of whatever product. Every repetition is bounded: a text may be 64 KiB of digits.
_NOTICES = re.compile(
    r"(?:全品|全国|宅配便)?送料(?:無料|込み?|別)|あす楽(?:対応)?|最短(?:即日|翌日)|(?:即日|翌日)(?:発送|出荷|配送)|即納|在庫(?:あり|処分)"
    r"|エントリーで|(?:最大)?(?:ポイント|(?<![a-z\d])p) ?(?:最大)? ?[\d〇○.~〜-]{1,6} ?倍|〇倍"
    r"|(?:最大)?(?:\d{1,2} ?%|\d{1,7} ?円) ?off(?![a-z])|(?:off)?クーポン(?:配布中|利用で?|対象)?"
    r"|(?:楽天)?(?:ランキング|楽天)第?\d{1,2}位|\d{1,2}位(?:獲得|受賞)|累計\d{1,4}万?[個本枚台]?突破"
    r"|メール便(?:対応|可|不可)?|ネコポス(?:対応|可)?|ゆうパケット|(?:数量|期間|本日|当店|会員|週末|\d{1,3}時間)限定"
    r"|レビュー(?:を書いて|特典|で)|代引き?(?:不可|手数料無料)|返品(?:不可|交換)|ラッピング(?:無料|対応|可)"
    r"|(?:タイム|スーパー)?セール(?:中|開催中|対象)?(?!ス)|半額|激安|大?特価|お買い?得|訳あり|お買い物マラソン"
    r"|税(?:込み?|抜き?|別)|free shipping|limited time offer|best price guaranteed|['’]s\b"
)
# 3,980円, ¥3980; not a 500円玉貯金箱 (for coins) or anything round (円形).
_PRICES = re.compile(r"(?<!\d)(?:¥ ?\d{1,9}(?!\d)|\d{1,9} ?円(?![形筒卓錐盤柱玉札周]))")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# WH-1000XM5, NR-F609HPX: one word, as those write it who leave the hyphen out. Pack-of-30 and T-shirt are none.
_MODELS = re.compile(r"(?<![a-z\d-])([a-z]{1,3})-(?=[a-z]{0,3}\d{2})")
_MARKS = str.maketrans(dict.fromkeys("™®©℠", " "))  # NFKC would glue "TM" to the brand.
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_UNSEEN = re.compile(r"<!--|<script\b|<style\b", re.IGNORECASE)
_ENDS = {
    "<!--": re.compile("-->"),
    "<script": re.compile("</script[^<>]*>", re.IGNORECASE),
    "<style": re.compile("</style[^<>]*>", re.IGNORECASE),
}
# Particles, auxiliaries, punctuation, space.
_FUNCTION_WORDS = frozenset(("助詞", "助動詞", "補助記号", "空白"))


class Tokenizer:
    """Loads the Japanese dictionary (0.2 s, memory-mapped). For one thread at a time."""

    def __init__(self) -> None:
        from sudachipy import Dictionary, SplitMode

        # Short units: 珈琲豆 is コーヒー + 豆, so that it meets コーヒー豆.
        self._japanese = Dictionary().tokenizer(SplitMode.A)

    def __call__(self, text: str) -> list[str]:
        """The words of one text, in order, lower-case and in dictionary spelling (引越し: 引っ越し); maybe none."""
        words: list[str] = []
        for run in _RUNS.finditer(cleaned(text)):
            if run.lastgroup:
                words.extend(self._japanese_words(run.group()))
            else:
                words.append(run.group()[:MAX_WORD_CHARS])
        return words

    def _japanese_words(self, run: str) -> Iterator[str]:
        for start in range(0, len(run), RUN_CHARS):
            for morpheme in self._japanese.tokenize(run[start : start + RUN_CHARS]):
                if morpheme.part_of_speech()[0] not in _FUNCTION_WORDS:
                    word = "".join(morpheme.normalized_form().lower().split())
                    if word:
                        yield word[:MAX_WORD_CHARS]


def cleaned(text: str) -> str:
    """Lower-case NFKC text without markup, character references and shop notices; MAX_TEXT_BYTES characters at most."""
    text = text[:MAX_TEXT_BYTES].translate(_MARKS)
    if "&" in text:
        text = html.unescape(text)  # First: feeds hold markup that is escaped once more.
    if "<" in text:
        text = _TAG.sub(" ", _without_unseen(text))
    text = unicodedata.normalize("NFKC", text).lower()[:MAX_TEXT_BYTES]  # One character can become eighteen.
    text = _MODELS.sub(r"\1", _THOUSANDS.sub("", text))
    return _PRICES.sub(" ", _NOTICES.sub(" ", text))


def _without_unseen(markup: str) -> str:
    """Markup without comments, scripts and styles. One pass: an unclosed one hides the rest, as in a browser."""
    seen: list[str] = []
    position = 0
    while (start := _UNSEEN.search(markup, position)) is not None:
        seen.append(markup[position : start.start()])
        end = _ENDS[start.group().lower()].search(markup, start.end())
        if end is None:
            return " ".join(seen)
        position = end.end()
    return " ".join([*seen, markup[position:]])
