"""Callers that change products at random, and note every answer or that there was none. Network I/O."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np

from lookalike.changes import PatchFields, patch_change, remove_change, upsert_change
from lookalike.channels import blocking_channel
from lookalike.client import Client
from lookalike.errors import InvalidRequest, LookalikeError, NotFound
from lookalike.status import to_error
from lookalike.v1.catalog_pb2 import Change, ChangeResponse
from lookalike.v1.catalog_pb2_grpc import CatalogStub
from lookalike.v1.index_pb2 import Patch, Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32
from tests.e2e.change_ledger import ChangeLedger

_CALL_S = 60.0
_RETRY_S = 0.2
_MAX_CHANGES = 150  # Of one turn, so that few changes of a product are without an answer at once.
_KINDS_OF_CALL: Final = {"stream": 0.5, "batch": 0.25, "calls": 0.17, "remove where": 0.08}
_KINDS_OF_CHANGE: Final = {"patch": 0.5, "upsert": 0.25, "keep": 0.15, "remove": 0.1}
_WHOLE_CHANGES: Final = {"upsert": 0.8, "remove": 0.2}
_AFTER_FAILURE: Final = {"retry": 0.5, "replay": 0.3, "forget": 0.2}

Outcome = ChangeResponse | LookalikeError


@dataclass(frozen=True, kw_only=True)
class Products:
    """What the writers change, by writer and together."""

    own: Sequence[Sequence[str]]  # The ids that only one writer changes, for each.
    shared: Sequence[
        str
    ]  # Those that all change, as wholes: which change is the newest does not depend on their order.
    vectors: Mapping[str, F32]  # By space, some that products may get.


class ChangeWriter:
    """One of several callers. It goes on whatever fails, as one that wants its changes made would."""

    def __init__(self, number: int, address: str, products: Products, ledger: ChangeLedger, seed: int) -> None:
        self._number = number
        self._address = address
        self._ledger = ledger
        self._writers = len(products.own)
        self._own = products.own[number]
        self._shared = {*products.shared}
        self._vectors = products.vectors
        self._random = np.random.default_rng([seed, number])
        self._newest = dict.fromkeys([*self._own, *products.shared], 1)  # By product; see `_revision`.
        self._drawn = 0
        self._recent: list[Change] = []
        self._again: list[Change] = []

    def run(self, stop: threading.Event) -> None:
        """Change products until `stop` is set."""
        while not stop.is_set():
            try:
                # A change that gRPC sent again by itself would be answered as older than itself.
                with Client(self._address, timeout_s=_CALL_S, retry=None) as client:
                    while not stop.is_set():
                        self._turn(client, stop)
            except LookalikeError:
                stop.wait(_RETRY_S)

    def _turn(self, client: Client, stop: threading.Event) -> None:
        """Make some changes by one kind of call. Raises LookalikeError if any has no answer."""
        changes, self._again = self._again or self._draw(int(self._random.integers(1, _MAX_CHANGES))), []
        match self._choose(_KINDS_OF_CALL):
            case "remove where":
                self._again = changes
                self._remove_where(client)
            case "stream":
                batch = int(self._random.integers(1, 60))
                self._send(changes, stop, lambda sent: (outcome for _, outcome in client.write(sent, batch=batch)))
            case "batch":
                self._send(changes, stop, lambda sent: iter(client.batch_write([*sent])))
            case _:
                self._send(changes[:10], stop, self._call_one_by_one)

    def _send(
        self, changes: Sequence[Change], stop: threading.Event, send: Callable[[Iterator[Change]], Iterator[Outcome]]
    ) -> None:
        sent, answered, failures = list[Change](), list[Change](), list[LookalikeError]()

        def until_stopped() -> Iterator[Change]:
            for change in changes:
                if stop.is_set():
                    return
                sent.append(change)
                self._note_sent(change)
                yield change

        outcomes = 0
        try:
            for outcomes, outcome in enumerate(send(until_stopped()), 1):  # counts them
                change = sent[outcomes - 1]
                if (answer := _answer(outcome)) is not None:
                    answered.append(change)
                elif isinstance(outcome, LookalikeError):
                    failures.append(outcome)
                self._note(change, answer)
        except LookalikeError as error:
            failures.append(error)
            for change in sent[outcomes:]:
                self._note(change, None)
        self._recent = [*self._recent, *answered][-100:]
        if failures:
            self._after_failure([change for change in sent if change not in answered])
            raise failures[0]

    def _call_one_by_one(self, changes: Iterator[Change]) -> Iterator[Outcome]:
        with blocking_channel(self._address) as channel:
            catalog = CatalogStub(channel)
            for change in changes:
                try:
                    match change.WhichOneof("change"):
                        case "upsert":
                            yield catalog.Upsert(change.upsert, timeout=_CALL_S)
                        case "patch":
                            yield catalog.Patch(change.patch, timeout=_CALL_S)
                        case _:
                            yield catalog.Remove(change.remove, timeout=_CALL_S)
                except grpc.RpcError as error:
                    yield to_error(error)

    def _note_sent(self, change: Change) -> None:
        """Of a shared product a change may be followed by those of others before its answer is known."""
        if (product_id := _product_id(change)) in self._shared:
            with self._ledger.changing(product_id) as states:
                states.sent(_update(change))

    def _note(self, change: Change, answer: UpdateResult | None) -> None:
        self._ledger.count(answered=answer is not None, unanswered=answer is None)
        update = _update(change)
        with self._ledger.changing(_product_id(change)) as states:
            if _product_id(change) in self._shared:
                states.at_least(0 if answer is None else max(update.revision, answer.revision))
            elif answer is None:
                states.sent(update)
            else:
                states.answered(update, answer)

    def _after_failure(self, unanswered: list[Change]) -> None:
        match self._choose(_AFTER_FAILURE):
            case "retry":
                self._again = unanswered
            case "replay":  # With changes that were answered, in another order.
                replayed = [*unanswered, *self._recent]
                self._again = [replayed[i] for i in self._random.permutation(len(replayed))]

    def _remove_where(self, client: Client) -> None:
        newest = max(self._newest[each] for each in self._own) + 1
        self._newest.update(dict.fromkeys(self._own, newest))
        revision, answered = self._revision(newest), False
        try:
            client.remove_where(shop_in=[self._closing], revision=revision, timeout_s=_CALL_S)
            answered = True
        finally:
            self._ledger.count(answered=answered, unanswered=not answered)
            for product_id in self._own:
                with self._ledger.changing(product_id) as states:
                    states.removed_where(revision, lambda product: product.shop == self._closing, answered=answered)

    def _draw(self, count: int) -> list[Change]:
        """New changes, some of them twice, some older than others before them, some in another order."""
        changes = list[Change]()
        for _ in range(count):
            shared = self._random.random() < 0.1
            product_id = str(self._random.choice([*self._shared] if shared else self._own))
            changes.append(self._draw_change(product_id, self._choose(_WHOLE_CHANGES if shared else _KINDS_OF_CHANGE)))
            if self._random.random() < 0.1:
                changes.append(changes[int(self._random.integers(len(changes)))])
        if self._random.random() < 0.3:
            changes = [changes[i] for i in self._random.permutation(len(changes))]
        return changes

    def _draw_change(self, product_id: str, kind: str) -> Change:
        random, newest = self._random, self._newest[product_id]
        is_late = random.random() < 0.1
        at = int(random.integers(1, newest + 1) if is_late else newest + random.integers(1, 3))
        self._newest[product_id] = max(at, newest)
        revision = self._revision(at)
        self._drawn += 1  # In texts, so that no two changes are alike.
        text = f"{product_id} by change {self._drawn} of writer {self._number}"
        if kind == "remove":
            return remove_change(product_id, revision=revision)
        own = product_id not in self._shared
        shop = self._closing if own and random.random() < 0.1 else f"shop {random.integers(3)}"
        if kind == "patch":
            fields: PatchFields = {
                "title": text,
                "price": None if random.random() < 0.2 else float(random.integers(1_000_000)),
            }
            if random.random() < 0.3:
                fields |= {"shop": shop, "tags": [f"tag {random.integers(5)}"], "in_stock": bool(random.integers(2))}
            if random.random() < 0.3:
                fields |= {"description": text * 3}
            vectors = self._draw_vectors() if random.random() < 0.2 else None
            return patch_change(product_id, revision=revision, vectors=vectors, **fields)
        product = Product(
            id=product_id,
            title=text,
            description=text * 2,
            category=f"writer {self._number}" if own else "shared",
            shop=shop,
            price=float(random.integers(1_000_000)),
            currency="JPY",
            in_stock=bool(random.integers(2)),
            tags=[f"tag {random.integers(5)}"],
            created_at=int(random.integers(1, 1_000_000_000)),
        )
        keep = kind == "keep"
        vectors = None if keep and random.random() < 0.5 else self._draw_vectors()
        return upsert_change(product, revision=revision, vectors=vectors, keep_vectors=keep)

    def _draw_vectors(self) -> dict[str, F32]:
        """Near to vectors of others, in one space or in several."""
        spaces = [*self._vectors]
        chosen = [each for each in spaces if self._random.random() < 0.7] or spaces[:1]
        return {space: self._draw_vector(self._vectors[space]) for space in chosen}

    def _draw_vector(self, others: F32) -> F32:
        near = others[self._random.integers(len(others))]
        drawn: F32 = (near + self._random.normal(scale=0.02, size=near.shape)).astype(np.float32)
        return drawn

    def _revision(self, newest: int) -> int:
        """A revision that no other writer gives."""
        return newest * self._writers + self._number

    @property
    def _closing(self) -> str:
        """The shop whose products this writer removes now and then."""
        return f"closing {self._number}"

    def _choose(self, shares: Mapping[str, float]) -> str:
        return str(self._random.choice([*shares], p=[*shares.values()]))


def _product_id(change: Change) -> str:
    return change.upsert.product.id or change.patch.product.id or change.remove.product_id


def _update(change: Change) -> Update:
    """The change as a shard is told of it."""
    match change.WhichOneof("change"):
        case "upsert":
            upsert = change.upsert
            whole = Upsert(
                product=upsert.product,
                vectors=upsert.vectors,
                keep_vectors=upsert.keep_vectors,
                require_vector=not upsert.allow_unfindable,
            )
            return Update(revision=upsert.revision, upsert=whole)
        case "patch":
            patch = change.patch
            part = Patch(product=patch.product, fields=patch.update_mask.paths, vectors=patch.vectors)
            return Update(revision=patch.revision, patch=part)
    return Update(revision=change.remove.revision, remove=change.remove.product_id)


def _answer(outcome: Outcome) -> UpdateResult | None:
    """What the shard did; None: the caller cannot tell."""
    match outcome:
        case ChangeResponse():
            kind = UpdateResult.APPLIED if outcome.applied else UpdateResult.STALE
            return UpdateResult(outcome=kind, revision=outcome.revision, spaces=outcome.spaces)
        case NotFound():
            return UpdateResult(outcome=UpdateResult.NOT_FOUND)
        case InvalidRequest():
            return UpdateResult(outcome=UpdateResult.INVALID)
    return None
