"""Titles and descriptions to words, Japanese and English. Pure, but that making a Tokenizer loads its dictionary."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator

MAX_TEXT_BYTES = 64 << 10  # What the protocol allows; of a longer text, the tokenizer reads as many characters.
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
    r"(?:全品)?送料(?:無料|込み?|別)|(?:最大)?ポイント ?\d{1,3} ?倍|あす楽(?:対応)?|最短(?:即日|翌日)"
    r"|(?:即日|翌日)(?:発送|出荷|配送)|即納|楽天(?:ランキング)?\d位|ランキング\d位|\d位(?:獲得|受賞)|(?:off)?クーポン(?:配布中|利用で?|対象)?|メール便(?:対応|可|不可)?"
    r"|ネコポス(?:対応|可)?|ゆうパケット|(?:数量|期間|本日|当店|会員)限定|レビュー(?:を書いて|特典)|代引き?(?:不可|手数料無料)"
    r"|返品(?:不可|交換)|(?:タイム|スーパー)セール|在庫処分|訳あり|お買い物マラソン|\d{1,2} ?% ?off"
    r"|free shipping|limited time offer|best price guaranteed|['’]s\b"
)
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
    text = unicodedata.normalize("NFKC", text)[:MAX_TEXT_BYTES]  # One character can become eighteen.
    return _NOTICES.sub(" ", text.lower())


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
