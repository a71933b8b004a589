"""What backends that search a graph have in common: the sizes of the candidate list that calibration tries. Pure."""

from __future__ import annotations

from collections.abc import Iterator

_MIN_EF = 16
_STEP = 1.25  # A larger step may search half as much again as the target recall needs.


def graph_search_parameters(depth: int, documents: int) -> Iterator[int]:
    """ef from `depth` on, rising: it is the size of the candidate list, of which few pass a selective filter."""
    ef, largest = max(_MIN_EF, depth), min(max(_MIN_EF, depth) << 7, 2 * documents)
    while ef <= largest:
        yield ef
        ef = round(ef * _STEP)
