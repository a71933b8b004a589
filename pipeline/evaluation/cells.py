"""Formats figures and names for Markdown tables. Pure."""

from __future__ import annotations

from pipeline.evaluation.metrics import Average


def interval(average: Average, exact: bool = False) -> str:
    if exact:
        return f"{average.value:.3f}"
    return f"{average.value:.3f} ({average.low:.3f}–{average.high:.3f})"


def signed(average: Average) -> str:
    return f"{average.value:+.3f} ({average.low:+.3f} to {average.high:+.3f})".replace("-", "−")


def cell(text: str) -> str:
    """Escape text from a catalogue for a Markdown table."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|" else letter for letter in " ".join(text.split()))
