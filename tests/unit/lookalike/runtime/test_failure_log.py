"""What callers are told of failures, and what the log keeps."""

from __future__ import annotations

import logging

import pytest

from lookalike.errors import Unavailable
from lookalike.runtime import failure_log
from lookalike.runtime.call import Call, begin
from lookalike.runtime.failure_log import told, told_as_message
from lookalike.runtime.telemetry import TextFormatter


@pytest.fixture(autouse=True)
def _whole_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_log, "monotonic", lambda: 5.0)  # One second, however long the test takes.
    monkeypatch.setattr(failure_log, "_budget", failure_log._Budget())


def test_the_log_has_the_whole_message_and_the_id_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    begin(Call("/a/B", [("x-request-id", "order-7")]), None)
    error = Unavailable("shard 10.0.0.7:7000: Connection refused").hidden_as("shard 2 is not available")
    assert told(error) == told_as_message(error).message == "shard 2 is not available"
    line = TextFormatter().format(caplog.records[0])
    assert "/a/B failed: shard 10.0.0.7:7000: Connection refused [request_id=order-7" in line


def test_an_error_that_hides_nothing_is_told_whole_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert told(Unavailable("shard 2 is still loading")) == "shard 2 is still loading"
    assert caplog.messages == []


def test_failures_beyond_a_number_in_a_second_are_counted_and_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    error = Unavailable("details").hidden_as("down")
    for _ in range(1000):
        told(error)
    assert len(caplog.messages) == 20
    monkeypatch.setattr(failure_log, "monotonic", lambda: 6.0)
    told(error)
    assert caplog.messages[-1] == "980 more failures of calls were not logged, of more than 20 in a second"
