"""Searches on threads: each keeps to its own."""

from __future__ import annotations

import asyncio
import threading

from index.kinds.engine import faiss, use_threads
from index.serving.pool import Pool
from lookalike.deadline import Deadline


async def test_faiss_takes_no_further_threads_for_calls_of_the_pool() -> None:
    """Several searches at once, each with a thread for every core, would wait for one another's at every barrier."""
    use_threads(2)
    pool, together = Pool(threads=3, max_waiting=0), threading.Barrier(3)

    def threads_of_faiss() -> int:
        together.wait(10)  # So that each call has a thread of its own.
        return int(faiss.omp_get_max_threads())

    try:
        calls = (pool.run(threads_of_faiss, Deadline.after(10)) for _ in range(3))
        assert await asyncio.gather(*calls) == [1, 1, 1]
        assert faiss.omp_get_max_threads() == 2
    finally:
        pool.close()
        use_threads(1)
