"""Run batches on threads that all model versions share, round-robin, as TensorFlow-Serving's SharedBatchScheduler.

Batches are formed by `encoders.serving.batching`. For use on one event loop. No I/O of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from encoders.serving.batching import BatchingParameters, BatchQueue, Part
from encoders.serving.metrics import BATCH_IMAGES, BATCH_SECONDS, QUEUE_SECONDS
from lookalike.errors import DeadlineExceeded, Unavailable
from lookalike.runtime.call import begin_batch, carried, origin
from lookalike.runtime.deadline import Deadline
from lookalike.vectors import F32

Pixels = npt.NDArray[np.uint8]  # (n, px, px, 3)
RunModel = Callable[[Pixels], F32]  # (n, dim); blocks, and is called by several threads at once.


class _Task:
    """One request: its images, and the features computed so far."""

    __slots__ = ("completed_rows", "future", "images", "origin", "parts", "submitted_s")

    def __init__(self, images: Pixels, future: asyncio.Future[F32], submitted_s: float) -> None:
        self.images = images
        self.future = future
        self.submitted_s = submitted_s
        self.origin = origin()
        self.parts: list[tuple[int, F32]] = []
        self.completed_rows = 0

    def finish(self, part: Part[_Task], features: F32) -> None:
        self.parts.append((part.start, features))
        self.completed_rows += len(part)
        if self.completed_rows == len(self.images) and not self.future.done():
            ordered = [rows for _, rows in sorted(self.parts, key=lambda piece: piece[0])]
            self.future.set_result(ordered[0] if len(ordered) == 1 else np.concatenate(ordered))

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class BatchingSession:
    """The queue of one model version (TensorFlow-Serving's term). Calling it runs the model in a batch."""

    def __init__(self, scheduler: BatchScheduler, run_model: RunModel, parameters: BatchingParameters) -> None:
        self.run_model = run_model
        self.queue: BatchQueue[_Task] = BatchQueue(parameters)
        self._scheduler = scheduler

    async def __call__(self, images: Pixels, deadline: Deadline) -> F32:
        """Features of at least one image. Raises InvalidRequest, Unavailable, DeadlineExceeded or the model's error."""
        task = _Task(images, asyncio.get_running_loop().create_future(), time.monotonic())
        try:
            async with asyncio.timeout(deadline.timeout_s()):
                self.queue.add(task, len(images), task.submitted_s)
                self._scheduler.dispatch()
                return await task.future
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while waiting for the model") from None

    def next_batch(self, now_s: float) -> list[Part[_Task]]:
        """The parts of the next ready batch whose requests still wait; empty if no batch is ready."""
        while (batch := self.queue.take(now_s)) is not None:
            if pending := [part for part in batch if not part.task.future.done()]:
                return pending
        return []


class BatchScheduler:
    """num_batch_threads threads, and the batching sessions that share them."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self._parameters = parameters
        self._threads = ThreadPoolExecutor(parameters.num_batch_threads, thread_name_prefix="batch")
        self._busy = 0
        self._sessions: deque[BatchingSession] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add_session(self, run_model: RunModel) -> BatchingSession:
        self._sessions.append(BatchingSession(self, run_model, self._parameters))
        return self._sessions[-1]

    def remove_session(self, session: BatchingSession) -> None:
        """Remove a session whose queue is empty."""
        self._sessions.remove(session)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def dispatch(self) -> None:
        """Start ready batches on free threads."""
        now_s = time.monotonic()
        while self._busy < self._parameters.num_batch_threads:
            session, batch = self._next(now_s)
            if session is None:
                self._set_timer()
                return
            self._busy += 1
            for part in batch:
                QUEUE_SECONDS.observe(now_s - part.task.submitted_s)
            padded_size = self._parameters.padded_size(sum(map(len, batch)))
            call = asyncio.get_running_loop().run_in_executor(
                self._threads, carried(_run_batch), session.run_model, batch, padded_size
            )
            call.add_done_callback(lambda call, batch=batch: self._finished(call, batch))  # type: ignore[misc]  # mypy cannot infer it

    def _next(self, now_s: float) -> tuple[BatchingSession | None, list[Part[_Task]]]:
        """The next ready batch, round-robin over the sessions."""
        for _ in range(len(self._sessions)):
            session = self._sessions[0]
            self._sessions.rotate(-1)
            if batch := session.next_batch(now_s):
                return session, batch
        return None, []

    def _set_timer(self) -> None:
        """Dispatch again when the next partial batch times out."""
        ready_at_s = min((session.queue.ready_at_s() for session in self._sessions), default=float("inf"))
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        wait_s = ready_at_s - time.monotonic()
        self._timer = None if wait_s == float("inf") else loop.call_later(max(wait_s, 0), self.dispatch)

    def _finished(self, call: asyncio.Future[F32], batch: list[Part[_Task]]) -> None:
        self._busy -= 1
        error = Unavailable("the server is stopping") if call.cancelled() else call.exception()
        if error is not None:
            for part in batch:
                part.task.fail(error)
        else:
            row = 0
            for part in batch:
                part.task.finish(part, call.result()[row : row + len(part)])
                row += len(part)
        self.dispatch()


def _run_batch(run_model: RunModel, batch: Sequence[Part[_Task]], padded_size: int) -> F32:
    """Run one batch on a thread, padded with the first image of the last part, as TensorFlow-Serving pads."""
    parts = [part.task.images[part.start : part.stop] for part in batch]
    rows = sum(map(len, parts))
    parts += [parts[-1][:1]] * (padded_size - rows)
    BATCH_IMAGES.observe(rows)
    with begin_batch("run model", [part.task.origin for part in batch]) as span, BATCH_SECONDS.time():
        span.set(images=rows)
        return run_model(parts[0] if len(parts) == 1 else np.concatenate(parts))[:rows]
