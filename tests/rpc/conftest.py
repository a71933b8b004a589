"""Run the tests of servers over each implementation of the gRPC server; the rest of this folder over the default."""

from __future__ import annotations

import pytest

from lookalike.runtime import edge
from tests.edges import IMPLEMENTATIONS

# Those that depend on the server: deadlines, cancellation, rich status, message bounds, streams, overload.
OVER_EACH = {
    "test_batch",
    "test_gateway",
    "test_image_encoder_rpc",
    "test_keys",
    "test_large_answers",
    "test_model_server_rpc",
    "test_shard",
    "test_stream",
    "test_text_server",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in OVER_EACH:
        metafunc.parametrize("implementation", IMPLEMENTATIONS, indirect=True)


@pytest.fixture(autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(request, "param"):
        monkeypatch.setattr(edge, "auto_implementation", lambda: request.param)
