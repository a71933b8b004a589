"""Titles and descriptions to vectors, by an encoder trained on them. Reads and writes files.

Training is skipped where the same words were trained on before, and every text is encoded once by each encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from encoders import artifact
from encoders.text.model import FORMAT, TextModel, read_manifest
from encoders.text.train import train
from pipeline.features import Features
from pipeline.product import Row
from pipeline.trainings import once

DIM = 256
_BATCH = 1024


# Leave-one-out precision@10 by leaf category of 1,050 real products (241 leaves), SCDV: trained on titles alone .648;
# trained on titles and descriptions, vectors of both .618, vectors of titles .683. Descriptions teach the encoder what
# words mean; in a product's own vector they drown its title.


def training_text(row: Row) -> str:
    """What of a product the encoder learns from."""
    return f"{row.title}\n{row.description}".strip()


def text_of(row: Row) -> str:
    """What of a product becomes its vector."""
    return row.title or row.description


def digest_of(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def trained(
    texts: Sequence[str], directory: Path, *, kind: str, seed: int, word_vectors: Path | None = None
) -> tuple[Path, bool]:
    """DIRECTORY/<fingerprint>, the encoder trained on these texts, and whether it had to be trained.

    word_vectors: a fastText .bin to take words from; None: they are trained too.
    Raises BadCatalogue where there is no word in the texts, BadArtifact where there is no such file or it does not fit.
    """
    inputs = _inputs(texts, kind, seed, word_vectors)
    return once(
        directory,
        inputs,
        train=lambda staged: train(texts, staged, kind=kind, dim=DIM, seed=seed, word_vectors=word_vectors),
        check=read_manifest,
    )


def encode_texts(
    texts: Sequence[str], model: TextModel, features: Features, count: Callable[[], None] = lambda: None
) -> int:
    """Encode what is not known and keep its vectors, zeros too; how many there were."""
    new = {digest: text for text in texts if (digest := digest_of(text)) not in features}
    digests = list(new)
    for start in range(0, len(digests), _BATCH):
        batch = digests[start : start + _BATCH]
        features.add(batch, model.encode([new[digest] for digest in batch]))
        count()
    features.flush()
    return len(digests)


def _inputs(texts: Sequence[str], kind: str, seed: int, word_vectors: Path | None) -> str:
    given = artifact.file_sha256(word_vectors) if word_vectors else ""
    digest = blake2b(f"{FORMAT} {kind} {DIM} {seed} {given}".encode(), digest_size=16)
    for text in texts:
        digest.update(blake2b(text.encode(), digest_size=16).digest())
    return digest.hexdigest()
