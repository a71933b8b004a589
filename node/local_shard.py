"""A shard in this process, as the gateway sees it: calls without serialization and without a network. No I/O itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

import grpc

from index.serving.service import IndexShard
from lookalike.errors import LookalikeError, Unavailable, public_message
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import error_of_peer
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.status import INTERNAL_MESSAGE, code_of, is_stated, retry_delay_s
from lookalike.v1 import index_pb2
from server.shard_transport import ShardTransport

log = logging.getLogger(__name__)
Page = TypeVar("Page")


class LocalShard:
    """The ShardTransport to a shard of this process. Its errors are those that the same call over gRPC would raise."""

    in_service = 1
    numbering = ""

    def __init__(self, number: int, service: IndexShard) -> None:
        self.address = str(number)
        self._service = service

    def sources(self) -> Sequence[ShardTransport]:
        return (self,)

    async def watch(self) -> None:
        """It lives as long as this process."""

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse:
        with self._errors():
            return await self._service.describe(request, Deadline.after(timeout_s))

    async def search(
        self, version: str, queries: Sequence[ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[ShardHits]:
        with self._errors():
            async with asyncio.timeout(timeout_s):
                deadline = Deadline.after(timeout_s)
                return await self._service.search(version, queries, deadline, ordinary_only=ordinary_only)

    async def fetch(self, request: index_pb2.FetchRequest, timeout_s: float) -> Sequence[index_pb2.FetchedProduct]:
        with self._errors():
            async with asyncio.timeout(timeout_s):
                return (await self._service.fetch(request, Deadline.after(timeout_s))).products

    async def apply(self, request: index_pb2.ApplyRequest, timeout_s: float) -> index_pb2.ApplyResponse:
        with self._errors():
            async with asyncio.timeout(timeout_s):
                return await self._service.apply(request, Deadline.after(timeout_s))

    async def count(self, request: index_pb2.ShardCountRequest, timeout_s: float) -> int:
        with self._errors():
            async with asyncio.timeout(timeout_s):
                return (await self._service.count(request, Deadline.after(timeout_s))).count

    async def list(
        self, request: index_pb2.ShardListRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        deadline = Deadline.after(timeout_s)
        async with aclosing(self._pages(self._service.list(request, deadline), deadline)) as pages:
            async for page in pages:
                yield page

    async def list_changes(
        self, request: index_pb2.ListChangesRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        deadline = Deadline.after(timeout_s)
        async with aclosing(self._pages(self._service.list_changes(request, deadline), deadline)) as pages:
            async for page in pages:
                yield page

    async def seal(self, request: index_pb2.SealRequest, timeout_s: float) -> index_pb2.SealResponse:
        with self._errors():
            async with asyncio.timeout(timeout_s):
                return await self._service.seal(request, Deadline.after(timeout_s))

    async def finish_handover(self, request: index_pb2.FinishHandoverRequest, timeout_s: float) -> None:
        with self._errors():
            async with asyncio.timeout(timeout_s):
                await self._service.finish_handover(request, Deadline.after(timeout_s))

    async def _pages(self, stream: AsyncGenerator[Page, None], deadline: Deadline) -> AsyncGenerator[Page, None]:
        async with aclosing(stream) as pages:
            while True:
                with self._errors():
                    async with asyncio.timeout(deadline.timeout_s()):
                        page = await anext(pages, None)
                if page is None:
                    return
                yield page

    async def close(self) -> None:
        """Whoever opened the shard closes it."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise Unavailable(f"shard {self.address} did not answer in time") from None
        except Exception as error:
            if isinstance(error, LookalikeError) and is_stated(error):
                told, full = (
                    error_of_peer(code_of(error), text, f"shard {self.address}", retry_after_s=retry_delay_s(error))
                    for text in (public_message(error), str(error))
                )
                raise full.hidden_as(public_message(told)) from error
            log.error("unexpected error", exc_info=error)
            raise error_of_peer(grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE, f"shard {self.address}") from error
