"""Send a batch of items that differ in what they need in several calls, one for each group. No I/O of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from lookalike.errors import FailedPrecondition

Item = TypeVar("Item")
Reply = TypeVar("Reply")


async def send_groups(
    batch: list[Item],
    groups: Sequence[Hashable],
    send: Callable[[list[Item]], Awaitable[Sequence[Reply | FailedPrecondition]]],
) -> list[Reply | FailedPrecondition]:
    """Send the items of each group in one call. Returns the replies in the order of the batch.

    groups: the group of each item. A FailedPrecondition fails the items of its own group only.
    """
    replies: dict[int, Reply | FailedPrecondition] = {}
    for group in dict.fromkeys(groups):
        members = [i for i, each in enumerate(groups) if each == group]
        try:
            replies.update(zip(members, await send([batch[i] for i in members]), strict=True))
        except FailedPrecondition as error:
            replies.update(dict.fromkeys(members, error))
    return [replies[i] for i in range(len(batch))]
