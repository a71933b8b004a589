"""What the audit log says of changes of the catalogue: products and revisions, never what is in them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lookalike.runtime import edge
from lookalike.v1 import catalog_pb2
from lookalike.v1.catalog_pb2 import Change
from server.audit_log import AuditEntry, AuditLog, Details

Describe = Callable[[AuditEntry, Any], None]


def audit_changes(audit: AuditLog, methods: Mapping[str, Any]) -> edge.Methods:
    """The same methods of Catalog, with those audited that change something."""
    return {
        name: audit.audited(method, *_AUDITED[name]) if name in _AUDITED else method for name, method in methods.items()
    }


def _upsert_or_patch(entry: AuditEntry, request: catalog_pb2.UpsertRequest | catalog_pb2.PatchRequest) -> None:
    _describe(entry, [(request.product.id, request.revision)])


def _remove(entry: AuditEntry, request: catalog_pb2.RemoveRequest) -> None:
    _describe(entry, [(request.product_id, request.revision)])


def describe_batch(entry: AuditEntry, request: catalog_pb2.BatchWriteRequest | catalog_pb2.EnqueueRequest) -> None:
    _describe(entry, map(_of_change, request.changes))


def _remove_where(entry: AuditEntry, request: catalog_pb2.RemoveWhereRequest) -> None:
    """Its products are noted as they are found."""
    entry.details["revision"] = request.revision
    entry.details["filter"] = [descriptor.name for descriptor, _ in request.filter.ListFields()]
    if request.dry_run:
        entry.details["dry_run"] = True


def _describe(entry: AuditEntry, changes: Iterable[tuple[str, int]]) -> None:
    ids, revisions = zip(*changes, strict=True) if (changes := [*changes]) else ((), ())
    entry.add_products(ids)
    entry.details["revision"] = max(revisions, default=0)  # Of a batch: the greatest.


def _of_change(change: Change) -> tuple[str, int]:
    match change.WhichOneof("change"):
        case "upsert":
            return change.upsert.product.id, change.upsert.revision
        case "patch":
            return change.patch.product.id, change.patch.revision
        case "remove":
            return change.remove.product_id, change.remove.revision
    return "", 0


def _response_outcome(response: catalog_pb2.ChangeResponse) -> Details:
    return {"applied": int(response.applied)}


def batch_outcome(response: catalog_pb2.BatchWriteResponse) -> Details:
    """An error within a batch is no error of the call."""
    failed = sum(result.HasField("error") for result in response.results)
    return {"applied": sum(result.response.applied for result in response.results), "failed": failed}


def _enqueue_outcome(response: catalog_pb2.EnqueueResponse) -> Details:
    return {"failed": sum(result.HasField("error") for result in response.results)}


def _remove_where_outcome(response: catalog_pb2.RemoveWhereResponse) -> Details:
    return {"matched": response.matched, "applied": response.removed}


_AUDITED: Mapping[str, tuple[Describe, Callable[[Any], Details]]] = {
    "Upsert": (_upsert_or_patch, _response_outcome),
    "Patch": (_upsert_or_patch, _response_outcome),
    "Remove": (_remove, _response_outcome),
    "BatchWrite": (describe_batch, batch_outcome),
    "RemoveWhere": (_remove_where, _remove_where_outcome),
    "Enqueue": (describe_batch, _enqueue_outcome),
}
