"""An answer as the cache has it, and the rule by which it is used or void. Pure.

An answer depends on its hits, on the candidates that they were chosen from, and on its example products. It is used
while none of them has changed or expired, and either nothing has happened that could add a hit, or it is younger than a
bound. Removals of other products never add a hit; patches only to answers with a filter or a limit per shop.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from lookalike.runtime.partition import product_hash
from lookalike.v1.types_pb2 import Product
from server.answer import SearchAnswer
from server.change_history import Effect, Known, effect_of_changes

# When it was computed, when it expires, whether it is filtered, how many shards and products there are, and how many
# bytes its label and hits have. Then: each shard's sequence number, each product's hash, label, hits, provenance.
_HEAD = struct.Struct("<dd?HIBI")
_WORD_BYTES = 8
_LEAST_STALE_S = 0.001  # Of an answer whose clock is ahead of this one.
# A gateway that polls once a minute, which is the slowest, may find answers of another that knows newer updates. An
# older answer that does is of a shard that has lost its updates since.
_MAX_AHEAD_S = 60.0


class Void(Enum):
    """Why a cached answer is not used."""

    CHANGED = "changed"  # A product that it depends on was changed or removed.
    STALE = "stale"  # A search may find more, and the answer is older than the bound.
    EXPIRED = "expired"  # A product that it depends on has expired.
    FORGOTTEN = "forgotten"  # What has changed since is not known any more.


class CachedAnswer(NamedTuple):
    answer: SearchAnswer
    stale_s: float  # 0: a search would find the same now.


class Basis(NamedTuple):
    """What an answer was computed of."""

    computed_s: float  # Unix time when the search began.
    sequences: bytes  # `Known.packed` at that time.
    products: tuple[int, ...]  # What it depends on, by `product_hash`.
    filtered: bool  # Whether a change of a product's fields could make it a hit.
    expires_s: float  # Unix time at which the first of the products expires; inf: none does.


def basis_of(known: Known, computed_s: float, products: Iterable[bytes], *, filtered: bool) -> Basis:
    """products: serialized, as many as the answer depends on."""
    parsed = [*map(Product.FromString, products)]
    return Basis(
        computed_s,
        known.packed,
        tuple(product_hash(product.id.encode()) for product in parsed),
        filtered,
        min((product.expires_at for product in parsed if product.expires_at), default=math.inf),
    )


def pack_answer(answer: SearchAnswer, basis: Basis) -> bytes:
    """The value to cache."""
    label = answer.space_label.encode()
    shards, products = len(basis.sequences) // _WORD_BYTES, len(basis.products)
    head = _HEAD.pack(basis.computed_s, basis.expires_s, basis.filtered, shards, products, len(label), len(answer.hits))
    hashes = struct.pack(f"<{products}Q", *basis.products)
    return b"".join((head, basis.sequences, hashes, label, answer.hits, answer.provenance))


def read_answer(value: bytes, known: Known, now_s: float, max_stale_s: float) -> CachedAnswer | Void:
    """What `pack_answer` packed, or why it is not to be used.

    known:       the changes to the version that the answer is of.
    max_stale_s: how old an answer may be to which changes could add a hit.
    """
    computed_s, expires_s, filtered, shards, products, label_bytes, hits_bytes = _HEAD.unpack_from(value)
    if now_s >= expires_s:
        return Void.EXPIRED
    products_at = _HEAD.size + shards * _WORD_BYTES
    label_at = products_at + products * _WORD_BYTES
    stale_s = 0.0
    if value[_HEAD.size : products_at] != known.packed:
        since = struct.unpack_from(f"<{shards}Q", value, _HEAD.size)
        age_s = max(now_s - computed_s, _LEAST_STALE_S)
        if any(map(int.__gt__, since, known.sequences)) and age_s > _MAX_AHEAD_S:
            return Void.FORGOTTEN
        hashes = struct.unpack_from(f"<{products}Q", value, products_at)
        match effect_of_changes(known, since, hashes, filtered=filtered):
            case Effect.CHANGED:
                return Void.CHANGED
            case Effect.FORGOTTEN:
                return Void.FORGOTTEN
            case Effect.MORE_HITS:
                if age_s >= max_stale_s:
                    return Void.STALE
                stale_s = age_s
    hits_at = label_at + label_bytes
    provenance_at = hits_at + hits_bytes
    answer = SearchAnswer(
        value[hits_at:provenance_at], value[provenance_at:], value[label_at:hits_at].decode(), complete=True
    )
    return CachedAnswer(answer, stale_s)
