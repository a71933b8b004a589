"""Gate: do the encoders in a release give the vectors that it holds? Reads artifacts and vectors.

A query meets the vectors of products only if the same encoder made both: a fingerprint says so, and encoding some of
the release's own products again proves it. The image model is not in a release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lookalike.errors import BadArtifact
from lookalike.product_rules import embedded_texts
from lookalike.vectors import F32
from pipeline.gate.limits import GateLimits
from pipeline.gate.report import Check, judged, not_compared
from pipeline.mapped_release import MappedRelease, ProductRow

NAME = "self_test"
_SPACES = ("text", "product")


def check_encoders(release: MappedRelease, limits: GateLimits, seed: int) -> Check:
    """Load the encoders, and encode a sample of the products of each space."""
    refusals, said, figures = [], [], dict[str, Mapping[str, float]]()
    for name in (space.name for space in release.manifest.spaces if space.name in _SPACES):
        try:
            products = _with_vectors(release, name, limits.self_test_products, seed)
            encoded = _encode_texts(release, products) if name == "text" else _fuse(release, products)
        except BadArtifact as error:
            refusals.append(str(error))
            continue
        stored = np.stack([_stored(release, at, name) for at in products]) if products else np.zeros((0, 1), "f4")
        cosines = (stored * encoded).sum(axis=1) if products else np.ones(1)
        worst = int(cosines.argmin())
        figures[name] = {"products": len(products), "min_cosine": float(cosines.min())}
        said.append(f"{name}: {len(products)} products encoded again, the least cosine is {cosines.min():.6f}")
        if cosines.min() < limits.min_self_cosine:
            bad = int((cosines < limits.min_self_cosine).sum())
            refusals.append(
                f"{name}: the vectors of {bad} of {len(products)} products are not those that the release's encoder "
                f"{_fingerprint(release, name)} gives: cosine {cosines.min():.4f} of {release.id(products[worst])}, "
                f"less than {limits.min_self_cosine}"
            )
    if not (refusals or said):
        return not_compared(NAME, "the release has no space whose encoder is kept with it")
    return judged(NAME, refusals, "; ".join(said), figures)


def _with_vectors(release: MappedRelease, space: str, count: int, seed: int) -> list[ProductRow]:
    drawn = release.draw(4 * count, seed)
    return [at for at in drawn if release.vector(at, space) is not None][:count]


def _encode_texts(release: MappedRelease, products: Sequence[ProductRow]) -> F32:
    """As `pipeline.text_encoding.encode_products`: the first text in which the encoder knows a word."""
    texts = [embedded_texts(release.product(at).title, release.description(at)) or [""] for at in products]
    vectors = release.text_encoder.encode([each[0] for each in texts])
    if unknown := [row for row, each in enumerate(texts) if len(each) > 1 and not vectors[row].any()]:
        vectors[unknown] = release.text_encoder.encode([texts[row][1] for row in unknown])
    return vectors


def _fuse(release: MappedRelease, products: Sequence[ProductRow]) -> F32:
    model = release.product_encoder
    for name, encoder in (("image", model.image_encoder), ("text", model.text_encoder)):
        space = release.space(name)
        if space is None or space.encoder != encoder:
            raise BadArtifact(
                f"{release.artifact('product')}: fuses {name} vectors of {encoder}, the release has those of "
                f"{'none' if space is None else space.encoder}"
            )
    images, texts = (
        np.stack([_stored(release, at, name) for at in products]) if products else np.zeros((0, dim), "f4")
        for name, dim in (("image", model.image_dim), ("text", model.text_dim))
    )
    return model.encode(images, texts)


def _stored(release: MappedRelease, at: ProductRow, space: str) -> F32:
    """Zeros where the product has no vector."""
    vector = release.vector(at, space)
    entry = release.space(space)
    return np.zeros(entry.dim if entry else 0, dtype=np.float32) if vector is None else vector


def _fingerprint(release: MappedRelease, space: str) -> str:
    entry = release.space(space)
    return "" if entry is None else entry.encoder
