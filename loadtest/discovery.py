"""Find out what a load test can query: the gateway's products, and the kinds of query it answers. Network I/O."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.mix import KINDS, ProductInfo, QueryGenerator, QueryInputs, parse_mix
from lookalike.client import Client
from lookalike.errors import LookalikeError, Unavailable

MAX_PRODUCTS = 2000  # That queries are made of; more would only make the plan larger.
_LIST_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class QueryMix:
    """The kinds of query of a load test, with their weights."""

    weights: Mapping[str, float]  # By kind of query.
    left_out: Mapping[str, str]  # Kinds that the gateway cannot answer, and its reasons.


def list_products(client: Client) -> list[ProductInfo]:
    """The first products of the catalogue. Raises Unavailable where it is empty."""
    products = [
        ProductInfo(
            id=product.id,
            title=product.title,
            category=product.category,
            price=product.price if product.HasField("price") else None,
        )
        for product in itertools.islice(client.list(limit=MAX_PRODUCTS, timeout_s=_LIST_TIMEOUT_S), MAX_PRODUCTS)
    ]
    if not products:
        raise Unavailable("the catalogue is empty: there is nothing to search for")
    return products


def answerable_mix(client: Client, inputs: QueryInputs, requested: str | None, seed: int) -> QueryMix:
    """The kinds of query that the gateway answers; sends one query of each kind to find out.

    requested: "product=6,text=2"; the gateway must answer every kind in it. None: all kinds that it answers, with their
    default weights. Raises BadSettings, and what a search raises.
    """
    weights = parse_mix(requested, inputs.kinds()) if requested else {kind: KINDS[kind] for kind in inputs.kinds()}
    queries, left_out = QueryGenerator(inputs, weights, seed), {}
    for kind in weights:
        try:
            client.search(**queries.of(kind))
        except LookalikeError as error:
            if requested:
                raise
            left_out[kind] = str(error)
    answerable = {kind: weight for kind, weight in weights.items() if kind not in left_out}
    if not answerable:
        raise Unavailable("the gateway answers no kind of query: " + "; ".join(left_out.values()))
    return QueryMix(weights=answerable, left_out=left_out)
