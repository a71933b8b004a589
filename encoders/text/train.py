"""Train a text encoder on a catalogue's own words: `lookalike encoders train-text`. Writes an artifact."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from encoders import artifact
from encoders.text import scdv, words
from encoders.text.model import FASTTEXT, FILES, FORMAT, KINDS
from encoders.text.tokens import Tokenizer
from lookalike.cli import arguments
from lookalike.errors import BadArtifact, BadCatalogue, OperatorError
from lookalike.vectors import F32

MAX_DIM = 1024
_LEARNT_FROM = 5_000  # Documents for the projection and the threshold: more change neither.

Progress = Callable[[str], None]

EXAMPLES = """examples:
  lookalike encoders train-text my-shop texts/scdv              title and description of my-shop/products.jsonl or .csv
  lookalike encoders train-text titles.txt texts/plain --kind fasttext      one document per line
  lookalike encoders train-text my-shop texts/ja --words cc.ja.300.bin      words learnt elsewhere
"""


def train(
    texts: Iterable[str],
    out: Path,
    *,
    kind: str = "scdv",
    dim: int = 256,
    seed: int = 0,
    word_vectors: Path | None = None,
    recipe: scdv.Recipe | None = None,
    word_recipe: words.Recipe | None = None,
    progress: Progress | None = None,
) -> str:
    """Write the artifact to `out` (a new directory) and return its fingerprint. Same arguments, same fingerprint.

    dim: of an SCDV encoder, 1..1024; smaller where there are too few documents or words to fill it.
    word_vectors: a fastText .bin to take words from (a copy goes into the artifact); None: they are trained.
    Raises BadCatalogue when no text has a word in it, BadArtifact where `word_vectors` is no fastText model or knows
    none of the words, OperatorError where `out` exists or cannot be written.
    """
    if kind not in KINDS:
        raise OperatorError(f"no such kind of text encoder: {kind}; there are {', '.join(KINDS)}")
    if not 1 <= dim <= MAX_DIM:
        raise OperatorError(f"{dim} dimensions: not in 1..{MAX_DIM}")
    say = progress or (lambda step: None)

    def fill(part: Path) -> Mapping[str, Any]:
        say("tokenizing")
        tokenize = Tokenizer()
        documents = [tokenize(text) for text in texts]
        if not any(documents):
            raise BadCatalogue("no text has a word in it: there is nothing to train a text encoder on")
        if word_vectors is None:
            say("training word vectors")
            vocabulary = words.train(documents, part / FASTTEXT, word_recipe)
        else:
            vocabulary = words.copied(word_vectors, part / FASTTEXT)
        import sklearn.mixture  # noqa: F401  # Brings its own BLAS and OpenMP: only what is loaded can be limited.

        # More threads take ten times as long where they have to wait for cores, and add in another order each time.
        with threadpool_limits(1):
            arrays, facts = learnt(documents, vocabulary, kind=kind, dim=dim, seed=seed, recipe=recipe, say=say)
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array)
        return facts

    return artifact.written(out, kind=kind, form=FORMAT, files=FILES, fill=fill)


def learnt(
    documents: Sequence[Sequence[str]],
    vocabulary: words.Words,
    *,
    kind: str,
    dim: int,
    seed: int,
    recipe: scdv.Recipe | None = None,
    say: Progress = lambda step: None,
) -> tuple[dict[str, F32], dict[str, Any]]:
    """The arrays of an encoder, as encoders.text.model.ARRAYS names them, and what its manifest says beside its files.

    Raises BadArtifact where the vocabulary knows none of the words, or has vectors that are not finite.
    """
    recipe = recipe or scdv.Recipe()
    numbered = words.numbered(documents, vocabulary)
    filled = [document for document in numbered if len(document)]
    if not filled:
        raise BadArtifact("the word vectors know none of the words of the texts")
    idf = scdv.idf_of(numbered, len(vocabulary.known))
    used = np.unique(np.concatenate(filled))
    vectors = vocabulary.vectors([vocabulary.known[i] for i in used])
    if not np.isfinite(vectors).all():
        raise BadArtifact("the word vectors have components that are no finite numbers")
    faint = float(np.linalg.norm(vectors, axis=1).min() / 2)
    centre = scdv.centre_of(vectors)
    if kind == "fasttext":
        return {"idf": idf, "centre": centre}, {"dim": vocabulary.dim, "faint": faint}
    say("finding topics")
    vectors -= centre
    topics = scdv.fit_topics(vectors, recipe, seed)
    shares = topics.probabilities(vectors) * idf[used, None]
    say("projecting documents")
    sample = [filled[i] for i in np.random.default_rng(seed).permutation(len(filled))[:_LEARNT_FROM]]
    rows = np.searchsorted(used, np.concatenate(sample))
    composites = scdv.composites(shares[rows], vectors[rows], [len(document) for document in sample])
    threshold = scdv.threshold_of(composites, recipe.sparsity)
    projection = scdv.fit_projection(scdv.sparse(composites, threshold), dim, seed)
    arrays = {
        "idf": idf,
        "centre": centre,
        "log_weights": topics.log_weights,
        "means": topics.means,
        "precisions": topics.precisions,
        "projection": projection,
    }
    facts = {"dim": projection.shape[1], "faint": faint, "threshold": threshold, "temperature": topics.temperature}
    return arrays, facts


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders train-text",
        description="Train the text encoder on a catalogue's words.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=Path, help="a .jsonl or .csv with titles, a catalogue's folder that has one, or lines of text"
    )
    parser.add_argument("out", type=Path, help="the artifact, a new folder")
    parser.add_argument("--kind", choices=KINDS, default="scdv")
    parser.add_argument("--dim", type=int, default=256, help="most dimensions of an SCDV vector, 1..1024")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("--words", type=Path, metavar="FILE", help="take word vectors from this fastText .bin")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    options = parser.parse_args(argv)
    texts = list(texts_of(options.source))
    fingerprint = train(
        texts,
        options.out,
        kind=options.kind,
        dim=options.dim,
        seed=options.seed,
        word_vectors=options.words,
        progress=lambda step: print(f"{step} …", file=sys.stderr),
    )
    outcome = {"fingerprint": fingerprint, "artifact": str(options.out), "documents": len(texts)}
    print(json.dumps(outcome) if options.json else f"{fingerprint} of {len(texts)} documents in {options.out}")


def texts_of(source: Path) -> Iterator[str]:
    """Title and description of each row, or each line. Raises BadCatalogue, naming file and line."""
    if source.is_dir():
        names = [source / name for name in ("products.jsonl", "products.csv") if (source / name).is_file()]
        if not names:
            raise BadCatalogue(f"{source}: neither products.jsonl nor products.csv in it")
        source = names[0]
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            yield from _READERS.get(source.suffix, _lines)(file, source)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadCatalogue(f"{source}: {error}") from error


def _lines(file: Iterable[str], source: Path) -> Iterator[str]:
    return (line.strip() for line in file)


def _rows(file: Iterable[str], source: Path) -> Iterator[str]:
    table = csv.DictReader(file)
    if not {"title", "description"} & {*(table.fieldnames or ())}:
        raise BadCatalogue(f"{source}: no column title among {', '.join(table.fieldnames or ()) or 'none'}")
    return (f"{row.get('title') or ''}\n{row.get('description') or ''}" for row in table)


def _objects(file: Iterable[str], source: Path) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield f"{row.get('title') or ''}\n{row.get('description') or ''}"
        except (ValueError, AttributeError) as error:
            raise BadCatalogue(f"{source}:{number}: {error}") from error


_READERS: dict[str, Callable[[Iterable[str], Path], Iterator[str]]] = {".csv": _rows, ".jsonl": _objects}
