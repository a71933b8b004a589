"""The audit log: who changed what, when, and what became of it. Writes a file; neither payloads nor keys are in it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from lookalike.errors import Unavailable
from lookalike.limits import MAX_ID_BYTES
from lookalike.runtime.call import current
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.line_file import LineFile
from lookalike.status import code_of
from lookalike.timestamps import unix_time_s
from server import metrics

log = logging.getLogger(__name__)

MAX_PRODUCTS = 20  # Ids in one line; of more there is only the number.
SYNC_S = 1.0  # After which a line is on the disk, too.

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Answer = Callable[[Request, Deadline], Awaitable[Reply]]
Details = Mapping[str, Any]


@dataclass(slots=True)
class AuditEntry:
    """What the lines of one call say beside who makes it."""

    details: dict[str, Any]  # Known from the request.
    products: list[str] = field(default_factory=list)
    count: int = 0

    def add_products(self, ids: Sequence[str]) -> None:
        self.count += len(ids)
        self.products += [each[:MAX_ID_BYTES] for each in ids[: MAX_PRODUCTS - len(self.products)]]

    def fields(self) -> dict[str, Any]:
        return self.details | ({"products": self.products, "count": self.count} if self.count else {})


_ENTRY: ContextVar[AuditEntry | None] = ContextVar("audit_entry", default=None)


def note_products(ids: Sequence[str]) -> None:
    """Say which products the current call changes, where its request does not."""
    if (entry := _ENTRY.get()) is not None:
        entry.add_products(ids)


class AuditLog:
    """Writes a line for each change and each call of Admin, or two: for use on one event loop.

    full: what a disk that takes no line means. "refuse": no change is made of which the log has no line, so a line is
    written before it is begun, and another one when it has ended. "continue": changes are made all the same; how many
    lines are lost is said in a metric, in the log, and in the next line that can be written.
    """

    def __init__(self, file: LineFile, full: Literal["refuse", "continue"]) -> None:
        self._file = file
        self._refuses = full == "refuse"
        self._lost = 0
        self._failing = False
        self._sync: asyncio.TimerHandle | None = None

    def audited(
        self,
        answer: Answer[Request, Reply],
        describe: Callable[[AuditEntry, Request], None],
        outcome_of: Callable[[Reply], Details],
        *,
        changes: bool = True,
    ) -> Answer[Request, Reply]:
        """The same answer to a call, with its lines.

        describe: adds to the entry what the request says; outcome_of: what the reply says of the outcome.
        changes:  whether anything may be changed by the call; one that only reads is never refused.
        """

        async def call(request: Request, deadline: Deadline) -> Reply:
            entry = AuditEntry({})
            describe(entry, request)
            with self._lines(entry, changes=changes) as outcome:
                reply = await answer(request, deadline)
                outcome.update(outcome_of(reply))
            return reply

        return call

    def close(self) -> None:
        if self._sync is not None:
            self._sync.cancel()
        self._file.close()

    @contextmanager
    def _lines(self, entry: AuditEntry, *, changes: bool = True) -> Iterator[dict[str, Any]]:
        """Raises Unavailable, before the block, where no line can be written and that means to refuse."""
        if self._refuses and changes and not self._write({"stage": "begin", **entry.fields()}):
            metrics.AUDIT_REFUSED.inc()
            raise Unavailable("nothing is changed: the audit log cannot be written", retry_after_s=1.0)
        token, outcome, code = _ENTRY.set(entry), dict[str, Any](), "OK"
        try:
            yield outcome
        except BaseException as error:
            code = code_of(error).name
            raise
        finally:
            _ENTRY.reset(token)
            if not self._write({"stage": "end", **entry.fields(), "outcome": code, **outcome}):
                self._lost += 1
                metrics.AUDIT_LOST.inc()

    def _write(self, fields: Mapping[str, Any]) -> bool:
        """Whether the line was written."""
        call = current()
        line = {
            "time": datetime.fromtimestamp(unix_time_s(), UTC).isoformat(timespec="microseconds"),
            "request_id": call.request_id(),
            "caller": call.caller.id,
            "peer": call.peer,
            "method": call.method.removeprefix("/"),
            **fields,
        }
        if self._lost:
            line["lost_before"] = self._lost
        try:
            self._file.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            if not self._failing:
                log.error("the audit log cannot be written: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.warning("the audit log can be written again; %d lines are lost", self._lost)
        self._lost, self._failing = 0, False
        if self._sync is None:
            self._sync = asyncio.get_running_loop().call_later(SYNC_S, self._begin_sync)
        return True

    def _begin_sync(self) -> None:
        """On a thread: a slow disk holds no call up."""
        self._sync = None
        syncing = asyncio.get_running_loop().run_in_executor(None, self._file.sync)
        syncing.add_done_callback(_log_failure)


def _log_failure(syncing: asyncio.Future[None]) -> None:
    if not syncing.cancelled() and (error := syncing.exception()) is not None:
        log.error("lines of the audit log may not be on the disk: %s", error)
