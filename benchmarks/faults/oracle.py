"""What the answers to changes promise, and which replica does not keep it. Pure but for `read_replica` (gRPC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from lookalike.channels import blocking_channel
from lookalike.runtime.partition import shard_of
from lookalike.status import to_error
from lookalike.v1.index_pb2 import DescribeRequest, FetchRequest
from lookalike.v1.index_pb2_grpc import IndexShardStub
from lookalike.v1.types_pb2 import Product

_READ_S = 30.0
_FETCHED = 256  # Products of one call, at most.


@dataclass(slots=True)
class _Changes:
    """Of one product: the price that each revision gives it (None: the revision removes it), and what was promised."""

    prices: dict[int, float | None] = field(default_factory=dict)
    acknowledged: int = 0  # The newest revision that an answer has said is stored.


class Oracle:
    """Changes that were sent and acknowledged. The newest revision wins, whichever of them arrive, and in any order."""

    def __init__(self) -> None:
        self.acknowledged = 0  # Changes.
        self._revision = 0
        self._products: dict[str, _Changes] = {}

    def next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def sent(self, product_id: str, revision: int, price: float | None) -> None:
        self._products.setdefault(product_id, _Changes()).prices[revision] = price

    def answered(self, product_id: str, stored: int) -> None:
        """A change of the product was acknowledged: this revision is stored."""
        self.acknowledged += 1
        changes = self._products[product_id]
        changes.acknowledged = max(changes.acknowledged, stored)

    def promised(self, product_id: str) -> int:
        """The revision that whoever reads the product from now on finds, or a newer one."""
        return self._products[product_id].acknowledged if product_id in self._products else 0

    def changed(self, shard: int, shards: int) -> Sequence[str]:
        """The products of a shard that have acknowledged changes."""
        return sorted(
            each for each, it in self._products.items() if it.acknowledged and shard_of(each, shards) == shard
        )

    def violations(self, found: Mapping[str, Product | None]) -> Sequence[str]:
        """What is wrong with products as a replica has them, while no change is under way."""
        return [text for product_id, product in found.items() if (text := self._violation(product_id, product))]

    def _violation(self, product_id: str, product: Product | None) -> str:
        changes = self._products[product_id]
        candidates = {each: price for each, price in changes.prices.items() if each >= changes.acknowledged}
        if product is None:
            is_removed = None in candidates.values()
            return "" if is_removed else f"{product_id} is gone, revision {changes.acknowledged} was acknowledged"
        if product.revision not in candidates:
            return f"{product_id} is of revision {product.revision}, {changes.acknowledged} was acknowledged"
        if product.price != (price := candidates[product.revision]):
            return f"{product_id} has the price {product.price}, revision {product.revision} gave it {price}"
        return ""


def read_replica(address: str, product_ids: Sequence[str]) -> dict[str, Product | None]:
    """Products as one shard process has them; None: it has no such product."""
    found = dict[str, Product | None]()
    with blocking_channel(address) as channel:
        stub = IndexShardStub(channel)
        version = stub.Describe(DescribeRequest(), timeout=_READ_S).versions[0].version
        for start in range(0, len(product_ids), _FETCHED):
            ids = product_ids[start : start + _FETCHED]
            request = FetchRequest(version=version, ids=ids, descriptions=True)
            for product_id, each in zip(ids, stub.Fetch(request, timeout=_READ_S).products, strict=True):
                found[product_id] = Product.FromString(each.product) if each.HasField("product") else None
    return found


def find_violations(oracle: Oracle, replicas: Mapping[str, int], shards: int) -> Sequence[str]:
    """What the replicas, shard by address, have of acknowledged changes otherwise than was promised."""
    found = list[str]()
    for address, shard in replicas.items():
        try:
            violations = oracle.violations(read_replica(address, oracle.changed(shard, shards)))
        except grpc.RpcError as error:  # It starts, or its version changes.
            violations = [f"cannot be read: {to_error(error)}"]
        found += [f"shard {shard}, {address}: {each}" for each in violations]
    return found
