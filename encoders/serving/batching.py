"""Form batches of tasks by TensorFlow-Serving's rules and terms (shared_batch_scheduler.h). Pure.

Unlike `lookalike.runtime.coalescer`, which sends what waits once a slot is free, a batch here may wait for more rows
until a time-out, and tasks are split and batches padded. The caller owns the clock and the threads.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lookalike.errors import BadSettings, InvalidRequest, Unavailable

Task = TypeVar("Task")


@dataclass(frozen=True, kw_only=True)
class BatchingParameters:
    """How batches are formed, named as in TensorFlow-Serving's batching_parameters_file. Raises BadSettings."""

    max_batch_size: int  # most rows of one request; without splitting also of one model run
    batch_timeout_micros: int = 0  # how long a partial batch waits for more; 0: until a thread is free
    max_enqueued_batches: int = 16  # most batches waiting, including the one being filled
    num_batch_threads: int = 1  # concurrent model runs
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0  # with splitting: most rows of one model run; 0: max_batch_size
    allowed_batch_sizes: tuple[int, ...] = ()  # a batch is padded to the next larger of these

    def __post_init__(self) -> None:
        if self.enable_large_batch_splitting and self.max_execution_batch_size > self.max_batch_size:
            raise BadSettings(
                f"max_execution_batch_size={self.max_execution_batch_size}: exceeds max_batch_size="
                f"{self.max_batch_size}"
            )
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_execution_rows):
            raise BadSettings(f"allowed_batch_sizes={sizes}: must increase and end with {self.max_execution_rows}")

    @property
    def max_execution_rows(self) -> int:
        """Most rows of one model run."""
        splits = self.enable_large_batch_splitting and self.max_execution_batch_size
        return self.max_execution_batch_size if splits else self.max_batch_size

    def padded_size(self, rows: int) -> int:
        """The size to which a batch of `rows` is padded."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


@dataclass(frozen=True, slots=True)
class Part(Generic[Task]):
    """Rows start:stop of a task."""

    task: Task
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class _Batch(Generic[Task]):
    """Parts of tasks that are run together."""

    opened_s: float = 0.0  # when its first part was added
    rows: int = 0
    parts: list[Part[Task]] = field(default_factory=list)


class BatchQueue(Generic[Task]):
    """The waiting batches of one model version: closed ones, and one that is still open."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self._parameters = parameters
        self._size = parameters.max_execution_rows
        self._closed: deque[_Batch[Task]] = deque()
        self._open: _Batch[Task] = _Batch()

    @property
    def rows(self) -> int:
        """Rows waiting."""
        return self._open.rows + sum(batch.rows for batch in self._closed)

    def add(self, task: Task, rows: int, now_s: float) -> None:
        """Enqueue a task of at least one row, split over batches if needed and enabled.

        Raises InvalidRequest if it exceeds max_batch_size, Unavailable if the queue is full.
        """
        self._check_capacity(rows)
        start = 0
        while start < rows:
            room = self._size - self._open.rows
            taken_rows = min(room, rows - start) if self._parameters.enable_large_batch_splitting else rows
            if not taken_rows or taken_rows > room:
                self._closed.append(self._open)
                self._open = _Batch()
                continue
            if not self._open.parts:
                self._open.opened_s = now_s
            self._open.parts.append(Part(task, start, start + taken_rows))
            self._open.rows += taken_rows
            start += taken_rows

    def take(self, now_s: float) -> list[Part[Task]] | None:
        """Dequeue the oldest batch that is ready: closed, full or timed out. None if there is none."""
        if self._closed:
            return self._closed.popleft().parts
        if now_s < self.ready_at_s():
            return None
        batch, self._open = self._open, _Batch()
        return batch.parts

    def ready_at_s(self) -> float:
        """When `take` will return a batch if nothing is added; -inf: now, +inf: never."""
        if self._closed or self._open.rows >= self._size:
            return -math.inf
        timeout_s = self._parameters.batch_timeout_micros / 1e6
        return self._open.opened_s + timeout_s if self._open.parts else math.inf

    def _check_capacity(self, rows: int) -> None:
        """TensorFlow-Serving's ValidateBatchTaskQueueCapacity, with its messages."""
        limits = self._parameters
        if rows > limits.max_batch_size:
            limit = limits.max_batch_size
            raise InvalidRequest("inputs", f"Task size {rows} is larger than maximum input batch size {limit}")
        full = "The batch scheduling queue to which this task was submitted is full"
        enqueued, room = len(self._closed) + 1, self._size - self._open.rows
        if limits.enable_large_batch_splitting:
            capacity = max(limits.max_enqueued_batches - enqueued, 0) * self._size + room
            if rows > capacity:
                raise Unavailable(f"{full}; task size is {rows} but scheduling capacity is only {capacity}")
        elif rows > room and enqueued >= limits.max_enqueued_batches:
            limit = limits.max_enqueued_batches
            raise Unavailable(f"{full}; currently {enqueued} batches enqueued and max_enqueued_batches is {limit}")
