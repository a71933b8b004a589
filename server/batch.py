"""BatchSearch: many searches in one call, each with its own response or error. I/O through the search handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.rpc.code_pb2 import Code

from lookalike.errors import InvalidRequest, LookalikeError, Overloaded
from lookalike.limits import MAX_BATCH, MAX_MESSAGE_BYTES
from lookalike.runtime import tracing
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told_as_message
from lookalike.status import INTERNAL_MESSAGE, to_request_error
from lookalike.v1.index_pb2 import OpaqueBatchSearchResponse, OpaqueBatchSearchResult
from lookalike.v1.search_pb2 import BatchSearchRequest, SearchRequest
from lookalike.v1.types_pb2 import RequestError
from server import metrics
from server.admission import Permit
from server.metrics import RequestTimer
from server.search import Searcher

log = logging.getLogger(__name__)

_ERROR_BYTES = 1024  # Room kept for the error, or the tags and lengths, of each result.
_TOO_LARGE = to_request_error(Overloaded("the batch's responses exceed one message: send fewer requests"))


@dataclass(frozen=True, slots=True)
class BatchSearcher:
    """The handler of BatchSearch."""

    searcher: Searcher

    async def batch_search(self, request: BatchSearchRequest, deadline: Deadline, permit: Permit) -> bytes:
        """A serialized BatchSearchResponse, with the results in the order of the requests.

        All searches run at once: the shard clients send those that wait for a shard together. Results beyond what one
        message holds are errors, RESOURCE_EXHAUSTED.
        """
        if not 1 <= len(request.requests) <= MAX_BATCH:
            raise InvalidRequest("requests", f"has {len(request.requests)} requests, must have 1 to {MAX_BATCH}")
        deadline = deadline.or_after(self.searcher.default_deadline_s)
        outcomes = await asyncio.gather(*(self._search(each, deadline) for each in request.requests))
        results = [*_results(outcomes)]
        return OpaqueBatchSearchResponse(results=results).SerializeToString()

    async def _search(self, request: SearchRequest, deadline: Deadline) -> bytes | RequestError:
        """The serialized SearchResponse, or why there is none: one failed search fails no other."""
        try:
            with tracing.span("search"):
                return await self.searcher.respond(request.SerializeToString(), RequestTimer(), deadline)
        except LookalikeError as error:
            return told_as_message(error)
        except Exception:
            log.exception("unexpected error in a batch")
            return to_request_error(LookalikeError(INTERNAL_MESSAGE))


def _results(outcomes: Iterable[bytes | RequestError]) -> Iterator[OpaqueBatchSearchResult]:
    """The outcomes as far as one message holds them; from there on, errors."""
    room_bytes = MAX_MESSAGE_BYTES - MAX_BATCH * _ERROR_BYTES
    for outcome in outcomes:
        if isinstance(outcome, bytes):
            room_bytes -= len(outcome)
        yield _result(_TOO_LARGE if isinstance(outcome, bytes) and room_bytes < 0 else outcome)


def _result(outcome: bytes | RequestError) -> OpaqueBatchSearchResult:
    if isinstance(outcome, bytes):
        metrics.BATCH_SEARCHES.labels("OK").inc()
        return OpaqueBatchSearchResult(response=outcome)
    metrics.BATCH_SEARCHES.labels(Code.Name(outcome.code)).inc()
    return OpaqueBatchSearchResult(error=outcome.SerializeToString())


def calls_of(request: BatchSearchRequest) -> int:
    """How many calls a batch counts as in admission control."""
    return min(max(len(request.requests), 1), MAX_BATCH)
