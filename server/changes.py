"""Changes to the catalogue, one or many: upserts, patches, removals. I/O to the encoders and the shards that own them.

A change is durable on the disk of its shard before the response is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import NamedTuple

from lookalike.errors import InvalidRequest, LookalikeError, NotFound, Overloaded, Unavailable
from lookalike.limits import MAX_CHANGES
from lookalike.product_rules import embedded_texts, max_revision
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told_as_message
from lookalike.runtime.partition import product_hash
from lookalike.runtime.product_fields import check_product_id, check_update_mask, normalise_product
from lookalike.runtime.revisions import check_revision
from lookalike.spaces import space_name
from lookalike.timestamps import unix_time_s
from lookalike.v1 import catalog_pb2
from lookalike.v1.catalog_pb2 import Change, ChangeResponse, ChangeResult
from lookalike.v1.index_pb2 import ChangeKind, Patch, Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product, Space, SpaceVector
from lookalike.vectors import pack
from server.admission import Permit
from server.audit_log import note_products
from server.change_encoding import ChangeEncoder, Vectors, parse_vectors
from server.filters import check_filter
from server.shard_group import ShardGroup
from server.stored_product import StoredProduct
from server.topology import Snapshot
from server.version_watch import VersionWatch

FULL_RETRY_S = 1.0  # About how long a compaction takes, which makes room for changes.
# Many changes wait for a compaction, which takes seconds, and as many as it takes while any are made.
_WAIT_S, _MAX_WAIT_S = 0.05, 60.0
_PART = 128  # Of a batch: one is checked while the one before is written, and no search waits for more than one.
_CHECKED_AT_ONCE = 16  # Changes, each of some 20 µs.
_ENCODED_AT_ONCE = 32  # Changes of one batch: the encoders refuse what waits beyond their own bounds.


class _Moved(Unavailable):
    """The version takes no updates: another one does, or will."""


class _Prepared(NamedTuple):
    """A change as its shard is told of it."""

    product_id: str
    update: Update
    notices: Sequence[str]


@dataclass(frozen=True, slots=True)
class CatalogWriter:
    """The handlers of Upsert, Patch, Remove, BatchWrite and RemoveWhere."""

    versions: VersionWatch
    shards: ShardGroup
    encoder: ChangeEncoder
    default_deadline_s: float
    revision_unit: str

    async def upsert(self, request: catalog_pb2.UpsertRequest, deadline: Deadline, permit: Permit) -> ChangeResponse:
        return await self._change(Change(upsert=request), deadline)

    async def patch(self, request: catalog_pb2.PatchRequest, deadline: Deadline, permit: Permit) -> ChangeResponse:
        return await self._change(Change(patch=request), deadline)

    async def remove(self, request: catalog_pb2.RemoveRequest, deadline: Deadline, permit: Permit) -> ChangeResponse:
        return await self._change(Change(remove=request), deadline)

    async def batch_write(
        self, request: catalog_pb2.BatchWriteRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.BatchWriteResponse:
        return await self.write(request, deadline.or_after(self.default_deadline_s))

    async def write(self, request: catalog_pb2.BatchWriteRequest, deadline: Deadline) -> catalog_pb2.BatchWriteResponse:
        """The result of each change, in order. Raises InvalidRequest for none, and for too many."""
        if not 1 <= len(request.changes) <= MAX_CHANGES:
            raise InvalidRequest("changes", f"has {len(request.changes)} changes, must have 1 to {MAX_CHANGES}")
        snapshot, response = self.versions.snapshot(), catalog_pb2.BatchWriteResponse()
        applying: asyncio.Task[list[ChangeResponse | LookalikeError]] | None = None
        try:
            for start in range(0, len(request.changes), _PART):
                part = request.changes[start : start + _PART]
                prepared = await self._prepare_all(part, snapshot, deadline)
                if applying is not None:
                    response.results.extend(map(_result, await applying))
                applying = asyncio.create_task(self._apply_part(snapshot, part, prepared, deadline))
            assert applying is not None, "there is a change"  # noqa: S101  # for the type checker
            response.results.extend(map(_result, await applying))
        finally:
            if applying is not None:
                applying.cancel()
        return response

    async def _prepare_all(
        self, changes: Sequence[Change], snapshot: Snapshot, deadline: Deadline
    ) -> list[_Prepared | LookalikeError]:
        at_once = asyncio.Semaphore(_ENCODED_AT_ONCE)

        async def prepare(change: Change) -> _Prepared | LookalikeError:
            try:
                if not needs_encoder(change):
                    return await self._prepare(change, snapshot, deadline)
                async with at_once:
                    return await self._prepare(change, snapshot, deadline)
            except LookalikeError as error:
                return error

        if any(map(needs_encoder, changes)):
            return await run_concurrently(map(prepare, changes))
        prepared = []
        for i, change in enumerate(changes):
            if i % _CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)  # A search does not wait for all of them.
            prepared.append(await prepare(change))
        return prepared

    async def _apply_part(
        self,
        snapshot: Snapshot,
        changes: Sequence[Change],
        prepared: Sequence[_Prepared | LookalikeError],
        deadline: Deadline,
    ) -> list[ChangeResponse | LookalikeError]:
        """As `_apply_prepared`; changes that another version takes by now are prepared and applied again, for that."""
        outcomes = await self._apply_prepared(snapshot, prepared, deadline)
        while moved := [i for i, outcome in enumerate(outcomes) if isinstance(outcome, _Moved)]:
            try:
                snapshot = await self.versions.after(snapshot, deadline)
            except LookalikeError as error:
                again: Sequence[ChangeResponse | LookalikeError] = [error] * len(moved)
            else:
                prepared = await self._prepare_all([changes[i] for i in moved], snapshot, deadline)
                again = await self._apply_prepared(snapshot, prepared, deadline)
            for i, outcome in zip(moved, again, strict=True):
                outcomes[i] = outcome
        return outcomes

    async def _apply_prepared(
        self, snapshot: Snapshot, prepared: Sequence[_Prepared | LookalikeError], deadline: Deadline
    ) -> list[ChangeResponse | LookalikeError]:
        """As `_apply_all`; a change that could not be prepared keeps its error."""
        ready = [each for each in prepared if isinstance(each, _Prepared)]
        applied = iter(await self._apply_all(snapshot, ready, deadline) if ready else ())
        return [next(applied) if isinstance(each, _Prepared) else each for each in prepared]

    async def remove_where(
        self, request: catalog_pb2.RemoveWhereRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.RemoveWhereResponse:
        """Only the caller's own deadline ends it: many products may pass."""
        filter = check_filter(request.filter)
        if not filter.ByteSize():
            raise InvalidRequest("filter", "is empty: every product would be removed")
        snapshot = self.versions.snapshot().require_all_shards()
        response = catalog_pb2.RemoveWhereResponse()
        if request.dry_run:
            response.matched = await self.shards.count(snapshot, filter, deadline.or_after(self.default_deadline_s))
            return response
        greatest = self._greatest_revision()
        check_revision(request.revision, greatest)
        for stream in self.shards.streams(snapshot, filter, "", deadline):
            async for ids in _chunks(stream):
                removals = [
                    _Prepared(each, Update(revision=request.revision, remove=each, max_revision=greatest), ())
                    for each in ids
                ]
                for outcome in await self._remove_all(snapshot, removals, deadline):
                    if isinstance(outcome, LookalikeError):
                        raise outcome
                    response.removed += outcome.applied
                response.matched += len(ids)
                note_products(ids)
        return response

    async def _change(self, change: Change, deadline: Deadline) -> ChangeResponse:
        deadline, snapshot = deadline.or_after(self.default_deadline_s), self.versions.snapshot()
        while True:
            prepared = await self._prepare(change, snapshot, deadline)
            (outcome,) = await self._apply(snapshot, [prepared], deadline)
            if isinstance(outcome, _Moved):
                snapshot = await self.versions.after(snapshot, deadline)
            elif isinstance(outcome, LookalikeError):
                raise outcome
            else:
                return outcome

    async def _remove_all(
        self, snapshot: Snapshot, removals: Sequence[_Prepared], deadline: Deadline
    ) -> list[ChangeResponse | LookalikeError]:
        """As `_apply_all`, by the version that takes updates by now."""
        outcomes = await self._apply_all(snapshot, removals, deadline)
        while moved := [i for i, outcome in enumerate(outcomes) if isinstance(outcome, _Moved)]:
            snapshot = await self.versions.after(snapshot, deadline)
            again = await self._apply_all(snapshot, [removals[i] for i in moved], deadline)
            for i, outcome in zip(moved, again, strict=True):
                outcomes[i] = outcome
        return outcomes

    async def _apply_all(
        self, snapshot: Snapshot, changes: Sequence[_Prepared], deadline: Deadline
    ) -> list[ChangeResponse | LookalikeError]:
        """As `_apply`; what has no room until a compaction waits for it, as long as any is applied meanwhile."""
        outcomes = await self._apply(snapshot, changes, deadline)
        waiting, waited_s = _waiting(changes, outcomes), 0.0
        while waiting and waited_s < min(deadline.at_s - monotonic(), _MAX_WAIT_S):
            await asyncio.sleep(_WAIT_S)
            again = await self._apply(snapshot, [changes[i] for i in waiting], deadline)
            for i, outcome in zip(waiting, again, strict=True):
                outcomes[i] = outcome
            still_waiting = _waiting(changes, outcomes)
            waited_s = waited_s + _WAIT_S if len(still_waiting) == len(waiting) else 0.0
            waiting = still_waiting
        return outcomes

    async def _apply(
        self, snapshot: Snapshot, changes: Sequence[_Prepared], deadline: Deadline
    ) -> list[ChangeResponse | LookalikeError]:
        updates = [(change.product_id, change.update) for change in changes]
        results, sequences = await self.shards.apply(snapshot, updates, deadline)
        self._note_changes(snapshot, changes, results, sequences)
        return [_outcome(change, result) for change, result in zip(changes, results, strict=True)]

    def _note_changes(
        self,
        snapshot: Snapshot,
        changes: Sequence[_Prepared],
        results: Sequence[UpdateResult | LookalikeError],
        sequences: Mapping[int, int],
    ) -> None:
        """Void the cached answers that the changes affect, those that were applied in an earlier attempt included."""
        noted: dict[int, list[tuple[int, ChangeKind.ValueType]]] = {shard: [] for shard in sequences}
        for change, result in zip(changes, results, strict=True):
            if isinstance(result, UpdateResult) and result.outcome in (UpdateResult.APPLIED, UpdateResult.STALE):
                product = product_hash(change.product_id.encode())
                noted[product % snapshot.shards].append((product, result.kind))
        for shard, sequence in sequences.items():
            snapshot.changes.add_own(shard, sequence, noted[shard])

    async def _prepare(self, change: Change, snapshot: Snapshot, deadline: Deadline) -> _Prepared:
        """Check a change and encode what it asks for. Raises LookalikeError."""
        greatest = self._greatest_revision()
        match change.WhichOneof("change"):
            case "upsert":
                check_revision(change.upsert.revision, greatest)
                return await self._prepare_upsert(change.upsert, snapshot, deadline, greatest)
            case "patch":
                check_revision(change.patch.revision, greatest)
                return await self._prepare_patch(change.patch, snapshot, deadline, greatest)
            case "remove":
                check_product_id("product_id", change.remove.product_id)
                check_revision(change.remove.revision, greatest)
                product_id, revision = change.remove.product_id, change.remove.revision
                return _Prepared(product_id, Update(revision=revision, remove=product_id, max_revision=greatest), ())
        raise InvalidRequest("change", "is neither an upsert, a patch nor a removal")

    async def _prepare_upsert(
        self, request: catalog_pb2.UpsertRequest, snapshot: Snapshot, deadline: Deadline, greatest: int
    ) -> _Prepared:
        product = Product()
        product.CopyFrom(request.product)
        notices = normalise_product(product)
        given = parse_vectors(request.vectors, snapshot)
        vectors: Vectors = given
        if request.encode:
            stored = await self._stored_vectors(product.id, snapshot, deadline) if request.keep_vectors else {}
            encoded = await self.encoder.encode(
                product, request.image, given=given, stored=stored, snapshot=snapshot, deadline=deadline
            )
            vectors = {**encoded, **given}
        elif request.image:
            raise InvalidRequest("image", "is set without `encode`: photos are only encoded, never stored")
        if not (vectors or request.keep_vectors or request.allow_unfindable):
            spaces = ", ".join(map(space_name, sorted(snapshot.spaces)))
            nothing = f"there is nothing to encode for any of the spaces {spaces}"
            what = nothing if request.encode else "no vector is given, and `encode` is not set"
            raise InvalidRequest(
                "encode" if request.encode else "vectors",
                f"{what}: no search would find the product; `keep_vectors` keeps those that it has, "
                "`allow_unfindable` stores it all the same",
            )
        upsert = Upsert(
            product=product,
            vectors=_space_vectors(vectors),
            keep_vectors=request.keep_vectors,
            require_vector=not request.allow_unfindable,
        )
        return _Prepared(product.id, Update(revision=request.revision, upsert=upsert, max_revision=greatest), notices)

    async def _prepare_patch(
        self, request: catalog_pb2.PatchRequest, snapshot: Snapshot, deadline: Deadline, greatest: int
    ) -> _Prepared:
        check_product_id("product.id", request.product.id)
        fields = check_update_mask(request.update_mask.paths)
        product = Product()
        product.CopyFrom(request.product)
        notices = normalise_product(product, {"id", *fields})
        given = parse_vectors(request.vectors, snapshot)
        vectors: Vectors = given
        if request.encode:
            vectors = {**await self._encode_patch(request, product, given, snapshot, deadline), **given}
        elif request.image:
            raise InvalidRequest("image", "is set without `encode`: photos are only encoded, never stored")
        if not (fields or vectors):
            raise InvalidRequest("update_mask", "is empty, and there is no vector: nothing would change")
        patch = Patch(product=product, fields=fields, vectors=_space_vectors(vectors))
        return _Prepared(product.id, Update(revision=request.revision, patch=patch, max_revision=greatest), notices)

    async def _encode_patch(
        self,
        request: catalog_pb2.PatchRequest,
        patch: Product,
        given: Vectors,
        snapshot: Snapshot,
        deadline: Deadline,
    ) -> Vectors:
        """Encode what the patch changes: the text of the product as it will be, the photo, and their fusion."""
        changed = {"title", "description"}.intersection(request.update_mask.paths)
        if not (changed or request.image or given.keys() & {SPACE_IMAGE, SPACE_TEXT}):
            nothing = "neither title, description nor `image` changes, nor the vector of photo or text"
            raise InvalidRequest("encode", f"there is nothing to encode: {nothing}")
        fetched = await self.shards.get(snapshot, patch.id, _input_spaces(snapshot), deadline)
        stored = StoredProduct.from_fetched(patch.id, fetched)
        product = stored.parse()
        for field in changed:
            setattr(product, field, getattr(patch, field))
        if changed and not embedded_texts(product.title, product.description):
            raise InvalidRequest("product.title", "neither title nor description would have a word to encode")
        return await self.encoder.encode(
            product,
            request.image,
            given=given,
            stored=_parsed(stored, snapshot),
            snapshot=snapshot,
            deadline=deadline,
            text=bool(changed),
        )

    async def _stored_vectors(self, product_id: str, snapshot: Snapshot, deadline: Deadline) -> Vectors:
        fetched = await self.shards.get(snapshot, product_id, _input_spaces(snapshot), deadline)
        if not fetched.HasField("product"):
            return {}
        return _parsed(StoredProduct.from_fetched(product_id, fetched), snapshot)

    def _greatest_revision(self) -> int:
        return max_revision(self.revision_unit, unix_time_s())


def _waiting(changes: Sequence[_Prepared], outcomes: Sequence[ChangeResponse | LookalikeError]) -> list[int]:
    """Positions of the changes that can be made after a compaction, and of later ones of the same products."""
    waiting, ids = list[int](), set[str]()
    for i, (change, outcome) in enumerate(zip(changes, outcomes, strict=True)):
        if change.product_id in ids or (isinstance(outcome, Overloaded) and outcome.retry_after_s == FULL_RETRY_S):
            waiting.append(i)
            ids.add(change.product_id)
    return waiting


def needs_encoder(change: Change) -> bool:
    return change.upsert.encode or change.patch.encode


def calls_of(request: catalog_pb2.BatchWriteRequest) -> int:
    """How many calls a batch counts as in admission control: one for each change that is encoded, and one."""
    return 1 + sum(map(needs_encoder, request.changes))


def count_of(request: catalog_pb2.BatchWriteRequest | catalog_pb2.EnqueueRequest) -> int:
    """How many calls a batch counts as against its caller's rate: its changes, one at least."""
    return max(1, len(request.changes))


def _input_spaces(snapshot: Snapshot) -> list[Space.ValueType]:
    """The spaces whose vectors the product vector is fused from."""
    return [space for space in (SPACE_IMAGE, SPACE_TEXT) if space in snapshot.spaces]


def _parsed(stored: StoredProduct, snapshot: Snapshot) -> Vectors:
    vectors = {space: stored.vector(space, snapshot.spaces[space].dim) for space in _input_spaces(snapshot)}
    return {space: vector for space, vector in vectors.items() if vector is not None}


def _space_vectors(vectors: Vectors) -> list[SpaceVector]:
    return [SpaceVector(space=space, vector=pack(vector)) for space, vector in sorted(vectors.items())]


def _outcome(change: _Prepared, result: UpdateResult | LookalikeError) -> ChangeResponse | LookalikeError:
    if isinstance(result, LookalikeError):
        return result
    if (refused := _REFUSALS.get(result.outcome)) is not None:
        return refused(result.error)
    applied = result.outcome == UpdateResult.APPLIED
    return ChangeResponse(
        applied=applied, spaces=result.spaces, revision=result.revision, notices=change.notices if applied else ()
    )


def _result(outcome: ChangeResponse | LookalikeError) -> ChangeResult:
    if isinstance(outcome, LookalikeError):
        return ChangeResult(error=told_as_message(outcome))
    return ChangeResult(response=outcome)


_REFUSALS: Mapping[UpdateResult.Outcome.ValueType, Callable[[str], LookalikeError]] = {
    UpdateResult.INVALID: partial(InvalidRequest, "product"),
    UpdateResult.FULL: partial(Overloaded, retry_after_s=FULL_RETRY_S),
    UpdateResult.EXHAUSTED: Overloaded,
    UpdateResult.NOT_FOUND: NotFound,
    UpdateResult.MOVED: _Moved,
}


async def _chunks(entries: AsyncIterator[tuple[str, bytes]]) -> AsyncGenerator[list[str], None]:
    """The ids of a stream of products, in lists of at most MAX_CHANGES."""
    chunk = list[str]()
    async for product_id, _ in entries:
        chunk.append(product_id)
        if len(chunk) == MAX_CHANGES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
