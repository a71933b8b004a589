"""The shops of a table's products as integer codes, to limit and count the hits of each shop. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.backends.filter_bitmap import Mask
from index.storage.attributes import Attributes
from index.storage.strings import SortedStrings
from lookalike.vectors import I64


class ShopCodes(NamedTuple):
    """Dictionary-encoded shop names of the rows of a table."""

    codes: npt.NDArray[np.int32]  # Of each row.
    names: SortedStrings | list[bytes]  # Of each code, sorted; the first is empty if any product has no shop.

    @property
    def shopless_codes(self) -> int:
        """How many codes stand for "no shop": 1 if the first name is empty, else 0."""
        return int(len(self.names) > 0 and not self.names[0])

    def within_limit(self, rows: I64, limit: int) -> Mask:
        """Mask of the rows of a ranking that have fewer than `limit` rows of their shop before them."""
        codes = self.codes[rows]
        counts = np.bincount(codes, minlength=len(self.names))
        before = np.empty(len(rows), dtype=np.int64)
        before[np.argsort(codes, kind="stable")] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept: Mask = (before < limit) | (codes < self.shopless_codes)
        return kept


def merge_shop_codes(parts: Sequence[Attributes], part_rows: I64 | None = None) -> ShopCodes:
    """The shop codes of a whole table, each of whose parts has codes of its own.

    part_rows: for each row of the table, the row of its parts, one after the other; None: the same row.
    """
    if len(parts) == 1:
        return ShopCodes(parts[0].shop_codes, parts[0].shops)
    part_names = [part.shops.values_at(np.arange(len(part.shops))) for part in parts]
    names = sorted(set().union(*part_names))
    code_of = {name: code for code, name in enumerate(names)}
    codes = [
        np.array([code_of[name] for name in own_names], np.int32)[part.shop_codes]
        for own_names, part in zip(part_names, parts, strict=True)
    ]
    merged = np.concatenate([np.empty(0, np.int32), *codes])
    return ShopCodes(merged if part_rows is None else merged[part_rows], names)


def max_hits(tables: Iterable[tuple[ShopCodes, I64]], limit: int, k: int) -> int:
    """How many hits can exist among rows of several tables, at most `limit` of a shop; k if there are more."""
    shop_counts: Counter[bytes] = Counter()
    for shops, rows in tables:
        counts = np.bincount(shops.codes[rows], minlength=len(shops.names))
        shopless = counts[: shops.shopless_codes].sum()
        if shopless + np.minimum(counts[shops.shopless_codes :], limit).sum() >= k:
            return k  # If not reached, the table has few shops, whose names are quickly read.
        shop_counts.update({shops.names[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()})
    return min(k, sum(min(count, limit) if name else count for name, count in shop_counts.items()))
