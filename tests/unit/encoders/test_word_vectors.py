"""Text encoders with the pretrained word vectors of a fastText .bin."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import fasttext
import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text.model import KINDS
from encoders.text.tokens import Tokenizer
from encoders.text.train import main, train
from encoders.text.word_vectors import SkipGramParameters, load_word_vectors, train_word_vectors
from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.product_rules import CatalogueProduct
from lookalike.vectors import normalised
from pipeline.text_encoding import ChosenTextEncoder, TextEncoderSettings, choose_text_encoder

THINGS = ["cotton shirt", "wool sweater", "table lamp", "desk lamp", "coffee mug", "tea mug", "leather shoes"]
TITLES = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in THINGS]
PRETRAINING_TITLES = [f"{colour} {thing} for you" for colour in ("red", "pink", "black", "blue") for thing in THINGS]
WORD_DIM, BUCKETS = 24, 1_000
# Layout of a fastText .bin: offset of the counts of entries and words, and header of each of its two matrices
# (quantised, rows, columns).
COUNTS_OFFSET, MATRIX_HEADER = 64, struct.Struct("<?2q")


@pytest.fixture(scope="module")
def vectors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenize = Tokenizer()
    out: Path = tmp_path_factory.mktemp("words") / "pretrained.bin"
    train_word_vectors(
        [tokenize(title) for title in PRETRAINING_TITLES],
        out,
        SkipGramParameters(dim=WORD_DIM, buckets=BUCKETS, epochs=50),
    )
    return out


def word_vectors_offset(vectors_file: Path) -> int:
    """Offset of the word vectors in the file; after them come the bucket vectors and the output matrix."""
    count = len(load_word_vectors(vectors_file).words)
    return vectors_file.stat().st_size - MATRIX_HEADER.size - 4 * WORD_DIM * (2 * count + BUCKETS)


def write_patched(vectors_file: Path, out: Path, *patches: tuple[int, bytes]) -> Path:
    """Copy the file to `out` with (offset, bytes) overwritten."""
    data = bytearray(vectors_file.read_bytes())
    for offset, new in patches:
        data[offset : offset + len(new)] = new
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("lengths", [(3, 6), (1, 2), (0, 0)])
def test_the_vector_of_any_word_is_that_of_the_library_to_the_last_bit(
    tmp_path: Path, lengths: tuple[int, int]
) -> None:
    documents = [["コーヒー", "カップ", "珈琲", "coffee", "mug"], ["naïve", "𠮷野家", "wh1000xm5", "mug"]] * 5
    words = train_word_vectors(
        documents, tmp_path / "words.bin", SkipGramParameters(dim=8, buckets=97, epochs=3, subwords=lengths)
    )
    library = fasttext.load_model(str(tmp_path / "words.bin"))
    assert words.words == library.get_words()
    unknown = ["", "a", "日", "コーヒーカップ", "mugs", "<", ">", "</s>", "Ж" * 40, "kaffeetasse"]
    for word in [*words.words, *unknown]:
        np.testing.assert_array_equal(words.vector(word), library.get_word_vector(word), err_msg=word)
    assert {*documents[0], *documents[1], "</s>"} == {*words.words}


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_uses_the_pretrained_words_and_their_dimension(
    vectors_file: Path, tmp_path: Path, kind: str
) -> None:
    train(TITLES, tmp_path / "out", kind=kind, word_vectors=vectors_file)
    model = text_model.load(tmp_path / "out")
    assert model.topic_dim == WORD_DIM if kind == "fasttext" else 1 <= model.topic_dim <= len(TITLES)
    assert (tmp_path / "out" / text_model.FASTTEXT).read_bytes() == vectors_file.read_bytes()
    vectors = model.encode([*TITLES, "pink lamp", "lamps"])  # "pink" is only in the file, "lamps" in neither.
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    query, *others = model.encode(["reading lamp", "desk lamp", "tea mug"])
    assert query @ others[0] > query @ others[1]


def test_the_same_file_gives_the_same_encoder_and_another_file_another(vectors_file: Path, tmp_path: Path) -> None:
    def fingerprint(name: str, word_vectors: Path) -> str:
        return train(TITLES, tmp_path / name, kind="fasttext", word_vectors=word_vectors)

    other = tmp_path / "other.bin"
    train_word_vectors(
        [["red", "lamp"], ["blue", "mug"]], other, SkipGramParameters(dim=WORD_DIM, buckets=1_000, epochs=5)
    )
    assert fingerprint("a", vectors_file) == fingerprint("b", vectors_file) != fingerprint("c", other)


def test_an_update_retrains_only_if_the_file_has_changed(vectors_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "vectors.bin"
    source.write_bytes(vectors_file.read_bytes())
    texts = tmp_path / "text"
    products = [CatalogueProduct(id=str(i), category="x", title=title) for i, title in enumerate(TITLES)]

    def choose(word_vectors: Path) -> ChosenTextEncoder:
        return choose_text_encoder(products, texts, TextEncoderSettings(kind="fasttext", word_vectors=word_vectors))

    first = choose(source)
    assert first.trained
    again = choose(vectors_file)
    assert (again.artifact, again.trained) == (first.artifact, False)
    train_word_vectors(
        [["red", "lamp"], ["blue", "mug"]], source, SkipGramParameters(dim=WORD_DIM, buckets=1_000, epochs=5)
    )
    second = choose(source)
    assert second.trained
    assert second.artifact != first.artifact


def test_the_command_accepts_a_file_of_word_vectors(
    vectors_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "titles.txt").write_text("\n".join(TITLES))
    out = tmp_path / "out"
    main([str(tmp_path / "titles.txt"), str(out), "--kind", "fasttext", "--words", str(vectors_file), "--json"], {})
    assert json.loads(capsys.readouterr().out)["fingerprint"] == text_model.load(out).fingerprint
    assert text_model.load(out).dim == WORD_DIM


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "not a complete fastText model"),
        (b"x" * 9_999, "not a complete fastText model: it does"),
    ],
)
def test_a_file_that_is_not_a_fasttext_model_is_refused_and_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    source = tmp_path / "vectors.bin"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(BadArtifact, match=rf"vectors\.bin: {reason}"):
        train(TITLES, tmp_path / "out", word_vectors=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.004, 0.1, 0.5, 0.99, 1.01])
def test_a_truncated_or_too_long_file_is_refused_before_the_library_crashes_or_hangs(
    vectors_file: Path, tmp_path: Path, share: float
) -> None:
    whole = vectors_file.read_bytes()
    truncated = tmp_path / "vectors.bin"
    truncated.write_bytes((whole + whole)[: int(len(whole) * share)])
    with pytest.raises(BadArtifact, match=r"vectors\.bin: not a complete fastText model"):
        train(TITLES, tmp_path / "out", word_vectors=truncated)


def test_a_file_without_any_of_the_words_and_a_catalogue_without_words_are_refused(
    vectors_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadArtifact, match="none of the words"):
        train(["ほげほげ", "ふがふが"], tmp_path / "out", word_vectors=vectors_file)
    with pytest.raises(BadCatalogue, match="the texts contain no words"):
        train(["", "★"], tmp_path / "out", word_vectors=vectors_file)


def test_an_empty_vocabulary_is_refused(vectors_file: Path, tmp_path: Path) -> None:
    empty = write_patched(vectors_file, tmp_path / "vectors.bin", (COUNTS_OFFSET, struct.pack("<2i", 0, 0)))
    with pytest.raises(BadArtifact, match=r"vectors\.bin: not a complete fastText model: it has no words"):
        train(TITLES, tmp_path / "out", word_vectors=empty)


def test_quantised_vectors_are_refused(vectors_file: Path, tmp_path: Path) -> None:
    quantised = write_patched(
        vectors_file, tmp_path / "vectors.bin", (word_vectors_offset(vectors_file) - MATRIX_HEADER.size, b"\1")
    )
    with pytest.raises(BadArtifact, match=r"vectors\.bin: not a complete fastText model: quantised models"):
        train(TITLES, tmp_path / "out", word_vectors=quantised)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_vectors_of_words_in_the_texts_are_refused(
    vectors_file: Path, tmp_path: Path, kind: str, value: float
) -> None:
    offset = word_vectors_offset(vectors_file) + 4 * WORD_DIM * load_word_vectors(vectors_file).words.index("lamp")
    broken = write_patched(vectors_file, tmp_path / "vectors.bin", (offset, struct.pack("<f", value)))
    with pytest.raises(BadArtifact, match="components that are not finite"):
        train(TITLES, tmp_path / "out", kind=kind, word_vectors=broken)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_non_finite_vector_of_a_word_not_in_the_texts_counts_as_zeros(
    vectors_file: Path, tmp_path: Path, kind: str
) -> None:
    offset = word_vectors_offset(vectors_file) + 4 * WORD_DIM * load_word_vectors(vectors_file).words.index("pink")
    broken = write_patched(vectors_file, tmp_path / "vectors.bin", (offset, struct.pack("<f", np.nan)))
    train(TITLES, tmp_path / "out", kind=kind, word_vectors=broken)
    model = text_model.load(tmp_path / "out")
    pink, pink_lamp, lamp = model.encode(["pink", "pink lamp", "lamp"])
    assert not pink[: model.topic_dim].any()
    assert lamp.any()
    topics = normalised(np.stack([pink_lamp, lamp])[:, : model.topic_dim])
    np.testing.assert_allclose(topics[0], topics[1], atol=1e-6)
