"""A rolling restart of gateways fails no call."""

from __future__ import annotations

from pathlib import Path

from tests.e2e import rolling_restarts


def test_no_call_fails_while_gateways_are_restarted_in_turn(tmp_path: Path) -> None:
    tally = rolling_restarts.run(tmp_path, restarts=3, callers=4, pause_s=0.02)
    assert not tally.failed
    assert tally.restarts == 3
    assert min(tally.answered[kind] for kind in ("python, retry policy", "python, no retries")) > 50


def test_with_tls_no_call_fails_while_gateways_are_restarted_and_certificates_replaced(tmp_path: Path) -> None:
    tally = rolling_restarts.run(tmp_path, restarts=1, callers=4, pause_s=0.02, tls=True)
    assert not tally.failed
    assert tally.restarts == 1
    assert min(tally.answered[kind] for kind in ("python, retry policy", "python, no retries")) > 50
