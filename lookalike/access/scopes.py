"""The scope that each call needs: the one table of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lookalike.runtime.telemetry import METRICS

_CATALOG = "/lookalike.v1.Catalog/"
_SIMILAR = "/lookalike.v1.SimilarProducts/"

SCOPE_OF: Mapping[str, str] = {
    **dict.fromkeys(
        (_SIMILAR + name for name in ("Search", "BatchSearch", "SearchStream", "FindDuplicates", "Classify")), "search"
    ),
    **dict.fromkeys((_CATALOG + name for name in ("Get", "Exists", "Count", "List")), "read"),
    **dict.fromkeys(
        (
            _CATALOG + name
            for name in ("Upsert", "Patch", "Remove", "BatchWrite", "Write", "RemoveWhere", "Enqueue", "Wait")
        ),
        "write",
    ),
    # What services there are is no secret, and tools such as grpcurl need it: any key will do.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "",
    METRICS: "admin",
}


def scope_of(method: str) -> str:
    """The scope that a call of the method needs; "": any. Of every method that is not in the table: admin."""
    return SCOPE_OF.get(method, "admin")
