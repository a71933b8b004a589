"""What products must be after changes: one state if every change was answered, several possible ones if not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from lookalike.v1.index_pb2 import Update, UpdateResult
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, normalised

_ROUNDING = 1e-6  # Of a component of a unit vector: a gateway and a shard both scale vectors to unit norm.


@dataclass(frozen=True, eq=False)
class ProductState:
    """A product after a change."""

    revision: int  # Of the newest change; 0: none is known.
    product: Product | None  # With its description; None: there is no such product.
    vectors: Mapping[Space.ValueType, F32]  # Of unit norm.

    @cached_property
    def key(self) -> tuple[int, bytes | None, Mapping[Space.ValueType, bytes]]:
        """The whole state, to compare."""
        product = None if self.product is None else self.product.SerializeToString(deterministic=True)
        return self.revision, product, {space: self.vectors[space].tobytes() for space in sorted(self.vectors)}

    def is_alike(self, other: ProductState) -> bool:
        """Whether who reads the catalogue sees no difference: of a removal the revision is not to be seen."""
        return (
            self.key[1] == other.key[1]
            and self.vectors.keys() == other.vectors.keys()
            and all(np.abs(vector - other.vectors[space]).max() < _ROUNDING for space, vector in self.vectors.items())
        )

    def __str__(self) -> str:
        if self.product is None:
            return f"absent at revision {self.revision}"
        vectors = {Space.Name(space): vector[:3].round(4).tolist() for space, vector in self.vectors.items()}
        return f"revision {self.revision}: {_one_line(self.product)}, vectors {vectors}"


ABSENT = ProductState(0, None, MappingProxyType({}))


def after(state: ProductState, update: Update) -> tuple[UpdateResult.Outcome.ValueType, ProductState]:
    """The outcome of an update of a product in this state, and the state after it."""
    if update.revision <= state.revision:
        return UpdateResult.STALE, state
    product = Product()
    match update.WhichOneof("what"):
        case "remove":
            return UpdateResult.APPLIED, ProductState(update.revision, None, {})
        case "patch":
            if state.product is None:
                return UpdateResult.NOT_FOUND, state
            product.CopyFrom(state.product)
            for field in update.patch.fields:
                product.ClearField(field)  # type: ignore[arg-type]  # a field of Product
            product.MergeFrom(update.patch.product)  # It has no other fields.
            kept, given = state.vectors, update.patch.vectors
        case _:
            product.CopyFrom(update.upsert.product)
            kept, given = state.vectors if update.upsert.keep_vectors else {}, update.upsert.vectors
    product.revision = update.revision
    vectors = (
        dict(kept)
        | {each.space: normalised(np.frombuffer(each.vector, "<f4").reshape(1, -1))[0] for each in given}
        | {each.space: np.frombuffer(each.vector, "<f4") for each in update.upsert.stored_vectors}
    )
    if update.upsert.require_vector and not vectors:
        return UpdateResult.INVALID, state
    return UpdateResult.APPLIED, ProductState(update.revision, product, vectors)


class Contradiction(AssertionError):
    """None of the possible states agrees with what the service says."""


class PossibleStates:
    """The states in which a product may be, for a caller who knows its changes, in their order, and the answers."""

    def __init__(self, state: ProductState) -> None:
        self._states = [state]  # None after a contradiction, until the product is read again: it is told once.

    def __len__(self) -> int:
        return len(self._states)

    def current(self) -> ProductState:
        """The state as it was found, if nothing has changed since; the revision of a removal may be another."""
        return self._states[0]

    def sent(self, update: Update) -> None:
        """A change has no answer (yet): it may have been made, or not."""
        self._replace([*self._states, *(after(state, update)[1] for state in self._states)])

    def answered(self, update: Update, answer: UpdateResult) -> None:
        """A change was answered before any later one of the product was made. Raises Contradiction."""

        def agrees(outcome: UpdateResult.Outcome.ValueType, state: ProductState) -> bool:
            if outcome != answer.outcome or outcome not in (UpdateResult.APPLIED, UpdateResult.STALE):
                return outcome == answer.outcome
            return answer.revision == state.revision and (
                outcome == UpdateResult.STALE or sorted(answer.spaces) == sorted(state.vectors)
            )

        results = [after(state, update) for state in self._states]
        states = [state for outcome, state in results if agrees(outcome, state)]
        self._restrict(states, lambda: f"the answer to {_one_line(update)} was {_one_line(answer)}")

    def at_least(self, revision: int) -> None:
        """A change of this revision was acknowledged, others may have been made since. Raises Contradiction."""
        states = [state for state in self._states if state.revision >= revision]
        self._restrict(states, lambda: f"revision {revision} was acknowledged")

    def removed_where(self, revision: int, passes: Callable[[Product], bool], *, answered: bool) -> None:
        """All products of an older revision that pass were removed or, without an answer, some of them."""

        def removed(state: ProductState) -> ProductState:
            matches = state.product is not None and passes(state.product) and state.revision < revision
            return ProductState(revision, None, {}) if matches else state

        self._replace([*map(removed, self._states), *(() if answered else self._states)])

    def found(self, found: ProductState) -> None:
        """The product was read when no change was under way. Raises Contradiction; goes on from what was read."""
        before, alike = self._states, [state for state in self._states if state.is_alike(found)]
        self._states = alike or [found]
        if before and not alike:
            raise Contradiction(f"found {found}; possible: {'; '.join(map(str, before))}")

    def _restrict(self, states: Iterable[ProductState], event: Callable[[], str]) -> None:
        before = self._states
        self._replace(states)
        if before and not self._states:
            raise Contradiction(f"{event()}; possible: {'; '.join(map(str, before))}")

    def _replace(self, states: Iterable[ProductState]) -> None:
        kept: list[ProductState] = []
        for state in states:
            if all(state.key != each.key for each in kept):
                kept.append(state)
        self._states = kept


def _one_line(message: Product | Update | UpdateResult) -> str:
    return " ".join(str(message).split())
