"""The table of scopes has every call that a gateway answers."""

from __future__ import annotations

from grpc_reflection.v1alpha import reflection_pb2

from lookalike.access.scopes import SCOPE_OF, scope_of
from lookalike.runtime.call import SCOPES
from lookalike.runtime.telemetry import METRICS
from server.app import CATALOG, SEARCH

REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def test_every_method_of_every_service_has_a_scope_and_no_other_has() -> None:
    methods = {
        f"/{service.full_name}/{method.name}" for service in (SEARCH, CATALOG, REFLECTION) for method in service.methods
    }
    assert SCOPE_OF.keys() == methods | {METRICS}
    assert set(SCOPE_OF.values()) == {*SCOPES, ""}


def test_a_method_that_is_not_in_the_table_needs_the_scope_admin() -> None:
    assert scope_of("/lookalike.v1.Admin/Publish") == "admin"


def test_a_key_for_searches_neither_reads_the_catalogue_nor_changes_it() -> None:
    assert {SCOPE_OF[f"/{SEARCH.full_name}/{method.name}"] for method in SEARCH.methods} == {"search"}
    assert {SCOPE_OF[f"/{CATALOG.full_name}/{method.name}"] for method in CATALOG.methods} == {"read", "write"}
