"""What the audit log says of calls of Admin. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from lookalike.limits import MAX_ID_BYTES
from lookalike.runtime import edge
from lookalike.v1 import admin_pb2
from server.audit_log import AuditEntry, AuditLog, Details

_READS = ("GetStatus", "ListReleases", "ListKeys")
_OUTCOME = ("release", "before", "removed", "complete", "seconds")  # Fields of the responses: never a key's token.


def audit_admin(audit: AuditLog, methods: Mapping[str, edge.Unary]) -> Mapping[str, Any]:
    """The same methods of Admin, all audited."""
    return {
        name: audit.audited(method, _describe, partial(_outcome_of, name in _READS), changes=name not in _READS)
        for name, method in methods.items()
    }


def _describe(entry: AuditEntry, request: Message) -> None:
    """All fields: none of these requests has more than names and numbers."""
    for name, value in MessageToDict(request, preserving_proto_field_name=True).items():
        entry.details[name] = value[:MAX_ID_BYTES] if isinstance(value, str) else value


def _outcome_of(reads: bool, response: Message) -> Details:
    if reads:
        return {}
    outcome = {field.name: value for field, value in response.ListFields() if field.name in _OUTCOME}
    if isinstance(response, admin_pb2.CreateKeyResponse):
        outcome["id"] = response.key.id
    return outcome
