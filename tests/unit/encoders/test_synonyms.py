"""Synonyms: the format of dictionaries, how they are compiled, and what the default ones unite and keep apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoders.text import model as text_model
from encoders.text.synonyms import (
    DEFAULT_DICTIONARIES,
    MAX_BYTES,
    NO_SYNONYMS,
    BadDictionary,
    Synonyms,
    compile_synonyms,
    english_plural,
    load_table,
    parse_lines,
    read_lines,
    write_table,
)
from encoders.text.tokens import Tokenizer
from encoders.text.train import train
from lookalike.errors import BadArtifact


def compiled(*dictionaries: str) -> Synonyms:
    return compile_synonyms([[*parse_lines(text, "shop.txt")] for text in dictionaries], str.split)


@pytest.fixture(scope="module")
def tokenize() -> Tokenizer:
    """Of titles and queries, with the default dictionaries."""
    return Tokenizer(compile_synonyms([read_lines(path) for path in DEFAULT_DICTIONARIES], Tokenizer()))


def test_words_and_phrases_become_the_first_text_of_their_group() -> None:
    synonyms = compiled("red, akai, deep red # a comment\n\n# another\nbag, kaban")

    assert synonyms(["an", "akai", "kaban", "of", "deep", "red"]) == ["an", "red", "bag", "of", "red"]


def test_the_longest_phrase_is_replaced() -> None:
    synonyms = compiled("navy, navy blue\nblue, ao\nnavybag, navy blue bag")

    assert synonyms(["navy", "blue", "bag", "navy", "blue", "blue"]) == ["navybag", "navy", "blue"]


def test_what_has_replaced_a_phrase_is_not_replaced_again() -> None:
    assert compiled("sofa, couch\nred sofa, akai couch")(["akai", "couch"]) == ["red", "sofa"]
    assert compiled("t, tee\nshirt, t shirt")(["tee", "shirt"]) == ["t", "shirt"]


def test_with_an_arrow_texts_are_replaced_by_the_words_of_another_group() -> None:
    synonyms = compiled("leather, kawa\nbag, kaban\nkurokawa, kurogawa => black kawa")

    assert synonyms(["kurokawa", "kaban"]) == ["black", "leather", "bag"]
    assert synonyms(["kurogawa"]) == synonyms(["black", "kawa"])


def test_a_later_dictionary_extends_a_group_of_an_earlier_one() -> None:
    synonyms = compiled("sneakers, trainers", "kicks, sneakers")

    assert synonyms(["trainers"]) == synonyms(["kicks"]) == synonyms(["sneakers"])


def test_a_later_dictionary_joins_two_groups_or_takes_a_word_out_of_one() -> None:
    assert compiled("coat, kooto\njacket, uwagi", "coat, jacket")(["kooto", "uwagi"]) == ["coat", "coat"]
    assert compiled("shorts, panty", "panty")(["shorts", "panty", "panties"]) == ["shorts", "panty", "panties"]
    assert compiled("jumper, janpaa, jampaa", "jumper")(["jumper", "jampaa"]) == ["jumper", "janpaa"]
    assert compiled("sandals, mules", "mules => mules shoes")(["mules"]) == ["mules", "shoes"]


def test_regular_english_plurals_belong_to_the_group_of_the_singular() -> None:
    assert compiled("handbag, hand bag")(["hand", "bags", "handbags"]) == ["handbag", "handbag"]
    assert compiled("lens, lense\nglass, garasu\nglasses")(["glasses"]) == ["glasses"]  # A line of its own.
    words = ["bag", "watch", "dress", "lady", "toy", "ブーツ", "wh1000xm5"]
    assert [*map(english_plural, words)] == ["bags", "watches", "dresses", "ladies", "toys", "ブーツ", "wh1000xm5"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("red, akai\nblue,, ao", "shop.txt:2: expected TEXT, TEXT or TEXT, TEXT => TEXT"),
        ("red =>", "shop.txt:1: expected"),
        ("=> red", "shop.txt:1: expected"),
        ("a => b => c", "shop.txt:1: expected"),
        ("a => b, c", "shop.txt:1: expected"),
        ("red, akai\n\nwine, akai", "shop.txt:3: 'akai' is in shop.txt:1 already"),
        ("red, akai\nakai => wine", "shop.txt:2: 'akai' is in shop.txt:1 already"),
        ("a => b\nb => a", "its texts are replaced in a circle"),
        ("red, a b c d e f g h i", "shop.txt:1: 'a b c d e f g h i' has 9 words, expected 1..8"),
    ],
)
def test_a_bad_dictionary_is_refused_with_the_line(text: str, reason: str) -> None:
    with pytest.raises(BadDictionary, match=reason.replace(".", r"\.")):
        compiled(text)


def test_a_text_without_a_word_is_refused_with_the_line() -> None:
    with pytest.raises(BadDictionary, match=r"shop\.txt:1: '☆' has 0 words"):
        compile_synonyms([[*parse_lines("red, ☆", "shop.txt")]], Tokenizer())


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "shop.txt"
    with pytest.raises(BadDictionary, match=r"shop\.txt: No such file"):
        read_lines(path)
    path.write_bytes("赤, red\n鞄, bag".encode("cp932"))
    with pytest.raises(BadDictionary, match=r"shop\.txt:1: not UTF-8"):
        read_lines(path)
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadDictionary, match=r"shop\.txt: larger than 16 MiB"):
        read_lines(path)


def test_a_byte_order_mark_and_full_width_signs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.txt"
    path.write_text("\ufeffred， 赤", encoding="utf-8")

    assert [line.texts for line in read_lines(path)] == [("red", "赤")]


def test_a_compiled_dictionary_is_read_as_it_was_written(tmp_path: Path) -> None:
    synonyms = compiled("navy, navy blue\nlong shirt, rongu")
    write_table(tmp_path / "table", synonyms)

    assert load_table(tmp_path / "table").canonical == synonyms.canonical
    write_table(tmp_path / "none", NO_SYNONYMS)
    assert load_table(tmp_path / "none")(["a"]) == ["a"]
    (tmp_path / "table").write_text("no tab")
    with pytest.raises(BadArtifact, match="table"):
        load_table(tmp_path / "table")


@pytest.mark.parametrize(
    "same",
    [
        ["赤い靴", "レッド シューズ", "red shoes", "赤のくつ", "RED SHOE"],
        ["黒い革のバッグ", "black leather bag", "ブラック レザー 鞄", "黒革のかばん"],
        ["赤い運動靴", "レッド スニーカー", "red sneakers"],
        ["ｔシャツ", "T-Shirt", "ティーシャツ", "tee"],
        ["水色のワンピース", "light blue dress", "ライトブルー ワンピ"],
        ["紺色の靴下", "navy socks", "ネイビー ソックス"],
        ["腕時計", "wrist watch", "wristwatches", "リストウォッチ"],
        ["手提げ鞄", "handbags", "ハンドバッグ"],
        ["灰色のソファー", "gray couch", "grey sofa", "グレー ソファ"],
    ],
)
def test_everyday_words_of_both_languages_are_one(tokenize: Tokenizer, same: list[str]) -> None:
    assert {tuple(tokenize(text)) for text in same} == {tuple(tokenize(same[0]))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("靴", "スニーカー"),
        ("ブルー", "ネイビー"),
        ("レッド", "ワインレッド"),
        ("青", "水色"),
        ("ショーツ", "shorts"),
        ("パーカー", "parka"),
        ("ジャンパー", "jumper"),
        ("bangle", "bracelet"),
        ("glasses", "glass"),
        ("dress shirt", "dress"),
        ("桃", "桃色"),
        ("赤ワイン", "ワインレッド"),
    ],
)
def test_kinds_of_a_thing_and_words_of_two_meanings_are_kept_apart(tokenize: Tokenizer, one: str, other: str) -> None:
    assert tokenize(one) != tokenize(other)


def test_an_encoder_keeps_the_synonyms_it_was_trained_with(tmp_path: Path) -> None:
    shop = tmp_path / "shop.txt"
    shop.write_text("ruby, レッド", encoding="utf-8")
    titles = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("shoes", "bag", "dress")] * 3
    plain = train(titles, tmp_path / "plain", kind="fasttext")
    extended = train(titles, tmp_path / "extended", kind="fasttext", dictionaries=(*DEFAULT_DICTIONARIES, shop))
    shop.unlink()

    assert plain != extended
    red, ruby = text_model.load(tmp_path / "extended").encode(["赤い靴", "ruby shoes"])
    assert float(red @ ruby) == pytest.approx(1)
    red, ruby = text_model.load(tmp_path / "plain").encode(["赤い靴", "ruby shoes"])
    assert float(red @ ruby) < 0.99
