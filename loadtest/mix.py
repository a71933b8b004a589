"""Generate the queries of a load test: all kinds of query, popular products more often. Pure, with a seed."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from lookalike.client import SearchArguments
from lookalike.errors import BadSettings
from lookalike.vectors import F32

# Text queries besides product titles, as customers write them: short, inexact, in either language.
PHRASES = (
    "赤いスニーカー レディース", "北欧風 マグカップ", "革の長財布 メンズ 黒", "夏用 ワンピース 花柄",
    "子供用 リュック 軽量", "木製 おもちゃ 出産祝い", "ステンレス 水筒 500ml", "冬 コート あたたかい",
    "red sneakers for women",
    "black leather wallet", "floral summer dress", "light backpack for kids", "stainless steel bottle",
    "wooden toy gift", "warm winter coat", "mens watch silver",
)  # fmt: skip
KINDS = {"product": 6.0, "photo": 1.0, "text": 2.0, "vector": 1.0}
FILTER_SHARE = 0.3  # Share of queries with a filter.
TITLE_SHARE = 0.5  # Share of text queries that are a product's title; the others are PHRASES.
# The popularity of products in shops falls about as rank^-1 (Zipf), so the result cache is loaded as in service.
EXPONENT = 1.0


@dataclass(frozen=True, kw_only=True)
class ProductInfo:
    """The fields of a product that queries are made of."""

    id: str
    title: str
    category: str
    price: float | None  # None: unknown.


@dataclass(frozen=True, kw_only=True)
class QueryInputs:
    """The products, photos and vectors that queries are made of."""

    products: Sequence[ProductInfo]
    photos: Sequence[bytes] = ()
    vectors: F32 | None = None  # (n, dim), in `vector_space`.
    vector_space: str = ""

    def kinds(self) -> tuple[str, ...]:
        """The kinds of query that can be made of these inputs."""
        has = {"product": True, "photo": bool(self.photos), "text": True, "vector": self.vectors is not None}
        return tuple(kind for kind in KINDS if has[kind])


class Zipf:
    """Draws ranks 0..n-1 with Zipf-distributed popularity; 0 is the most popular."""

    def __init__(self, n: int, exponent: float = EXPONENT) -> None:
        self._cumulative = list(accumulate((rank + 1) ** -exponent for rank in range(n)))

    def draw(self, rng: random.Random) -> int:
        return bisect(self._cumulative, rng.random() * self._cumulative[-1], hi=len(self._cumulative) - 1)


class QueryGenerator:
    """Generates queries; the same seed gives the same queries."""

    def __init__(self, inputs: QueryInputs, mix: Mapping[str, float], seed: int) -> None:
        self._inputs = inputs
        self._kinds, self._weights = list(mix), list(mix.values())
        self._rng = random.Random(seed)
        self._products, self._phrases = Zipf(len(inputs.products)), Zipf(len(PHRASES))
        self._photos = Zipf(len(inputs.photos))
        self._vectors = Zipf(0 if inputs.vectors is None else len(inputs.vectors))

    def next(self) -> tuple[str, SearchArguments]:
        """The kind of the next query, and the query."""
        kind = self._rng.choices(self._kinds, self._weights)[0]
        query = self.of(kind)
        if self._rng.random() < FILTER_SHARE:
            query.update(self._filter())
        return kind, query

    def of(self, kind: str) -> SearchArguments:
        """Generate a query of this kind, without a filter."""
        inputs, rng = self._inputs, self._rng
        if kind == "product":
            return SearchArguments(product_id=inputs.products[self._products.draw(rng)].id)
        if kind == "photo":
            return SearchArguments(image=inputs.photos[self._photos.draw(rng)])
        if kind == "vector" and inputs.vectors is not None:
            return SearchArguments(vector=inputs.vectors[self._vectors.draw(rng)], space=inputs.vector_space)
        title = inputs.products[self._products.draw(rng)].title.strip()
        # A title may be empty in the catalogue, but not in a query.
        return SearchArguments(text=title if title and rng.random() < TITLE_SHARE else PHRASES[self._phrases.draw(rng)])

    def _filter(self) -> SearchArguments:
        """A filter that matches a popular product."""
        product = self._inputs.products[self._products.draw(self._rng)]
        choices = [SearchArguments(in_stock=True)]
        if product.price is not None:
            choices.append(SearchArguments(max_price=product.price))
        if product.category:
            choices.append(SearchArguments(category_in=[product.category.partition("/")[0]]))
        return self._rng.choice(choices)


def parse_mix(text: str, possible: Sequence[str]) -> dict[str, float]:
    """Parse weights such as `product=6,text=2`. Raises BadSettings for a kind that is unknown or not `possible`."""
    mix = {}
    for entry in text.split(","):
        kind, _, weight = entry.partition("=")
        if kind not in KINDS:
            raise BadSettings(f"--mix {entry!r}: not one of {', '.join(KINDS)}")
        if kind not in possible:
            raise BadSettings(f"--mix {entry!r}: {kind} queries need --{'images' if kind == 'photo' else 'vectors'}")
        try:
            mix[kind] = float(weight)
        except ValueError:
            raise BadSettings(f"--mix {entry!r}: write {kind}=WEIGHT") from None
        if not 0 < mix[kind] < 1e6:
            raise BadSettings(f"--mix {entry!r}: the weight must be above 0")
    return mix
