"""The shops of a table's products as numbers: which of a ranking may stay, how many there can be at all. Pure."""

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


class Shops(NamedTuple):
    codes: npt.NDArray[np.int32]  # Of each row.
    names: SortedStrings | list[bytes]  # Of each code, rising: what has no shop has the first, if there is such.

    @property
    def unnamed(self) -> int:
        """How many names are none: codes below are no shop's."""
        return int(len(self.names) > 0 and not self.names[0])

    def within(self, rows: I64, most: int) -> Mask:
        """As `lookalike.grouping.within`: which rows of a ranking have fewer than `most` of their shop before them."""
        codes = self.codes[rows]
        counts = np.bincount(codes, minlength=len(self.names))
        before = np.empty(len(rows), dtype=np.int64)
        before[np.argsort(codes, kind="stable")] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        few: Mask = (before < most) | (codes < self.unnamed)
        return few


def of_parts(parts: Sequence[Attributes]) -> Shops:
    """Of a table, each of whose parts has codes of its own."""
    if len(parts) == 1:
        return Shops(parts[0].shop_codes, parts[0].shops)
    known = [part.shops.values_at(np.arange(len(part.shops))) for part in parts]
    names = sorted(set().union(*known))
    code_of = {name: code for code, name in enumerate(names)}
    codes = [
        np.array([code_of[name] for name in here], np.int32)[part.shop_codes]
        for here, part in zip(known, parts, strict=True)
    ]
    return Shops(np.concatenate([np.empty(0, np.int32), *codes]), names)


def possible(tables: Iterable[tuple[Shops, I64]], most: int, k: int) -> int:
    """How many hits there can be among rows of several tables, at most `most` of a shop; k if there are more."""
    known: Counter[bytes] = Counter()
    for shops, rows in tables:
        counts = np.bincount(shops.codes[rows], minlength=len(shops.names))
        free = counts[: shops.unnamed].sum()
        if free + np.minimum(counts[shops.unnamed :], most).sum() >= k:
            return k  # Else it has few shops: their names are soon read.
        known.update({shops.names[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()})
    return min(k, sum(min(count, most) if name else count for name, count in known.items()))
