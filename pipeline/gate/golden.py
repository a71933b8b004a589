"""Gate: golden queries, examples with what they must find and must not. Reads and writes JSON Lines, and vectors.

One query a line; a line that begins with # is a comment:

    {"query": {"product": "p1"}, "space": "image", "k": 10, "find": ["p2", "p3"], "not_find": ["p9"]}
    {"query": {"text": "red running shoes"}, "find": ["p4"]}
    {"query": {"photo": "shoe.jpg", "product": "p1"}, "find": ["p2"]}
    {"query": {"vector": [0.1, …], "encoder": "mobilenet-…"}, "space": "image", "find": ["p2"]}

A photo is encoded where a model server is at hand, or else the stored vector of its product stands for it. The path is
relative to the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import BadArtifact, BadSettings
from lookalike.spaces import VECTOR_SPACES
from lookalike.strict_json import parse_json
from lookalike.vectors import F32, normalised
from pipeline.gate.limits import GateLimits
from pipeline.gate.report import Check, judged, not_compared
from pipeline.mapped_release import MappedRelease, ProductRow

NAME = "golden"
EncodePhoto = Callable[[Path], F32]  # A photo to its unit vector (dim,), by the encoder of the image space.
_KINDS = ("product", "text", "photo", "vector")
_KEYS = {"query", "space", "k", "find", "not_find", "note"}
_DEFAULT_SPACES = {"product": "image", "photo": "image", "text": "text", "vector": "image"}
_K, _MAX_K = 10, 1_000
_MUST_FIND = 3  # Of the ten nearest in the live release: they are to be among the ten nearest of the next.


@dataclass(frozen=True, kw_only=True)
class GoldenQuery:
    """An example, and the ids that are to be among its k nearest, or not to be."""

    query: Mapping[str, Any]
    space: str
    k: int
    find: Sequence[str]
    not_find: Sequence[str]
    where: str  # The file and line, for messages.

    @property
    def kind(self) -> str:
        return next(kind for kind in reversed(_KINDS) if kind in self.query)

    def __str__(self) -> str:
        example = self.query[self.kind]
        return f"{self.where} ({self.kind}{'' if self.kind == 'vector' else f' {example}'}, {self.space})"


def read_golden(path: Path) -> list[GoldenQuery]:
    """Raises BadSettings, naming the line, for what is no golden query."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: {error}") from error
    queries = [
        _parse(line, f"{path.name}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not queries:
        raise BadSettings(f"{path}: has no golden query")
    return queries


def _parse(line: str, where: str) -> GoldenQuery:
    try:
        body = parse_json(line)
        query = body["query"]
        if unknown := body.keys() - _KEYS:
            raise ValueError(f"{min(unknown)!r} is not one of {', '.join(sorted(_KEYS))}")
        kinds = [kind for kind in _KINDS if kind in query]
        if not kinds or not query.keys() <= {*_KINDS, "encoder"}:
            raise ValueError(f"query: needs one of {', '.join(_KINDS)}")
        space = body.get("space") or _DEFAULT_SPACES[kinds[-1]]
        find, not_find = body.get("find", []), body.get("not_find", [])
        if not all(isinstance(each, str) for each in [*find, *not_find]) or not [*find, *not_find]:
            raise ValueError("find and not_find: lists of ids, of which one has an id")
        if space not in VECTOR_SPACES:
            raise ValueError(f"space {space!r} is not one of {', '.join(VECTOR_SPACES)}")
        if not (isinstance(k := body.get("k", _K), int) and 1 <= k <= _MAX_K):
            raise ValueError(f"k {k!r}: not in 1..{_MAX_K}")
        return GoldenQuery(query=query, space=space, k=k, find=find, not_find=not_find, where=where)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSettings(f"{where}: not a golden query: {error}") from error


def make_golden(release: MappedRelease, count: int, seed: int) -> list[str]:
    """The lines of at most `count` queries with what this release finds: by product in every space, and by title.

    Their products are of as many categories as there are, the most frequent first; a category comes again only after
    all others.
    """
    spaces = [space.name for space in release.manifest.spaces]
    by_text = "text" in release.manifest.encoders
    kinds = [*spaces, *(["title"] if by_text else [])]
    lines: list[str] = []
    for at in _diverse(release, 4 * count, seed):
        if len(lines) == count:
            break
        line = _golden_line(release, at, kinds[len(lines) % len(kinds)])
        if line is not None:
            lines.append(line)
    return lines


def _golden_line(release: MappedRelease, at: ProductRow, kind: str) -> str | None:
    space = "text" if kind == "title" else kind
    product = release.product(at)
    query: dict[str, str] = {"text": product.title} if kind == "title" else {"product": product.id}
    if (vector := release.vector(at, space)) is None:
        return None
    if kind == "title":
        vector = release.text_encoder.encode([product.title])[0]
        if not vector.any():
            return None
    (found,) = release.nearest(space, vector[None, :], _MUST_FIND + 1)
    ids = [release.id(each) for each in found.products if kind == "title" or each != at][:_MUST_FIND]
    body = {"query": query, "space": space, "k": _K, "find": ids, "note": product.title if kind != "title" else ""}
    return json.dumps({key: value for key, value in body.items() if value}, ensure_ascii=False) if ids else None


def _diverse(release: MappedRelease, count: int, seed: int) -> list[ProductRow]:
    """Random products, the first of every category, then the second, …; among equals that of the larger category."""
    counts, rank = release.category_counts(), dict[str, int]()
    ranked = []
    for at in release.draw(max(20_000, count), seed):
        name = release.category(at)
        rank[name] = rank.get(name, -1) + 1
        ranked.append((rank[name], -counts[name], name, at))
    return [at for *_, at in sorted(ranked)[:count]]


def check_golden(
    release: MappedRelease, path: Path | None, limits: GateLimits, encode_photo: EncodePhoto | None = None
) -> Check:
    """How much of what golden queries must find is found, and nothing of what they must not."""
    if path is None:
        return not_compared(NAME, "there are no golden queries (lookalike versions golden makes them)")
    outcomes = [_ask(release, query, path.parent, encode_photo) for query in read_golden(path)]
    expected = sum(each.expected for each in outcomes)
    gone = sum(each.gone for each in outcomes)
    found = expected - gone - sum(len(each.missed) for each in outcomes)
    share = found / max(1, expected - gone)
    misses = [f"{each.query}: not found: {', '.join(each.missed)}" for each in outcomes if each.missed]
    forbidden = [f"{each.query}: found {', '.join(each.forbidden)}" for each in outcomes if each.forbidden]
    failed = [f"{each.query}: {each.failure}" for each in outcomes if each.failure]
    refusals = [*forbidden, *failed]
    if expected and gone / expected > limits.max_golden_gone:
        refusals.append(
            f"{gone} of {expected} products that golden queries must find are gone from the catalogue, more than "
            f"{limits.max_golden_gone:.0%}: make them anew"
        )
    elif expected > gone and share < limits.min_golden_found:
        refusals.append(
            f"golden queries find {found} of {expected - gone} ({share:.1%}, less than {limits.min_golden_found:.0%}): "
            + "; ".join(misses)
        )
    figures = {
        "queries": len(outcomes),
        "expected": expected,
        "found": found,
        "gone": gone,
        "share": share,
        "misses": misses,
        "forbidden": forbidden,
    }
    summary = f"{len(outcomes)} golden queries find {found} of {expected - gone} ({share:.1%})"
    return judged(NAME, refusals, summary + (f", {gone} are gone from the catalogue" if gone else ""), figures)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    query: GoldenQuery
    expected: int = 0
    gone: int = 0
    missed: Sequence[str] = ()
    forbidden: Sequence[str] = ()
    failure: str = ""


def _ask(release: MappedRelease, query: GoldenQuery, folder: Path, encode_photo: EncodePhoto | None) -> _Outcome:
    try:
        vector, own = _vector(release, query, folder, encode_photo)
    except BadArtifact as error:
        return _Outcome(query=query, failure=str(error))
    present = [each for each in query.find if release.find(each) is not None]
    gone = len(query.find) - len(present)
    if vector is None:  # Its product is gone: what it must find cannot be asked for.
        return _Outcome(query=query, expected=len(query.find), gone=len(query.find))
    (ranked,) = release.nearest(query.space, vector[None, :], query.k + (own is not None))
    found = [release.id(each) for each in ranked.products if each != own][: query.k]
    return _Outcome(
        query=query,
        expected=len(query.find),
        gone=gone,
        missed=[each for each in present if each not in found],
        forbidden=[each for each in query.not_find if each in found],
    )


def _vector(
    release: MappedRelease, query: GoldenQuery, folder: Path, encode_photo: EncodePhoto | None
) -> tuple[F32 | None, ProductRow | None]:
    """The query's vector, and the product that it is, which is left out of the answer; (None, None): it is gone.

    Raises BadArtifact for a query that the release cannot answer.
    """
    space = release.space(query.space)
    if space is None:
        raise BadArtifact(f"the release has no {query.space} space")
    match query.kind:
        case "vector":
            vector = np.asarray(query.query["vector"], dtype=np.float32)
            encoder = query.query.get("encoder", space.encoder)
            if vector.shape != (space.dim,) or encoder != space.encoder:
                raise BadArtifact(
                    f"its vector is {vector.shape} of {encoder}, the space ({space.dim},) of {space.encoder}"
                )
            return normalised(vector[None, :])[0], None
        case "text":
            return _text_vector(release, query), None
        case "photo" if encode_photo is not None:
            return encode_photo(folder / query.query["photo"]), None
    if (product_id := query.query.get("product")) is None:
        raise BadArtifact("a photo without a product, and no model server to encode it")
    at = release.find(product_id)
    stored = None if at is None else release.vector(at, query.space)
    return (None, None) if stored is None else (stored, at)


def _text_vector(release: MappedRelease, query: GoldenQuery) -> F32:
    if query.space == "image":
        raise BadArtifact("words have no image vector: the space must be text or product")
    vectors = release.text_encoder.encode([query.query["text"]])
    if query.space == "product":
        model = release.product_encoder
        vectors = model.encode(np.zeros((1, model.image_dim), dtype=np.float32), vectors)
    if not vectors.any():
        raise BadArtifact("its text has no word that the encoder knows")
    vector: F32 = vectors[0]
    return vector
