"""Trains the text encoder on a catalogue's titles and descriptions, and encodes its texts. Reads and writes files.

Training is skipped if an encoder was trained on the same texts before, or if the one that serves still fits; each
encoder encodes a text once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from encoders import artifact
from encoders.labels import group_of
from encoders.text import fit
from encoders.text.fit import Fit
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import DEFAULT_KIND, FORMAT, TextModel, load, read_manifest
from encoders.text.synonyms import DEFAULT_DICTIONARIES, dictionary_sha256
from encoders.text.tokens import clean_text
from encoders.text.train import train
from lookalike.errors import BadArtifact, OperatorError
from lookalike.product_rules import CatalogueProduct, embedded_texts
from lookalike.strict_json import parse_json
from lookalike.vectors import F32
from pipeline.features.vectors import VectorTable
from pipeline.training_cache import find_trained, train_once

EncodeBatches = Callable[[Iterable[Sequence[str]]], Iterator[F32]]  # The vectors of each batch of texts, in order.

DIM = 256  # Of the topic vector.
_BATCH = 1024
_ATTEMPTS = 3  # To read what was stored.


# Leave-one-out precision@10 by leaf category of 1,050 real products (241 leaves), SCDV: trained on titles alone 0.648;
# trained on titles and descriptions, 0.618 with both embedded and 0.683 with titles embedded. Descriptions teach the
# encoder what words mean, but dilute the title in a product's own vector.


def training_text(product: CatalogueProduct) -> str:
    """The text of a product that the encoder is trained on: title and description."""
    return f"{product.title}\n{product.description}".strip()


def text_digest(text: str) -> str:
    """The key of a text in the feature store: 32 hexadecimal digits, equal for texts that every encoder reads alike."""
    return blake2b(clean_text(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def digests_of(products: Sequence[CatalogueProduct]) -> list[str]:
    """The keys of all texts that products can have vectors of."""
    return [
        text_digest(text)
        for product in products
        for text in (embedded_texts(product.title, product.description) or ("",))
    ]


class KeepTextEncoder(StrEnum):
    """Whether the text encoder of the version that serves is kept although the texts changed."""

    NEVER = "never"
    AUTO = "auto"  # If it fits the catalogue as it fitted the one that it was trained on: encoders.text.fit.
    ALWAYS = "always"  # Unless it cannot be used: another kind, other dictionaries, …


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderSettings:
    """What an encoder is trained with, beside the texts.

    word_vectors: a fastText .bin file with word vectors; None: they are trained too.
    synonyms: dictionaries of the shop's own, beside the default ones.
    """

    kind: str = DEFAULT_KIND
    seed: int = 0
    word_vectors: Path | None = None
    synonyms: tuple[Path, ...] = ()

    @property
    def dictionaries(self) -> tuple[Path, ...]:
        return (*DEFAULT_DICTIONARIES, *self.synonyms)

    def digest(self) -> str:
        """Of the settings and their files. Raises BadArtifact, BadDictionary."""
        words = artifact.file_sha256(self.word_vectors) if self.word_vectors else ""
        files = " ".join([words, *map(dictionary_sha256, self.dictionaries)])
        return blake2b(f"{FORMAT} {self.kind} {DIM} {self.seed} {files}".encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTextEncoder:
    """An encoder for a catalogue, and why this one."""

    artifact: Path
    trained: bool  # Now.
    reason: str
    fit: Mapping[str, Any] = field(default_factory=dict)  # The figures that decided; empty: none did.


def choose_text_encoder(
    products: Sequence[CatalogueProduct],
    directory: Path,
    settings: TextEncoderSettings,
    *,
    serving: str = "",
    keep: KeepTextEncoder = KeepTextEncoder.NEVER,
) -> ChosenTextEncoder:
    """The encoder trained on these texts before, or that of the version that serves if it may be kept, or a new one.

    directory: of the encoders: DIRECTORY/<fingerprint>. serving: fingerprint of the one that serves; empty: none.
    Raises BadCatalogue if the texts contain no word, BadArtifact if the file of word vectors is missing or unsuitable,
    BadDictionary, OperatorError.
    """
    inputs = _TrainingInputs.of(products, settings)
    found = _find_text_encoder(inputs, directory, serving=serving, keep=keep)
    if isinstance(found, ChosenTextEncoder):
        return found
    path, trained = train_once(
        directory,
        inputs.digest,
        train=lambda staged: train(
            inputs.texts,
            staged,
            kind=settings.kind,
            dim=DIM,
            titles=inputs.titles,
            seed=settings.seed,
            word_vectors=settings.word_vectors,
            dictionaries=settings.dictionaries,
        ),
        check=read_manifest,
    )
    if keep is KeepTextEncoder.AUTO:
        _write_fit(directory, path.name, inputs.settings_digest, fit.measure(load(path), inputs.titles, inputs.texts))
    elif keep is KeepTextEncoder.ALWAYS:
        _write_fit(directory, path.name, inputs.settings_digest, None)
    return ChosenTextEncoder(artifact=path, trained=trained, reason=found.reason, fit=found.figures)


def foretell_text_encoder(
    products: Sequence[CatalogueProduct],
    directory: Path,
    settings: TextEncoderSettings,
    *,
    serving: str = "",
    keep: KeepTextEncoder = KeepTextEncoder.NEVER,
) -> ChosenTextEncoder | str:
    """What `choose_text_encoder` returns where it trains none; else why it would train one. Writes nothing."""
    found = _find_text_encoder(_TrainingInputs.of(products, settings), directory, serving=serving, keep=keep)
    return found if isinstance(found, ChosenTextEncoder) else found.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingInputs:
    """What an encoder would be trained on, and the digests that its results are kept by."""

    texts: Sequence[str]
    titles: LabelledTitles
    settings_digest: str
    digest: str

    @classmethod
    def of(cls, products: Sequence[CatalogueProduct], settings: TextEncoderSettings) -> _TrainingInputs:
        texts = [training_text(product) for product in products]
        titles = _labelled(products)
        settings_digest = settings.digest()
        digest = _inputs_digest(texts, titles if settings.kind == "hybrid" else None, settings_digest)
        return cls(texts=texts, titles=titles, settings_digest=settings_digest, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MustTrain:
    """Why no encoder that exists can be used, and the figures that decided it."""

    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def _find_text_encoder(
    inputs: _TrainingInputs, directory: Path, *, serving: str, keep: KeepTextEncoder
) -> ChosenTextEncoder | _MustTrain:
    if (cached := find_trained(directory, inputs.digest, read_manifest)) is not None:
        return ChosenTextEncoder(artifact=cached, trained=False, reason="trained on the same texts before")
    if keep is KeepTextEncoder.NEVER:
        return _MustTrain(reason="it is not to be kept")
    kept = _KeptEncoder.load(directory, serving, inputs.settings_digest)
    if not isinstance(kept, _KeptEncoder):
        return _MustTrain(reason=kept)
    reason, figures = kept.reason_to_train(inputs.titles, inputs.texts, keep)
    if reason:
        return _MustTrain(reason=reason, figures=figures)
    why = "it is always to be kept" if keep is KeepTextEncoder.ALWAYS else "it still fits"
    return ChosenTextEncoder(artifact=kept.artifact, trained=False, reason=why, fit=figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptEncoder:
    """The encoder that serves, and how it fitted the catalogue that it was trained on (None: not measured)."""

    artifact: Path
    fit: Fit | None

    @classmethod
    def load(cls, directory: Path, fingerprint: str, settings_digest: str) -> _KeptEncoder | str:
        """The encoder; or why it cannot be kept."""
        if not fingerprint:
            return "no version with a text encoder serves"
        try:
            written = parse_json(_fit_path(directory, fingerprint).read_text(encoding="utf-8"))
            trained_with, figures = written["settings"], written["fit"]
            trained_fit = None if figures is None else Fit(**figures)
            read_manifest(directory / fingerprint)
        except (OSError, ValueError, KeyError, TypeError):
            return f"how {fingerprint} fits was not recorded when it was trained"
        except BadArtifact as error:
            return str(error)
        if trained_with != settings_digest:
            return f"{fingerprint} was trained with another kind, seed, dictionary or word vectors"
        return cls(artifact=directory / fingerprint, fit=trained_fit)

    def reason_to_train(
        self, titles: LabelledTitles, texts: Sequence[str], keep: KeepTextEncoder
    ) -> tuple[str, dict[str, Any]]:
        """Why it is not kept (empty: it is), and the figures."""
        if keep is KeepTextEncoder.ALWAYS:
            return "", {}
        if self.fit is None:
            return f"how {self.artifact.name} fits was not measured when it was trained", {}
        now = fit.measure(load(self.artifact), titles, texts, self.fit.texts)
        figures = {
            "products": now.products,
            "changed": now.changed,
            "unseen_words": now.unseen_words,
            "trained": dict(self.fit.figures),
            "now": dict(now.figures),
        }
        return fit.reason_to_train(self.fit, now), figures


def _fit_path(directory: Path, fingerprint: str) -> Path:
    return directory / f"fit-{fingerprint}.json"


def _write_fit(directory: Path, fingerprint: str, settings_digest: str, measured: Fit | None) -> None:
    path = _fit_path(directory, fingerprint)
    written = {"settings": settings_digest, "fit": None if measured is None else measured.as_json()}
    part = path.with_suffix(f".{os.getpid()}.part")  # Several updates may share the directory.
    try:
        part.write_text(json.dumps(written), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error


def _labelled(products: Sequence[CatalogueProduct]) -> LabelledTitles:
    return LabelledTitles(
        ids=[product.id for product in products],
        titles=[next(iter(embedded_texts(product.title, product.description)), "") for product in products],
        categories=[product.category for product in products],
        groups=[group_of(product.tags) for product in products],
    )


def encode_texts(
    texts: Sequence[str],
    model: TextModel,
    features: VectorTable,
    path: Path,
    count: Callable[[], None] = lambda: None,
    *,
    products: Sequence[str] | None = None,
    encode: EncodeBatches | None = None,
) -> tuple[F32, int]:
    """The vectors of texts in a new file, memory-mapped, zero ones too; and how many were encoded: those not stored.

    products: the product of each text. encode: None, the model encodes the texts in this process.
    Raises OperatorError if what is stored cannot be read again.
    """
    encode = encode or (lambda batches: map(model.encode, batches))
    inputs = _Texts(texts=texts, digests=[text_digest(text) for text in texts], products=products or [""] * len(texts))
    encoded = _store_missing(inputs, range(len(texts)), encode, features, count)
    vectors, missing = features.gather(inputs.digests, path)
    for _ in range(_ATTEMPTS):
        if not len(missing):
            return vectors, encoded
        encoded += _store_missing(inputs, missing.tolist(), encode, features, count)
        missing = features.read([inputs.digests[row] for row in missing.tolist()], vectors, missing)
    raise OperatorError(f"{features}: vectors that were stored cannot be read")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Texts, with the key and the product of each."""

    texts: Sequence[str]
    digests: Sequence[str]
    products: Sequence[str]


def _store_missing(
    inputs: _Texts, rows: Sequence[int], encode: EncodeBatches, features: VectorTable, count: Callable[[], None]
) -> int:
    """Encode and store the texts of rows that are not stored. Returns how many."""
    stored = features.contains([inputs.digests[row] for row in rows])
    new = {inputs.digests[row]: row for row, is_stored in zip(rows, stored.tolist(), strict=True) if not is_stored}
    new_rows = list(new.values())
    batches = [new_rows[start : start + _BATCH] for start in range(0, len(new_rows), _BATCH)]
    encoded = encode([inputs.texts[row] for row in batch] for batch in batches)
    for batch, vectors in zip(batches, encoded, strict=True):
        features.add([inputs.digests[row] for row in batch], vectors, [inputs.products[row] for row in batch])
        count()
    features.flush()
    return len(new_rows)


def encode_products(
    products: Sequence[CatalogueProduct],
    model: TextModel,
    features: VectorTable,
    path: Path,
    count: Callable[[], None] = lambda: None,
    *,
    encode: EncodeBatches | None = None,
) -> tuple[F32, int]:
    """The text vectors of products, in a new file, memory-mapped; and how many texts were encoded.

    A product whose title has no word that the encoder knows gets the vector of its description; (n, dim) float32, zeros
    where that has none either.
    """
    candidates = [embedded_texts(product.title, product.description) for product in products]
    texts = [each[0] if each else "" for each in candidates]
    ids = [product.id for product in products]
    vectors, encoded = encode_texts(texts, model, features, path, count, products=ids, encode=encode)
    rows = [row for row in np.flatnonzero(~vectors.any(axis=1)).tolist() if len(candidates[row]) > 1]
    if rows:
        vectors[rows], more = encode_texts(
            [candidates[row][1] for row in rows],
            model,
            features,
            path.with_suffix(".more.npy"),
            count,
            products=[ids[row] for row in rows],
            encode=encode,
        )
        encoded += more
    return vectors, encoded


def _inputs_digest(texts: Sequence[str], titles: LabelledTitles | None, settings_digest: str) -> str:
    digest = blake2b(settings_digest.encode(), digest_size=16)
    for text in texts:
        digest.update(blake2b(text.encode(), digest_size=16).digest())
    if titles is not None:  # Its weights depend on the labels, too.
        for labels in zip(titles.ids, titles.titles, titles.categories, titles.groups, strict=True):
            digest.update(repr(labels).encode())
    return digest.hexdigest()
