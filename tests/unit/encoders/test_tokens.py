"""The tokenizer, on titles in the style of shops."""

from __future__ import annotations

import time

import pytest

from encoders.text.synonyms import compile_synonyms, parse_lines
from encoders.text.tokens import MAX_RUN_CHARS, MAX_WORD_CHARS, Tokenizer, clean_text
from lookalike.limits import MAX_TEXT_BYTES


@pytest.fixture(scope="module")
def tokenize() -> Tokenizer:
    return Tokenizer()


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Men's Blue T-Shirt", "men blue t shirt"),
        ("レディース ワンピース 花柄", "レディース ワンピース 花柄"),
        ("赤いスニーカーのセット", "赤い スニーカー セット"),  # The particle is dropped.
        ("ソニー WH-1000XM5 と NR-F609HPX", "ソニー wh1000xm5 nrf609hpx"),  # Model numbers are joined.
        ("Pack-of-30 turn-off T-Shirt off-white", "pack of 30 turn off t shirt off white"),
        ("500円玉貯金箱 双眼鏡10倍", "500 円玉 貯金 箱 双眼 鏡 10 倍"),  # Neither a price nor loyalty points.
        ("1,500ml 3,4", "1500ml 3 4"),
        ("Vネック ロング丈ワンピース", "v ネック ロング 丈 ワンピース"),
        ("iPhone15ケース 手帳型", "iphone15 ケース 手帳 型"),
        ("Кроссовки мужские", "кроссовки мужские"),
        ("हिन्दी กระเป๋า 가방", "हिन्दी กระเป๋า 가방"),  # Vowel signs do not split words.
    ],
)
def test_a_title_is_split_into_words(tokenize: Tokenizer, title: str, words: str) -> None:
    assert tokenize(title) == words.split()


@pytest.mark.parametrize(
    ("spelling", "other_spelling"),
    [
        ("ｽﾆｰｶｰ", "スニーカー"),
        ("ＮＩＫＥ　９０", "nike 90"),
        ("引越し", "引っ越し"),
        ("珈琲豆", "コーヒー豆"),
        ("Nike™ Air®", "nike air"),
        ("Tom &amp; Jerry", "tom & jerry"),
    ],
)
def test_two_spellings_give_the_same_words(tokenize: Tokenizer, spelling: str, other_spelling: str) -> None:
    assert tokenize(spelling) == tokenize(other_spelling) != []


@pytest.mark.parametrize(
    "title",
    [
        "【送料無料】★花柄ワンピース★",
        "花柄ワンピース ポイント10倍 【あす楽対応】",
        "◆即納◆ 花柄ワンピース！！ 30% OFF",
        "花柄ワンピース🎉✨ クーポン配布中",
        "＼最大P10倍／花柄ワンピース ポイント最大43.5倍 〇倍",
        "花柄ワンピース 税込3,980円 2,980円→¥1,480 (税抜き)",
        "【期間限定】【24時間限定】花柄ワンピース 全国送料無料 最大2000円OFFクーポン",
        "【半額】花柄ワンピース 楽天ランキング第1位 累計10万個突破 タイムセール中",
        "<b>花柄ワンピース</b><br/><!-- 靴 --><script>靴()</script><STYLE>靴{}</STYLE >",
        "&lt;p class=&quot;靴&quot;&gt;花柄ワンピース&lt;/p&gt;",
        "花柄\x00ワンピース\x1b\ud800",
    ],
)
def test_markup_notices_and_decoration_are_removed(tokenize: Tokenizer, title: str) -> None:
    assert tokenize(title) == ["花柄", "ワンピース"]


def test_text_in_brackets_is_kept_unless_it_is_a_notice(tokenize: Tokenizer) -> None:
    assert tokenize("【NIKE】【送料無料】【メンズ】靴") == ["nike", "メンズ", "靴"]


def test_a_less_than_sign_is_not_markup(tokenize: Tokenizer) -> None:
    assert tokenize("3 < 5 and 7 > 2") == ["3", "5", "and", "7", "2"]


@pytest.mark.parametrize("text", ["", " \n\t", "★☆♪", "🎉👟", "!?…・。", "<br>", "\x00", "\ud800"])
def test_a_text_without_words_gives_an_empty_list(tokenize: Tokenizer, text: str) -> None:
    assert tokenize(text) == []


def test_special_tokens_of_fasttext_are_never_returned(tokenize: Tokenizer) -> None:
    words = tokenize("</s> __label__x a\u00a0b a\u2028b a\x85b")
    assert not any(word == "</s>" or word.startswith("__label__") or not word.isalnum() for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red Sneakers", ["Red", "Sneakers"]),
        ("緑のワンピース", ["緑", "ワンピース"]),
        ("赤いスニーカーのセット", ["赤い", "スニーカー", "セット"]),
        ("珈琲豆 200g", ["珈琲", "豆", "200g"]),  # As written, not in dictionary spelling.
        ("WH-1000XM5 ＲＥＤ 【送料無料】 bag bag", ["wh1000xm5", "red", "bag", "bag"]),
        ("<b>Tom</b> &amp; Jerry", ["Tom", "Jerry"]),
        ("☺", []),
    ],
)
def test_the_words_to_leave_out_are_as_written_or_cleaned(tokenize: Tokenizer, text: str, words: list[str]) -> None:
    assert [each.word for each in tokenize.leave_out_words(text, 10)] == words


@pytest.mark.parametrize("text", ["Red Sneakers mug", "緑のワンピース 花柄", "新作 珈琲豆 200g", "WH-1000XM5 bag bag"])
def test_a_text_without_a_word_has_its_other_words(tokenize: Tokenizer, text: str) -> None:
    words = tokenize(text)
    rests = [tokenize(each.rest) for each in tokenize.leave_out_words(text, 10)]
    assert rests == [[*words[:i], *words[i + 1 :]] for i in range(len(words))]


def test_without_its_only_word_nothing_is_left_of_a_text(tokenize: Tokenizer) -> None:
    assert [*tokenize.leave_out_words("緑の!", 10)] == [("緑", "")]


def test_no_more_words_than_the_limit_are_left_out(tokenize: Tokenizer) -> None:
    assert [each.word for each in tokenize.leave_out_words("one two three", 2)] == ["one", "two"]


def test_a_phrase_with_a_synonym_is_left_out_as_one_word() -> None:
    tokenize = Tokenizer(compile_synonyms([[*parse_lines("sneakers, 運動靴, running shoes", "shop.txt")]], Tokenizer()))
    left_out = tokenize.leave_out_words("赤い運動靴 Running  shoes red", 10)
    assert [each.word for each in left_out] == ["赤い", "運動靴", "Running  shoes", "red"]
    assert tokenize(left_out[1].rest) == ["赤い", "sneakers", "red"]
    assert tokenize(left_out[2].rest) == ["赤い", "sneakers", "red"]


def test_long_words_are_truncated_and_long_runs_tokenized_in_parts(tokenize: Tokenizer) -> None:
    assert tokenize("x" * 100) == ["x" * MAX_WORD_CHARS]
    assert len(tokenize("花柄" * MAX_RUN_CHARS)) >= MAX_RUN_CHARS


def test_a_text_is_truncated_at_the_bound_even_if_nfkc_expands_it() -> None:
    assert len(clean_text("a" * (MAX_TEXT_BYTES + 5))) == MAX_TEXT_BYTES
    assert len(clean_text("ﷺ" * MAX_TEXT_BYTES)) == MAX_TEXT_BYTES  # Eighteen characters each.
    assert len(clean_text("İ" * MAX_TEXT_BYTES)) == MAX_TEXT_BYTES  # Two characters in lower case.


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a",
        "<!--",
        "<script>",
        "&",
        "&a",
        "&#",
        "1",
        "1 ",
        "%",
        " ",
        "ポイント",
        "ポイント1",
        "楽天",
        "1円",
        "¥1",
        "1,",
        "a-",
        "限定",
        "全品最大",
        "ー",
        "\u0300",
        "<a '",
        "off",
    ],
)
def test_tokenizing_takes_linear_time(tokenize: Tokenizer, piece: str) -> None:
    text = (piece * MAX_TEXT_BYTES)[:MAX_TEXT_BYTES]
    start_s = time.process_time()
    tokenize(text)
    assert time.process_time() - start_s < 5  # About 0.1 s; minutes if a pattern backtracks.
