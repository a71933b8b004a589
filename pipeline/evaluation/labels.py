"""What products are called: the labels that neighbours are judged by. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lookalike.v1.types_pb2 import Product

I64 = npt.NDArray[np.int64]
CATEGORY = "category"  # The whole path.


@dataclass(frozen=True, eq=False)
class Labelling:
    """One label for each product, or none.

    names: the labels in order; codes (n,): the place of each product's label among them, -1 where it has none.
    """

    title: str
    names: Sequence[str]
    codes: I64

    @classmethod
    def of(cls, title: str, labels: Sequence[str]) -> Labelling:
        """From (n,) labels, "" for none."""
        names = sorted({label for label in labels if label})
        place = {name: code for code, name in enumerate(names)}
        return cls(title, names, np.fromiter((place.get(label, -1) for label in labels), np.int64, len(labels)))

    @cached_property
    def others(self) -> I64:
        """(n,) how many other products have a product's label; 0 where it has none."""
        labelled = self.codes >= 0
        counts = np.bincount(self.codes[labelled], minlength=len(self.names))
        return np.where(labelled, counts[self.codes] - 1, 0) if len(self.names) else np.zeros_like(self.codes)

    @cached_property
    def asked(self) -> npt.NDArray[np.bool_]:
        """(n,) the products whose neighbours are judged: there is another one to be found."""
        return self.others > 0

    @cached_property
    def tells(self) -> bool:
        """Whether a neighbour can be right, and can be wrong."""
        return bool(self.asked.any()) and bool((self.others < len(self.codes) - 1).any())


def labellings(products: Sequence[Product]) -> list[Labelling]:
    """Every way in which these products are labelled, from broad to narrow: levels of the category's path, the whole
    path, and each kind of tag ("colour" of "colour:red").

    A level on which all products stand as on another one is left out. Of a kind of tag that a product has several of,
    or a tag without a kind, nothing is made: those are no single label.
    """
    paths = [product.category.split("/") for product in products]
    whole = Labelling.of(CATEGORY, [product.category for product in products])
    levels: list[Labelling] = []
    for depth in range(1, max(map(len, paths), default=0)):
        level = Labelling.of(f"level {depth}", ["/".join(path[:depth]) for path in paths])
        if all(len(level.names) != len(other.names) for other in (*levels, whole)):
            levels.append(level)
    return [*levels, whole, *_by_tags(products)]


def _by_tags(products: Sequence[Product]) -> Iterator[Labelling]:
    for kind in sorted({kind for product in products for kind, _ in _kinds(product.tags)}):
        values = [[value for own, value in _kinds(product.tags) if own == kind] for product in products]
        yield Labelling.of(f"tag {kind}", [each[0] if len(each) == 1 else "" for each in values])


def _kinds(tags: Iterable[str]) -> Iterator[tuple[str, str]]:
    for tag in tags:
        kind, colon, value = tag.partition(":")
        if colon and kind and value:
            yield kind, value
