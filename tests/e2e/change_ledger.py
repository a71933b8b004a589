"""What callers know of a catalogue from the answers to their changes, and whether it is so. Reads over gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Final, TypeVar

import numpy as np

from lookalike.client import Client
from lookalike.errors import FailedPrecondition, NotFound, ServiceError
from lookalike.spaces import space_name, space_number
from lookalike.v1.search_pb2 import SearchResponse
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32
from tests.product_states import ABSENT, Contradiction, PossibleStates, ProductState

Read = TypeVar("Read")

WAIT_S: Final = 120.0  # For what takes seconds on a busy machine.
_SAMPLE = 20  # Products that are looked up one by one.
_REPEATED_SEED = 99  # Of the query that every audit repeats: its answer comes from the cache where it may.


class ChangeLedger:
    """The possible states of every product, and what the service said or did that fits none of them."""

    def __init__(self, products: Mapping[str, ProductState]) -> None:
        self.violations: list[str] = []
        self.answered = 0  # Changes that were made, or refused by what is stored.
        self.unanswered = 0
        self._states = {product_id: PossibleStates(state) for product_id, state in products.items()}
        self._changed = set[str]()  # Since the last audit.
        self._lock = Lock()

    @contextmanager
    def changing(self, product_id: str) -> Iterator[PossibleStates]:
        """The states of a product that is changed; a contradiction is a violation."""
        with self._lock:
            self._changed.add(product_id)
            try:
                yield self._states.setdefault(product_id, PossibleStates(ABSENT))
            except Contradiction as error:
                self.violations.append(f"{product_id}: {error}")

    def count(self, *, answered: int = 0, unanswered: int = 0) -> None:
        with self._lock:
            self.answered += answered
            self.unanswered += unanswered

    def audit(self, client: Client, random: np.random.Generator) -> None:
        """Compare what the service says with what is known, while no change is under way."""
        listed = {each.id: each for each in until_complete(lambda: [*client.list(descriptions=True)])}
        if (count := until_complete(client.count)) != len(listed):
            self.violations.append(f"{count} products are counted, {len(listed)} are listed")
        changed = sorted(self._changed | (listed.keys() - self._states.keys()))
        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(lambda each: _found(client, each, listed.get(each)), changed)]
        for product_id, state in zip(changed, found, strict=True):
            with self.changing(product_id) as states:
                states.found(state)
        self._changed.clear()
        known = {product_id: states.current() for product_id, states in self._states.items()}
        alive = {product_id: state for product_id, state in known.items() if state.product is not None}
        if different := [each for each in alive if alive[each].product != listed.get(each)]:
            self.violations.append(f"{len(different)} products that nobody changed are different: {different[:3]}")
        self._audit_lookups(client, known, [*map(str, random.choice([*known], _SAMPLE))])
        for space in (Space.SPACE_IMAGE, Space.SPACE_TEXT):
            self._audit_searches(client, alive, space, random)

    def _audit_lookups(self, client: Client, known: Mapping[str, ProductState], ids: Sequence[str]) -> None:
        exist = until_complete(partial(client.exists, ids))
        for product_id, exists in zip(ids, exist, strict=True):
            expected, product = known[product_id].product, _get(client, product_id)
            if product != expected or exists != (expected is not None):
                self.violations.append(f"{product_id}: exists is {exists}, got {product}, expected {expected}")

    def _audit_searches(
        self, client: Client, alive: Mapping[str, ProductState], space: Space.ValueType, random: np.random.Generator
    ) -> None:
        """Exact searches find every product by its vector; no search finds one as it was before."""
        vectors = {each: state.vectors[space] for each, state in alive.items() if space in state.vectors}
        dim = len(next(iter(vectors.values())))
        search = partial(client.search, space=space_name(space), min_coverage=1.0)
        query = random.normal(size=dim).astype(np.float32)
        for category in sorted({state.product.category for state in alive.values() if state.product}):
            exact = partial(search, vector=query, category_in=[category], limit=1000, exact=True)
            response = until_complete(exact)
            self.violations += _outdated(response, alive, space, query)
            expected = {each for each in vectors if (it := alive[each].product) and it.category == category}
            if missing := expected - {hit.product.id for hit in response.hits}:
                self.violations.append(f"an exact search of {category} lacks {len(missing)}: {[*missing][:3]}")
        query = vectors[str(random.choice([*vectors]))]
        self.violations += _outdated(until_complete(partial(search, vector=query, limit=50)), alive, space, query)
        query = np.random.default_rng(_REPEATED_SEED).normal(size=dim).astype(np.float32)
        deadline_s = time.monotonic() + (0 if self.violations else WAIT_S)
        while outdated := _outdated(until_complete(partial(search, vector=query, limit=50)), alive, space, query):
            # A gateway learns of changes that it was not told of from its next poll of the shards.
            if time.monotonic() > deadline_s:
                self.violations += outdated
                break
            time.sleep(0.05)


def until_complete(read: Callable[[], Read]) -> Read:
    """The answer once all shards are there; raises the error of the last attempt if they stay away."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            return read()
        except (ServiceError, FailedPrecondition):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def _get(client: Client, product_id: str) -> Product | None:
    try:
        return until_complete(partial(client.get, product_id))
    except NotFound:
        return None


def _found(client: Client, product_id: str, product: Product | None) -> ProductState:
    """The state of a product as it is listed, with its vectors."""
    if product is None:
        return ABSENT
    vectors = until_complete(partial(client.vectors, product_id))
    return ProductState(product.revision, product, {space_number(name): each for name, each in vectors.items()})


def _outdated(
    response: SearchResponse, alive: Mapping[str, ProductState], space: Space.ValueType, query: F32
) -> list[str]:
    """Hits that are not products as they are now, with the score of the vector that they have now."""
    unit, outdated = query / np.linalg.norm(query), list[str]()
    for hit in response.hits:
        state = alive.get(hit.product.id)
        if state is None or state.product is None or space not in state.vectors:
            outdated.append(f"a search found {hit.product.id}, which is not there")
            continue
        expected = Product()
        expected.CopyFrom(state.product)
        expected.ClearField("description")
        score = float(state.vectors[space] @ unit)
        if hit.product != expected or abs(hit.score - score) > 1e-5:
            outdated.append(f"a search found {hit}, expected the score {score} and {expected}")
    return outdated
