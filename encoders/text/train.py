"""Train a text encoder on the texts of a catalogue: `lookalike encoders train-text`. Reads and writes files."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from encoders import artifact
from encoders.labels import group_of
from encoders.text import hybrid, lexical, scdv
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import DEFAULT_KIND, FASTTEXT, FILES, FORMAT, KINDS, SYNONYMS, TextModel, WordFeatureCache
from encoders.text.synonyms import DEFAULT_DICTIONARIES, compile_synonyms, read_lines, write_table
from encoders.text.tokens import Tokenizer
from encoders.text.word_vectors import SkipGramParameters, WordVectors, copy_word_vectors, train_word_vectors, word_ids
from lookalike.cli import arguments
from lookalike.errors import BadArtifact, BadCatalogue, OperatorError
from lookalike.product_rules import has_word, split_tags
from lookalike.strict_json import parse_json
from lookalike.vectors import F32

MAX_DIM = 1024
_PROJECTION_SAMPLE = 5_000  # Documents to fit the projection and the threshold; more documents change neither.

Progress = Callable[[str], None]
Array = npt.NDArray[Any]

EXAMPLES = """examples:
  lookalike encoders train-text my-shop texts/hybrid            titles and descriptions of products.jsonl or .csv
  lookalike encoders train-text titles.txt texts/plain --kind fasttext      one document per line
  lookalike encoders train-text my-shop texts/ja --words cc.ja.300.bin      pretrained word vectors
  lookalike encoders train-text my-shop texts/scdv --synonyms my-words.txt  with words of the shop's own
"""


def train(
    texts: Iterable[str],
    out: Path,
    *,
    kind: str = DEFAULT_KIND,
    dim: int = 256,
    titles: LabelledTitles | None = None,
    seed: int = 0,
    word_vectors: Path | None = None,
    dictionaries: Sequence[Path] = DEFAULT_DICTIONARIES,
    scdv_parameters: scdv.ScdvParameters | None = None,
    skip_gram_parameters: SkipGramParameters | None = None,
    progress: Progress | None = None,
) -> str:
    """Write the artifact to the new directory `out` and return its fingerprint. Same arguments, same fingerprint.

    dim: of an SCDV vector, 1..1024; fewer if there are too few documents or words. A hybrid vector has the lexical
    dimensions besides.
    titles: the texts that vectors will be computed from, with their labels, by which a hybrid encoder weighs topic and
    spelling; None: `texts`, without labels.
    word_vectors: a fastText .bin with pretrained word vectors (copied into the artifact); None: they are trained.
    dictionaries: of synonyms, a later one changes an earlier one (docs/synonyms.md).
    Raises BadCatalogue if the texts contain no words, BadArtifact if `word_vectors` is not a fastText model or contains
    none of the words, BadDictionary, OperatorError if `out` exists or cannot be written.
    """
    if kind not in KINDS:
        raise OperatorError(f"unknown kind of text encoder: {kind}; expected one of {', '.join(KINDS)}")
    if not 1 <= dim <= MAX_DIM:
        raise OperatorError(f"{dim} dimensions, expected 1..{MAX_DIM}")
    report = progress or (lambda step: None)

    def write_files(staging: Path) -> Mapping[str, Any]:
        report("tokenizing")
        synonyms = compile_synonyms([read_lines(path) for path in dictionaries], Tokenizer())
        write_table(staging / SYNONYMS, synonyms)
        tokenize = Tokenizer(synonyms)
        all_texts = list(texts)
        documents = [tokenize(text) for text in all_texts]
        if not any(documents):
            raise BadCatalogue("the texts contain no words: nothing to train a text encoder on")
        if word_vectors is None:
            report("training word vectors")
            vocabulary = train_word_vectors(documents, staging / FASTTEXT, skip_gram_parameters)
        else:
            vocabulary = copy_word_vectors(word_vectors, staging / FASTTEXT)
        import sklearn.mixture  # noqa: F401  # Brings its own BLAS and OpenMP, which can only be limited once loaded.

        # Several threads take ten times as long on busy cores, and sum in varying order: not reproducible.
        with threadpool_limits(1):
            arrays, metadata = fit(
                documents, vocabulary, kind=kind, dim=dim, seed=seed, scdv_parameters=scdv_parameters, report=report
            )
            if kind == "hybrid":
                report("weighing topic and spelling")
                topics = TextModel(
                    {**metadata, "kind": "scdv", "fingerprint": ""},
                    WordFeatureCache(metadata, vocabulary, arrays, estimate_unseen=False),
                    arrays["projection"],
                    synonyms=synonyms,
                )
                added, choice = _fit_lexical(titles or LabelledTitles.unlabelled(all_texts), topics, seed)
                arrays, metadata = {**arrays, **added}, {**metadata, **choice}
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array)
        return metadata

    return artifact.write_artifact(out, kind=kind, format_version=FORMAT, files=FILES, write_files=write_files)


def _fit_lexical(titles: LabelledTitles, topics: TextModel, seed: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Fit what a hybrid encoder has besides its topic encoder: arrays, and metadata that replaces some of it."""
    idf = lexical.fit_idf([topics.canonical(title) for title in titles.titles])

    def encode_lexical(texts: Sequence[str], dim: int) -> F32:
        return lexical.encode([topics.canonical(text) for text in texts], idf, dim)

    choice = hybrid.choose(titles, topics.encode, encode_lexical, seed)
    return {"ngram_keys": idf.keys, "ngram_idf": idf.values}, {
        "dim": topics.dim + choice.lexical_dim,
        "lexical_dim": choice.lexical_dim,
        "topic_weight": choice.topic_weight,
        "choice": choice.figures,
    }


def fit(
    documents: Sequence[Sequence[str]],
    vocabulary: WordVectors,
    *,
    kind: str,
    dim: int,
    seed: int,
    scdv_parameters: scdv.ScdvParameters | None = None,
    report: Progress = lambda step: None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Fit an SCDV or fastText encoder: its arrays, named as in encoders.text.model.ARRAYS, and its metadata.

    Raises BadArtifact if the vocabulary contains none of the words, or has vectors that are not finite.
    """
    scdv_parameters = scdv_parameters or scdv.ScdvParameters()
    documents_as_ids = word_ids(documents, vocabulary)
    nonempty = [document for document in documents_as_ids if len(document)]
    if not nonempty:
        raise BadArtifact("the word vectors contain none of the words of the texts")
    idf = scdv.inverse_document_frequencies(documents_as_ids, len(vocabulary.words))
    used = np.unique(np.concatenate(nonempty))
    vectors = vocabulary.vectors([vocabulary.words[i] for i in used])
    if not np.isfinite(vectors).all():
        raise BadArtifact("the word vectors have components that are not finite")
    min_norm = float(np.linalg.norm(vectors, axis=1).min() / 2)
    centre = scdv.mean_word_vector(vectors)
    if kind == "fasttext":
        return {"idf": idf, "centre": centre}, {"dim": vocabulary.dim, "min_norm": min_norm}
    report("fitting topics")
    vectors -= centre
    topics = scdv.fit_topics(vectors, scdv_parameters, seed)
    topic_weights = topics.probabilities(vectors) * idf[used, None]
    report("fitting the projection")
    sample = [nonempty[i] for i in np.random.default_rng(seed).permutation(len(nonempty))[:_PROJECTION_SAMPLE]]
    rows = np.searchsorted(used, np.concatenate(sample))
    composites = scdv.composite_vectors(topic_weights[rows], vectors[rows], [len(document) for document in sample])
    threshold = scdv.sparsity_threshold(composites, scdv_parameters.sparsity)
    projection = scdv.fit_projection(scdv.sparsify(composites, threshold), dim, seed)
    arrays: dict[str, Array] = {
        "idf": idf,
        "centre": centre,
        "log_weights": topics.log_weights,
        "means": topics.means,
        "precisions": topics.precisions,
        "projection": projection,
    }
    metadata = {
        "dim": projection.shape[1],
        "min_norm": min_norm,
        "threshold": threshold,
        "temperature": topics.temperature,
    }
    return arrays, metadata


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders train-text",
        description="Train the text encoder on the texts of a catalogue.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        help="a .jsonl or .csv with titles, a catalogue folder that contains one, or a file with one text per line",
    )
    parser.add_argument("out", type=Path, help="the new folder of the artifact")
    parser.add_argument("--kind", choices=KINDS, default=DEFAULT_KIND)
    parser.add_argument("--dim", type=int, default=256, help="maximum dimensions of the SCDV vector, 1..1024")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="use the pretrained word vectors of this fastText .bin"
    )
    parser.add_argument(
        "--synonyms",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="more words that mean the same: one group per line, separated by commas (docs/synonyms.md); repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(argv)
    rows = list(read_rows(options.source))
    fingerprint = train(
        [row.text for row in rows],
        options.out,
        kind=options.kind,
        dim=options.dim,
        titles=labelled_titles(rows),
        seed=options.seed,
        word_vectors=options.words,
        dictionaries=(*DEFAULT_DICTIONARIES, *options.synonyms),
        progress=lambda step: print(f"{step} …", file=sys.stderr),
    )
    result = {"fingerprint": fingerprint, "artifact": str(options.out), "documents": len(rows)}
    print(json.dumps(result) if options.json else f"{fingerprint} of {len(rows)} documents in {options.out}")


_MAX_CELL_CHARS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """The texts of a product, and what is known of it."""

    id: str = ""
    title: str = ""
    description: str = ""
    category: str = ""
    group: str = ""

    @property
    def text(self) -> str:
        return f"{self.title}\n{self.description}" if self.description else self.title


def labelled_titles(rows: Sequence[TextRow]) -> LabelledTitles:
    """The titles with their labels; the description of a product whose title has no word."""
    return LabelledTitles(
        ids=[row.id or str(i) for i, row in enumerate(rows)],
        titles=[row.title if has_word(row.title) else row.description for row in rows],
        categories=[row.category for row in rows],
        groups=[row.group for row in rows],
    )


def read_rows(source: Path) -> Iterator[TextRow]:
    """Read the products, or a title on each line. Raises BadCatalogue, naming file and line."""
    if source.is_dir():
        names = [source / name for name in ("products.jsonl", "products.csv") if (source / name).is_file()]
        if not names:
            raise BadCatalogue(f"{source}: contains neither products.jsonl nor products.csv")
        source = names[0]
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            yield from _READERS.get(source.suffix, _lines)(file, source)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadCatalogue(f"{source}: {error}") from error


def _lines(file: Iterable[str], source: Path) -> Iterator[TextRow]:
    return (TextRow(title=line.strip()) for line in file)


def _rows(file: Iterable[str], source: Path) -> Iterator[TextRow]:
    csv.field_size_limit(_MAX_CELL_CHARS)  # Of the whole process: what reads catalogues has the same.
    table = csv.DictReader(file)
    if not {"title", "description"} & {*(table.fieldnames or ())}:
        raise BadCatalogue(
            f"{source}: no column title or description; the columns are: {', '.join(table.fieldnames or ()) or 'none'}"
        )
    return (_text_row(row, split_tags(row.get("tags") or "")) for row in table)


def _objects(file: Iterable[str], source: Path) -> Iterator[TextRow]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            tags = row.get("tags") or ()
            yield _text_row(row, split_tags(tags) if isinstance(tags, str) else tags)
        except (ValueError, AttributeError, TypeError) as error:
            raise BadCatalogue(f"{source}:{number}: {error}") from error


def _text_row(row: Mapping[str, Any], tags: Iterable[str]) -> TextRow:
    fields = {name: str(row.get(name) or "") for name in ("id", "title", "description", "category")}
    return TextRow(**fields, group=group_of(tags))


_READERS: dict[str, Callable[[Iterable[str], Path], Iterator[TextRow]]] = {".csv": _rows, ".jsonl": _objects}
