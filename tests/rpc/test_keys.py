"""API keys through a real gateway, over each implementation of the gRPC server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lookalike.access import followed_keys
from lookalike.access.file_key_store import FileKeyStore
from lookalike.access.key import AccessKey, new_key
from lookalike.changes import remove_change
from lookalike.client import AsyncClient
from lookalike.errors import InvalidRequest, LookalikeError, Overloaded, PermissionDenied, Unauthenticated
from lookalike.runtime.call import NO_LIMITS, CallerLimits
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchStreamRequest
from pipeline.gateway import Gateway
from tests.rpc.gateways import ScriptedSystem, a_photo, scripted_system

PARENT_S = 30.0
SOON_S = 5.0  # In which a revoked key is refused: a gateway looks at its keys every second.
REQUEST = SearchStreamRequest(request=SearchRequest(examples=[Example(product_id="p01")]))

Key = tuple[AccessKey, str]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway looks at its keys more often than by default, and the tests are shorter."""
    monkeypatch.setattr(followed_keys, "REFRESH_S", 0.1)


@dataclass
class Keyed:
    """A gateway that asks for keys, and the file of them."""

    system: ScriptedSystem
    store: FileKeyStore

    def client(self, token: str | None) -> AsyncClient:
        return AsyncClient(self.system.address, api_key=token, retry=None)

    def open_stream(self, token: str) -> Any:
        return self.system.search.SearchStream(metadata=(("authorization", f"Bearer {token}"),))


@asynccontextmanager
async def keyed_system(folder: Path, *keys: Key, **settings: Any) -> AsyncIterator[Keyed]:
    store = FileKeyStore(folder / "keys.json")
    for key, _ in keys:
        store.put(key)
    async with scripted_system(keys=str(folder / "keys.json"), **settings) as system:
        yield Keyed(system, store)


def a_key(*scopes: str, **limits: Any) -> Key:
    return new_key("test", frozenset(scopes), now_s=1000, limits=CallerLimits(**limits) if limits else NO_LIMITS)


async def refusal(call: Awaitable[object]) -> LookalikeError:
    with pytest.raises(LookalikeError) as caught:
        await asyncio.wait_for(call, PARENT_S)
    return caught.value


async def first_of(stream: Any) -> object:
    async for each in stream:
        return each
    return None


async def test_every_kind_of_call_needs_a_key_with_its_scope(tmp_path: Path) -> None:
    searcher, reader = a_key("search"), a_key("read")
    changes = [remove_change("p01", revision=1)]
    async with keyed_system(tmp_path, searcher, reader) as keyed:
        for token, error in (
            (None, Unauthenticated),
            ("lk_000000000000_" + "0" * 64, Unauthenticated),
            (reader[1], PermissionDenied),
            (searcher[1], PermissionDenied),
        ):
            async with keyed.client(token) as client:
                searches = [
                    client.search(product_id="p01"),
                    client.batch_search([{"product_id": "p01"}]),
                    first_of(client.search_stream([{"product_id": "p01"}])),
                ]
                changing = [client.remove("p01", revision=1), first_of(client.write(changes)), client.wait(["0-1"])]
                reads = [client.get("p01"), client.count(), first_of(client.list())]
                allowed = {searcher[1]: searches, reader[1]: reads}.get(token or "", [])
                for call in (*searches, *changing, *reads):
                    if call in allowed:
                        await call
                    else:
                        assert type(await refusal(call)) is error


async def test_what_a_key_may_not_ask_for_it_does_not_get_from_the_cache_either(tmp_path: Path) -> None:
    free, bound = a_key("search"), a_key("search", exact=False, max_limit=5)
    async with keyed_system(tmp_path, free, bound) as keyed:
        async with keyed.client(free[1]) as client:
            for _ in range(2):
                answers = [
                    await client.search(product_id="p01", exact=True, limit=5),
                    await client.search(product_id="p01", limit=6),
                    await client.search(product_id="p01", limit=5),
                ]
            assert all(each.provenance.cached for each in answers)
        async with keyed.client(bound[1]) as client:
            assert isinstance(await refusal(client.search(product_id="p01", exact=True, limit=5)), PermissionDenied)
            error = await refusal(client.search(product_id="p01", limit=6))
            assert isinstance(error, InvalidRequest)
            assert error.field == "limit"
            assert (await client.search(product_id="p01", limit=5)).provenance.cached
            batch = await client.batch_search([{"product_id": "p01", "limit": 6}, {"product_id": "p01", "limit": 5}])
            assert [type(each).__name__ for each in batch] == ["InvalidRequest", "SearchResponse"]
            streamed = [each async for each in client.search_stream([{"product_id": "p01", "exact": True, "limit": 5}])]
            assert isinstance(streamed[0][1], PermissionDenied)
            assert isinstance(await refusal(client.find_duplicates(product_id="p01", limit=6)), InvalidRequest)


async def test_without_a_cache_a_key_may_ask_for_no_more_than_with_one(tmp_path: Path) -> None:
    bound = a_key("search", exact=False, max_limit=5)
    async with keyed_system(tmp_path, bound, cache_ttl_s=0.0) as keyed, keyed.client(bound[1]) as client:
        assert isinstance(await refusal(client.search(product_id="p01", exact=True, limit=5)), PermissionDenied)
        assert isinstance(await refusal(client.search(product_id="p01", limit=6)), InvalidRequest)
        assert not (await client.search(product_id="p01", limit=5)).provenance.cached


async def test_a_rate_holds_for_single_searches_cached_ones_batches_and_streams(tmp_path: Path) -> None:
    single, batch, stream = (a_key("search", calls_per_s=0.01, burst=3.0) for _ in range(3))
    async with keyed_system(tmp_path, single, batch, stream) as keyed:
        async with keyed.client(single[1]) as client:
            for _ in range(3):
                await client.search(product_id="p01")
            error = await refusal(client.search(product_id="p01"))
            assert isinstance(error, Overloaded)
            assert error.retry_after_s > 50
        async with keyed.client(batch[1]) as client:
            await client.batch_search([{"product_id": "p01"}] * 3)
            assert isinstance(await refusal(client.search(product_id="p02")), Overloaded)
        async with keyed.client(stream[1]) as client:
            results = [result async for _, result in client.search_stream([{"product_id": "p03"}] * 5)]
            assert sum(isinstance(each, Overloaded) for each in results) == 3  # To open the stream was a call, too.


async def test_photos_are_counted_when_they_are_encoded_and_not_when_the_answer_is_cached(tmp_path: Path) -> None:
    key = a_key("search", photos_per_s=0.01)
    async with keyed_system(tmp_path, key) as keyed, keyed.client(key[1]) as client:
        await client.search(image=a_photo(1))
        assert (await client.search(image=a_photo(1))).provenance.cached
        assert isinstance(await refusal(client.search(image=a_photo(2))), Overloaded)
        await client.search(product_id="p01")


async def test_a_revoked_key_ends_its_streams_and_calls_within_seconds_and_no_others(tmp_path: Path) -> None:
    revoked, kept = a_key("search"), a_key("search")
    async with keyed_system(tmp_path, revoked, kept) as keyed, keyed.client(revoked[1]) as client:
        lost, stays = (keyed.open_stream(token) for _, token in (revoked, kept))
        for stream in (lost, stays):
            await stream.write(REQUEST)
            assert (await stream.read()).response.hits
        assert keyed.store.remove(revoked[0].id)
        assert (await asyncio.wait_for(lost.code(), SOON_S)).name == "UNAUTHENTICATED"
        assert isinstance(await refusal(client.search(product_id="p01")), Unauthenticated)
        await stays.write(REQUEST)
        assert (await stays.read()).response.hits
        stays.cancel()


async def test_a_new_key_is_known_within_seconds_while_the_old_one_goes_on(tmp_path: Path) -> None:
    old, new = a_key("search"), a_key("search")
    async with keyed_system(tmp_path, old) as keyed, keyed.client(old[1]) as first, keyed.client(new[1]) as second:
        keyed.store.put(new[0])
        async with asyncio.timeout(SOON_S):
            while True:
                await first.search(product_id="p01")
                try:
                    await second.search(product_id="p01")
                    break
                except Unauthenticated:
                    await asyncio.sleep(0.05)


async def test_refusals_are_delayed_without_holding_up_others(tmp_path: Path) -> None:
    key = a_key("search")
    async with keyed_system(tmp_path, key) as keyed, keyed.client(key[1]) as client, keyed.client(None) as stranger:
        refusals = [asyncio.ensure_future(refusal(stranger.search(product_id="p01"))) for _ in range(30)]
        began_s = time.monotonic()
        await asyncio.wait(refusals, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(20):
            await client.search(product_id="p01")
        assert any(not each.done() for each in refusals)
        assert {type(each) for each in await asyncio.gather(*refusals)} == {Unauthenticated}
        assert time.monotonic() - began_s >= 1.0


async def test_the_pipeline_calls_a_gateway_with_its_key(tmp_path: Path) -> None:
    key = a_key("read", "write")
    async with keyed_system(tmp_path, key) as keyed:
        async with Gateway(keyed.system.address, key[1]) as gateway:
            assert (await gateway.get("p01")).product.id == "p01"
            assert len([each async for each in gateway.products()]) == 20
        async with Gateway(keyed.system.address) as gateway:
            assert "UNAUTHENTICATED" in str(await refusal(gateway.version()))
