"""Limit the hits per shop; used by the shards and by the gateway. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice


def limit_per_shop(shops: Iterable[str], max_per_shop: int, k: int) -> list[int]:
    """The positions of the first k hits of a ranking if no shop may have more than `max_per_shop` of them.

    shops: the shop of each hit, in the order of the ranking; hits without a shop ("") are not limited.

    Shards may limit their rankings first and the gateway the merged one again: a hit of the merged top k has no more
    hits of its shop before it in its shard's ranking than in the merged one.
    """
    counts: Counter[str] = Counter()

    def is_allowed(shop: str) -> bool:
        if not shop:
            return True
        counts[shop] += 1
        return counts[shop] <= max_per_shop

    return list(islice((position for position, shop in enumerate(shops) if is_allowed(shop)), k))
