"""Search threads: faiss and BLAS start no further threads for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from index.backends.faiss_support import faiss, use_threads
from index.serving.pool import Pool
from index.serving.settings import ShardSettings
from index.serving.shard import run
from index.serving.threads import lower_thread_priority
from lookalike.errors import BadSettings
from lookalike.runtime.deadline import Deadline


def test_faiss_starts_no_further_threads_for_calls_of_the_pool() -> None:
    """Parallel searches with a thread for every core each would wait for one another at every barrier."""
    use_threads(2)
    pool, together = Pool(threads=3, max_waiting=0), threading.Barrier(3)

    def threads_of_faiss() -> int:
        together.wait(10)  # So that each call has a thread of its own.
        return int(faiss.omp_get_max_threads())

    try:
        calls = [pool.submit(threads_of_faiss, Deadline.after(10)) for _ in range(3)]
        assert [call.result(10) for call in calls] == [1, 1, 1]
        assert faiss.omp_get_max_threads() == 2
    finally:
        pool.close()
        use_threads(1)


async def test_a_matrix_product_in_a_shard_runs_on_the_calling_thread_only() -> None:
    factors = np.ones((2, 2048, 2048), dtype=np.float32)

    def seconds() -> tuple[float, float]:
        began_s, mine_s = time.process_time(), time.thread_time()
        for _ in range(4):
            factors[0] @ factors[1]
        return time.process_time() - began_s, time.thread_time() - mine_s

    with threadpool_limits(2, "blas"), ThreadPoolExecutor(1, initializer=lower_thread_priority) as thread:
        with pytest.raises(
            BadSettings, match="location"
        ):  # It stops here, but has set up the process as that of a shard.
            await run(ShardSettings(shard=0))
        of_all_s, of_its_own_s = thread.submit(seconds).result()
    assert of_all_s < 1.3 * of_its_own_s
