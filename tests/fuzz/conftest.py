"""The profile of `make fuzz`, and what its runs add up to."""

from __future__ import annotations

from typing import Any

from tests.fuzz import budget


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in budget.totals():
        terminalreporter.write_line(line)
