"""The spans that end in this process while a test runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lookalike.runtime import tracing
from lookalike.runtime.tracing import Span


@asynccontextmanager
async def recorded_spans(share: float = 0.0) -> AsyncIterator[list[Span]]:
    """The spans that end in this process, whoever ends them; there when the context ends, or soon."""
    spans: list[Span] = []
    tracing.start(spans.append, share)
    try:
        yield spans
        await asyncio.sleep(0)
    finally:
        tracing.stop()
        tracing.activate(None)
