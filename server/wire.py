"""Protobuf's encoding, written by hand for what every response contains: messages take two to six times as long. Pure.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from lookalike.vectors import F32, pack

_BYTES, _FIXED32 = 2, 5  # Wire types.


def tag(field: int, wire_type: int = _BYTES) -> bytes:
    """What stands before a field's value; `field` is below 16. By default for a message or bytes, with a length."""
    return bytes((field << 3 | wire_type,))


def varint(value: int) -> bytes:
    """A number of at least 0, such as a length."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_HITS, _PRODUCT, _SCORE = tag(1), tag(1), tag(2, _FIXED32)  # SearchResponse.hits, Hit.product, Hit.score
_SCORE_BYTES = 5  # With its tag.


def encode_hits(products: Sequence[bytes], scores: F32, more_fields: Sequence[bytes] = ()) -> bytes:
    """The field `hits` of a SearchResponse.

    products: serialized; scores: (c,); more_fields: of each hit, serialized; empty: there are none.
    """
    packed = pack(scores)
    parts: list[bytes] = []
    end = 0
    for product in products:
        start, end = end, end + 4
        if not more_fields:
            parts += (_hit_head(len(product), 0), product, _SCORE, packed[start:end])
        else:
            more = more_fields[start >> 2]
            parts += (_hit_head(len(product), len(more)), product, _SCORE, packed[start:end], more)
    return b"".join(parts)


@lru_cache(maxsize=1 << 13)
def _hit_head(product_bytes: int, more_bytes: int) -> bytes:
    """What stands before the product of a hit: tags and lengths."""
    product = _PRODUCT + varint(product_bytes)
    return _HITS + varint(len(product) + product_bytes + _SCORE_BYTES + more_bytes) + product
