"""Run exact searches in shared passes on a thread of low priority, each within its caller's deadline. No I/O."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from index.search.cost import CostClass
from index.search.shared_scan import BLOCK_BYTES, ExactSearch, SharedScan, batch_factor, components
from index.search.view import View
from index.serving import metrics
from index.serving.caller import Caller
from index.serving.shard_search import Found
from index.serving.threads import lower_thread_priority
from index.serving.work_rate import WorkRate, require_time
from lookalike.errors import DeadlineExceeded, Overloaded, Unavailable
from lookalike.runtime.threads import start_thread
from lookalike.shard_query import ShardQuery

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A search that was admitted and not answered yet."""

    view: View
    query: ShardQuery
    caller: Caller
    found: Future[Found] = field(default_factory=Future)
    search: ExactSearch | None = None  # None: it has not joined the scan.


class ExactSearches:
    """At most `max_searches` exact searches at a time; further ones, and those that would be late, are refused.

    before_block: called on the thread before each block of `block_bytes`.
    pause:        called on the thread after each block with the seconds that it took.
    clock:        returns monotonic seconds; measures how long a block takes.
    """

    def __init__(
        self,
        *,
        max_searches: int,
        block_bytes: int = BLOCK_BYTES,
        before_block: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = lambda worked_s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_searches = max_searches
        self._before_block = before_block
        self._pause = pause
        self._clock = clock
        self._rate = WorkRate()
        self._scan = SharedScan(block_bytes)  # Of the thread alone, as is `_members`.
        self._members: list[_Waiting] = []
        self._changed = threading.Condition()  # Guards what is below.
        self._arrived: list[_Waiting] = []
        self._count = 0  # Of those that have arrived and of the members.
        self._left: dict[int, int] = {}  # Components that all of them need, by segment key.
        self._closing = False
        self._thread = start_thread(self._run, "exact")

    def submit(self, view: View, query: ShardQuery, caller: Caller) -> Future[Found]:
        """The future cannot be cancelled: it is done when no thread uses the view any more.

        It raises DeadlineExceeded as soon as a block has ended after the deadline, or after the caller gave up.
        Raises Overloaded at once where there is no room, or not enough time.
        """
        waiting = _Waiting(view, query, caller)
        waiting.found.set_running_or_notify_cancel()
        with self._changed:
            try:
                self._admit(waiting)
            except Overloaded:
                metrics.count_refused(CostClass.EXACT)
                raise
            self._left |= components(view, query)
            self._arrived.append(waiting)
            self._count += 1
            metrics.set_in_progress(CostClass.EXACT, self._count)
            self._changed.notify()
        return waiting.found

    def close(self) -> None:
        """End the searches in progress with Unavailable; return when the thread has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _admit(self, waiting: _Waiting) -> None:
        if self._closing:
            raise Unavailable("the shard is stopping")
        if not self._count:
            return  # Even if the last measurement says that it will be late: this one measures again.
        own = components(waiting.view, waiting.query)
        others = sum(left for key, left in self._left.items() if key not in own)
        own_s = self._rate.seconds(sum(own.values()) * batch_factor(1))
        all_s = self._rate.seconds((sum(own.values()) + others) * batch_factor(self._count + 1))
        what = f"an exact search of {waiting.view.vector_count(next(iter(waiting.query.vectors)))} vectors"
        require_time(waiting.caller.deadline, waiting_s=all_s - own_s, own_s=own_s, what=what)
        if self._count >= self._max_searches:
            raise Overloaded(
                f"{self._count} exact searches are in progress, the limit is {self._max_searches}",
                retry_after_s=max(0.1, own_s),
            )

    def _run(self) -> None:
        lower_thread_priority()
        while self._take_arrived():
            self._drop_abandoned()
            if not self._scan:
                continue
            self._before_block()
            began_s, cpu_began_s = self._clock(), time.thread_time()
            try:
                work, complete = self._scan.advance()
            except Exception as error:  # A bug; it must not end the thread, or no exact search is answered any more.
                log.exception("an exact search failed")
                self._end(self._members, error)
                continue
            took_s = self._clock() - began_s
            metrics.EXACT_BLOCK_SECONDS.observe(took_s)
            share_s = (time.thread_time() - cpu_began_s) / len(self._members)
            for member in self._members:
                member.caller.cpu_s += share_s
            self._finish([member for member in self._members if member.search in complete])
            self._pause(took_s)
            self._rate.observe(work, self._clock() - began_s)

    def _take_arrived(self) -> bool:
        """Wait until there is a search, and let those that have arrived join the scan. False: stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._members or self._closing)
            arrived, self._arrived = self._arrived, []
            self._left = self._scan.left()
            for member in arrived:
                self._left |= components(member.view, member.query)
        self._members += arrived
        if self._closing:
            self._end(self._members, Unavailable("the shard is stopping"))
            return False
        for member in arrived:
            try:
                member.caller.check()
                member.search = ExactSearch(member.view, member.query)
                self._scan.add(member.search)
            except Exception as error:
                self._end([member], error)
        self._finish([member for member in arrived if member.search is not None and member.search.is_complete])
        return True

    def _drop_abandoned(self) -> None:
        for member in [*self._members]:
            try:
                member.caller.check()
            except DeadlineExceeded as error:
                self._end([member], error)

    def _finish(self, complete: Sequence[_Waiting]) -> None:
        for member in complete:
            try:
                assert member.search is not None, "only a search that has joined can be complete"  # noqa: S101
                found = member.search.result()
            except Exception as error:
                self._end([member], error)
            else:
                self._leave([member])
                member.found.set_result(found)

    def _end(self, members: Sequence[_Waiting], error: Exception) -> None:
        for member in [*members]:
            self._leave([member])
            member.found.set_exception(error)

    def _leave(self, members: Sequence[_Waiting]) -> None:
        for member in members:
            self._members.remove(member)
            if member.search is not None:
                self._scan.remove(member.search)
        with self._changed:
            self._count -= len(members)
            metrics.set_in_progress(CostClass.EXACT, self._count)
