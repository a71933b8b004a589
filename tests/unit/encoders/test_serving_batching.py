"""Forming batches by the rules of tensorflow/core/kernels/batching_util/shared_batch_scheduler.h."""

from __future__ import annotations

import math
from typing import Any

import pytest

from encoders.serving.batching import BatchingParameters, BatchQueue
from lookalike.errors import BadSettings, InvalidRequest, Unavailable


def make_queue(**changes: Any) -> BatchQueue[str]:
    return BatchQueue(BatchingParameters(**{"max_batch_size": 4, "max_enqueued_batches": 2, **changes}))


SPLITTING: dict[str, Any] = {"max_batch_size": 10, "enable_large_batch_splitting": True, "max_execution_batch_size": 4}


def take(queue: BatchQueue[str], now_s: float = 0) -> list[tuple[str, int, int]]:
    """Take a batch: (task, start, stop) of each part; empty if none is ready."""
    return [(part.task, part.start, part.stop) for part in queue.take(now_s) or []]


def test_tasks_share_a_batch_while_there_is_room_and_keep_their_order() -> None:
    queue = make_queue()
    for name, rows in (("a", 1), ("b", 2), ("c", 2)):
        queue.add(name, rows, 0)
    assert take(queue) == [("a", 0, 1), ("b", 0, 2)]
    assert take(queue) == [("c", 0, 2)]
    assert take(queue) == []


def test_a_large_task_fills_the_open_batch_and_continues_in_new_batches() -> None:
    queue = make_queue(**SPLITTING, max_enqueued_batches=3)
    queue.add("a", 3, 0)
    queue.add("b", 7, 0)
    assert queue.rows == 10
    assert take(queue) == [("a", 0, 3), ("b", 0, 1)]
    assert take(queue) == [("b", 1, 5)]
    assert take(queue) == [("b", 5, 7)]
    assert queue.rows == 0


def test_a_task_above_max_batch_size_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="Task size 5 is larger than maximum input batch size 4"):
        make_queue().add("a", 5, 0)
    with pytest.raises(InvalidRequest, match="Task size 11 is larger than maximum input batch size 10"):
        make_queue(**SPLITTING).add("a", 11, 0)


def test_beyond_max_enqueued_batches_the_queue_is_full() -> None:
    queue = make_queue()
    for name in ("a", "b"):
        queue.add(name, 3, 0)
    queue.add("c", 1, 0)  # There is room for it in the open batch.
    with pytest.raises(Unavailable, match="queue to which this task was submitted is full; currently 2 batches"):
        queue.add("d", 1, 0)
    assert take(queue) == [("a", 0, 3)]
    queue.add("d", 1, 0)


def test_with_splitting_the_queue_capacity_is_counted_in_rows() -> None:
    queue = make_queue(**SPLITTING)
    queue.add("a", 5, 0)
    with pytest.raises(Unavailable, match="task size is 4 but scheduling capacity is only 3"):
        queue.add("b", 4, 0)
    queue.add("b", 3, 0)
    with pytest.raises(Unavailable, match="is full"):
        queue.add("c", 1, 0)


def test_a_refused_task_leaves_nothing_behind() -> None:
    queue = make_queue(**SPLITTING)
    queue.add("a", 1, 0)
    with pytest.raises(Unavailable):
        queue.add("b", 8, 0)
    assert take(queue) == [("a", 0, 1)]
    assert queue.rows == 0


def test_a_partial_batch_waits_until_the_timeout_of_its_first_task() -> None:
    queue = make_queue(batch_timeout_micros=500_000)
    assert queue.ready_at_s() == math.inf
    queue.add("a", 1, 10.0)
    queue.add("b", 1, 10.4)
    assert queue.ready_at_s() == 10.5
    assert take(queue, 10.49) == []
    assert take(queue, 10.5) == [("a", 0, 1), ("b", 0, 1)]
    queue.add("c", 1, 11.0)
    assert queue.ready_at_s() == 11.5


def test_a_full_batch_is_ready_at_once() -> None:
    queue = make_queue(batch_timeout_micros=500_000)
    queue.add("a", 4, 10.0)
    assert take(queue, 10.0) == [("a", 0, 4)]


def test_batches_are_padded_to_the_next_allowed_size() -> None:
    parameters = BatchingParameters(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    assert [parameters.padded_size(rows) for rows in (1, 2, 4, 5, 8)] == [1, 4, 4, 8, 8]
    assert BatchingParameters(max_batch_size=8).padded_size(3) == 3


@pytest.mark.parametrize("sizes", [(4, 1), (1, 1, 8), (1, 4), (0, 8), (1, 8, 16)])
def test_allowed_sizes_must_increase_to_the_batch_size(sizes: tuple[int, ...]) -> None:
    with pytest.raises(BadSettings, match="allowed_batch_sizes"):
        BatchingParameters(max_batch_size=8, allowed_batch_sizes=sizes)


def test_max_execution_batch_size_may_not_exceed_max_batch_size() -> None:
    with pytest.raises(BadSettings, match="max_execution_batch_size=9"):
        BatchingParameters(max_batch_size=8, max_execution_batch_size=9, enable_large_batch_splitting=True)


def test_without_splitting_max_execution_batch_size_is_ignored() -> None:
    assert BatchingParameters(max_batch_size=8, max_execution_batch_size=4).max_execution_rows == 8
    assert BatchingParameters(max_batch_size=8, enable_large_batch_splitting=True).max_execution_rows == 8
    assert BatchingParameters(**SPLITTING).max_execution_rows == 4
