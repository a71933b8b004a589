"""Labels of products, from categories and tags: a neighbour is relevant if it has the query's label. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from encoders.labels import without_groups
from lookalike.v1.types_pb2 import Product

I64 = npt.NDArray[np.int64]
CATEGORY = "category"  # The whole path.


@dataclass(frozen=True, eq=False)
class Labelling:
    """One way to label n products: each has one label or none.

    names: the labels, sorted; codes (n,): the index of each product's label in `names`, -1 for no label.
    """

    title: str
    names: Sequence[str]
    codes: I64

    @classmethod
    def from_labels(cls, title: str, labels: Sequence[str]) -> Labelling:
        """From the labels (n,) of the products, "" for no label."""
        names = sorted({label for label in labels if label})
        code_of = {name: code for code, name in enumerate(names)}
        return cls(title, names, np.fromiter((code_of.get(label, -1) for label in labels), np.int64, len(labels)))

    @cached_property
    def relevant_counts(self) -> I64:
        """(n,) how many other products have the same label; 0 for a product without a label."""
        labelled = self.codes >= 0
        counts = np.bincount(self.codes[labelled], minlength=len(self.names))
        return np.where(labelled, counts[self.codes] - 1, 0) if len(self.names) else np.zeros_like(self.codes)

    @cached_property
    def is_query(self) -> npt.NDArray[np.bool_]:
        """(n,) the products that are evaluated as queries: those for which another product is relevant."""
        return self.relevant_counts > 0

    @cached_property
    def is_informative(self) -> bool:
        """Whether rankings can differ in their metrics: some neighbours are relevant, and some are not."""
        return bool(self.is_query.any()) and bool((self.relevant_counts < len(self.codes) - 1).any())


def find_labellings(products: Sequence[Product]) -> list[Labelling]:
    """All ways to label these products: by each level of the category path, broad to narrow, and by each kind of tag.

    The kind of the tag "colour:red" is "colour". A level that groups the products as another one does is left out. A
    product with several tags of a kind has no label of that kind; tags without a kind, and those that
    state the group of a product, are ignored.
    """
    paths = [product.category.split("/") for product in products]
    whole = Labelling.from_labels(CATEGORY, [product.category for product in products])
    levels: list[Labelling] = []
    for depth in range(1, max(map(len, paths), default=0)):
        level = Labelling.from_labels(f"level {depth}", ["/".join(path[:depth]) for path in paths])
        if all(len(level.names) != len(other.names) for other in (*levels, whole)):
            levels.append(level)
    return [*levels, whole, *_tag_labellings(products)]


def _tag_labellings(products: Sequence[Product]) -> Iterator[Labelling]:
    for kind in sorted({kind for product in products for kind, _ in _split_tags(without_groups(product.tags))}):
        values_by_product = [
            [value for tag_kind, value in _split_tags(product.tags) if tag_kind == kind] for product in products
        ]
        labels = [values[0] if len(values) == 1 else "" for values in values_by_product]
        yield Labelling.from_labels(f"tag {kind}", labels)


def _split_tags(tags: Iterable[str]) -> Iterator[tuple[str, str]]:
    for tag in tags:
        kind, colon, value = tag.partition(":")
        if colon and kind and value:
            yield kind, value
