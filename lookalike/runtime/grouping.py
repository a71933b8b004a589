"""At most so many hits of one shop. Pure: what shards and gateways do alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice


def limit_per_shop(shops: Iterable[str], most: int, k: int) -> list[int]:
    """Of hits in their order, by shop, the places of the first k that have fewer than `most` of their shop before them.

    Hits of no shop ("") are not limited. Of rankings that are merged it may be done first and again at the end: whoever
    is among the k of the whole has no fewer before it there than in its own ranking.
    """
    kept: Counter[str] = Counter()

    def passes(shop: str) -> bool:
        if not shop:
            return True
        kept[shop] += 1
        return kept[shop] <= most

    return list(islice((place for place, shop in enumerate(shops) if passes(shop)), k))
