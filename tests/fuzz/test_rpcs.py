"""No message to any method of any service is answered by INTERNAL or UNKNOWN, hangs, or stays with the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import note
from hypothesis import strategies as st

from tests.edges import IMPLEMENTATIONS
from tests.fuzz.budget import OUTCOMES, fuzz
from tests.fuzz.rpcs import RPCS, Rpc, hints
from tests.fuzz.systems import System, running_system
from tests.fuzz.wire import Hints, messages

MARGIN_S = 10.0  # By which a call may end after its deadline, on a machine however busy.


class Fuzzed:
    """A system, and what it is likely to accept."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.hints: Hints = hints(system.addresses)

    def requests(self, rpc: Rpc) -> st.SearchStrategy[list[bytes]]:
        one = messages(rpc.request, self.hints)
        return st.lists(one, max_size=3) if rpc.streams_requests else one.map(lambda request: [request])


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with running_system(request.param, tmp_path_factory.mktemp("system")) as system:
        yield Fuzzed(system)


@pytest.fixture(autouse=True)
def unharmed(fuzzed: Fuzzed) -> Iterator[None]:
    """What all the calls of a test leave with the system is nothing."""
    with fuzzed.system.unharmed():
        yield


@pytest.mark.parametrize("target", sorted({rpc.target for rpc in RPCS}))
@fuzz(100, data=st.data())
def test_any_message_has_an_answer_or_an_error_of_its_caller(fuzzed: Fuzzed, target: str, data: Any) -> None:
    rpc = data.draw(st.sampled_from([rpc for rpc in RPCS if rpc.target == target]))
    requests = data.draw(fuzzed.requests(rpc))
    endless = rpc.path.endswith("/Watch") or rpc.path.endswith("/Wait")
    timeout_s = data.draw(st.sampled_from((0.2, 0.001))) if endless else data.draw(st.sampled_from((30.0, 30.0, 0.02)))
    started_s = time.monotonic()
    outcome = fuzzed.system.call(rpc, requests, timeout_s=timeout_s)
    took_s = time.monotonic() - started_s
    errors = fuzzed.system.state()["errors"]
    OUTCOMES[f"{rpc} {outcome.code.name}"] += 1
    note(f"{rpc}: {outcome.code.name} {outcome.details}")
    outcome.check(rpc)
    assert took_s < timeout_s + MARGIN_S
    assert outcome.code is not grpc.StatusCode.DEADLINE_EXCEEDED or timeout_s < MARGIN_S
    assert not errors
