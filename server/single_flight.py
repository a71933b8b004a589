"""Single flight: of concurrent calls with the same key, one does the work and all get its result. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from lookalike.errors import DeadlineExceeded
from lookalike.runtime.deadline import Deadline

Answer = TypeVar("Answer")


class SingleFlight(Generic[Answer]):
    """The work in flight, by key. For use on one event loop. Admission bounds it: a call has at most one flight.

    The first caller of a key does the work itself, so a call that nobody shares costs no task and no wait.
    """

    def __init__(self) -> None:
        # Of each flight, who waits for its answer: (answer,), or None if its caller gave up.
        self._followers: dict[Hashable, list[asyncio.Future[tuple[Answer] | None]]] = {}

    async def __call__(self, key: Hashable, work: Callable[[], Awaitable[Answer]], deadline: Deadline) -> Answer:
        """Return or raise what `work` does: this caller's, or that of an earlier caller with the same key.

        `work` keeps this caller's deadline. When an earlier caller gives up or exceeds its deadline, one of those that
        wait for its answer does the work instead. Raises DeadlineExceeded at this caller's own deadline.
        """
        while (followers := self._followers.get(key)) is not None:
            follower: asyncio.Future[tuple[Answer] | None] = asyncio.get_running_loop().create_future()
            followers.append(follower)
            try:
                async with asyncio.timeout(deadline.timeout_s()):
                    answered = await follower
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed before the answer was ready") from None
            if answered is not None:
                return answered[0]
        followers = self._followers[key] = []
        try:
            answer = await work()
        except (asyncio.CancelledError, DeadlineExceeded):
            self._end(key, lambda follower: follower.set_result(None))
            raise
        except BaseException as error:
            failure = error
            self._end(key, lambda follower: follower.set_exception(failure))
            raise
        self._end(key, lambda follower: follower.set_result((answer,)))
        return answer

    def _end(self, key: Hashable, tell: Callable[[asyncio.Future[tuple[Answer] | None]], None]) -> None:
        for follower in self._followers.pop(key):
            if not follower.done():
                tell(follower)
