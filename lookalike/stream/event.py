"""A product event: a change, checked by the rules of a live call, with who published it and when. Pure."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from lookalike.errors import InvalidRequest
from lookalike.runtime.call import REQUEST_ID, TRACEPARENT, TRACESTATE, Call, outgoing
from lookalike.runtime.product_fields import check_product_id, check_update_mask, normalise_product
from lookalike.runtime.revisions import check_revision
from lookalike.v1.catalog_pb2 import Change
from lookalike.v1.event_pb2 import ProductEvent

# A description has 64 KiB at most, and vectors of 1024 dimensions in three spaces have 12.
MAX_EVENT_BYTES = 1 << 20
_MAX_REPLAYS = 2**32 - 1  # As many as the field counts: an event from elsewhere may say so.


def check_change(change: Change, greatest_revision: int) -> list[str]:
    """Bring the change's product to the form that is stored, in place. Returns what its owner should know of.

    greatest_revision: by `max_revision`; 0: any is allowed. Raises InvalidRequest naming the first field that is wrong.
    """
    if (kind := change.WhichOneof("change")) is None:
        raise InvalidRequest("change", "is neither an upsert, a patch nor a removal")
    if kind == "remove":
        check_product_id("product_id", change.remove.product_id)
        check_revision(change.remove.revision, greatest_revision)
        return []
    request = change.upsert if kind == "upsert" else change.patch
    check_revision(request.revision, greatest_revision)
    if request.image:
        raise InvalidRequest("image", "is set: an event holds no photo, but `product.image`, where workers find it")
    for vector in request.vectors:
        if not vector.vector or len(vector.vector) % 4:
            raise InvalidRequest("vectors", f"{len(vector.vector)} bytes are no float32 vector")
    if kind == "upsert":
        return normalise_product(request.product)
    check_product_id("product.id", request.product.id)
    fields = check_update_mask(change.patch.update_mask.paths)
    if not (fields or request.vectors):
        raise InvalidRequest("update_mask", "is empty, and there is no vector: nothing would change")
    return normalise_product(request.product, {"id", *fields})


def new_event(change: Change, *, source: str, published_at_s: float, photo_root: str = "") -> ProductEvent:
    """The event of a change that `check_change` has passed; part of the current call, if there is one."""
    event = ProductEvent(change=change, published_at_us=int(published_at_s * 1e6), source=source, photo_root=photo_root)
    carried = dict(outgoing())
    event.traceparent, event.tracestate = carried.get(TRACEPARENT, ""), carried.get(TRACESTATE, "")
    event.request_id = carried.get(REQUEST_ID, "")
    return event


def call_of(event: ProductEvent) -> Call:
    """What is done for an event, as a part of the call that enqueued it."""
    fields = (TRACEPARENT, event.traceparent), (TRACESTATE, event.tracestate), (REQUEST_ID, event.request_id)
    return Call("event", [(key, value) for key, value in fields if value])


def product_id_of(change: Change) -> str:
    """The id of the product that is changed; empty: there is no change."""
    match change.WhichOneof("change"):
        case "upsert":
            return change.upsert.product.id
        case "patch":
            return change.patch.product.id
    return change.remove.product_id


def revision_of(change: Change) -> int:
    match change.WhichOneof("change"):
        case "upsert":
            return change.upsert.revision
        case "patch":
            return change.patch.revision
    return change.remove.revision


def encode(event: ProductEvent) -> bytes:
    """The bytes of an event. Raises InvalidRequest for one that is too large, or of no product."""
    if not product_id_of(event.change):
        raise InvalidRequest("change", "is of no product")
    data = event.SerializeToString()
    if len(data) > MAX_EVENT_BYTES:
        raise InvalidRequest("change", f"has {len(data)} bytes, at most {MAX_EVENT_BYTES} are allowed in an event")
    return data


def replayed(id: str, event: ProductEvent | None, now_s: float) -> ProductEvent:
    """The event of a dead letter, published again now. Raises InvalidRequest where there is none."""
    if event is None:
        raise InvalidRequest("id", f"the dead letter {id} is no event: it can only be dropped")
    again = ProductEvent()
    again.CopyFrom(event)
    again.published_at_us = int(now_s * 1e6)
    again.replays = min(event.replays + 1, _MAX_REPLAYS)
    return again


def dropped(reason: str) -> str:
    """Why an event whose dead letter was dropped is dead."""
    return f"dropped: {reason}"


def decode(data: bytes) -> ProductEvent | None:
    """The event of these bytes; None: they are none."""
    try:
        event = ProductEvent.FromString(data)
    except DecodeError:
        return None
    return event if product_id_of(event.change) else None
